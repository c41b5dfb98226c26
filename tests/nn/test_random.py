"""PhiloxState: the states it returns, resuming, and compiling."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sprout_fast import PhiloxState, SproutMixup


def test_next_increments_the_offset():
    state = PhiloxState(7, first_row=4)
    assert [state.next().tolist() for _ in range(3)] == [[7, 0, 4], [7, 1, 4], [7, 2, 4]]


def test_resumes_from_its_state_dict():
    state = PhiloxState(7)
    state.next()
    again = PhiloxState(0)
    again.load_state_dict(state.state_dict())
    assert torch.equal(again.next(), state.next())


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, 2**63, 2**64 - 1])
def test_any_seed(seed):
    assert int(PhiloxState(seed).state[0]) % 2**64 == seed % 2**64


def test_compiles():
    state = PhiloxState(3)
    f = torch.compile(state.next, fullgraph=True)
    assert [f().tolist(), f().tolist()] == [[3, 0, 0], [3, 1, 0]]


def test_rejects_negative_first_row():
    with pytest.raises(ValueError, match="first_row must be at least 0, got -1"):
        PhiloxState(0, first_row=-1)


def test_a_dataloaders_workers_refuse_to_draw():
    mixer = SproutMixup()

    class Mixed(torch.utils.data.Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return mixer(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))[0]

    with pytest.raises(RuntimeError, match="in a DataLoader's worker process: each worker"):
        next(iter(torch.utils.data.DataLoader(Mixed(), num_workers=1)))


class Step(nn.Module):
    """A network with its mixer inside, as one module that DistributedDataParallel wraps."""

    def __init__(self, rank):
        super().__init__()
        self.mixer = SproutMixup(seed=5, mixup_alpha=0.0, first_row=2 * rank)
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5))

    def forward(self, images, labels):
        self.mixed = self.mixer(images, labels)[0].detach()
        return self.network(self.mixed)


def _rank(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    step = Step(rank)
    wrapped = DistributedDataParallel(step, broadcast_buffers=True)
    step.load_state_dict(Step(0).state_dict() | step.network.state_dict(prefix="network."))
    noise = []
    for _ in range(2):
        wrapped(torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 1])).sum().backward()
        noise.append(step.mixed)
    torch.save(torch.stack(noise), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_draw_their_own_rows_under_ddp(tmp_path):
    """DistributedDataParallel broadcasts buffers, and a rank may load the first one's state."""
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    drawn = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert not torch.equal(drawn[0], drawn[1])
    mixer = SproutMixup(seed=5, mixup_alpha=0.0)
    for step in range(2):
        whole = mixer(torch.full((4, 3, 4, 4), 0.5), torch.arange(4))[0]
        assert torch.equal(torch.cat([noise[step] for noise in drawn]), whole)

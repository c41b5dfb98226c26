"""An evaluation in several processes has the results of one."""

import json
import os

import pytest
import torch
from helpers.networks import EPS, made_images, trained

import sprout_fast
from sprout_fast.distributed import held_port, joined_world

OPTIONS = {"eps": EPS, "scale": 0.05, "batch_size": 8, "seed": 3}


def measured(model, folder, protocol="strong"):
    return sprout_fast.evaluate(
        model, *made_images(45), protocol=protocol, cache_dir=folder, **OPTIONS
    )


def worker(rank, port, folder):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    model = torch.load(folder / "model.pt", weights_only=False)
    with joined_world("cpu"):
        results = measured(model, folder / "cache")
        again = measured(model, folder / "cache")  # from the parts on disk
    assert again.to_dict()["per_image"] == results.to_dict()["per_image"]
    results.save(folder / f"rank{rank}")
    gallery = {name: (one.gallery, one.adversarial) for name, one in results.attacks.items()}
    torch.save(gallery, folder / f"rank{rank}" / "gallery.pt")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_return_the_results_of_one(tmp_path):
    model = trained(False)
    torch.save(model, tmp_path / "model.pt")
    one = measured(model, None)
    with held_port() as port:
        torch.multiprocessing.spawn(worker, (port, tmp_path), nprocs=2)
    expected = json.loads((one.save(tmp_path / "one")).read_text())
    assert 0 < expected["verdict"]["robust_accuracy"] < expected["verdict"]["clean_accuracy"]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}" / "results.json").read_text())
        assert found["per_image"] == expected["per_image"]
        assert found["verdict"] == expected["verdict"]
        gallery = torch.load(tmp_path / f"rank{rank}" / "gallery.pt")
        for name, record in one.attacks.items():
            assert torch.equal(gallery[name][0], record.gallery), name
            assert record.adversarial is None or torch.allclose(
                gallery[name][1], record.adversarial, atol=1e-6
            ), name
    parts = {path.stem.rsplit("-", 1)[1] for path in (tmp_path / "cache" / "parts").iterdir()}
    assert parts == {"0of2", "1of2"}  # each process wrote its own

"""Cases of gaussian_mixup and its backward pass."""

from __future__ import annotations

import torch
from helpers.op_inputs import STATE, channel_options, mixing, random_images, strided

from simt.cases.common import FLOATS, assert_near, assert_same, case, cpu
from simt.harness import misaligned

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "misaligned": lambda x: misaligned(x.contiguous(memory_format=torch.channels_last)),
    "misaligned_planes": lambda x: misaligned(x.contiguous()),
    "cropped": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 0))[..., 3:, 1:-2],
    "strided": strided,
    "broadcast": lambda x: x[:1].expand_as(x),
}


def check_mixup(
    simt, x, partner, lam, state=STATE, dtype=torch.float32, noise="marginal", options=None, **shape
):
    options = options or channel_options(x.shape[1])
    actual = simt.gaussian_mixup(
        x, partner, lam, state, **options, noise=noise, dtype=dtype, **shape
    )
    expected = cpu.gaussian_mixup(x, partner, lam, state, *options.values(), noise, dtype)
    assert_near(actual, expected)
    return actual


@case(image_dtype=[torch.uint8, *FLOATS], dtype=FLOATS)
def mixup_dtypes(simt, image_dtype, dtype):
    # 189 elements per image: images begin at any address and any index in a Philox group, and end
    # with a partial packet.
    x = random_images((4, 3, 7, 9), image_dtype).contiguous(memory_format=torch.channels_last)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(4), dtype=dtype, noise=noise)


@case(image_dtype=[torch.uint8, *FLOATS], dtype=FLOATS)
def mixup_packets(simt, image_dtype, dtype):
    """Whole packets at aligned addresses, more of them than threads in a block."""
    x = random_images((3, 3, 16, 48), image_dtype).contiguous(memory_format=torch.channels_last)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(3), dtype=dtype, noise=noise)


@case(image_dtype=[torch.uint8, *FLOATS], dtype=FLOATS)
def mixup_planes(simt, image_dtype, dtype):
    """Planes of whole words, planes that begin at any address, and planes of a larger image."""
    even = random_images((3, 3, 20, 33), image_dtype)
    odd = random_images((3, 3, 19, 33), image_dtype)
    for x in (even, odd, LAYOUTS["misaligned_planes"](even), LAYOUTS["cropped"](odd)):
        check_mixup(simt, x, *mixing(3), dtype=dtype)
    for x in (even, odd):
        check_mixup(simt, x, *mixing(3), dtype=dtype, noise="paired")


@case(shape=[(2, 3, 64, 64), (2, 3, 63, 65)])
def mixup_normals_of_16_bit_outputs(simt, shape):
    """Approximate functions with their documented errors: within 1e-5, and rounding."""
    x = torch.zeros(shape).contiguous(memory_format=torch.channels_last)
    options = dict(sigma=[1.0] * 3, mean=[0.0] * 3, std=[1.0] * 3)
    exact = cpu.gaussian_mixup(x, None, None, STATE, *options.values(), "marginal", torch.float64)
    for dtype, rounding in ((torch.float16, 2**-11), (torch.bfloat16, 2**-8)):
        actual = simt.gaussian_mixup(x, None, None, STATE, **options, dtype=dtype)
        torch.testing.assert_close(actual.double(), exact, rtol=1.01 * rounding, atol=1e-5)


@case(
    layout=LAYOUTS,
    noise=["marginal", "paired"],
    shape=[(5, 3, 7, 9), (2, 1, 1, 1), (3, 1, 1, 17), (2, 3, 40, 41), (3, 16, 6, 11), (2, 4, 8, 8)],
)
def mixup_layouts(simt, layout, noise, shape):
    x = LAYOUTS[layout](random_images(shape, torch.uint8))
    check_mixup(simt, x, *mixing(shape[0]), noise=noise, out_misaligned="misaligned" in layout)


@case(batch=[0, 1, 3], height=[0, 5])
def mixup_small_batches(simt, batch, height):
    x = random_images((batch, 3, height, 4), torch.uint8)
    check_mixup(simt, x, None, None)
    if batch > 0:
        check_mixup(simt, x, *mixing(batch))


@case(parts=["nothing", "noise", "mixup", "one_lam"])
def mixup_parts(simt, parts):
    x = random_images((3, 3, 5, 5), torch.float32)
    partner, lam = mixing(3) if parts in ("mixup", "one_lam") else (None, None)
    if parts == "one_lam":
        lam = torch.tensor([0.3])
    options = channel_options(3)
    if parts in ("nothing", "mixup"):
        options["sigma"] = [0.0] * 3
    check_mixup(simt, x, partner, lam, options=options)


@case(first_row=[0, 1, 2, 3, 2**33 + 1, -1], dtype=[torch.float32, torch.float64, torch.bfloat16])
def mixup_first_rows(simt, first_row, dtype):
    """27 elements per row: rows begin at every index in a Philox group."""
    state = torch.tensor([9, 2**32 + 5, first_row])
    x = random_images((4, 3, 3, 3), torch.uint8)
    for noise in ("marginal", "paired"):
        check_mixup(simt, x, *mixing(4), state=state, dtype=dtype, noise=noise)


@case(
    layout=["channels_last", "contiguous", "misaligned", "cropped"],
    channels=[3, 4],
    dtype=[torch.float32, torch.bfloat16],
)
def mixup_other_grids(simt, layout, channels, dtype):
    """Other sizes of blocks and grids, whose threads iterate more, give the same bits."""
    x = LAYOUTS[layout](random_images((5, channels, 30, 32)))
    usual = check_mixup(simt, x, *mixing(5), dtype=dtype)
    for block in (32, 64):
        for rows in (1, 7):
            grid = (1, rows, 1)
            other = check_mixup(simt, x, *mixing(5), dtype=dtype, block=(block, 1, 1), grid=grid)
            assert_same(other, usual)


@case(noise=["marginal", "paired"])
def mixup_wrong_values(simt, noise):
    """An out-of-range partner or lam makes its image NaN and leaves the others unchanged."""
    batch = 9
    x = random_images((batch, 3, 5, 5), torch.uint8)
    partner, lam = mixing(batch)
    invalid, invalid_lam = partner.clone(), lam.clone()
    invalid[1], invalid[2], invalid[3] = batch, -1, 2**62
    invalid_lam[5], invalid_lam[6], invalid_lam[7] = torch.nan, -1e-3, 1e30
    actual = simt.gaussian_mixup(x, invalid, invalid_lam, STATE, **channel_options(3), noise=noise)
    expected = cpu.gaussian_mixup(
        x, partner, lam, STATE, *channel_options(3).values(), noise, torch.float32
    )
    expected[[1, 2, 3, 5, 6, 7]] = torch.nan
    assert_near(actual, expected)
    one = simt.gaussian_mixup(x, partner, torch.tensor([2.0]), STATE, **channel_options(3))
    assert one.isnan().all()


def check_mixup_backward(simt, grad, partner, lam, dtype, **shape):
    std = [0.2 + 0.05 * c for c in range(grad.shape[1])]
    actual = simt.gaussian_mixup_backward(grad, partner, lam, std=std, dtype=dtype, **shape)
    expected = cpu.gaussian_mixup_backward(grad, partner, lam, std, dtype)
    if grad.dtype != torch.float64 and dtype == torch.float64:
        actual, expected = actual.float(), expected.float()  # sums are in float32
    assert_near(actual, expected)
    return actual


@case(grad_dtype=FLOATS, dtype=FLOATS)
def mixup_backward_dtypes(simt, grad_dtype, dtype):
    grad = (random_images((5, 3, 4, 5), torch.float64) - 0.5).to(grad_dtype)
    check_mixup_backward(simt, grad, *mixing(5), dtype)


@case(batch=[0, 1, 2, 256, 257], with_mixup=[True, False])
def mixup_backward_batches(simt, batch, with_mixup):
    """Batches around the tile of partners; so few elements that most threads only scan."""
    grad = random_images((batch, 1, 1, 2), torch.float32) - 0.5
    partner, lam = mixing(batch) if with_mixup and batch else (None, None)
    check_mixup_backward(simt, grad, partner, lam, torch.float32)


@case()
def mixup_backward_other_grids(simt):
    grad = random_images((40, 3, 9, 10), torch.float32) - 0.5
    partner = torch.arange(40) // 3  # each image is mixed into three outputs
    usual = check_mixup_backward(simt, grad, partner, torch.tensor([0.25]), torch.float32)
    for block, rows in ((32, 40), (64, 3), (256, 1)):
        other = check_mixup_backward(
            simt, grad, partner, torch.tensor([0.25]), torch.float32,
            block=(block, 1, 1), grid=(-(-270 // block), rows, 1),
        )  # fmt: skip
        assert_same(other, usual)


@case()
def mixup_backward_wrong_values(simt):
    grad = random_images((6, 3, 5, 5), torch.float32)
    partner, lam = torch.tensor([1, 6, -1, 2**62, 4, 0]), torch.full((6,), 0.25)
    lam[5] = 1.5  # of the output of images 5 and 0
    actual = simt.gaussian_mixup_backward(grad, partner, lam, std=[1.0] * 3, dtype=torch.float32)
    assert actual.isnan().flatten(1).all(1).tolist() == [True, True, True, True, False, True]
    assert_near(actual[4], grad[4])

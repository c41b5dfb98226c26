"""The contract for pixels: every loader and reader gives, or refuses, the same."""

import io

import numpy as np
import pytest
import torch
from helpers import compare_readers
from helpers.image_files import encode, noise_image, plain_image, write_folder
from helpers.odd_images import (
    ACCEPTED,
    IMAGE,
    PROGRESSIVE,
    REFUSED,
    SIDE,
    WHOLE,
    folder_with,
    saved,
    without_adobe_marker,
)
from PIL import Image

import sprout_fast.data.decode
from sprout_fast.data import build_loaders, has_dali, read_images, scan
from sprout_fast.data.decode import decode, jpeg_size
from sprout_fast.data.verify import verify
from sprout_fast.errors import FatalError, UserError

needs_dali = pytest.mark.skipif(not has_dali(), reason="DALI is not installed")
LOADERS = [pytest.param("dali", marks=needs_dali), "torch", "memory"]


@pytest.mark.parametrize("kind", ACCEPTED)
def test_pixels_of_every_kind_in_every_loader(tmp_path, kind):
    """Also what ``verify_data`` reports."""
    content, expected, tolerance, conversion = ACCEPTED[kind]
    pixels, conversions = decode(content, kind)
    assert pixels.dtype == np.uint8 and pixels.shape == (SIDE, SIDE, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance
    assert all("\n" not in one for one in conversions)
    assert (conversion is None and not conversions) or any(conversion in c for c in conversions)

    data = folder_with(tmp_path, content)
    for report in verify(data):
        assert not report.unreadable
        assert set(report.converted) == set(conversions)
        assert all(
            at == (1, str(data / report.name / "a" / "1.jpg")) for at in report.converted.values()
        )
    # An image size whose validation resizes 32 pixels to 32, and crops 28 of them.
    crop = torch.from_numpy(pixels.copy())[2:30, 2:30].permute(2, 0, 1).int()
    for loader in ("dali", "torch", "memory"):
        if loader == "dali" and not has_dali():
            continue
        size = None if loader == "memory" else 28
        images = read_images(data, loader=loader, image_size=size, workers=1).images
        image = images[1, :, 2:30, 2:30] if loader == "memory" else images[1]
        assert (image.int() - crop).abs().max() <= (1 if loader == "dali" else 0), loader


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_images_that_every_loader_refuses(tmp_path, kind, loader, split):
    content, says = REFUSED[kind]
    data = folder_with(tmp_path, content)
    other = "val" if split == "train" else "train"
    (data / other / "a" / "1.jpg").write_bytes(WHOLE)
    bad = data / split / "a" / "1.jpg"
    with pytest.raises(UserError, match=says) as error:
        size = None if loader == "memory" else 28
        workers = int(loader == "dali")
        loaders = build_loaders(data, loader=loader, batch_size=2, image_size=size, workers=workers)
        for _ in range(3):
            list(getattr(loaders, split))
    assert str(error.value).startswith(f"{bad}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", REFUSED)
def test_verify_reports_each_refused_image(tmp_path, kind):
    content, says = REFUSED[kind]
    data = folder_with(tmp_path, content)
    for report in verify(data):
        (line,) = report.unreadable
        assert line.startswith(f"{data / report.name / 'a' / '1.jpg'}: ") and "\n" not in line


def test_verify_agrees_with_every_reader_file_by_file(tmp_path):
    """The table of ``python tests/helpers/compare_readers.py``."""
    rows = list(compare_readers.compare(tmp_path))
    assert len(rows) == len(ACCEPTED) + len(REFUSED)
    assert not [row for row in rows if not row.agrees]


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, KeyError, MemoryError])
def test_any_exception_of_a_decoder_is_about_one_image(monkeypatch, error):
    def fail(self):
        raise error("line\nbreak")

    content = saved(IMAGE, "PNG")
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: fail(self))
    with pytest.raises(UserError, match="^x.png: damaged image") as raised:
        decode(content, "x.png")
    assert "\n" not in str(raised.value)


def test_image_of_too_many_pixels(tmp_path, monkeypatch):
    """Pillow's limit holds for DALI too."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    assert jpeg_size(WHOLE) is None
    with pytest.raises(UserError, match="damaged image .*pixels"):
        decode(WHOLE, "large.jpg")


def test_which_jpegs_go_to_dali():
    size = (SIDE, SIDE)
    assert jpeg_size(WHOLE) == jpeg_size(PROGRESSIVE) == size
    assert jpeg_size(ACCEPTED["gray JPEG"][0]) == size
    assert jpeg_size(encode(noise_image(0, (90, 70)))) == (70, 90)
    for kind in ("CMYK JPEG", "RGB JPEG", "trailing bytes", "PNG", "GIF"):
        assert jpeg_size(ACCEPTED[kind][0]) is None
    for kind in REFUSED:
        assert jpeg_size(REFUSED[kind][0]) is None
    assert jpeg_size(without_adobe_marker(ACCEPTED["CMYK JPEG"][0])) is None


def test_a_jpeg_with_a_frame_of_another_kind_before_an_ordinary_one_goes_to_pillow():
    frame = b"\0\x11\x08\0\x20\0\x20\3\1\x11\0\2\x11\0\3\x11\0"  # of 32x32 pixels, YCbCr
    ordinary = b"\xff\xc0" + frame
    assert jpeg_size(b"\xff\xd8" + ordinary + b"\xff\xd9") == (32, 32)
    for marker in range(0xC3, 0xD0):
        content = b"\xff\xd8\xff" + bytes([marker]) + frame + ordinary + b"\xff\xd9"
        has_no_frame = marker in (0xC4, 0xC8, 0xCC)  # tables, reserved, conditioning
        assert jpeg_size(content) == ((32, 32) if has_no_frame else None), hex(marker)


def test_any_prefix_of_a_jpeg_is_handled():
    """Neither the header's parser nor the decoder fails in another way."""
    for end in range(0, len(WHOLE), 7):
        assert jpeg_size(WHOLE[:end]) is None
        assert jpeg_size(WHOLE[:end] + b"\xff\xd9") in (None, (SIDE, SIDE))
        with pytest.raises(UserError):
            decode(WHOLE[:end], "cut.jpg")


def test_cmyk_without_adobes_marker_is_pillows_in_every_loader(tmp_path):
    content = without_adobe_marker(ACCEPTED["CMYK JPEG"][0])
    data = folder_with(tmp_path, content)
    with Image.open(io.BytesIO(content)) as image:
        expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_images(data, loader="memory").images[1], expected)
    for loader in ["torch"] + ["dali"] * has_dali():
        image = read_images(data, loader=loader, image_size=28, workers=1).images[1]
        assert (image.int() - expected[:, 2:30, 2:30].int()).abs().max() <= 1


@needs_dali
def test_dali_and_pillow_agree_bit_for_bit(tmp_path, monkeypatch):
    """On whole JPEGs of all subsamplings, so that nothing depends on which of them decodes."""
    folder = tmp_path / "a"
    folder.mkdir()
    for number, subsampling in enumerate(["4:4:4", "4:2:2", "4:2:0", "4:1:1"] * 2):
        image = noise_image(number, (45, 33))
        image = image.convert("L") if number == 5 else image
        options = {} if number == 5 else {"subsampling": subsampling}
        image.save(folder / f"{number}.jpg", quality=70, progressive=number > 3, **options)
    by_dali = scan(tmp_path).train.decode()
    monkeypatch.setattr(sprout_fast.data.decode, "has_dali", lambda: False)
    assert np.array_equal(by_dali, scan(tmp_path).train.decode())


@needs_dali
@pytest.mark.parametrize("failing", [[0], [3], [0, 4], [0, 1, 2, 3, 4]])
def test_what_dali_cannot_decode_pillow_decodes_image_by_image(tmp_path, monkeypatch, failing):
    """In memory and in the DALI loader; neighbors in the batch are decoded as before."""
    write_folder(tmp_path, {"train": {"a": 5}, "val": {"a": 5}}, noise_image)
    split = scan(tmp_path).val
    bad = [split.read(i) for i in failing]
    # Files that are ordinary by their header, and that DALI refuses: their scan is garbage.
    broken = {
        content: content[:600] + b"\xff\xc8%d\xff\xd9" % number
        for number, content in enumerate(bad)
    }
    real_read, real_decode = type(split).read, sprout_fast.data.decode.decode
    repaired = {value: key for key, value in broken.items()}
    decoded_by_pillow = []

    def read(self, index):
        content = real_read(self, index)
        return broken.get(content, content)

    def decode_and_count(content, name):
        decoded_by_pillow.append(name)
        return real_decode(repaired.get(content, content), name)

    expected = split.decode()
    batch = read_images(tmp_path, loader="dali", image_size=32, workers=1).images
    monkeypatch.setattr(type(split), "read", read)
    monkeypatch.setattr(sprout_fast.data.decode, "decode", decode_and_count)
    monkeypatch.setattr("sprout_fast.data.loaders.dali.decode", decode_and_count)
    assert np.array_equal(split.decode(), expected)
    assert decoded_by_pillow == [split.name(i) for i in failing]
    decoded_by_pillow.clear()
    repaired_batch = read_images(tmp_path, loader="dali", image_size=32, workers=1).images
    assert (repaired_batch.int() - batch.int()).abs().max() <= 1
    assert set(decoded_by_pillow) == {split.name(i) for i in failing}


@needs_dali
@pytest.mark.parametrize("failing", [[2], [1, 3], [0, 1, 2, 3, 4, 5, 6]])
def test_what_dali_cannot_decode_in_later_batches(tmp_path, monkeypatch, failing):
    """The pipeline decodes ahead, and the failing batch is the one to repair."""
    write_folder(tmp_path, {"train": {"a": 1}, "val": {"a": 7}}, noise_image)
    expected = read_images(tmp_path, loader="dali", image_size=32, workers=1).images
    split = scan(tmp_path).val
    real_read, real_decode = type(split).read, sprout_fast.data.decode.decode
    whole = {split.name(i): split.read(i) for i in failing}

    def read(self, index):
        content = real_read(self, index)
        return content[:600] + b"\xff\xc8\xff\xd9" if self.name(index) in whole else content

    decoded_by_pillow = []

    def decode_whole(content, name):
        decoded_by_pillow.append(name)
        return real_decode(whole[name], name)

    monkeypatch.setattr(type(split), "read", read)
    monkeypatch.setattr("sprout_fast.data.loaders.dali.decode", decode_whole)
    images = read_images(tmp_path, loader="dali", image_size=32, workers=1, batch_size=2).images
    assert (images.int() - expected.int()).abs().max() <= 1
    assert decoded_by_pillow == list(whole)


@needs_dali
def test_a_failure_of_dali_that_is_not_an_image_points_to_verify_data(tmp_path, monkeypatch):
    """After one batch has been decoded by Pillow, and without reading any file again."""
    from nvidia.dali.pipeline import Pipeline

    write_folder(tmp_path, {"train": {"a": 8}, "val": {"a": 8}}, noise_image)
    split, read = scan(tmp_path).val, []
    real_read, real_run = type(split).read, Pipeline.run

    def run(self, *arguments):
        real_run(self, *arguments)
        raise RuntimeError("Error in operator:\n  nvImageCodec failure: '#4'\nStacktrace (9):\n x")

    monkeypatch.setattr(Pipeline, "run", run)
    monkeypatch.setattr(
        type(split), "read", lambda self, i: read.append(self.name(i)) or real_read(self, i)
    )
    with pytest.raises(FatalError) as caught:
        read_images(tmp_path, loader="dali", image_size=32, workers=1, batch_size=2)
    said = str(caught.value)
    assert said.startswith(f"DALI failed on 2 images, the first {split.name(0)} and the last")
    assert "Error in operator: nvImageCodec failure: '#4' (tools/verify_data.py checks" in said
    assert "Stacktrace" not in said and len(read) == len(set(read))


@pytest.mark.parametrize("at", ["train/a/002.jpg", "val/a/001.jpg"])
def test_in_memory_all_images_are_of_one_size(tmp_path, at):
    write_folder(tmp_path, {"train": {"a": 3}, "val": {"a": 2}})
    (tmp_path / at).write_bytes(encode(plain_image(0, (48, 40))))
    split = at.split("/")[0]
    says = rf"^\S+{at}: 48 x 40 pixels, but \S+{split}/a/000.jpg has 40 x 32; expected images of"
    with pytest.raises(UserError, match=says):
        build_loaders(tmp_path, loader="memory", batch_size=2)


def test_in_memory_train_and_val_are_of_one_size(tmp_path):
    write_folder(tmp_path, {"train": {"a": 3}})
    write_folder(tmp_path, {"val": {"a": 2}}, lambda number: plain_image(number, (8, 8)))
    with pytest.raises(UserError, match="validation images have 8 x 8 pixels, training.* 40 x 32"):
        build_loaders(tmp_path, loader="memory", batch_size=2)

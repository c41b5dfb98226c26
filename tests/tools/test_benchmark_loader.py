"""tools/benchmark_loader.py: the table has a row per loader, and the verdict follows from it."""

import re

import benchmark_loader
import pytest
import torch
from helpers.image_files import noise_image, write_folder
from loader_benchmark.command import verdict
from loader_benchmark.contestants import contestants
from loader_benchmark.options import Options

from sprout_fast.data import has_dali, scan

QUICK = ["--seconds", "0", "--rounds", "1", "--threads", "1,2", "--images", "6"]
QUICK += ["--batch-size", "4", "--image-size", "16"]


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path, {"train": {"a": 5, "b": 5}, "val": {"a": 1}}, noise_image)


def test_table_and_verdict(data, capsys):
    assert benchmark_loader.main([str(data), *QUICK, "--needs", "1e9"]) == 0
    printed = capsys.readouterr().out
    rows = {}
    for line in printed.splitlines():
        if row := re.fullmatch(r" *(\S.*?)  +([\d,]+)  +([\d,]+) *", line):
            rows[row[1]] = [int(rate.replace(",", "")) for rate in row.groups()[1:]]
    loaders = ["dali", "torch", "decoding alone"] if has_dali() else ["torch"]
    assert list(rows) == ["images/s by threads", *loaders]
    assert rows.pop("images/s by threads") == [1, 2]
    assert min(map(min, rows.values())) > 0
    assert "6 of 10 training images" in printed and "page cache warm" in printed
    best = max(max(rates) for name, rates in rows.items() if name != "decoding alone")
    assert f"loads {best:,} (" in printed.splitlines()[-1]
    assert printed.splitlines()[-1].startswith(
        "your GPUs need 1,000,000,000 images/s; this machine"
    )
    assert printed.splitlines()[-1].endswith("the GPUs would wait 100 % of the time")


def test_verdicts():
    rates = {("dali", 1): 300.0, ("dali", 2): 600.0, ("torch", 2): 500.0}
    rates |= {("decoding alone", 1): 400.0, ("decoding alone", 2): 700.0}
    does = "this machine decodes 700 and loads 600 (dali, 2 threads)"
    assert verdict(rates, None) == f"{does}; --needs gives a verdict"
    assert verdict(rates, 600) == f"your GPUs need 600 images/s; {does}: enough"
    says = "the GPUs would wait 76 % of the time"
    assert verdict(rates, 2500) == f"your GPUs need 2,500 images/s; {does}: {says}"


@pytest.mark.skipif(not has_dali(), reason="DALI is not installed")
def test_decoding_alone_decodes_the_images(data):
    options = Options(data=data, batch_size=4, image_size=16)
    rows = contestants(scan(data).train, options, torch.device("cpu"))
    (images,) = next(rows["decoding alone"](1))
    images = torch.from_dlpack(images.as_tensor())
    assert images.shape == (4, 16, 16, 3) and images.float().std() > 10


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere: no such folder or file"),
        ([".", "--threads", "0,2"], "--threads 0,2: expected numbers such as 4,8,16"),
        ([".", "--threads", "many"], "--threads many: expected numbers"),
        ([".", "--rounds", "0"], "--rounds 0: expected a number of at least 1"),
        ([".", "--decode", "gpu", "--device", "cpu"], "--decode gpu: there is none"),
        ([".", "--prefetch", "0"], "--prefetch 0: expected a number of at least 1"),
    ],
)
def test_mistakes_give_one_line(arguments, says, capsys):
    assert benchmark_loader.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmark_loader.py: error: ") and says in error
    assert error.count("\n") == 1


def test_default_numbers_of_threads(tmp_path, monkeypatch):
    for cores, counts in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (64, [1, 2, 4, 8, 16])):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert Options(data=tmp_path).thread_counts() == counts

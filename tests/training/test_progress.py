"""Log lines and the live progress of a run, and the sums behind them."""

from __future__ import annotations

import io
import re

import pytest
import torch
from rich.console import Console

from sprout_fast import MixupTarget
from sprout_fast.errors import FatalError
from sprout_fast.training import progress
from sprout_fast.training.meter import Meter, Reading
from sprout_fast.training.progress import Display, describe

CPU = torch.device("cpu")


def test_meter_averages_over_images_and_mixed_labels() -> None:
    meter = Meter(CPU)
    logits = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])  # predicts 0, 0, 1
    labels = torch.tensor([0, 1, 1])
    meter.add(torch.tensor(2.0), logits, MixupTarget(labels), 1)
    partner = MixupTarget(labels, torch.tensor([1, 0, 2]), torch.tensor([0.75]))
    meter.add(torch.tensor(1.0), logits, partner, 2)
    first = meter.read()
    assert first.images == 6 and first.loss == pytest.approx(1.5)
    hits = (1 + 0 + 1) + (0.75 + 0.25 + 0.75)
    assert first.accuracy == pytest.approx(hits / 6)
    meter.add(torch.tensor(4.0), logits[:2], MixupTarget(labels[:2]), 3)
    assert meter.read().loss == pytest.approx(4.0)
    assert meter.mean().loss == pytest.approx((6 * 1.5 + 2 * 4.0) / 8)
    assert meter.sums().tolist() == pytest.approx([17.0, hits + 1, 8])


def test_meter_reports_the_first_step_that_is_not_finite() -> None:
    meter = Meter(CPU)
    for step, loss in enumerate([1.0, float("inf"), float("nan"), 1.0], start=1):
        meter.add(torch.tensor(loss), torch.zeros(2, 3), MixupTarget(torch.tensor([0, 1])), step)
    with pytest.raises(FatalError, match="step 2:"):
        meter.read()


def test_meter_counts_images_of_all_processes_and_data_wait() -> None:
    alone, four = Meter(CPU), Meter(CPU, processes=4)
    for meter in (alone, four):
        meter._start -= 2.0  # two seconds ago
        meter.waited(0.5)
        meter.add(torch.tensor(1.0), torch.zeros(8, 3), MixupTarget(torch.zeros(8).long()), 1)
    one, all_four = alone.read(), four.read()
    assert one.images_per_second == pytest.approx(4.0, rel=0.05)
    assert all_four.images_per_second == pytest.approx(16.0, rel=0.05)
    assert one.data_wait == pytest.approx(0.25, rel=0.05)


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(live=False) as display:
        display.start("epoch 1/2", 10)
        assert display.due()  # the first step is shown immediately
        display.step(1, "loss 2.3")
        assert not display.due()
        display.warn("careful")
    assert capsys.readouterr().out == "epoch 1/2  step 1/10  loss 2.3\nwarning: careful\n"


def test_only_the_first_process_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with Display(enabled=False) as display:
        display.line("hello")
        display.start("epoch 1/2", 10)
        assert not display.due()
    assert capsys.readouterr().out == ""


def test_live_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LIVE_INTERVAL", 0.0)
    screen = io.StringIO()
    display = Display(live=True)
    display._console = Console(file=screen, force_terminal=True, width=200)
    reading = Reading(2.25, 0.5, 32, 41.5, 0.03)
    with display:
        display.start("epoch 2/3", 40, done=7)
        display.step(8, describe(reading, reading, 0.05, 0.93))
        display.line("epoch 1/3 in 9 s [not markup]")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "epoch 2/3" in shown and "8/40" in shown
    assert "loss 2.250" in shown and "true-class mass 0.93" in shown
    assert "epoch 1/3 in 9 s [not markup]" in shown


def test_lines_wrap_at_words_on_a_terminal() -> None:
    screen = io.StringIO()
    display = Display(live=True)
    display._console = Console(file=screen, force_terminal=True, width=40, highlight=False)
    text = "epoch 1/3 in 9.0 s: train loss 2.123, acc 12.5 %, top-5 50.00 % (best so far)"
    display.line(text)
    display.warn(text)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 40
    assert " ".join(lines) == f"{text} warning: {text}"

"""The training tools' options: command line, YAML, --help, and error messages."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Literal

import pytest
import yaml
from helpers.paths import ROOT, TOOLS

from sprout_fast.cli import parse_options, run_tool
from sprout_fast.errors import FatalError, UserError
from sprout_fast.methods import METHODS
from sprout_fast.methods.options import _ModuleNames, method_options
from sprout_fast.registry import nearest
from sprout_fast.training.command import parse
from sprout_fast.training.config import CifarConfig, TrainConfig

CHECKPOINT = {
    "config": {
        "arch": "resnet18",
        "lr": 3.0,
        "channels_last": False,
        "weights": "natural.pth",
        "out": "elsewhere",
        "classes": ["a", "b"],
    }
}


def read(*argv: str) -> TrainConfig:
    config, _ = parse(TrainConfig, argv, "tool.py", "A tool.", lambda path: CHECKPOINT)
    return config


def test_the_command_line_overrides_yaml(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "arch: vgg16_bn\nlr: 1e-3\nbatch-size: 7\ncompile: max-autotune\n"
        "channels_last: false\ncuda-graph: true\ndata: null\n"
    )
    config = read("--config", str(file), "--arch", "resnet50", "--no-cuda-graph")
    assert (config.arch, config.lr, config.batch_size) == ("resnet50", 1e-3, 7)
    assert (config.cuda_graph, config.channels_last, config.data) == (False, False, None)
    assert config.compile == "max-autotune"


def test_a_saved_config_reads_back_as_the_same_options(tmp_path: Path) -> None:
    config = read(
        "--data", "photos", "--lr", "0.3", "--sigma=0.05", "--compile", "default", "--cuda-graph"
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.stored()))
    again = read("--config", str(file))
    assert again.stored() == config.stored()
    assert again.data == Path("photos")


def test_resume_uses_the_checkpoints_options_but_not_its_folder_or_initial_weights() -> None:
    config = read("--resume", "moved/last.pt", "--lr", "4")
    assert (config.arch, config.lr, config.channels_last) == ("resnet18", 4.0, False)
    assert config.out == Path("moved")
    assert config.weights is None


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--batchsize", "3"], ["unknown option --batchsize", "did you mean --batch-size?"]),
        (["--no-channel-last"], ["did you mean --no-channels-last?"]),
        (["--qqqq"], ["unknown option --qqqq", "tool.py --help"]),
        (["photos"], ["unknown argument photos"]),
        (["--batch-size", "many"], ["batch_size many: expected an integer"]),
        (["--batch-size"], ["batch_size needs a value"]),
        (["--method", "sprot"], ["method sprot", "trades; did you mean sprout?"]),
        (["--beta-lr", "fast"], ["beta_lr fast: expected a number or lr"]),
        (["--hepl"], ["did you mean --help?"]),
        (["--momentum", "x"], ["momentum x: expected a number"]),
        (["--amp", "bf17"], ["amp bf17: expected one of bf16, fp16, none; did you mean bf16?"]),
        (["--optimizer", "sdg"], ["optimizer sdg", "apex-fused-sgd, sgd", "did you mean sgd?"]),
    ],
)
def test_a_wrong_option_is_one_line(argv: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read(*argv)
    message = str(error.value)
    assert "\n" not in message and "│" not in message
    for part in parts:
        assert part in message


def test_a_terminal_without_unicode_gets_the_same_line() -> None:
    done = subprocess.run(
        [sys.executable, TOOLS / "train_cifar.py", "--amp", "bf17"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.stderr.startswith("train_cifar.py: error: --amp bf17: expected one of bf16, fp16")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("archs: vgg16\n", "unknown option archs; did you mean arch?"),
        ("resume: last.pt\n", "resume belongs on the command line"),
        ("epochs: many\n", ": epochs many: expected an integer"),
        ("amp: bf17\n", ": amp bf17: expected one of bf16, fp16, none; did you mean bf16?"),
        ("method: sprot\n", "did you mean sprout?"),
        ("mixup_alfa: 0.2\n", "unknown option mixup_alfa; did you mean mixup_alpha?"),
        ("{epochs: [\n", "not valid YAML: line 2: expected the node content"),
        ("just words\n", "expected lines of the form 'option: value', got str"),
        (None, "No such file"),
    ],
)
def test_an_error_in_a_yaml_file_names_the_file(
    tmp_path: Path, text: str | None, part: str
) -> None:
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read("--config", str(file))
    assert part in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--epochs", "0"], "epochs 0: expected a number of at least 1"),
        (["--lr", "-1"], "lr -1.0: expected a positive number"),
        (["--lr", "nan"], "lr nan"),
        (["--momentum", "nan"], "momentum nan"),
        (["--weight-decay", "inf"], "weight_decay inf"),
        (["--max-steps", "0"], "max_steps 0"),
        (["--keep-every", "0"], "keep_every 0: expected a number of at least 1"),
        (["--weights", "nowhere.pth"], "weights nowhere.pth: no such file"),
        (["--reset-head"], "reset_head needs weights"),
        (["--sigma", "0.1", "--method", "trades"], "sigma 0.1: method trades has no such option"),
        (["--sigma", "0.1", "--method", "natural"], "method natural .* has none"),
    ],
)
def test_an_option_out_of_range_is_reported(argv: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        read(*argv).check()


def help_of(capsys: pytest.CaptureFixture[str], config_type: type[TrainConfig]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse(config_type, ["--help"], "tool.py", "A tool.")
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("config_type", [TrainConfig, CifarConfig])
def test_help_shows_every_option_in_its_group(
    capsys: pytest.CaptureFixture[str], config_type: type[TrainConfig]
) -> None:
    shown = help_of(capsys, config_type)
    assert "default: None" not in shown
    group_of, group = {}, None
    for line in shown.splitlines():
        words = line.strip("╭─╮│ ")  # the frame depends on the terminal
        if re.match("[│ ] --[a-z]", line):
            group_of[words.split()[0].rstrip(",")] = group
        elif re.fullmatch("[a-z& -]*options", words):
            group = words
    fields = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(config_type)}
    assert set(group_of) == fields
    assert list(dict.fromkeys(group_of.values()))[:9] == [
        "options",
        "model options",
        "data options",
        "loading options",
        "augmentation options",
        "optimization options",
        "device options",
        "output options",
        "shared method options",
    ]
    expected = {"--method": "options", "--data": "data options", "--eps": "shared method options"}
    expected |= {"--beta-lr": "sprout options", "--kl-weight": "trades options"}
    if config_type is CifarConfig:
        expected["--limit-train"] = "data options"
    assert {flag: group_of[flag] for flag in expected} == expected


def test_help_breaks_lines_only_at_the_width_of_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclasses.dataclass
    class Options:
        eps: float = 0.1
        """Radius of the ball
        around each image, in [0,1]:
        a text of several lines in the source."""

    whole = "Radius of the ball around each image, in [0,1]: a text of several lines in the source."
    for width, broken in ((300, False), (80, True)):
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit):
            parse_options(Options, ["--help"], "tool.py", "A tool.")
        assert (whole not in capsys.readouterr().out) == broken


def test_a_help_text_is_a_sentence_with_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    words = " ".join(help_of(capsys, CifarConfig).replace("│", " ").split())
    assert "Batches whose gradients are averaged for one optimizer step. Default: 1." in words
    assert "Default: 0.1 at 128 images per step, scaled linearly with batch size" in words
    assert "Default: 0.03137 (bilateral, fast_at, free_at, pgd_at), 0.031 (trades)." in words


def test_help_shows_a_default_of_several_words_as_it_is_typed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @dataclasses.dataclass
    class Options:
        arch: tuple[str, ...] = ("sm_80", "sm_90")
        """Architectures."""

    with pytest.raises(SystemExit):
        parse_options(Options, ["--help"], "tool.py", "A tool.")
    assert "Architectures. Default: sm_80 sm_90." in capsys.readouterr().out


def test_method_options_equal_those_of_the_classes() -> None:
    """They are read from the source files without importing them."""
    assert list(method_options()) == sorted(METHODS)
    for name, options in method_options().items():
        parameters = list(inspect.signature(METHODS[name]).parameters.items())[1:]
        hints = typing.get_type_hints(METHODS[name].__init__)
        assert [(option.name, option.default) for option in options] == [
            (parameter, value.default) for parameter, value in parameters
        ]
        assert [option.type for option in options] == [hints[key] for key, _ in parameters]
        assert all(option.help for option in options)


def test_method_options_follow_names_to_where_they_are_defined() -> None:
    source = (
        "from typing import Literal\n"
        "from sprout_fast.training.optim import Schedule as Shape\n"
        "_LOW = 0.5\n"
    )
    names = _ModuleNames(ast.parse(source))
    kind = ast.parse("Shape | float", mode="eval").body
    assert names.evaluate(kind) == Literal["cosine", "stages", "step"] | float
    assert names.evaluate(ast.parse("_LOW / 2", mode="eval").body) == 0.25


TORCH_FREE = """
import sys
sys.argv[0] = "sprout-train-cifar"
from sprout_fast.training.command import train_cifar
try:
    status = train_cifar()
except SystemExit as stop:
    status = stop.code
assert "torch" not in sys.modules, "torch was imported"
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("argv", "status", "shown"),
    [
        (["--help"], 0, "usage: sprout-train-cifar"),
        (["--batchsize", "3"], 2, "sprout-train-cifar: error: unknown option --batchsize; did"),
        (["--method", "sprot"], 2, "error: --method sprot: expected one of bilateral"),
        (["--data", "x", "--method", "ls", "--eps", "1"], 2, "error: --eps 1.0: method ls has no"),
        (["--epochs", "0"], 2, "error: --epochs 0: expected a number of at least 1"),
    ],
)
def test_help_and_mistakes_do_not_import_torch(argv: list[str], status: int, shown: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TORCH_FREE, *argv], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == status, done.stderr
    assert shown in (done.stderr if status else done.stdout)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("x: no\n  such"), 2, "tool.py: error: x: no such\n"),
        (UserError("8: no", option="batch_size"), 2, "tool.py: error: --batch-size 8: no\n"),
        (FatalError("not finite"), 1, "tool.py: error: not finite\n"),
        (OSError(28, "No space left on device", "run"), 2, "tool.py: error: run: No space left"),
        (KeyboardInterrupt(), 130, "tool.py: interrupted\n"),
    ],
)
def test_run_tool_reports_mistakes_in_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert run_tool("tool.py", body) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1


def test_run_tool_shows_tracebacks_of_bugs() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool("tool.py", lambda: 1 // 0)
    with pytest.raises(ConnectionResetError):
        run_tool("tool.py", lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset")))


def test_nearest_is_empty_if_nothing_is_close() -> None:
    assert nearest("resnet", ["natural", "sprout"]) == ""


def test_without_the_train_extra_one_line_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['tyro'] = None; import sprout_fast.training.command"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "tyro is not installed; the command lines need: pip install 'sprout_fast[train]'"
    ]

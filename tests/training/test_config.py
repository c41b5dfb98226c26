"""The shared options: command line, YAML, and what a mistake looks like."""

from pathlib import Path

import pytest
import yaml

from sprout_fast.cli import run_tool
from sprout_fast.errors import FatalError, UserError
from sprout_fast.registry import nearest
from sprout_fast.training.command import parse
from sprout_fast.training.config import TrainConfig

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


def test_command_line_has_the_last_word_over_yaml(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "arch: vgg16_bn\nlr: 1e-3\nbatch-size: 7\ncompile: true\nchannels_last: false\ndata: null\n"
    )
    config = read("--config", str(file), "--arch", "resnet50", "--no-compile")
    assert (config.arch, config.lr, config.batch_size) == ("resnet50", 1e-3, 7)
    assert (config.compile, config.channels_last, config.data) == (False, False, None)


def test_a_saved_config_reads_back_as_the_same_options(tmp_path: Path) -> None:
    config = read(
        "--data", "photos", "--lr", "0.3", "--sigma=0.05", "--compile", "--mixup-alpha", "0"
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.stored()))
    again = read("--config", str(file))
    assert again.stored() == config.stored()
    assert again.data == Path("photos")


def test_resume_takes_the_checkpoints_options_but_not_its_folder_or_first_weights() -> None:
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
        (["--batch-size", "many"], ["--batch-size many", "takes INT"]),
        (["--batch-size"], ["--batch-size"]),
        (["--momentum", "x"], ["--momentum"]),
        (["--amp", "bf17"], ["--amp bf17", "bf16, fp16, none", "did you mean bf16?"]),
        (["--optimizer", "sdg"], ["apex-fused-sgd, sgd", "did you mean sgd?"]),
    ],
)
def test_a_wrong_option_is_one_line(argv: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read(*argv)
    message = str(error.value)
    assert "\n" not in message and "│" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("archs: vgg16\n", "unknown option archs; did you mean arch?"),
        ("resume: last.pt\n", "unknown option resume"),
        ("epochs: many\n", "--epochs many: takes INT"),
        ("{epochs: [\n", "not YAML"),
        ("just words\n", "takes 'option: value' lines"),
        (None, "No such file"),
    ],
)
def test_a_wrong_yaml_file_is_named(tmp_path: Path, text: str | None, part: str) -> None:
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as error:
        read("--config", str(file))
    assert part in str(error.value) and str(file) in str(error.value)


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--epochs", "0"], "--epochs 0"),
        (["--lr", "-1"], "--lr -1"),
        (["--lr", "nan"], "--lr nan"),
        (["--momentum", "nan"], "--momentum nan"),
        (["--weight-decay", "inf"], "--weight-decay inf"),
        (["--max-steps", "0"], "--max-steps 0"),
        (["--reset-head"], "needs --weights"),
    ],
)
def test_a_number_out_of_range_is_named(argv: list[str], part: str) -> None:
    with pytest.raises(UserError, match=part):
        read(*argv).check()


def test_help_is_tyros_and_ends_with_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read("--help")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--batch-size INT" in shown and "default: None" not in shown


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("--arch x: no\n  such"), 2, "tool.py: error: --arch x: no such\n"),
        (FatalError("not finite"), 1, "tool.py: error: not finite\n"),
        (OSError(28, "No space left on device", "run"), 2, "tool.py: error: run: No space left"),
        (KeyboardInterrupt(), 130, "tool.py: interrupted\n"),
    ],
)
def test_run_tool_tells_mistakes_in_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert run_tool("tool.py", body) == status
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1


def test_run_tool_leaves_bugs_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_tool("tool.py", lambda: 1 // 0)
    with pytest.raises(ConnectionResetError):
        run_tool("tool.py", lambda: (_ for _ in ()).throw(ConnectionResetError(104, "reset")))


def test_nearest_keeps_quiet_where_nothing_is_near() -> None:
    assert nearest("resnet", ["natural", "sprout"]) == ""

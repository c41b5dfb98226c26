"""README.md and docs: what they name exists, and the README stays one page."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from helpers.paths import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ids = [str(page.relative_to(ROOT)) for page in PAGES]


def shell_lines(text: str) -> list[str]:
    """Commands of the page's bash blocks, without comments, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]


@cache
def scripts() -> dict[str, str]:
    """The console scripts in pyproject.toml: name, "module:function"."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project.get("scripts", {})


@cache
def help_of(tool: str) -> str:
    command = [sys.executable, str(ROOT / tool), "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_readme_is_one_page():
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_name_what_exists(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in shell_lines(page.read_text()):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets, line
        for word in words:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_options_of_commands_exist(page: Path):
    for line in shell_lines(page.read_text()):
        found = re.search(r"((?:tools|tests)/\S+\.py)(.*)", line)
        if found and "-m pytest" not in line:
            tool, arguments = found.groups()
            for option in re.findall(r"--[a-z][a-z-]*", arguments):
                assert re.search(rf"{option}\b", help_of(tool)), line


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_paths_and_links_exist(page: Path):
    text = page.read_text()
    linked = [link for link in re.findall(r"\]\(([^)#:]+)\)", text)]
    for link in linked:
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:csrc|tests|tools|sprout_fast|cmake)/[\w/.*]+)`", text):
        assert any(ROOT.glob(path)), path


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_console_scripts_exist(page: Path):
    for name in re.findall(r"`(sprout-[a-z-]+)", page.read_text()):
        assert name in scripts(), name


def test_commands_are_found():
    """The tests above read something."""
    lines = shell_lines(README.read_text())
    assert "make train" in lines and len(lines) > 8
    assert "--checkpoint" in help_of("tools/evaluate_robustness.py")

"""Plant mistakes, one at a time, and see whether a test fails.

    python -m mutants --page docs/mutants.md      # in tests/benchmarks: make mutants

All tests are run once to record which functions they execute, and again where a test file changes.
Each mistake is then made in a copy of the tree and tested there by the tests that execute its
function, until one fails; C++ is compiled first, and tested by the tests of ops. Tests run in
processes that are forked after torch has been imported. A mistake that no test notices within
``--seconds`` survives. ``reasons.json`` says of survivors why they may: what they change cannot be
observed, or costs more to test than it harms.

Stop it at any time and run it again: what was tested is kept in ``--state`` for as long as the line
of the mistake remains. ``--again`` tests survivors once more, after new tests.

cosmic-ray and mutmut, which plant mistakes in Python too, start an interpreter for each or rewrite
every function in place, which does not go well with torch's registrations, and neither knows C++.
"""

from __future__ import annotations

import ast
import contextlib
import datetime
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro
from mutants.executed import Executed, Recorder, Selector, Test, by_file, choose
from mutants.planted import Mutant, mutants

ROOT = Path(__file__).parents[3]
REASONS = Path(__file__).with_name("reasons.json")
# What tests something else than the package's behavior, needs a GPU, or measures.
NOT_RUN = ("packaging", "benchmarks", "docs", "simt", "ops/test_cuda.py", "ops/test_asan.py")
LONG = (
    "methods/test_learning.py",
    "ops/test_memory.py",
    "tools/test_reproduce_paper.py",
)
# A test file that starts processes; what they execute is not recorded.
STARTING = re.compile("subprocess|multiprocessing|torchrun|spawn")


@dataclass
class Options:
    """Command-line options."""

    python: int = 200
    """Mistakes in Python."""
    native: int = 50
    """Mistakes in C++."""
    seed: int = 0
    """Which ones."""
    seconds: float = 150.0
    """Longest time for the tests of one mistake."""
    workers: int = 2
    """Mistakes that are tested at a time."""
    minutes: float = 600.0
    """Stop after this time; run again to continue."""
    again: bool = False
    """Test survivors again, but for those with a reason."""
    only: str = ""
    """Only mistakes in files whose path contains this."""
    state: Path = Path("build/mutants")
    """Folder for the copies and the results so far."""
    page: Path | None = None
    """Page whose table is replaced."""


def in_native(path: str, tests: list[Test]) -> list[Test]:
    """Return the tests of ops, those of the ops that a C++ file names first."""
    stem = Path(path).stem
    for ending in ("_kernel", "_call", "_row"):
        stem = stem.removesuffix(ending)
    own = [test for test in tests if test.name.startswith(("tests/ops/", "tests/nn/"))]
    return by_file(own, lambda test: stem not in test.file)


class Tree:
    """A copy of the repository in which mistakes are made."""

    def __init__(self, folder: Path, native: bool) -> None:
        self.folder = folder
        self._sound: set[str] = set()  # tests that pass without a mistake
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
        for name in listed.stdout.split("\n"):
            if name and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                if not same(ROOT / name, folder / name):
                    shutil.copyfile(ROOT / name, folder / name)
        for built in (*ROOT.glob("sprout_fast/*.so"), *ROOT.glob("sprout_fast/lib/*.so")):
            target = folder / built.relative_to(ROOT)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(built, target)
        if native and not (folder / "build/build.ninja").exists():
            command = ["cmake", "-S", ".", "-B", "build", "-G", "Ninja", "-DSPROUT_WITH_CUDA=OFF"]
            self._run(*command, f"-DPython_EXECUTABLE={sys.executable}")
        if native:
            self._compile()

    def _run(self, *command: str) -> bool:
        tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = os.environ | {"PATH": tools}
        done = subprocess.run(command, cwd=self.folder, capture_output=True, env=environment)
        return done.returncode == 0

    def _compile(self) -> bool:
        library = "libsprout_fast.so"
        if not self._run("ninja", "-C", "build", "-j1", "sprout_fast"):
            return False
        (built,) = (self.folder / "build").rglob(library)
        shutil.copyfile(built, self.folder / "sprout_fast/lib" / library)
        return True

    def record(self, file: str, into: Path) -> None:
        """Run a test file and write which functions its tests execute."""
        recorder = Recorder(self.folder)

        def written() -> None:
            partial = into.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps(recorder.content()))
            partial.rename(into)

        if self._pytest([file], recorder, written, 1800, stop=False)[0] not in (0, 5):
            log = self.folder / "pytest.log"
            print(f"{file} fails, see {log.rename(log.with_name('failed.log'))}", flush=True)

    def test(self, mutant: Mutant, tests: list[Test], seconds: float) -> tuple[str, str]:
        """Return what became of the mistake, and which test told."""
        verdict, by = self._test(mutant, tests, seconds)
        told = [test for test in tests if test.name == by]
        if verdict == "caught" and told and by not in self._sound:
            if mutant.path.startswith("csrc"):
                self._compile()
            if self._run_tests(told, 600)[0] != 0:
                print(f"{by} fails without a mistake", flush=True)
                return self.test(mutant, [test for test in tests if test.name != by], seconds)
            self._sound.add(by)
        return verdict, by

    def _test(self, mutant: Mutant, tests: list[Test], seconds: float) -> tuple[str, str]:
        before = mutant.apply(self.folder)
        try:
            if mutant.path.startswith("csrc"):
                if not self._compile():
                    return "does not compile", ""
            else:
                ast.parse((self.folder / mutant.path).read_text())
            status, failed = self._run_tests(tests, seconds)
            if status in (0, 5):  # 5: no tests
                return "survived", ""
            if status == 124:  # that a test hangs is no proof where all take long
                return "survived", f"not all {len(tests)} tests in {seconds:g} s"
            return "caught", failed
        finally:
            (self.folder / mutant.path).write_text(before, encoding="utf-8")

    def _run_tests(self, tests: list[Test], seconds: float) -> tuple[int, str]:
        selector = Selector(tests)
        files = list(dict.fromkeys(test.file for test in tests))
        return self._pytest(files, selector, lambda: selector.failed, seconds)

    def _pytest(
        self,
        files: list[str],
        plugin: object,
        then: Callable[[], str | None],
        seconds: float,
        stop: bool = True,
    ) -> tuple[int, str]:
        """Run tests in a forked process.

        Returns:
            Its exit status, 124 if it takes more than ``seconds``, and what ``then`` returned.
        """
        if not files:
            return 5, ""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setsid()
                os.chdir(self.folder)
                log = os.open("pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(log, 1), os.dup2(log, 2)
                os.environ |= {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1"}
                own = (p for p in sys.path if not p.startswith(str(ROOT)) or "site-packages" in p)
                sys.path[:] = [str(self.folder), *own]
                sys.dont_write_bytecode = True
                options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not long"]
                status = int(pytest.main([*options, *["-x"] * stop, *files], plugins=[plugin]))
                os.write(write, (then() or "").encode())
            finally:
                os._exit(status)
        os.close(write)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                with open(read) as pipe:
                    return (code if code >= 0 else 1), pipe.read()
            time.sleep(0.05)
        os.close(read)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 124, ""


def same(one: Path, two: Path) -> bool:
    """Return whether two files have the same content, so that the second need not be written."""
    return two.exists() and one.read_bytes() == two.read_bytes()


def reasons() -> dict[str, str]:
    """Return why survivors may survive, by the name of the mistake."""
    return json.loads(REASONS.read_text(encoding="utf-8"))


def table(results: dict[str, dict[str, str]], options: Options) -> str:
    """Return the content of the page."""
    excuses = reasons()
    areas: dict[str, list[str]] = {}
    for key, result in results.items():
        path = Path(key.split(": ")[0])
        inner = path.parts[1] if len(path.parts) > 2 else "its root"
        area = "C++" if path.parts[0] == "csrc" else inner
        verdict = result["verdict"]
        if verdict == "survived" and key in excuses:
            verdict = "excused"
        areas.setdefault(area, []).append(verdict)
    today = datetime.date.today().isoformat()
    lines = [f"{today}, {len(results)} mistakes, seed {options.seed}.", ""]
    lines += ["| where | planted | caught | changes nothing that counts | survived |"]
    lines += ["|---|---:|---:|---:|---:|"]
    rows = [(area, areas[area]) for area in sorted(areas)]
    for area, verdicts in [*rows, ("all", [v for _, part in rows for v in part])]:
        counted = [v for v in verdicts if v != "does not compile"]
        numbers = [counted.count(v) for v in ("caught", "excused", "survived")]
        lines.append(f"| {area} | {len(counted)} | " + " | ".join(map(str, numbers)) + " |")
    for title, excused in (("Changes nothing that counts", True), ("Survived", False)):
        left = [k for k, r in results.items() if r["verdict"] == "survived"]
        if chosen := [key for key in left if (key in excuses) == excused]:
            lines += ["", f"{title}:", ""]
            lines += [
                f"- `{' '.join(key.split())}`" + (f": {excuses[key]}" if excused else "")
                for key in chosen
            ]
    return "\n".join(lines) + "\n"


_TREE: Tree  # of this process


def _start(folder: Path, native: bool, numbers: multiprocessing.Queue) -> None:
    global _TREE
    _TREE = Tree(folder / f"tree{numbers.get()}", native)


def _record(file: str, into: Path) -> None:
    _TREE.record(file, into)


def _tests(mutant: Mutant, tests: list[Test], starting: set[str]) -> list[Test]:
    if mutant.path.startswith("csrc"):
        return in_native(mutant.path, tests)
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    return choose(mutant.path, source, mutant.start, tests, starting)


def _plant(
    mutant: Mutant, tests: list[Test], seconds: float, until: float
) -> tuple[Mutant, str, str, float] | None:
    if time.monotonic() > until:
        return None
    began = time.monotonic()
    return mutant, *_TREE.test(mutant, tests, seconds), time.monotonic() - began


def main(options: Options) -> int:
    folder = options.state.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "results.json"
    known = json.loads(store.read_text()) if store.exists() else {}
    every = mutants(ROOT, options.python, options.native, options.seed)  # Python's come first
    planted = [one for one in every if options.only in one.path]
    keys = [one.key for one in planted]
    results = {key: known[key] for key in keys if key in known}
    if options.again:
        kept = reasons()
        results = {k: r for k, r in results.items() if r["verdict"] != "survived" or k in kept}
    left = [one for one in planted if one.key not in results]
    print(f"{len(planted)} mistakes, {len(left)} to test", flush=True)
    tests = [str(f.relative_to(ROOT)) for f in sorted((ROOT / "tests").rglob("test_*.py"))]
    files = [f for f in tests if not f.removeprefix("tests/").startswith((*NOT_RUN, *LONG))]
    modules = (ROOT / "sprout_fast").rglob("*.py")
    files += [str(f.relative_to(ROOT)) for f in sorted(modules) if ">>>" in f.read_text()]
    executed = Executed(folder / "executed", ROOT)
    missing = [(file, path) for file in files if not (path := executed.path(file)).exists()]
    os.environ |= {"OMP_NUM_THREADS": "1", "SPROUT_FAST_MUTANTS": "1"}
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    import torch  # before forking: importing it takes longer than most tests
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    native = any(one.path.startswith("csrc") for one in left)
    context = multiprocessing.get_context("fork")
    numbers = context.Queue()
    for number in range(options.workers):
        numbers.put(number)
    start = (folder, native, numbers)
    with ProcessPoolExecutor(options.workers, context, _start, start) as pool:
        print(f"{len(missing)} test files to run first", flush=True)
        for done in as_completed([pool.submit(_record, *one) for one in missing]):
            done.result()
        recorded = executed.tests(files)
        starting = {f for f in files if STARTING.search((ROOT / f).read_text(encoding="utf-8"))}
        until = time.monotonic() + 60 * options.minutes
        work = [
            pool.submit(_plant, m, _tests(m, recorded, starting), options.seconds, until)
            for m in left
        ]
        for done in as_completed(work):
            if (found := done.result()) is None:
                continue
            mutant, verdict, by, taken = found
            results[mutant.key] = {"verdict": verdict, "by": by, "line": str(mutant.line)}
            known.update(results)
            store.write_text(json.dumps(known, indent=1))
            print(f"{verdict:<9} {taken:5.1f} s  {mutant.key}  [{by}]", flush=True)
    if options.page is not None:
        from pages import replace_section  # imports the package, which only tests may do before

        ordered = {key: results[key] for key in keys if key in results}
        replace_section(options.page, "mutants", table(ordered, options))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

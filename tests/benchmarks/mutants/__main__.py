"""Plant mistakes, one at a time, and see whether a test fails.

    python -m mutants --page docs/mutants.md      # in tests/benchmarks: make mutants

Each mistake is made in a copy of the tree and tested there: by the doctests of its module, then by
the test files that import the module, the nearest first, until one fails. Python is tested in
processes that are forked after torch has been imported; C++ is compiled first. A mistake that no
test notices within ``--seconds`` survives. ``reasons.json`` says of survivors why they may: what
they change cannot be observed, or costs more to test than it harms.

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
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import tyro
from mutants.planted import Mutant, mutants

ROOT = Path(__file__).parents[3]
REASONS = Path(__file__).with_name("reasons.json")
# What tests something else than the package's behavior, needs a GPU, or measures.
NOT_RUN = ("packaging", "benchmarks", "docs", "simt", "ops/test_cuda.py", "ops/test_asan.py")
LONG = (
    "methods/test_learning.py",
    "ops/test_fuzz.py",
    "ops/test_memory.py",
    "tools/test_reproduce_paper.py",
)


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
    """Test survivors again."""
    only: str = ""
    """Only mistakes in files whose path contains this."""
    state: Path = Path("build/mutants")
    """Folder for the copies and the results so far."""
    page: Path | None = None
    """Page whose table is replaced."""


def imported(tests: list[Path]) -> dict[str, set[str]]:
    """Return the modules of the package that each test file imports, directly or not."""
    found: dict[str, set[str]] = {}
    for file in tests:
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.close(read)
            with contextlib.suppress(BaseException), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1), os.dup2(nowhere.fileno(), 2)
                exec(compile(file.read_text(), str(file), "exec"), {"__name__": "tested"})
            names = " ".join(n for n in sys.modules if n.split(".")[0] == "sprout_fast")
            os.write(write, names.encode())
            os._exit(0)
        os.close(write)
        with open(read) as pipe:
            found[str(file.relative_to(ROOT / "tests"))] = set(pipe.read().split())
        os.waitpid(pid, 0)
    return found


def nearest(mutant: Mutant, modules: dict[str, set[str]], seconds: dict[str, float]) -> list[str]:
    """Return the test files for a mistake, in the order in which they are run.

    Args:
        mutant: the mistake.
        modules: what each test file imports.
        seconds: how long test files have taken, where that is known.
    """
    parts = Path(mutant.path).with_suffix("").parts
    if parts[0] == "csrc":
        stem = parts[-1].removesuffix("_kernel").removesuffix("_call").removesuffix("_row")
        own = [f for f in modules if f.startswith(("ops/", "nn/"))]
        return sorted(own, key=lambda f: (f in LONG, stem not in f, seconds.get(f, 5), f))
    name, subject, stem = ".".join(parts), parts[1], parts[-1]
    # A program, which a test starts in a process of its own, imports what it uses there.
    programs = [f for f in modules if f.startswith("tools/") and subject not in ("ops", "nn")]
    files = {f for f, imports in modules.items() if name in imports} | set(programs)

    def distance(file: str) -> tuple[bool, bool, bool, float, int, str]:
        return (
            file in LONG or file.startswith("tools/"),
            not file.startswith(subject),
            stem not in file,
            seconds.get(file, 5),
            len(modules[file]),
            file,
        )

    return sorted(files, key=distance)


class Tree:
    """A copy of the repository in which mistakes are made."""

    def __init__(self, folder: Path, native: bool) -> None:
        self.folder = folder
        self._sound: set[str] = set()  # test files that pass without a mistake
        self.seconds: dict[str, float] = {}  # that files took which passed
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

    def test(self, mutant: Mutant, files: list[str], seconds: float) -> tuple[str, str]:
        """Return what became of the mistake, and which test file told."""
        verdict, file = self._test(mutant, files, seconds)
        name = file.removesuffix(" hangs")
        if verdict == "caught" and name not in self._sound:
            if mutant.path.startswith("csrc"):
                self._compile()
            if self._pytest(name, 600) not in (0, 5):
                log = self.folder / "pytest.log"
                kept = log.rename(log.with_name(f"failed-{Path(name).stem}.log"))
                print(f"{name} fails without a mistake, see {kept}", flush=True)
                others = [f for f in files if f"tests/{f}" != name]
                if others == files:
                    raise SystemExit(f"the doctests of {name} fail")
                return self.test(mutant, others, seconds)
            self._sound.add(name)
        return verdict, file

    def _test(self, mutant: Mutant, files: list[str], seconds: float) -> tuple[str, str]:
        before = mutant.apply(self.folder)
        try:
            if mutant.path.startswith("csrc"):
                if not self._compile():
                    return "does not compile", ""
            else:
                ast.parse((self.folder / mutant.path).read_text())
                files = [mutant.path, *(f"tests/{f}" for f in files)]
            until = time.monotonic() + seconds
            for file in files:
                file = file if file.startswith(("sprout_fast", "tests")) else f"tests/{file}"
                left = until - time.monotonic()
                if left <= 0:
                    return "survived", f"not all files in {seconds:g} s"
                began = time.monotonic()
                status = self._pytest(file, left)
                if status == 0:
                    self.seconds[file.removeprefix("tests/")] = time.monotonic() - began
                if status == 124:
                    # Slow tests are no proof; those of the nearest file do not take that long.
                    return ("caught", f"{file} hangs") if file == files[0] else ("survived", "")
                if status not in (0, 5):  # 5: no tests
                    return "caught", file
            return "survived", ""
        finally:
            (self.folder / mutant.path).write_text(before, encoding="utf-8")

    def _pytest(self, file: str, seconds: float) -> int:
        """Run a test file in a forked process, and return its exit status; 124 if it is slow."""
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
                import pytest

                arguments = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", file]
                status = int(pytest.main(arguments))
            finally:
                os._exit(status)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 1
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return 124


def same(one: Path, two: Path) -> bool:
    """Return whether two files have the same content, so that the second need not be written."""
    return two.exists() and one.read_bytes() == two.read_bytes()


def table(results: dict[str, dict[str, str]], options: Options) -> str:
    """Return the content of the page."""
    reasons = json.loads(REASONS.read_text()) if REASONS.exists() else {}
    areas: dict[str, list[str]] = {}
    for key, result in results.items():
        path = Path(key.split(": ")[0])
        area = "C++" if path.parts[0] == "csrc" else (path.parts[1] if len(path.parts) > 2 else "-")
        verdict = result["verdict"]
        if verdict == "survived" and key in reasons:
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
        if chosen := [key for key in left if (key in reasons) == excused]:
            lines += ["", f"{title}:", ""]
            lines += [f"- `{key}`" + (f": {reasons[key]}" if excused else "") for key in chosen]
    return "\n".join(lines) + "\n"


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
        results = {k: r for k, r in results.items() if r["verdict"] != "survived"}
    left = [one for one in planted if one.key not in results]
    print(f"{len(planted)} mistakes, {len(left)} to test", flush=True)
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    tests = [f for f in tests if not str(f.relative_to(ROOT / "tests")).startswith(NOT_RUN)]
    os.environ |= {"OMP_NUM_THREADS": "1", "SPROUT_FAST_MUTANTS": "1"}
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    import torch  # before forking: importing it takes longer than most tests
    import torchvision  # noqa: F401

    torch.set_num_threads(1)
    modules = imported(tests)
    native = any(one.path.startswith("csrc") for one in left)
    trees: SimpleQueue[Tree] = SimpleQueue()
    for number in range(options.workers):
        trees.put(Tree(folder / f"tree{number}", native))
    until = time.monotonic() + 60 * options.minutes

    def run(mutant: Mutant) -> None:
        if time.monotonic() > until:
            return
        tree = trees.get()
        try:
            began = time.monotonic()
            verdict, by = tree.test(mutant, nearest(mutant, modules, tree.seconds), options.seconds)
        finally:
            trees.put(tree)
        taken = time.monotonic() - began
        results[mutant.key] = {"verdict": verdict, "by": by, "line": str(mutant.line)}
        known.update(results)
        store.write_text(json.dumps(known, indent=1))
        print(f"{verdict:<9} {taken:5.1f} s  {mutant.key}  [{by}]", flush=True)

    with ThreadPoolExecutor(options.workers) as pool:
        list(pool.map(run, left))
    if options.page is not None:
        from pages import replace_section  # imports the package, which only tests may do before

        ordered = {key: results[key] for key in keys if key in results}
        replace_section(options.page, "mutants", table(ordered, options))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

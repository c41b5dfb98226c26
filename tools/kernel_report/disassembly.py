"""Kernels parsed from cuobjdump's output: resource usage, launch bounds and SASS."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sprout_fast.errors import UserError

# Short names of template argument types.
_TYPES = {
    "unsigned char": "uint8",
    "__half": "fp16",
    "__nv_bfloat16": "bf16",
    "float": "fp32",
    "double": "fp64",
    "long": "int64",
}
SIZES = {"uint8": 1, "fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8, "int64": 8}


@dataclass(frozen=True)
class Instruction:
    """One line of SASS.

    >>> line = "        /*0150*/              @!P0 LDG.E.128 R4, desc[UR4][R2.64+0x10] ;  /* 0x */"
    >>> ldg = parse_instruction(line)
    >>> ldg.address, ldg.predicate, ldg.opcode, ldg.global_bytes
    (336, '@!P0', 'LDG.E.128', 16)
    """

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".")[0]

    @property
    def global_bytes(self) -> int:
        """Bytes per thread that it loads from or stores to global memory; 0 for other opcodes."""
        if self.name not in ("LDG", "STG"):
            return 0
        modifiers = self.opcode.split(".")[1:]
        return next((_WIDTHS[m] for m in modifiers if m in _WIDTHS), 4)

    @property
    def is_special(self) -> bool:
        """Whether the unit of special functions, which also converts, executes it."""
        return self.name in ("MUFU", "I2F", "F2I", "F2F", "FRND")

    @property
    def target(self) -> int:
        """Address of a branch's target."""
        return int(re.findall(r"0x[0-9a-f]+", self.operands)[-1], 16)


_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel.

    Args:
        symbol: mangled name.
        registers: registers per thread.
        stack, local: bytes of local memory per thread: stack frame (including spills), and other.
        shared: bytes of static shared memory per block, on sm_90 and later including what the
            architecture reserves.
        threads: threads per block from ``__launch_bounds__``, or None without launch bounds.
        code: SASS in order of address.
    """

    symbol: str
    registers: int
    stack: int
    local: int
    shared: int
    threads: int | None
    code: tuple[Instruction, ...]

    @property
    def op(self) -> str:
        """Name without arguments, e.g. ``gaussian_mixup`` or ``dirichlet_backward``."""
        return _demangled(self.symbol)[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Template arguments with types abbreviated, e.g. ``("uint8", "bf16", "fp32")``."""
        return _demangled(self.symbol)[1]

    @property
    def name(self) -> str:
        """Display name, e.g. ``gaussian_mixup<uint8, bf16, fp32>``."""
        return self.op + (f"<{', '.join(self.arguments)}>" if self.arguments else "")

    @property
    def computes_in_double(self) -> bool:
        """Whether any of its types is float64."""
        return "fp64" in self.arguments

    @property
    def local_accesses(self) -> int:
        """Number of instructions that read or write local memory, e.g. for spills."""
        return sum(i.name in ("LDL", "STL") for i in self.code)


def _demangled(symbol: str) -> tuple[str, tuple[str, ...]]:
    """Return the op and the abbreviated template arguments of a mangled kernel name.

    >>> _demangled("_ZN11sprout_fast15pgd_step_kernelIf13__nv_bfloat16fEEvNS_11PgdStepArgsE")
    ('pgd_step', ('fp32', 'bf16', 'fp32'))
    """
    import torch  # slow, and not needed for --help

    text: str = torch._C._demangle(symbol)
    head, _, rest = text.partition("(")[0].partition("<")
    arguments = [a.strip() for a in rest.removesuffix(">").split(",")] if rest else []
    return (
        head.split("::")[-1].removesuffix("_kernel"),
        tuple(_TYPES.get(a, a) for a in arguments),
    )


_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


def parse_instruction(line: str) -> Instruction | None:
    """Parse a line of ``cuobjdump -sass``; returns None if it contains no instruction."""
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    address, predicate, opcode, operands = match.groups()
    return Instruction(int(address, 16), predicate or "", opcode, operands)


def parse_kernels(sass: str, resources: str, elf: str) -> list[Kernel]:
    """Parse the kernels from the output of cuobjdump's ``-sass``, ``-res-usage`` and ``-elf``."""
    code: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for line in sass.splitlines():
        if "Function : " in line:
            code[line.split("Function : ")[1].strip()] = current = []
        elif (instruction := parse_instruction(line)) is not None:
            current.append(instruction)
    usage = {
        name: {key: int(value) for key, value in re.findall(r"(\w+)(?:\[\d\])?:(\d+)", numbers)}
        for name, numbers in re.findall(r"Function (\S+):\s*\n(.*)", resources)
    }
    threads = {}
    for section in re.split(r"^\.nv\.info\.", elf, flags=re.MULTILINE)[1:]:
        bounds = re.search(r"EIATTR_MAX_THREADS\s+Format:.*\s+Value:\s+((?:0x\w+\s+){3})", section)
        if bounds:
            x, y, z = (int(n, 16) for n in bounds[1].split())
            threads[section.split(maxsplit=1)[0]] = x * y * z
    return [
        Kernel(
            symbol=symbol,
            registers=usage[symbol]["REG"],
            stack=usage[symbol]["STACK"],
            local=usage[symbol]["LOCAL"],
            shared=usage[symbol]["SHARED"],
            threads=threads.get(symbol),
            code=tuple(instructions),
        )
        for symbol, instructions in code.items()
    ]


def cuobjdump() -> tuple[str, dict[str, str]]:
    """Return the path of cuobjdump, and an environment in which it finds nvdisasm.

    Prefers the tools on ``PATH`` to those bundled with triton.

    Raises:
        UserError: neither is installed.
    """
    folders = os.environ.get("PATH", "")
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        folders += f"{os.pathsep}{Path(triton.origin).parent / 'backends/nvidia/bin'}"
    tool = shutil.which("cuobjdump", path=folders)
    if tool is None or shutil.which("nvdisasm", path=folders) is None:
        raise UserError(
            "cuobjdump and nvdisasm not found; install the CUDA toolkit or the package triton,"
            " which includes both"
        )
    return tool, os.environ | {"PATH": folders}


def disassemble(files: Iterable[Path], arch: str, jobs: int = 2) -> list[Kernel]:
    """Return all kernels for ``arch``, e.g. ``"sm_90"``, in the files, sorted by name."""
    tool, environment = cuobjdump()

    def run(flag: str, file: Path) -> str:
        command = [tool, flag, "-arch", arch, str(file)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def kernels_in(file: Path) -> list[Kernel]:
        return parse_kernels(*(run(flag, file) for flag in ("-sass", "-res-usage", "-elf")))

    with ThreadPoolExecutor(jobs) as pool:
        kernels = [kernel for found in pool.map(kernels_in, files) for kernel in found]
    return sorted(kernels, key=lambda kernel: kernel.name)

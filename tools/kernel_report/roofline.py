"""Work and roofline of each kernel: one ``Row`` per kernel, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from kernel_report.contracts import Contract, contract_of
from kernel_report.control_flow import ControlFlow, Loop
from kernel_report.disassembly import Kernel
from kernel_report.gpus import Gpu

WIDE = 16  # bytes of a 128-bit access, the widest that sm_80 and sm_90 have


@dataclass(frozen=True)
class Work:
    """Instructions that a thread issues for its elements.

    The *main loop* is the smallest loop whose body has a path with the most bytes of 128-bit
    accesses, or the whole kernel if no loop has any. Counted is the path with the most such bytes
    and, among those, the longest: aligned data with all options enabled. Inner loops count as one
    iteration, or as one per element if the op samples or evaluates series. The number of elements
    per iteration is the path's bytes of 128-bit accesses divided by the ``Contract``'s bytes per
    element.

    Args:
        elements: elements per iteration of the main loop.
        instructions: instructions per element, including a share of ``once`` if the launch fixes
            the number of iterations.
        once: instructions per thread outside the main loop.
        varies: whether the number of iterations of inner loops depends on the data;
            ``instructions`` then assumes one loop iteration per element.
    """

    elements: float
    instructions: float
    once: int
    varies: bool


def work_of(kernel: Kernel, contract: Contract) -> Work | None:
    """Return the kernel's work, or None if it makes no 128-bit access."""
    flow = ControlFlow(kernel.code)
    wide = [sum(i.global_bytes for i in block if i.global_bytes >= WIDE) for block in flow.blocks]

    def path(loop: Loop | None, iterations: dict[int, float]) -> tuple[float, ...]:
        return flow.best_path(
            loop, lambda b: (float(wide[b]), iterations.get(b, 1.0) * len(flow.blocks[b]))
        )[1]

    whole = path(None, {})
    paths = [(path(loop, {}), loop) for loop in flow.loops] + [(whole, None)]
    most = max(bytes_ for (bytes_, _), _ in paths)
    if most == 0:
        return None
    (_, length), main = min(
        ((found, loop) for found, loop in paths if found[0] == most),
        key=lambda found: len(found[1].blocks) if found[1] else len(flow.blocks),
    )
    elements = most / (contract.moved + contract.cached)
    once = int(whole[1] - length)
    if contract.samples:
        iterations = {
            block: elements
            for loop in flow.loops
            if (main is None or loop.blocks < main.blocks) and not any(wide[b] for b in loop.blocks)
            for block in loop.blocks
        }
        length = path(main, iterations)[1]
    if contract.iterations is not None:
        length += once / contract.iterations
    return Work(elements, length / elements, once, contract.samples)


@dataclass(frozen=True)
class Row:
    """One row of the report; ``issue_ps`` and ``memory_ps`` are picoseconds per element."""

    kernel: str
    registers: int
    stack: int
    local_accesses: int
    shared: int
    threads: int | None
    occupancy: float | None
    loads: dict[int, int]
    stores: dict[int, int]
    bytes_per_element: int | None
    elements_per_iteration: float | None
    instructions_per_element: float | None
    varies: bool
    instructions_once: int | None
    issue_ps: float | None
    memory_ps: float | None


def _widths(kernel: Kernel, name: str) -> dict[int, int]:
    """Return the number of accesses by width in bits, widest first."""
    counts = Counter(8 * i.global_bytes for i in kernel.code if i.name == name)
    return dict(sorted(counts.items(), reverse=True))


def row_of(kernel: Kernel, gpu: Gpu) -> Row:
    """Return the report's row for a kernel on a GPU."""
    contract = contract_of(kernel)
    work = work_of(kernel, contract) if contract else None
    occupancy = None
    if kernel.threads is not None:
        occupancy = gpu.occupancy(kernel.registers, kernel.shared, kernel.threads)
    return Row(
        kernel=kernel.name,
        registers=kernel.registers,
        stack=kernel.stack + kernel.local,
        local_accesses=kernel.local_accesses,
        shared=kernel.shared - (gpu.reserved_shared if kernel.shared and gpu.counted else 0),
        threads=kernel.threads,
        occupancy=occupancy,
        loads=_widths(kernel, "LDG"),
        stores=_widths(kernel, "STG"),
        bytes_per_element=contract.moved if contract else None,
        elements_per_iteration=work.elements if work else None,
        instructions_per_element=work.instructions if work else None,
        varies=bool(work and work.varies),
        instructions_once=work.once if work else None,
        issue_ps=1e12 * work.instructions / gpu.issue_rate if work else None,
        memory_ps=1e12 * contract.moved / gpu.bandwidth if contract else None,
    )


def table_of(rows: Iterable[Row], arch: str, gpu: Gpu) -> Table:
    """Return a table of the rows; ``-`` marks values that are unknown or do not apply."""
    table = Table(
        title=f"kernels for {arch}, roofline of {gpu.name}"
        f" ({gpu.multiprocessors} SMs at {gpu.clock / 1e9:.2f} GHz,"
        f" {gpu.bandwidth / 1e12:.2f} TB/s)",
        caption="spill: bytes of stack per thread / instructions that access it; shared: static"
        " bytes per block; occupancy: for blocks of the given number of threads; loads, stores:"
        " width in bits x number of instructions; instr/el: instructions issued per element"
        " (~ assumes one loop iteration per element; the actual number depends on the data); once:"
        " instructions per thread outside the main loop; B/el: bytes per element; issue, memory:"
        " ps per element, yellow if issuing takes longer",
        caption_justify="left",
        box=None,
        header_style="bold",
    )
    table.add_column("kernel", no_wrap=True)
    for name in (
        "regs", "spill", "shared", "occupancy", "loads", "stores", "instr/el", "once", "B/el",
        "issue", "memory",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    def widths(counts: dict[int, int]) -> str:
        return " ".join(f"{bits}x{count}" for bits, count in counts.items()) or "-"

    for row in rows:
        approximate = "~" if row.varies else ""
        occupancy = "-" if row.occupancy is None else f"{row.occupancy:.0%} of {row.threads}"
        issue_bound = (
            row.issue_ps is not None and row.memory_ps is not None and row.issue_ps > row.memory_ps
        )
        table.add_row(
            row.kernel,
            str(row.registers),
            f"{row.stack}/{row.local_accesses}" if row.stack or row.local_accesses else "0",
            str(row.shared),
            occupancy,
            widths(row.loads),
            widths(row.stores),
            approximate + number(row.instructions_per_element, ".1f"),
            number(row.instructions_once, "d"),
            number(row.bytes_per_element, "d"),
            approximate + number(row.issue_ps, ".2f"),
            number(row.memory_ps, ".2f"),
            style="yellow" if issue_bound else None,
        )
    return table

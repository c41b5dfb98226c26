"""The report's numbers: one `Row` a kernel, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from kernel_report.contracts import Contract, contract_of
from kernel_report.control_flow import ControlFlow, Loop
from kernel_report.disassembly import Kernel
from kernel_report.machines import Machine

WIDE = 16  # bytes of a 128-bit access, the widest that sm_80 and sm_90 have


@dataclass(frozen=True)
class Work:
    """What the code that runs over elements takes.

    A *turn* is the smallest loop whose way holds the most bytes of 128-bit accesses, or the whole
    kernel where no loop does; its *way* is the one that makes most of these accesses and, among
    such, the longest: so aligned data, with every option on. Loops inside it count for one turn, or
    for one an element where the op draws or sums series. Elements a turn are the 128-bit bytes of
    the way over the bytes of an element (`Contract`).

    Args:
        elements: a turn.
        instructions: an element, issued by its thread; with its share of ``once`` where the launch
            fixes a thread's turns.
        once: instructions of a thread outside of the turns.
        varies: whether data decide how often loops inside a turn run, so that ``instructions`` are
            those of one turn an element.
    """

    elements: float
    instructions: float
    once: int
    varies: bool


def work_of(kernel: Kernel, contract: Contract) -> Work | None:
    """None where the kernel makes no 128-bit access."""
    flow = ControlFlow(kernel.code)
    wide = [sum(i.global_bytes for i in block if i.global_bytes >= WIDE) for block in flow.blocks]

    def way(loop: Loop | None, turns: dict[int, float]) -> tuple[float, float]:
        return flow.best_path(
            loop, lambda b: (float(wide[b]), turns.get(b, 1.0) * len(flow.blocks[b]))
        )[1]

    whole = way(None, {})
    ways = [(way(loop, {}), loop) for loop in flow.loops] + [(whole, None)]
    most = max(bytes_ for (bytes_, _), _ in ways)
    if most == 0:
        return None
    (_, length), turn = min(
        ((w, loop) for w, loop in ways if w[0] == most),
        key=lambda found: len(found[1].blocks) if found[1] else len(flow.blocks),
    )
    elements = most / (contract.moved + contract.cached)
    once = int(whole[1] - length)
    if contract.samples:
        turns = {
            block: elements
            for loop in flow.loops
            if (turn is None or loop.blocks < turn.blocks) and not any(wide[b] for b in loop.blocks)
            for block in loop.blocks
        }
        length = way(turn, turns)[1]
    if contract.turns is not None:
        length += once / contract.turns
    return Work(elements, length / elements, once, contract.samples)


@dataclass(frozen=True)
class Row:
    """One line of the report. Times are of one element, in picoseconds, on ``machine``."""

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
    elements_per_turn: float | None
    instructions_per_element: float | None
    varies: bool
    instructions_once: int | None
    issue_ps: float | None
    memory_ps: float | None


def _widths(kernel: Kernel, name: str) -> dict[int, int]:
    """How many accesses of each width in bits, the widest first."""
    counts = Counter(8 * i.global_bytes for i in kernel.code if i.name == name)
    return dict(sorted(counts.items(), reverse=True))


def row_of(kernel: Kernel, machine: Machine) -> Row:
    """The report's line of a kernel on a machine."""
    contract = contract_of(kernel)
    work = work_of(kernel, contract) if contract else None
    occupancy = None
    if kernel.threads is not None:
        occupancy = machine.occupancy(kernel.registers, kernel.shared, kernel.threads)
    return Row(
        kernel=kernel.name,
        registers=kernel.registers,
        stack=kernel.stack + kernel.local,
        local_accesses=kernel.local_accesses,
        shared=kernel.shared
        - (machine.reserved_shared if kernel.shared and machine.counted else 0),
        threads=kernel.threads,
        occupancy=occupancy,
        loads=_widths(kernel, "LDG"),
        stores=_widths(kernel, "STG"),
        bytes_per_element=contract.moved if contract else None,
        elements_per_turn=work.elements if work else None,
        instructions_per_element=work.instructions if work else None,
        varies=bool(work and work.varies),
        instructions_once=work.once if work else None,
        issue_ps=1e12 * work.instructions / machine.issue_rate if work else None,
        memory_ps=1e12 * contract.moved / machine.bandwidth if contract else None,
    )


def table_of(rows: Iterable[Row], arch: str, machine: Machine) -> Table:
    """The rows for people. ``-``: not an op over elements, or not known."""
    table = Table(
        title=f"kernels for {arch}, roofline of {machine.name}"
        f" ({machine.multiprocessors} SMs at {machine.clock / 1e9:.2f} GHz,"
        f" {machine.bandwidth / 1e12:.2f} TB/s)",
        caption="spill: bytes of stack a thread / instructions on it; shared: static bytes a block;"
        " occupancy: for blocks of so many threads; loads, stores: bits x instructions; instr/el:"
        " issued for an element, ~ where the data decide; once: instructions of a thread"
        " outside of its turns; issue, memory: ps an element",
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
        about = "~" if row.varies else ""
        occupancy = "-" if row.occupancy is None else f"{row.occupancy:.0%} of {row.threads}"
        slower = row.issue_ps is not None and row.issue_ps > row.memory_ps
        table.add_row(
            row.kernel,
            str(row.registers),
            f"{row.stack}/{row.local_accesses}" if row.stack or row.local_accesses else "0",
            str(row.shared),
            occupancy,
            widths(row.loads),
            widths(row.stores),
            about + number(row.instructions_per_element, ".1f"),
            number(row.instructions_once, "d"),
            number(row.bytes_per_element, "d"),
            about + number(row.issue_ps, ".2f"),
            number(row.memory_ps, ".2f"),
            style="yellow" if slower else None,
        )
    return table

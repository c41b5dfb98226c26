"""Work and roofline of each kernel: one ``Row`` per kernel, and the table of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from kernel_report.contracts import Contract, contract_of
from kernel_report.control_flow import ControlFlow, Loop
from kernel_report.disassembly import Instruction, Kernel
from kernel_report.gpus import Gpu

SECTOR = 32  # bytes of memory that a request reads or writes at least


@dataclass(frozen=True)
class Work:
    """Instructions that a thread issues for its elements.

    The *main loop* is the smallest loop whose body has a path with the most bytes of accesses of
    the ``Contract``'s widths, or the whole kernel if no loop has any. Counted is the path with the
    most such bytes and, among those, the longest: aligned data with all options enabled. Inner
    loops count as one iteration, or as one per element if the op samples or evaluates series. The
    number of elements per iteration is the path's bytes of these accesses divided by the
    ``Contract``'s bytes per element.

    Args:
        elements: elements per iteration of the main loop.
        instructions: instructions per element, including a share of ``once`` if the launch fixes
            the number of iterations.
        special: those of them that the unit of special functions executes.
        once: instructions per thread outside the main loop.
        varies: whether the number of iterations of inner loops depends on the data;
            ``instructions`` then assumes one loop iteration per element.
        loaded: bytes per element that are loaded by accesses of the ``Contract``'s width.
        load_sectors, store_sectors: 32-byte sectors that such requests of a warp touch, divided by
            the least that hold their bytes; None if there are no such requests.
    """

    elements: float
    instructions: float
    special: float
    once: int
    varies: bool
    loaded: float
    load_sectors: float | None
    store_sectors: float | None


def work_of(kernel: Kernel, contract: Contract) -> Work | None:
    """Return the kernel's work, or None if it makes no access of the contract's widths."""
    flow = ControlFlow(kernel.code)
    widths = {"STG": contract.store} | ({} if contract.stored else {"LDG": contract.load})
    wide = [sum(i.global_bytes for i in block if _is(i, widths)) for block in flow.blocks]

    def path(loop: Loop | None, iterations: dict[int, float]) -> tuple[list[int], tuple]:
        return flow.best_path(
            loop, lambda b: (float(wide[b]), iterations.get(b, 1.0) * len(flow.blocks[b]))
        )

    whole = path(None, {})[1]
    paths = [(path(loop, {})[1], loop) for loop in flow.loops] + [(whole, None)]
    most = max(bytes_ for (bytes_, _), _ in paths)
    if most == 0:
        return None
    (_, length), main = min(
        ((found, loop) for found, loop in paths if found[0] == most),
        key=lambda found: len(found[1].blocks) if found[1] else len(flow.blocks),
    )
    elements = most / (contract.stored or contract.moved + contract.cached)
    once = int(whole[1] - length)
    iterations: dict[int, float] = {}
    if contract.samples:
        iterations = {
            block: elements
            for loop in flow.loops
            if (main is None or loop.blocks < main.blocks) and not any(wide[b] for b in loop.blocks)
            for block in loop.blocks
        }
    blocks, (_, length) = path(main, iterations)
    special = sum(
        iterations.get(b, 1.0) * sum(i.is_special for i in flow.blocks[b]) for b in blocks
    )
    if contract.iterations is not None:
        length += once / contract.iterations
    requests = _requests(i for b in blocks for i in flow.blocks[b])
    return Work(
        elements=elements,
        instructions=length / elements,
        special=special / elements,
        once=once,
        varies=contract.samples,
        loaded=sum(
            i.global_bytes for b in blocks for i in flow.blocks[b] if _is(i, {"LDG": contract.load})
        )
        / elements,
        load_sectors=_sectors(requests, "LDG", contract.load),
        store_sectors=_sectors(requests, "STG", contract.store),
    )


def _is(instruction: Instruction, widths: dict[str, int]) -> bool:
    return widths.get(instruction.name) == instruction.global_bytes


def _requests(path: Iterable[Instruction]) -> list[tuple[str, int, int]]:
    """Return (opcode, bytes, run) of each access to global memory on a path.

    ``run`` is the number of bytes next to each other that the thread accesses from the same base
    register, and so the distance to the next lane's, if lanes are next to each other
    (tests/simt/test_simt.py counts the sectors of executed kernels).
    """
    version: Counter[str] = Counter()  # of each register: how often it has been written
    places: dict[tuple[str, str, int], dict[int, int]] = {}
    found = []
    for i in path:
        address = re.search(
            r"\[(R\d+)(?:\.64|\.U32)?(?:\+UR\d+)?(?:\+(-?0x[0-9a-f]+))?\]", i.operands
        )
        if i.global_bytes and address:
            key = (i.name, address[1], version[address[1]])
            place = int(address[2] or "0", 16)
            places.setdefault(key, {})[place] = i.global_bytes
            found.append((i.name, i.global_bytes, key, place))
        for register in re.findall(r"^(?:U?P\d, )?(R\d+)", i.operands) if i.name != "STG" else ():
            version[register] += 1
    return [(name, size, _run(places[key], place)) for name, size, key, place in found]


def _run(places: dict[int, int], place: int) -> int:
    """Return the length of the run of adjacent accesses {place: bytes} that contains ``place``."""
    begin = end = place
    ends = {p + size: p for p, size in places.items()}
    while begin in ends:
        begin = ends[begin]
    while end in places:
        end += places[end]
    return end - begin


def _sectors(requests: list[tuple[str, int, int]], name: str, size: int) -> float | None:
    """Return touched over necessary sectors of the requests of one kind and width."""
    runs = [run for n, width, run in requests if (n, width) == (name, size)]
    if not runs:
        return None
    return sum(min(run, SECTOR) for run in runs) / sum(min(size, SECTOR) for _ in runs)


@dataclass(frozen=True)
class Row:
    """One row of the report; names that end with ``_ps`` are picoseconds per element."""

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
    load_sectors: float | None
    store_sectors: float | None
    issue_ps: float | None
    special_ps: float | None
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
        load_sectors=work.load_sectors if work else None,
        store_sectors=work.store_sectors if work else None,
        issue_ps=1e12 * work.instructions / gpu.issue_rate if work else None,
        special_ps=1e12 * work.special / gpu.special_rate if work else None,
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
        " instructions per thread outside the main loop; B/el: bytes per element; sectors: those"
        " that a warp's loads/stores touch over those that their bytes need; issue, special,"
        " memory: ps per element of the schedulers, of the units of special functions and"
        " conversions, and of the memory, yellow if that is not the longest",
        caption_justify="left",
        box=None,
        header_style="bold",
    )
    table.add_column("kernel", no_wrap=True)
    for name in (
        "regs", "spill", "shared", "occupancy", "loads", "stores", "instr/el", "once", "B/el",
        "sectors", "issue", "special", "memory",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    def widths(counts: dict[int, int]) -> str:
        return " ".join(f"{bits}x{count}" for bits, count in counts.items()) or "-"

    for row in rows:
        approximate = "~" if row.varies else ""
        occupancy = "-" if row.occupancy is None else f"{row.occupancy:.0%} of {row.threads}"
        busiest = max(row.issue_ps or 0.0, row.special_ps or 0.0)
        memory_bound = row.memory_ps is None or busiest <= row.memory_ps
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
            "/".join(number(n, ".3g") for n in (row.load_sectors, row.store_sectors)),
            approximate + number(row.issue_ps, ".2f"),
            approximate + number(row.special_ps, ".2f"),
            number(row.memory_ps, ".2f"),
            style=None if memory_bound else "yellow",
        )
    return table

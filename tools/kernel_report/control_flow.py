"""Control flow graph of a kernel's SASS: basic blocks, loops and paths."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from kernel_report.disassembly import Instruction

_ENDS = ("EXIT", "RET", "BPT", "KILL")


@dataclass(frozen=True)
class Loop:
    """A natural loop: its header, all of its blocks, and the latches that jump to the header."""

    header: int
    blocks: frozenset[int]
    latches: frozenset[int]


class ControlFlow:
    """Control flow graph of the code that a converged warp executes.

    Subroutines (slow paths of divisions and square roots) are not followed: a CALL counts as one
    instruction. Nor are the targets of BRA.DIV, which only diverged warps reach.

    Args:
        code: a kernel's instructions in order of address.

    Raises:
        NotImplementedError: the code contains an indirect branch.
    """

    def __init__(self, code: Iterable[Instruction]) -> None:
        code = list(code)
        addresses = [i.address for i in code]
        starts = {0}
        for place, instruction in enumerate(code):
            if self._jumps(instruction):
                starts.add(bisect.bisect_left(addresses, instruction.target))
            if self._jumps(instruction) or instruction.name in _ENDS:
                starts.add(place + 1)
        bounds = sorted(s for s in starts if s < len(code)) + [len(code)]
        block_at = {code[first].address: number for number, first in enumerate(bounds[:-1])}
        #: The instructions of each basic block.
        self.blocks = [code[first:end] for first, end in pairwise(bounds)]
        self.successors: list[list[int]] = []
        for number, block in enumerate(self.blocks):
            last = block[-1]
            after = []
            if self._jumps(last):
                after.append(block_at[last.target])
            # Like `@P0 BRA target`, `BRA P0, target` falls through if P0 is false.
            always = not last.predicate and not last.operands.startswith(("P", "!P", "UP", "!UP"))
            if not (always and (self._jumps(last) or last.name in _ENDS)):
                after += [number + 1] if number + 1 < len(self.blocks) else []
            self.successors.append(after)

    @staticmethod
    def _jumps(instruction: Instruction) -> bool:
        if instruction.name in ("BRX", "JMX"):
            raise NotImplementedError(f"an indirect branch: {instruction}")
        if instruction.name == "CALL":  # on sm_80 a conditional CALL may exit a loop
            return bool(instruction.predicate)
        return instruction.name in ("BRA", "JMP") and ".DIV" not in instruction.opcode

    @cached_property
    def order(self) -> list[int]:
        """Reachable blocks in reverse postorder."""
        seen, postorder = {0}, []
        stack = [(0, iter(self.successors[0]))]
        while stack:
            block, after = stack[-1]
            successor = next(after, None)
            if successor is None:
                postorder.append(block)
                stack.pop()
            elif successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(self.successors[successor])))
        return postorder[::-1]

    @cached_property
    def _rank(self) -> dict[int, int]:
        return {block: rank for rank, block in enumerate(self.order)}

    def _goes_back(self, block: int, successor: int) -> bool:
        return self._rank[successor] <= self._rank[block]

    @cached_property
    def loops(self) -> list[Loop]:
        """Natural loops, merged if they share a header."""
        predecessors: dict[int, list[int]] = {block: [] for block in self.order}
        for block in self.order:
            for successor in self.successors[block]:
                predecessors[successor].append(block)
        latches: dict[int, set[int]] = {}
        for block in self.order:
            for successor in self.successors[block]:
                if self._goes_back(block, successor):
                    latches.setdefault(successor, set()).add(block)
        loops = []
        for header, ends in latches.items():
            blocks, pending = {header}, list(ends)
            while pending:
                block = pending.pop()
                if block not in blocks:
                    blocks.add(block)
                    pending += predecessors[block]
            loops.append(Loop(header, frozenset(blocks), frozenset(ends)))
        return loops

    def best_path(
        self, loop: Loop | None, value: Callable[[int], tuple[float, ...]]
    ) -> tuple[list[int], tuple[float, ...]]:
        """Return the acyclic path with the largest sum of block values, and that sum.

        Inner loops are passed at most once, since back edges are not followed.

        Args:
            loop: the path runs from this loop's header to one of its latches; if None, from the
                kernel's entry to an exit.
            value: maps a block to a tuple; tuples are added element by element and compared
                lexicographically.
        """
        inside = frozenset(self.order) if loop is None else loop.blocks
        best: dict[int, tuple[tuple[float, ...], list[int]]] = {}
        for block in reversed([b for b in self.order if b in inside]):
            paths = [
                best[s]
                for s in self.successors[block]
                if s in inside and not self._goes_back(block, s) and s in best
            ]
            if loop is None:
                ends = any(i.name in _ENDS for i in self.blocks[block])
            else:
                ends = block in loop.latches
            own = value(block)
            if ends:
                paths.append((tuple(0.0 for _ in own), []))
            if paths:
                total, path = max(paths, key=lambda found: found[0])
                best[block] = tuple(map(sum, zip(own, total, strict=True))), [block, *path]
        total, path = best[self.order[0] if loop is None else loop.header]
        return path, total

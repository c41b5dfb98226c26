"""Blocks, loops and paths of a kernel's SASS."""

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
    """A natural loop: its blocks, the one that it is entered by, and those that jump back to it."""

    header: int
    blocks: frozenset[int]
    latches: frozenset[int]


class ControlFlow:
    """The control flow graph of the code that a converged warp runs.

    Left out: subroutines (slow ways of divisions and square roots; a CALL counts as one
    instruction) and the ways of BRA.DIV, which the lanes of a diverged warp take one by one.

    Args:
        code: a kernel's instructions in the order of addresses.
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
        #: Instructions of each block.
        self.blocks = [code[first:end] for first, end in pairwise(bounds)]
        self.successors: list[list[int]] = []
        for number, block in enumerate(self.blocks):
            last = block[-1]
            after = []
            if self._jumps(last):
                after.append(block_at[last.target])
            # `BRA P0, target` falls through where P0 does not hold, as `@P0 BRA target` does.
            always = not last.predicate and not last.operands.startswith(("P", "!P", "UP", "!UP"))
            if not (always and (self._jumps(last) or last.name in _ENDS)):
                after += [number + 1] if number + 1 < len(self.blocks) else []
            self.successors.append(after)

    @staticmethod
    def _jumps(instruction: Instruction) -> bool:
        if instruction.name in ("BRX", "JMX"):
            raise NotImplementedError(f"an indirect branch: {instruction}")
        if instruction.name == "CALL":  # with a condition it is the way out of a loop (sm_80)
            return bool(instruction.predicate)
        return instruction.name in ("BRA", "JMP") and ".DIV" not in instruction.opcode

    @cached_property
    def order(self) -> list[int]:
        """Blocks that the entry reaches, in reverse postorder."""
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
        """Natural loops; those with a common header are one."""
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
        """The way through a loop's body, or from entry to exit, with the largest sum of values.

        Every loop inside is gone through once at most: no way goes back.

        Args:
            loop: from its header to one of its latches; None is the whole kernel.
            value: of a block; tuples are added and compared element by element.
        """
        inside = frozenset(self.order) if loop is None else loop.blocks
        best: dict[int, tuple[tuple[float, ...], list[int]]] = {}
        for block in reversed([b for b in self.order if b in inside]):
            ways = [
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
                ways.append((tuple(0.0 for _ in own), []))
            if ways:
                total, path = max(ways, key=lambda way: way[0])
                best[block] = tuple(map(sum, zip(own, total, strict=True))), [block, *path]
        total, path = best[self.order[0] if loop is None else loop.header]
        return path, total

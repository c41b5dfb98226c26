"""GPUs of the four architectures: datasheet figures, and how many threads fit on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """One GPU. ``clock`` is the boost clock in Hz, ``bandwidth`` in bytes/s; the rest is of an SM.

    ``reserved_shared``: bytes a block that the architecture takes for itself; ``counted``: whether
    the compiler's number has them in it already.
    """

    name: str
    multiprocessors: int
    clock: float
    bandwidth: float
    warps: int = 64
    blocks: int = 32
    shared: int = 228 * 1024
    reserved_shared: int = 1024
    counted: bool = True

    @property
    def issue_rate(self) -> float:
        """Instructions of a thread per second: four schedulers an SM, a warp each a clock.

        An upper bound: what a pipe takes at less (integer products, conversions, special functions,
        and float32 on A100) makes it lower.
        """
        return self.multiprocessors * 4 * 32 * self.clock

    def occupancy(self, registers: int, shared: int, threads: int) -> float:
        """Resident warps over the most that fit, for blocks of ``threads`` threads.

        Registers are given out in units of 256 a warp, of 65,536 an SM; shared memory in units of
        128 bytes. Limits: CUDA C++ Programming Guide, "Technical Specifications per Compute
        Capability"; units: CUDA's own cuda_occupancy.h.

        >>> MACHINES["sm_90"].occupancy(registers=64, shared=0, threads=256)
        0.5
        """
        warps = -(-threads // 32)
        by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps
        block_shared = shared if shared and self.counted else shared + self.reserved_shared
        by_shared = self.shared // (-(-block_shared // 128) * 128)
        blocks = min(self.blocks, self.warps // warps, by_registers, by_shared)
        return blocks * warps / self.warps


# SMs, boost clocks (as the float32 peak implies where the datasheet gives no clock) and bandwidths:
#   A100   NVIDIA A100 datasheet, 80GB SXM: 19.5 TFLOPS, 2,039 GB/s; whitepaper: 108 SMs, 1,410 MHz
#   H100   NVIDIA H100 datasheet, SXM: 67 TFLOPS = 132 SMs x 256 FLOP x 1.98 GHz, 3.35 TB/s
#   B200   NVIDIA Blackwell datasheet, HGX B200: 75 TFLOPS = 148 SMs x 256 FLOP x 1.98 GHz, 7.7 TB/s
#   5090   NVIDIA RTX Blackwell whitepaper: 170 SMs, 2,407 MHz, 1,792 GB/s
MACHINES = {
    "sm_80": Machine("A100", 108, 1.41e9, 2.039e12, shared=164 * 1024, counted=False),
    "sm_90": Machine("H100", 132, 1.98e9, 3.35e12),
    "sm_100": Machine("B200", 148, 1.98e9, 7.7e12),
    "sm_120": Machine("RTX 5090", 170, 2.407e9, 1.792e12, warps=48, blocks=24, shared=100 * 1024),
}

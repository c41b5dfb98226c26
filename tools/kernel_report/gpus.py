"""Datasheet figures and occupancy limits of one GPU per architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a GPU and the limits of one of its streaming multiprocessors (SMs).

    Args:
        name: product name.
        multiprocessors: number of SMs.
        clock: boost clock in Hz.
        bandwidth: memory bandwidth in bytes/s.
        warps, blocks, shared: most resident warps, blocks and bytes of shared memory per SM.
        reserved_shared: bytes of shared memory per block that the architecture reserves.
        counted: whether the compiler's shared memory usage already includes ``reserved_shared``.
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
        """Thread instructions per second: four schedulers per SM issue one warp each per clock.

        This is an upper bound. Integer multiplication, conversions, special functions, and float32
        on the A100 run in pipes with lower throughput.
        """
        return self.multiprocessors * 4 * 32 * self.clock

    @property
    def special_rate(self) -> float:
        """Thread instructions per second of the units of special functions: 16 lanes per SM.

        CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions". From sm_86 on
        most conversions have opcodes of their own (I2FP, F2FP), which other pipes execute.
        """
        return self.multiprocessors * 16 * self.clock

    def occupancy(self, registers: int, shared: int, threads: int) -> float:
        """Return resident warps as a fraction of the maximum for blocks of ``threads`` threads.

        An SM has 65,536 registers, allocated in units of 256 per warp; shared memory is allocated
        in units of 128 bytes. Limits: CUDA C++ Programming Guide, "Technical Specifications per
        Compute Capability"; allocation units: CUDA's cuda_occupancy.h.

        Args:
            registers: registers per thread.
            shared: bytes of static shared memory per block.
            threads: threads per block.

        >>> GPUS["sm_90"].occupancy(registers=64, shared=0, threads=256)
        0.5
        """
        warps = -(-threads // 32)
        by_registers = 65536 // (-(-registers * 32 // 256) * 256) // warps
        block_shared = shared if shared and self.counted else shared + self.reserved_shared
        by_shared = self.shared // (-(-block_shared // 128) * 128)
        blocks = min(self.blocks, self.warps // warps, by_registers, by_shared)
        return blocks * warps / self.warps


# SMs, boost clocks (derived from the float32 peak if the datasheet states no clock) and bandwidths:
#   A100   NVIDIA A100 datasheet, 80GB SXM: 19.5 TFLOPS, 2,039 GB/s; whitepaper: 108 SMs, 1,410 MHz
#   A10    NVIDIA A10 datasheet: 31.2 TFLOPS = 72 SMs x 256 FLOP x 1.695 GHz, 600 GB/s
#   4090   NVIDIA Ada whitepaper: 128 SMs, 2,520 MHz, 1,008 GB/s
#   H100   NVIDIA H100 datasheet, SXM: 67 TFLOPS = 132 SMs x 256 FLOP x 1.98 GHz, 3.35 TB/s
#   B200   NVIDIA Blackwell datasheet, HGX B200: 75 TFLOPS = 148 SMs x 256 FLOP x 1.98 GHz, 7.7 TB/s
#   5090   NVIDIA RTX Blackwell whitepaper: 170 SMs, 2,407 MHz, 1,792 GB/s
GPUS = {
    "sm_80": Gpu("A100", 108, 1.41e9, 2.039e12, shared=164 * 1024, counted=False),
    "sm_86": Gpu("A10", 72, 1.695e9, 600e9, warps=48, blocks=16, shared=100 * 1024, counted=False),
    "sm_89": Gpu(
        "RTX 4090", 128, 2.52e9, 1.008e12, warps=48, blocks=24, shared=100 * 1024, counted=False
    ),
    "sm_90": Gpu("H100", 132, 1.98e9, 3.35e12),
    "sm_100": Gpu("B200", 148, 1.98e9, 7.7e12),
    "sm_120": Gpu("RTX 5090", 170, 2.407e9, 1.792e12, warps=48, blocks=24, shared=100 * 1024),
}

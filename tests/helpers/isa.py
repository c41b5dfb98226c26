"""The instruction sets that the CPU kernels are compiled for."""

from pathlib import Path

import pytest

import sprout_fast

FLAGS = {
    "portable": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512vl", "avx512bw"},
}


def skip_unless_usable(isa: str) -> None:
    """Skip a test of kernels that this build or this processor does not have."""
    processor = set(Path("/proc/cpuinfo").read_text().split())
    if isa not in sprout_fast.build_info()["cpu_isas"] or not processor >= FLAGS[isa]:
        pytest.skip(f"this build or this processor has no {isa}")

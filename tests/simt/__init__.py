"""Executes the CUDA kernels' own source on the CPU: see cuda_on_cpu.h and tests/test_simt.py."""

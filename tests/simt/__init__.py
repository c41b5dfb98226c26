"""Executes the source of the CUDA kernels on the CPU: see cuda_on_cpu.h and test_simt.py."""

"""What the compiler made of the CUDA kernels: ``tools/report_kernels.py``."""

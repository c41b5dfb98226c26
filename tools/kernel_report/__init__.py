"""Static report of the compiled CUDA kernels; ``tools/report_kernels.py`` is its command line.

command.py         options, and the report they ask for
build.py           finds or compiles the machine code of an architecture
disassembly.py     cuobjdump's output as ``Kernel`` objects
control_flow.py    basic blocks, loops and paths of a kernel
contracts.py       bytes per element that each op has to move
gpus.py            datasheet figures and occupancy of one GPU per architecture
roofline.py        instructions and time per element, and the table
"""

"""`python -m flowerseg_bench.gpu`."""

from flowerseg_bench.gpu.cli import PROGRAM, main

main(prog_name=PROGRAM)

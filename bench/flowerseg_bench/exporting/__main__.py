"""`python -m flowerseg_bench.exporting`."""

from flowerseg_bench.exporting.cli import PROGRAM, main

main(prog_name=PROGRAM)

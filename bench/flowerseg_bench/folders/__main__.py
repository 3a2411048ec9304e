"""`python -m flowerseg_bench.folders COMMAND`."""

from flowerseg_bench.folders.cli import PROGRAM, main

main(prog_name=PROGRAM)

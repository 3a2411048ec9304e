"""`python -m flowerseg_bench.training COMMAND`."""

from flowerseg_bench.training.cli import PROGRAM, main

main(prog_name=PROGRAM)

"""`python -m flowerseg_bench.unseen`."""

from flowerseg_bench.unseen.cli import PROGRAM, main

main(prog_name=PROGRAM)

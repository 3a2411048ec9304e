"""`python -m flowerseg_bench.falsealarms`."""

from flowerseg_bench.falsealarms.cli import PROGRAM, main

main(prog_name=PROGRAM)

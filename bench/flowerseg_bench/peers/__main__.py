"""`python -m flowerseg_bench.peers`."""

from flowerseg_bench.peers.cli import PROGRAM, main

main(prog_name=PROGRAM)

"""`python -m flowerseg_bench.training COMMAND`."""

from flowerseg_bench.training.cli import main

main(prog_name="python -m flowerseg_bench.training")

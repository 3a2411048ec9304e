"""`python -m flowerseg train …`: the commands without an installation."""

from flowerseg.cli import main

main(prog_name="flowerseg")

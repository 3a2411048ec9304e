"""A quarter of an hour on a GPU: `plan` says what is done, `run` does it, `pack` brings it home."""

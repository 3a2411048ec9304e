"""The measurements behind what README and models/ say about training: `python -m` this package."""

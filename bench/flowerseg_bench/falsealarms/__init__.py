"""Whether the proof passes correct exports: `python -m` this package."""

"""Whether the proof passes correct files on photos that no checkpoint has seen: `python -m`."""

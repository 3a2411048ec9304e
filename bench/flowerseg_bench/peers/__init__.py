"""`flowerseg-predict` beside what people write themselves: `python -m` this package."""

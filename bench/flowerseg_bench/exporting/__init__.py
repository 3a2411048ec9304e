"""What an export costs, as whole commands: `python -m` this package."""

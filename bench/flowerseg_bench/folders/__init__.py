"""The measurements behind what README says about folders of photos: `python -m` this package."""

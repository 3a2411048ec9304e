"""The model that comes with flowerseg: flowers can be segmented before anything is trained."""

from pathlib import Path

from flowerseg.errors import ArtifactError

NAME = "flower_mobilenet_v3.pt"


def shipped_model() -> Path:
    """The shipped checkpoint: inside an installed package, or in the checkout's `models/`.

    Raises:
        ArtifactError: it is in neither.
    """
    package = Path(__file__).parent
    places = [package / "models" / NAME, package.parent / "models" / NAME]
    found = [path for path in places if path.is_file()]
    if not found:
        raise ArtifactError(
            f"the shipped model {NAME} is missing from this installation ({places[0].parent}). "
            "Install flowerseg again, or name a model with --model."
        )
    return found[0]

"""Record in the manifest of an older checkpoint which photos it was trained on.

    python -m flowerseg.train.learned MODEL.pt --data DIR --split trn1 --weights none

The photos must be those whose fingerprint the manifest holds. The file itself stays as it is.
"""

import dataclasses
from pathlib import Path

import click

from flowerseg.artifact import Artifact, open_artifact, rewrite_manifest
from flowerseg.cli.options import Command
from flowerseg.cli.terminal import echo
from flowerseg.data import open_photos
from flowerseg.errors import ArtifactError
from flowerseg.evaluate import signatures_of
from flowerseg.labelled import PhotoSet
from flowerseg.seen import training_photos
from flowerseg.train.start import StartingPhotos


def record_training_photos(artifact: Artifact, photos: PhotoSet, weights: str) -> Artifact:
    """Write into a manifest what a network has learned from.

    Args:
        artifact: the model.
        photos: those that it was trained on.
        weights: what the training started from, as `flowerseg-train --weights` was given it.

    Raises:
        ArtifactError: the manifest says that the model was trained on other photos.
    """
    data = artifact.manifest.data
    if data is None or data.fingerprint != photos.fingerprint:
        raise ArtifactError(
            f"{artifact.path}: its manifest does not name these photos ({photos.name}, "
            f"{photos.fingerprint[:12]}…) as those that it was trained on. Give the same --data "
            "and --split as in the training, with the same files in it."
        )
    seen = training_photos(signatures_of(photos), StartingPhotos.of(weights).photos)
    return rewrite_manifest(artifact, data=dataclasses.replace(data, seen=seen))


@click.command(cls=Command)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--split", default="train", show_default=True)
@click.option("--weights", required=True, help="As flowerseg-train was given them.")
def main(model: Path, data: Path, split: str, weights: str) -> None:
    """Record in the manifest of MODEL which photos it was trained on."""
    artifact = open_artifact(model)
    photos = open_photos(data, split, artifact.manifest.rules)
    record_training_photos(artifact, photos, weights)
    echo(f"{model}: trained on {len(photos)} photos of {photos.name}, recorded")


if __name__ == "__main__":
    main()

"""A proof in a screenful of Markdown, for a pull request."""

import re
from collections.abc import Iterator
from pathlib import Path

from flowerseg.artifact import Artifact, Proof
from flowerseg.files import write_bytes
from flowerseg.proof.checks import checks_of

_MARKUP = re.compile(r"([\\`*_\[\]<>|])")


def write_summary(path: Path, artifact: Artifact, proof: Proof, command: str) -> None:
    """Write the summary of a proof; `command` is the line that proves it again.

    Raises:
        OutputError: the file cannot be written.
    """
    text = markdown_from_proof(proof, artifact.path.name, command)
    # A file's name may hold bytes that are no text; they become question marks.
    write_bytes(path, text.encode(errors="replace"))


def markdown_from_proof(proof: Proof, model: str, command: str) -> str:
    """Verdict, one table, the worst photos, and the command."""
    return "\n".join(_lines(proof, model, command)) + "\n"


def _lines(proof: Proof, model: str, command: str) -> Iterator[str]:
    verdict = "proved" if proof.status == "proved" else "**FAILED**"
    yield f"### {_plain(model)}: {verdict} on {proof.photos} photos of {_plain(proof.data)}"
    yield from ("", "| check | found | limit | |", "|---|---|---|---|")
    for check in checks_of(proof):
        yield f"| {check.name} | {check.found} | {check.limit} | {check.verdict} |"
    yield from ("", f"{proof.flipped_pixels} of {proof.pixels} pixels change sides; {proof.how}.")
    if proof.faults:
        yield from ("", "Faults:", "", *(f"- {_plain(fault)}" for fault in proof.faults))
    if proof.worst:
        yield from ("", "Worst photos:", "")
    for photo in proof.worst:
        yield (
            f"- {_plain(photo.name)}, batch {photo.batch}: {photo.flipped_pixels} pixels change "
            f"sides, agreement IoU {photo.agreement_iou:.4f}"
        )
    yield from ("", "Prove it again:", "", "```", command, "```")


def _plain(text: str) -> str:
    """Text that Markdown takes for nothing else."""
    return _MARKUP.sub(r"\\\1", text)

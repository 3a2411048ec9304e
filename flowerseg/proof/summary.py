"""A proof in a screenful of Markdown, for a pull request."""

from collections.abc import Iterator
from pathlib import Path

from flowerseg.artifact import Artifact
from flowerseg.files import write_bytes
from flowerseg.markdown import markdown_code_block, markdown_line, markdown_text
from flowerseg.proof.checks import checks_of, is_scored, warnings_of
from flowerseg.proof.statistics import statistics_texts
from flowerseg.proofrecord import Proof, fault_text


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
    if proof.status == "proved" and not is_scored(proof):
        verdict = "agreement proved"
    photos = f"{proof.photos} photos of {markdown_text(proof.data)}"
    yield f"### {markdown_text(model)}: {verdict} on {proof.place}, with {photos}"
    yield from ("", "| check | found | limit | |", "|---|---|---|---|")
    for check in checks_of(proof):
        yield f"| {check.name} | {check.found} | {check.limit} | {check.verdict} |"
    how = markdown_text(proof.how)
    yield from ("", f"{proof.flipped_pixels} of {proof.pixels} pixels change sides; {how}.")
    if proof.statistics:
        for line in statistics_texts(proof.statistics, proof.photos):
            yield from ("", f"{line[0].upper()}{line[1:]}.")
    if proof.faults:
        yield from (
            "",
            "Faults:",
            "",
            *(f"- {markdown_line(fault_text(fault))}" for fault in proof.faults),
        )
    if warnings := warnings_of(proof):
        yield from ("", "Warnings:", "", *(f"- {markdown_line(warning)}" for warning in warnings))
    if proof.worst:
        yield from ("", "Worst photos:", "")
    for photo in proof.worst:
        yield (
            f"- {markdown_line(photo.name)}, batch {photo.batch}: {photo.flipped_pixels} pixels "
            f"change sides, agreement IoU {photo.agreement_iou:.4f}"
        )
    yield from ("", "Prove it again:", "", *markdown_code_block(command))

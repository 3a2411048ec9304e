"""A hand-made proof as XML and as Markdown that were written by hand."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from flowerseg.arrays import BACKGROUND
from flowerseg.artifact import Artifact, BatchAgreement, Limits, Proof, WorstPhoto
from flowerseg.caveats import Caveat, CaveatKind
from flowerseg.metrics import Counts
from flowerseg.proof import Compared, Expected
from flowerseg.proof.checks import checks_of, percent
from flowerseg.proof.junit import junit_from_proof, write_junit
from flowerseg.proof.prove import Parity, faults_of
from flowerseg.proof.summary import markdown_from_proof, write_summary

FAULTS = (
    "agreement IoU 0.9900 at batch 8 is below 0.998 (worst photo a<b: 0.9000)",
    "5.0% of the pixels of a<b change sides at batch 8, more than 1.0%",
    "the same photo at place 8 of a batch of 8 has 5.0% more pixels that change sides",
)
PROOF = Proof(
    status="failed",
    how="executed by hand",
    limits=Limits(0.998, 0.002, 0.01, 0.25),
    photos=6,
    data="flowers/val1 0123456789ab",
    batch_sizes=(1, 8),
    agreement_iou=0.99,
    model_iou=0.9706,
    reference_iou=0.971,
    reference_sha256="ab" * 32,
    mode="emulated",
    faults=FAULTS,
    agreement_by_batch=(BatchAgreement(1, 0.9999), BatchAgreement(8, 0.99)),
    emulated_agreement_iou=0.9995,
    band_iou=0.98,
    flipped_pixels=321,
    pixels=60000,
    flipped_share=0.05,
    place_share=0.0496,
    largest_difference=0.125,
    worst=(WorstPhoto("a<b", 8, 0.9, 300), WorstPhoto("c_d", 1, 0.99, 21)),
)

XML = """\
<?xml version='1.0' encoding='utf-8'?>
<testsuites name="flowerseg-verify" tests="7" failures="3" errors="0">
  <testsuite name="flower.onnx" tests="7" failures="3" errors="0" skipped="0">
    <properties>
      <property name="status" value="failed" />
      <property name="how" value="executed by hand" />
      <property name="mode" value="emulated" />
      <property name="data" value="flowers/val1 0123456789ab" />
      <property name="photos" value="6" />
      <property name="reference_sha256" value="SHA" />
    </properties>
    <testcase classname="flowerseg.proof.flower_onnx" name="agreement with PyTorch FP32, batch 1">
      <system-out>IoU 0.99990 (at least 0.998)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="agreement with PyTorch FP32, batch 8">
      <failure message="FAULT0" type="ParityError">FAULT0</failure>
      <system-out>IoU 0.99000 (at least 0.998)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="IoU against truth">
      <system-out>0.97060, PyTorch 0.97100 (may drop by 0.002)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="pixels of one photo that change sides">
      <failure message="FAULT1" type="ParityError">FAULT1</failure>
      <system-out>5 % (at most 1 %)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="largest difference of a probability">
      <system-out>0.125 (at most 0.25)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" \
name="the same photo at every place of a batch">
      <failure message="FAULT2" type="ParityError">FAULT2</failure>
      <system-out>5 % (at most 1 %)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="half precision, emulated">
      <system-out>IoU 0.99950 (at least 0.998)</system-out>
    </testcase>
  </testsuite>
</testsuites>
"""

MARKDOWN = r"""### flower.onnx: **FAILED** on 6 photos of flowers/val1 0123456789ab

| check | found | limit | |
|---|---|---|---|
| agreement with PyTorch FP32, batch 1 | IoU 0.99990 | at least 0.998 | ok |
| agreement with PyTorch FP32, batch 8 | IoU 0.99000 | at least 0.998 | FAILED |
| IoU against truth | 0.97060, PyTorch 0.97100 | may drop by 0.002 | ok |
| pixels of one photo that change sides | 5 % | at most 1 % | FAILED |
| largest difference of a probability | 0.125 | at most 0.25 | ok |
| the same photo at every place of a batch | 5 % | at most 1 % | FAILED |
| half precision, emulated | IoU 0.99950 | at least 0.998 | ok |

321 of 60000 pixels change sides; executed by hand.

Faults:

- agreement IoU 0.9900 at batch 8 is below 0.998 (worst photo a\<b: 0.9000)
- 5.0% of the pixels of a\<b change sides at batch 8, more than 1.0%
- the same photo at place 8 of a batch of 8 has 5.0% more pixels that change sides

Worst photos:

- a\<b, batch 8: 300 pixels change sides, agreement IoU 0.9000
- c_d, batch 1: 21 pixels change sides, agreement IoU 0.9900

Prove it again:

```
flowerseg-verify flower.onnx
```
"""

# What junit-10.xsd, Jenkins' schema, lets an element have.
ALLOWED = {
    "testsuites": ({"name", "time", "tests", "failures", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": ({"name", "classname", "time"}, {"skipped", "failure", "system-out", "system-err"}),
    "skipped": (set(), set()),
    "system-err": (set(), set()),
    "failure": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}


def test_xml_is_the_hand_written_one() -> None:
    expected = XML.replace("SHA", "ab" * 32)
    for i, fault in enumerate(FAULTS):
        expected = expected.replace(f"FAULT{i}", fault.replace("<", "&lt;"))
    assert junit_from_proof(PROOF, "flower.onnx").decode() == expected


def test_xml_has_only_what_the_schema_allows() -> None:
    root = ET.fromstring(junit_from_proof(PROOF, "flower.onnx"))
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children


def test_characters_that_xml_cannot_hold_are_replaced() -> None:
    spoilt = dataclasses.replace(PROOF, faults=("IoU against truth\x00 of b\udcff",))
    root = ET.fromstring(junit_from_proof(spoilt, "a\x1b.onnx"))
    (failure,) = root.iter("failure")
    assert failure.attrib["message"] == "IoU against truth\ufffd of b\ufffd"
    assert root[0].attrib["name"] == "a\ufffd.onnx"


def test_summary_is_the_hand_written_one() -> None:
    command = "flowerseg-verify flower.onnx"
    assert markdown_from_proof(PROOF, "flower.onnx", command) == MARKDOWN


def test_proved_file_has_neither_failures_nor_a_list_of_faults() -> None:
    proved = dataclasses.replace(PROOF, status="proved", faults=(), worst=())
    root = ET.fromstring(junit_from_proof(proved, "flower.onnx"))
    assert root.attrib["failures"] == root[0].attrib["failures"] == "0"
    assert not list(root.iter("failure"))
    text = markdown_from_proof(proved, "flower.onnx", "")
    assert text.startswith("### flower.onnx: proved on 6 photos")
    assert "Faults" not in text
    assert "Worst" not in text


def test_batch_of_one_has_no_places_and_executed_half_no_emulation() -> None:
    alone = dataclasses.replace(
        PROOF, mode="executed", batch_sizes=(1,), agreement_by_batch=(BatchAgreement(1, 1.0),)
    )
    assert [check.name for check in checks_of(alone)][:3] == [
        "agreement with PyTorch FP32, batch 1",
        "IoU against truth",
        "pixels of one photo that change sides",
    ]


def test_fault_of_an_unknown_kind_is_a_failed_case_of_its_own() -> None:
    strange = dataclasses.replace(PROOF, faults=("the moon is full",))
    *known, last = checks_of(strange)
    assert not any(check.faults for check in known)
    assert (last.name, last.faults) == ("anything else", ("the moon is full",))
    root = ET.fromstring(junit_from_proof(strange, "flower.onnx"))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("8", "1")


def test_every_fault_that_the_proof_words_has_its_check() -> None:
    """All at once: masks that disagree at batch 1 and 8, at one place, and lose against truth."""
    half, right = Counts(50, 0, 50, 0), Counts(100, 0, 0, 0)
    lost = Counts(40, 0, 50, 10)  # against labels with background in the last row
    bad = Compared("a b at batch 8 is below", half, half, lost, 1.0)
    good = Compared("a b at batch 8 is below", right, right, right, 0.0)
    full = np.ones((10, 10), np.bool_)
    frame = np.zeros((10, 10, 3), np.uint8)
    labels = full.astype(np.uint8)
    labels[-1] = BACKGROUND
    expected = Expected(bad.name, frame, labels, frame[..., 0], full, full)
    parity = Parity({1: [bad], 8: [bad]}, [(8, 0, good), (8, 1, bad)], [])
    limits = Limits(0.998, 0.002, 0.01, 0.25)
    own = faults_of(parity, [expected], limits)
    faults = (*own, *(f"emulated half: {fault}" for fault in own))
    checks = checks_of(dataclasses.replace(PROOF, faults=faults))
    assert [(check.name, len(check.faults)) for check in checks] == [
        ("agreement with PyTorch FP32, batch 1", 1),
        ("agreement with PyTorch FP32, batch 8", 1),
        ("IoU against truth", 1),
        ("pixels of one photo that change sides", 2),
        ("largest difference of a probability", 2),
        ("the same photo at every place of a batch", 1),
        ("half precision, emulated", 8),
    ]


UNSCORED = dataclasses.replace(
    PROOF,
    status="proved",
    faults=(),
    model_iou=None,
    reference_iou=None,
    caveats=(Caveat(CaveatKind.NO_LABELLED_FLOWER, 6),),
)


def test_truth_without_a_score_is_a_skipped_case_and_its_reason_stands_beside_it() -> None:
    root = ET.fromstring(junit_from_proof(UNSCORED, "flower.onnx"))
    (skipped,) = (case for case in root.iter("testcase") if case.find("skipped") is not None)
    assert skipped.attrib["name"] == "IoU against truth"
    assert skipped.findtext("system-out") == "n/a (may drop by 0.002)"
    assert (root[0].attrib["skipped"], root[0].attrib["failures"]) == ("1", "0")
    lines = (root[0].findtext("system-err") or "").splitlines()
    assert lines[0].startswith("WARNING No flower is labelled in the 6 photos")
    assert lines[1] == (
        "WARNING Agreement with the reference was checked, IoU against truth was not."
    )
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children


def test_summary_without_a_score_claims_agreement_only() -> None:
    text = markdown_from_proof(UNSCORED, "flower.onnx", "")
    assert text.startswith("### flower.onnx: agreement proved on 6 photos")
    assert "| IoU against truth | n/a | may drop by 0.002 | n/a |" in text
    assert "- No flower is labelled in the 6 photos" in text


def test_proof_that_was_not_run_has_no_checks() -> None:
    assert checks_of(Proof("not run", "no photos")) == []


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (0.00000012, "1.2e-05 %"), (0.0076, "0.76 %"), (0.05, "5 %"), (1.0, "100 %")],
)
def test_share_keeps_two_digits(share: float, text: str) -> None:
    assert percent(share) == text


def test_written_files_are_whole(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "flower.onnx", None)  # type: ignore[arg-type]
    write_junit(tmp_path / "a.xml", artifact, PROOF)
    write_summary(tmp_path / "a.md", artifact, PROOF, "flowerseg-verify flower.onnx")
    assert (tmp_path / "a.xml").read_bytes() == junit_from_proof(PROOF, "flower.onnx")
    assert (tmp_path / "a.md").read_text() == MARKDOWN
    assert {path.name for path in tmp_path.iterdir()} == {"a.xml", "a.md"}

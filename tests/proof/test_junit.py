"""A hand-made proof as XML and as Markdown that were written by hand."""

import dataclasses
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from flowerseg.arrays import BACKGROUND
from flowerseg.artifact import Artifact
from flowerseg.caveats import Caveat, CaveatKind
from flowerseg.metrics import Counts
from flowerseg.proof import Compared, Expected
from flowerseg.proof.checks import checks_of, percent
from flowerseg.proof.faults import faults_of
from flowerseg.proof.junit import junit_from_proof, write_junit
from flowerseg.proof.passes import Departure, Parity, Stressed
from flowerseg.proof.summary import markdown_from_proof, write_summary
from flowerseg.proofrecord import Fault, FaultKind, Limits, Proof, WorstPhoto, fault_text

FAULTS = (
    Fault(FaultKind.AGREEMENT, 0.99, 0.998, "a<b", (8,)),
    Fault(FaultKind.FLIPPED, 0.05, 0.01, "a<b", (8,)),
    Fault(FaultKind.BATCHED, 0.05, 0.005, "a<b", (4, 5, 8), place=2),
)
TEXTS = (
    "agreement IoU 0.9900 at batch 8 is below 0.998 (worst photo: a<b)",
    "5.0% of the pixels of a<b change sides by more than rounding explains at batch 8, more than "
    "1.0%",
    "in batches of 4, 5 and 8, at place 2, 5.0% of the pixels of a<b change sides, compared with "
    "the same photo alone; more than 0.5%",
)
PROOF = Proof(
    status="failed",
    how="executed by hand",
    limits=Limits(0.998, 0.002, 0.01, 0.25, batched_share=0.005, batched_difference=0.1),
    photos=6,
    data="flowers/val1 0123456789ab",
    batch_sizes=(1, 8),
    agreement_iou=0.99,
    model_iou=0.9706,
    reference_iou=0.971,
    reference_sha256="ab" * 32,
    mode="emulated",
    faults=FAULTS,
    alone_agreement_iou=0.9999,
    folder_agreement_iou=0.99,
    runtime="onnxruntime",
    version="1.31.1",
    device="cpu",
    streams=2,
    emulated_agreement_iou=0.9995,
    band_iou=0.98,
    flipped_pixels=321,
    pixels=60000,
    flipped_share=0.05,
    jumped_share=0.04,
    batched_share=0.05,
    batched_difference=0.0625,
    largest_difference=0.125,
    worst=(WorstPhoto("a<b", 8, 0.9, 300), WorstPhoto("c_d", 1, 0.99, 21)),
)

XML = """\
<?xml version='1.0' encoding='utf-8'?>
<testsuites name="flowerseg-verify" tests="6" failures="3" errors="0">
  <testsuite name="flower.onnx" tests="6" failures="3" errors="0" skipped="0">
    <properties>
      <property name="status" value="failed" />
      <property name="how" value="executed by hand" />
      <property name="mode" value="emulated" />
      <property name="device" value="cpu" />
      <property name="runtime" value="onnxruntime 1.31.1" />
      <property name="data" value="flowers/val1 0123456789ab" />
      <property name="photos" value="6" />
      <property name="reference_sha256" value="SHA" />
    </properties>
    <testcase classname="flowerseg.proof.flower_onnx" name="agreement with PyTorch FP32">
      <failure message="FAULT0" type="ParityError">FAULT0</failure>
      <system-out>IoU 0.99990 photo by photo, 0.99000 as folders are run, \
0.98000 along outlines (at least 0.998)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="IoU against truth">
      <system-out>0.97060, PyTorch 0.97100 (may drop by 0.002)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="pixels of one photo that change sides">
      <failure message="FAULT1" type="ParityError">FAULT1</failure>
      <system-out>5 %; by more than rounding explains 4 % (at most 1 %)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="largest difference of a probability">
      <system-out>0.125 (at most 0.25)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="the same photo in a batch and alone">
      <failure message="FAULT2" type="ParityError">FAULT2</failure>
      <system-out>5 % of its pixels, probabilities by 0.062 (at most 0.5 %, 0.1)</system-out>
    </testcase>
    <testcase classname="flowerseg.proof.flower_onnx" name="half precision, emulated">
      <system-out>IoU 0.99950 (at least 0.998)</system-out>
    </testcase>
  </testsuite>
</testsuites>
"""

MARKDOWN = """\
### flower.onnx: **FAILED** on cpu (half emulated), with 6 photos of flowers/val1 0123456789ab

| check | found | limit | |
|---|---|---|---|
| agreement with PyTorch FP32 | IoU 0.99990 photo by photo, 0.99000 as folders are run, \
0.98000 along outlines | at least 0.998 | FAILED |
| IoU against truth | 0.97060, PyTorch 0.97100 | may drop by 0.002 | ok |
| pixels of one photo that change sides | 5 %; by more than rounding explains 4 % \
| at most 1 % | FAILED |
| largest difference of a probability | 0.125 | at most 0.25 | ok |
| the same photo in a batch and alone | 5 % of its pixels, probabilities by 0.062 \
| at most 0.5 %, 0.1 | FAILED |
| half precision, emulated | IoU 0.99950 | at least 0.998 | ok |

321 of 60000 pixels change sides; executed by hand.

Faults:

- agreement IoU 0.9900 at batch 8 is below 0.998 (worst photo: a\\<b)
- 5.0% of the pixels of a\\<b change sides by more than rounding explains at batch 8, more than \
1.0%
- in batches of 4, 5 and 8, at place 2, 5.0% of the pixels of a\\<b change sides, compared with \
the same photo alone; more than 0.5%

Worst photos:

- a\\<b, batch 8: 300 pixels change sides, agreement IoU 0.9000
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
    for i, fault in enumerate(TEXTS):
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
    spoilt = dataclasses.replace(PROOF, faults=(Fault(FaultKind.AGREEMENT, photo="a\x00b\udcff"),))
    root = ET.fromstring(junit_from_proof(spoilt, "a\x1b.onnx"))
    (failure,) = root.iter("failure")
    assert failure.attrib["message"].endswith("(worst photo: a\ufffdb\ufffd)")
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
    assert text.startswith("### flower.onnx: proved on cpu (half emulated), with 6 photos")
    assert "Faults" not in text
    assert "Worst" not in text


def test_executed_half_has_no_emulation() -> None:
    alone = dataclasses.replace(PROOF, mode="executed")
    assert [check.name for check in checks_of(alone)] == [
        "agreement with PyTorch FP32",
        "IoU against truth",
        "pixels of one photo that change sides",
        "largest difference of a probability",
        "the same photo in a batch and alone",
    ]


def test_fault_without_a_figure_is_a_failed_case_of_its_own() -> None:
    strange = dataclasses.replace(PROOF, faults=(Fault(FaultKind.NO_OUTLINE, count=6),))
    *known, last = checks_of(strange)
    assert not any(check.faults for check in known)
    assert last.name == "anything else"
    assert last.faults[0].startswith("the reference draws no outline in any of the 6 photos")
    root = ET.fromstring(junit_from_proof(strange, "flower.onnx"))
    assert (root.attrib["tests"], root.attrib["failures"]) == ("7", "1")


def test_every_kind_of_fault_has_its_check_and_its_words() -> None:
    faults = [
        Fault(kind, 0.5, 0.1, "rose", (1, 8), place=1, count=2, detail="it overflows")
        for kind in FaultKind
    ]
    emulated = [dataclasses.replace(fault, is_emulated=True) for fault in faults]
    found = dataclasses.replace(
        PROOF,
        faults=(*faults, *emulated),
        undecided_difference=0.1,
        tail_difference=0.1,
        other_agreement_iou=0.5,
        stressed_difference=0.1,
        quantised_agreement_iou=0.99,
        emulated_iou=0.99,
        emulated_share=0.01,
        module_difference=0.002,
    )
    checks = checks_of(found)
    assert [(check.name, len(check.faults)) for check in checks] == [
        ("agreement with PyTorch FP32", 1),
        ("INT8 emulated in PyTorch, beside PyTorch FP32", 1),
        ("a module beside INT8 emulated in PyTorch", 1),
        ("the file beside INT8 emulated in PyTorch", 1),
        ("IoU against truth", 1),
        ("pixels of one photo that change sides", 1),
        ("largest difference of a probability", 1),
        ("mean difference where PyTorch is undecided", 1),
        ("mean difference where PyTorch is sure", 1),
        ("agreement at thresholds 0.1 and 0.9", 1),
        ("mean difference of a stress frame", 1),
        ("the same photo in a batch and alone", 4),
        ("half precision, emulated", len(FaultKind)),
        ("anything else", 4),
    ]
    texts = [fault_text(fault) for fault in faults]
    assert len(set(texts)) == len(FaultKind) - 1  # the two that carry their words
    assert all(text and text[-1] != "." for text in texts)


def _flips(pixels: int, by: int) -> tuple[int, ...]:
    return (*[0] * by, pixels)


def test_each_fault_is_found_once_where_it_is_worst() -> None:
    """Masks that disagree alone and in a folder run, at one place and beside another stream."""
    half, right = Counts(50, 0, 50, 0), Counts(100, 0, 0, 0)
    lost = Counts(40, 0, 50, 10)  # against labels with background in the last row
    bad = Compared("rose", half, half, lost, 1.0, flips=_flips(50, by=200), frame_pixels=100)
    worse = dataclasses.replace(bad, name="lily", agreement=Counts(40, 0, 60, 0))
    worse = dataclasses.replace(worse, flips=_flips(60, by=200))
    good = Compared("leaf", right, right, right, 0.0)
    full = np.ones((10, 10), np.bool_)
    frame = np.zeros((10, 10, 3), np.uint8)
    labels = full.astype(np.uint8)
    labels[-1] = BACKGROUND
    expected = Expected(bad.name, frame, labels, frame[..., 0], full, full)
    parity = Parity(
        alone=[good, bad],
        folder=[good, worse],
        folder_batch=8,
        streams=2,
        batched=[Departure("rose", size, 2, 0.02 * size, 0.5) for size in (3, 4, 5)],
        streamed=[Departure("lily", 8, 0, 0.0, 0.25)],
    )
    parity.stressed = [Stressed("dark", 0.3), Stressed("flat 0", 0.4), Stressed("noise", 0.1)]
    limits = Limits(0.998, 0.002, 0.01, 0.25, batched_share=0.07, batched_difference=0.1)
    limits = dataclasses.replace(limits, stressed_difference=0.2)
    found = faults_of(parity, [expected], limits)
    assert [dataclasses.replace(fault, found=round(fault.found, 9)) for fault in found] == [
        Fault(FaultKind.AGREEMENT, 0.7, 0.998, "lily", (1, 8)),
        Fault(FaultKind.FLIPPED, 0.6, 0.01, "lily", (1, 8)),
        Fault(FaultKind.DIFFERENCE, 1.0, 0.25, "rose", (1, 8)),
        Fault(FaultKind.STRESSED, 0.4, 0.2, "flat 0", count=2),
        Fault(FaultKind.BATCHED, 0.1, 0.07, "rose", (4, 5), place=2),
        Fault(FaultKind.STREAMED_DIFFERENCE, 0.25, 0.1, "lily", (8,), count=2),
        Fault(FaultKind.TRUTH, round(90 / 100 - 140 / 190, 9), 0.002),
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
    assert text.startswith(
        "### flower.onnx: agreement proved on cpu (half emulated), with 6 photos"
    )
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

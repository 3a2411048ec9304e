"""A proof as JUnit XML, which CI systems show as tests.

The elements and attributes are those that Jenkins' junit-10.xsd allows, in its order.
"""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

from flowerseg.artifact import Artifact
from flowerseg.files import write_bytes
from flowerseg.proof.checks import Check, checks_of, warnings_of
from flowerseg.proofrecord import Proof

# A file's name may hold characters that XML 1.0 (section 2.2) cannot, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(path: Path, artifact: Artifact, proof: Proof) -> None:
    """Write the proof of a model file as one test suite.

    Raises:
        OutputError: the file cannot be written.
    """
    write_bytes(path, junit_from_proof(proof, artifact.path.name))


def junit_from_proof(proof: Proof, model: str) -> bytes:
    """The XML of a proof: a test case for each check, a failed one with its faults."""
    checks = checks_of(proof)
    counts = {
        "tests": str(len(checks)),
        "failures": str(sum(bool(check.faults) for check in checks)),
        "errors": "0",
    }
    skipped = str(sum(check.is_skipped for check in checks))
    root = ET.Element("testsuites", {"name": "flowerseg-verify", **counts})
    suite = ET.SubElement(root, "testsuite", {"name": _xml(model), **counts, "skipped": skipped})
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(proof).items():
        ET.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    # A dot ends the package for those who read class names.
    class_name = f"flowerseg.proof.{model.replace('.', '_')}"
    for check in checks:
        _add_case(suite, check, class_name)
    if warnings := warnings_of(proof):
        text = "\n".join(f"WARNING {warning}" for warning in warnings)
        ET.SubElement(suite, "system-err").text = _xml(text)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _add_case(suite: ET.Element, check: Check, class_name: str) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": _xml(class_name), "name": check.name})
    if check.is_skipped:
        ET.SubElement(case, "skipped")
    if check.faults:
        about = {"message": _xml(check.faults[0]), "type": "ParityError"}
        ET.SubElement(case, "failure", about).text = _xml("\n".join(check.faults))
    if check.found:
        ET.SubElement(case, "system-out").text = f"{check.found} ({check.limit})"


def _properties(proof: Proof) -> dict[str, str]:
    return {
        "status": proof.status,
        "how": proof.how,
        "mode": proof.mode,
        "device": proof.device,
        "runtime": f"{proof.runtime} {proof.version}",
        "data": proof.data,
        "photos": str(proof.photos),
        "reference_sha256": proof.reference_sha256,
    }


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)

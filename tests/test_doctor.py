"""The doctor: tries everything, survives everything."""

import json
import sys

import pytest
from click.testing import CliRunner

from flowerseg.cli.doctor import doctor
from flowerseg.doctor import Finding, chain_runs, examine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_what_the_test_setup_installs_works() -> None:
    found = by_name(examine())
    for name in ("PyTorch", "OpenCV", "ONNX", "ONNX Runtime, CPU", "TensorRT-RTX", "OpenVINO"):
        assert found[name].state == "works", found[name]
    assert "CPUExecutionProvider" in found["ONNX Runtime, CPU"].detail


def test_a_missing_package_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    finding = by_name(examine())["OpenVINO"]
    assert finding.state == "missing"
    assert 'pip install "flowerseg[openvino]"' in finding.mend


def test_a_package_that_breaks_on_import_is_a_finding_not_a_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", Broken())
    finding = by_name(examine())["TensorRT-RTX"]
    assert finding.state == "broken"
    assert "libcudart.so.13" in finding.detail


def test_the_chain_does_not_run_without_a_required_part() -> None:
    optional = Finding("Ray", "missing", "")
    works = Finding("PyTorch", "works", "", is_required=True)
    broken = Finding("ONNX", "broken", "", is_required=True)
    assert chain_runs([works, optional])
    assert not chain_runs([works, broken])


def test_without_a_required_part_the_command_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = CliRunner().invoke(doctor, [])
    assert result.exit_code == 1
    assert "the chain cannot run here without ONNX" in result.stderr
    assert "pip install onnx onnxscript" in result.stdout


def test_json_is_readable_by_machines() -> None:
    result = CliRunner().invoke(doctor, ["--json"])
    assert result.exit_code == 0
    names = [finding["name"] for finding in json.loads(result.stdout)]
    assert names[0] == "Python"
    assert "TensorRT" in names

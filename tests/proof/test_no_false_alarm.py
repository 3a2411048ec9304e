"""Correct exports of a trained network are proved; the bench has a command that tries many."""

from pathlib import Path

import pytest

from flowerseg.artifact import Kind, Precision
from flowerseg_export.config import ExportConfig
from flowerseg_export.export import export_model

SHIPPED = Path(__file__).parents[2] / "models" / "flower_mobilenet_v3.pt"


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_correct_export_of_the_shipped_model_is_proved(
    painted: Path, tmp_path: Path, precision: Precision
) -> None:
    out = tmp_path / "flower.onnx"
    config = ExportConfig(SHIPPED, out, Kind.ONNX, precision, data=painted, device="cpu")
    proof = export_model(config)[-1].manifest.proof
    assert proof is not None
    assert (proof.status, proof.faults) == ("proved", ())
    # Masks that could disagree: the model was trained on photos, and finds most painted flowers.
    assert proof.reference_iou is not None
    assert proof.reference_iou > 0.5

"""Routes from a photo's file to the frame: what each does to frames and masks."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from flowerseg.artifact import Artifact
from flowerseg.backends.null import NullBackend
from flowerseg.images import encode_jpeg, write_jpeg
from flowerseg.preprocess import Preprocess
from flowerseg.proof.routes import (
    ROUTES,
    RouteAgreement,
    compare_routes,
    full_decode,
    half_scale_decode,
    main,
    torch_antialiased,
    torchvision_decode,
)
from flowerseg.segmenter import Segmenter

FRAME = Preprocess((32, 48))


def _smooth(height: int, width: int) -> np.ndarray:
    """A photo whose green grows from left to right and whose red grows downwards."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 1] = np.linspace(0, 255, width).astype(np.uint8)
    rgb[..., 0] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return rgb


@pytest.mark.parametrize("route", list(ROUTES.values()))
def test_every_route_gives_the_same_frame_of_a_smooth_photo(route: object) -> None:
    assert callable(route)
    frame = route(encode_jpeg(_smooth(128, 192), 98), FRAME)
    assert frame.shape == (32, 48, 3)
    assert frame.dtype == np.uint8
    # Each of 4 x 4 pixels becomes one: the mean of its block, by hand.
    expected = _smooth(128, 192).reshape(32, 4, 48, 4, 3).mean((1, 3))
    assert np.abs(frame.astype(float) - expected).max() <= 5


def test_half_scale_is_not_the_full_decode_of_fine_texture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (127, 191, 3), np.uint8)
    data = encode_jpeg(noise, 95)
    frames = [route(data, FRAME).astype(int) for route in (full_decode, half_scale_decode)]
    assert np.abs(frames[0] - frames[1]).max() > 3


def test_torchs_filter_is_wider_than_the_mean_over_an_area() -> None:
    """One white column of four goes into one column of the frame, or into its neighbours too."""
    rgb = np.zeros((128, 192, 3), np.uint8)
    rgb[:, 96:100] = 255
    data = encode_jpeg(rgb, 100)
    columns = [
        (route(data, FRAME)[16, :, 1] > 20).sum() for route in (full_decode, torch_antialiased)
    ]
    assert columns == [1, 3]


def test_torchvision_decodes_what_opencv_does(photos: list[Path]) -> None:
    """On CUDA it is nvJPEG, which no test here can run; the rest of the route is the same."""
    data = photos[0].read_bytes()
    frames = [
        route(data, FRAME).astype(int)
        for route in (full_decode, partial(torchvision_decode, device="cpu"))
    ]
    assert np.abs(frames[0] - frames[1]).max() <= 1


@pytest.mark.parametrize("form", ["png", "turned"])
def test_what_nvjpeg_does_not_decode_upright_goes_by_the_reference(form: str) -> None:
    rgb = _smooth(128, 192)
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(buffer, "png" if form == "png" else "jpeg", exif=exif)
    data = buffer.getvalue()

    frame = torchvision_decode(data, FRAME, device="cuda")  # which is not asked

    assert np.array_equal(frame, full_decode(data, FRAME))


@pytest.mark.gpu
def test_nvjpeg_decodes_what_opencv_does_within_a_few_levels() -> None:
    """Colours change slowly here: OpenCV interpolates chroma samples, and nvJPEG repeats them."""
    data = encode_jpeg(_smooth(128, 192), 95)
    frames = [route(data, FRAME).astype(int) for route in (full_decode, torchvision_decode)]
    assert np.abs(frames[0] - frames[1]).mean() <= 2


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.jpg" for name in "ab"]
    for seed, path in enumerate(paths):
        noise = np.random.default_rng(seed).integers(0, 256, (90, 130, 3), np.uint8)
        write_jpeg(path, noise)
    return paths


def test_reference_route_agrees_with_itself(photos: list[Path]) -> None:
    segmenter = Segmenter(NullBackend((32, 48)), FRAME)
    (found,) = compare_routes(segmenter, photos, {"reference": full_decode})
    assert found == RouteAgreement("reference", 2, 1.0, 0.0, 0)
    assert found.is_same


def test_route_that_swaps_colours_is_not_the_same(photos: list[Path]) -> None:
    segmenter = Segmenter(NullBackend((32, 48)), FRAME)  # its map is the frame's green
    routes = {"swapped": lambda data, preprocess: np.roll(full_decode(data, preprocess), 1, axis=2)}
    (found,) = compare_routes(segmenter, photos, routes)
    assert found.agreement_iou < 0.9
    assert found.frame_mean > 5
    assert not found.is_same


@pytest.mark.parametrize(("agreement", "same"), [(0.998, True), (0.9979, False)])
def test_route_is_the_same_from_0_998(agreement: float, same: bool) -> None:
    assert RouteAgreement("any", 1, agreement, 0.0, 0).is_same is same


def test_no_photos_are_no_evidence() -> None:
    with pytest.raises(ValueError, match="no photos"):
        compare_routes(Segmenter(NullBackend((32, 48)), FRAME), [])


def test_command_prints_a_row_for_every_route(reference: Artifact, painted: Path) -> None:
    options = ["--model", str(reference.path), "--photos", str(painted / "jpg"), "--limit", "3"]
    result = CliRunner().invoke(main, [*options, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "on 3 photos of jpg" in result.output
    for name in ROUTES:
        assert name in result.output
    (row,) = [
        line for line in result.output.splitlines() if line.strip().startswith("full decode, area")
    ]
    assert row.split()[3:] == ["1.0000", "0.00", "0", "yes"]

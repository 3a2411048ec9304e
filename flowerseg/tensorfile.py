"""Files of tensors in PyTorch's format: written so that equal content gives equal bytes, and read
without running code in them.
"""

from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from flowerseg.archive import require_plain_archive
from flowerseg.errors import ArtifactError
from flowerseg.files import open_regular
from flowerseg.smallfiles import reason_of

_ZIP = b"PK\x03\x04"
_ADVICE = "Copy it again, or save the network's state_dict() with torch.save."


def write_tensors(content: dict[str, Any], path: Path) -> None:
    """Write names with tensors, numbers and texts. Equal content gives equal bytes."""
    # Given a path, torch.save would use the name of the temporary file as the archive's root.
    with path.open("wb") as file:
        torch.save(content, file)


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a file of tensors without running any code in it.

    Raises:
        ArtifactError: it is no such file, is damaged, or holds something else.
    """
    try:
        with open_regular(path, follows_link=True) as file:
            content = _content(file)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: not a readable weights file: {reason_of(error)}. {_ADVICE}"
        ) from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: holds a {type(content).__name__}, not weights by name.")
    if not all(isinstance(name, str) for name in content):
        raise ArtifactError(f"{path}: holds names that are no text. {_ADVICE}")
    return content


def require_weights(weights: Any, path: Path) -> dict[str, Tensor]:
    """Names with plain tensors on the CPU, as a network's `state_dict` has them.

    Raises:
        ArtifactError: it is something else.
    """
    if not isinstance(weights, dict):
        raise ArtifactError(f"{path}: holds no weights by name. {_ADVICE}")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or not _is_plain(tensor):
            raise ArtifactError(f"{path}: {str(name)[:99]} is not a plain tensor. {_ADVICE}")
    return weights


def _content(file: BinaryIO) -> Any:
    """What torch makes of a file.

    Raises:
        ValueError: torch refuses it, or would use far more memory than the file has bytes.
    """
    # The format before PyTorch 1.6 is no archive, and is never compressed.
    is_archive = file.read(len(_ZIP)) == _ZIP
    file.seek(0)
    if is_archive:
        require_plain_archive(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types; its text advises weights_only=False
        raise ValueError("it is damaged, or holds more than tensors, numbers and texts") from error


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_complex()
    )

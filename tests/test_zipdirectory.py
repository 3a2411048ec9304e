"""Archives in which two readers find two directories are refused."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from flowerseg.errors import ArtifactError
from flowerseg.shipped import shipped_model
from flowerseg.tensorfile import read_tensors
from flowerseg.zipdirectory import require_one_directory

_LOCAL, _ENTRY, _END = "<IHHHHHIIIHH", "<IHHHHHHIIIHHHHHII", "<IHHHHIIH"


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _records(content: object, at: int) -> tuple[bytes, bytes]:
    """Local records of a saved object, and their directory for records that begin at `at`."""
    records, directory = b"", b""
    with zipfile.ZipFile(io.BytesIO(_saved(content))) as saved:
        for name in saved.namelist():
            data, encoded = saved.read(name), name.encode()
            sizes = (zlib.crc32(data), len(data), len(data), len(encoded))
            place = at + len(records)
            records += struct.pack(_LOCAL, 0x04034B50, 20, 0, 0, 0, 0, *sizes, 0) + encoded + data
            fields = (20, 20, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, 0, place)
            directory += struct.pack(_ENTRY, 0x02014B50, *fields) + encoded
    return records, directory


def test_archive_with_a_directory_for_each_reader_is_refused(tmp_path: Path) -> None:
    hidden, hidden_directory = _records({"x": torch.zeros(9)}, 0)
    first = len(hidden) + len(hidden_directory)
    shown, _ = _records({"x": torch.ones(3)}, 0)
    # zipfile adds to every offset by how far the directory is from where the record has it.
    moved = first + len(shown) - len(hidden)
    _, shown_directory = _records({"x": torch.ones(3)}, first - moved)
    size, count = len(shown_directory), shown_directory.count(b"PK\1\2")
    end = struct.pack(_END, 0x06054B50, 0, 0, count, count, size, len(hidden), 0)
    content = hidden + hidden_directory + shown + shown_directory + end

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.read("archive/data/0")) == 3 * 4
    assert torch.load(io.BytesIO(content), weights_only=True)["x"].tolist() == [0.0] * 9
    with pytest.raises(ValueError, match="two directories"):
        require_one_directory(io.BytesIO(content))
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match="two directories"):
        read_tensors(tmp_path / "a.pt")


def test_archive_that_pytorch_writes_is_accepted() -> None:
    require_one_directory(io.BytesIO(_saved({"x": torch.ones(3)})))
    with Path(shipped_model()).open("rb") as file:
        require_one_directory(file)


SAVED = _saved({"x": torch.ones(3)})


@pytest.mark.parametrize(
    "content",
    [b"", SAVED[:-1], SAVED + b"x", b"x" + SAVED, SAVED[:-2] + b"\1\0x", SAVED[:-30] + SAVED[-22:]],
    ids=["empty", "cut", "appended", "prefixed", "comment", "without locator"],
)
def test_archive_with_anything_beside_its_directory_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="director"):
        require_one_directory(io.BytesIO(content))


def test_directory_beyond_4_gib_is_found(tmp_path: Path) -> None:
    with (tmp_path / "sparse.pt").open("wb+") as file:
        file.seek(5 << 30)
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a", b"1")
        require_one_directory(file)
        file.seek(0, 2)
        file.write(b"x")
        with pytest.raises(ValueError, match="not at its end"):
            require_one_directory(file)

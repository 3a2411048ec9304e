"""Lists of numbers from MATLAB files, and that no damaged file gets further than a DataError."""

import io
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from flowerseg.data import open_photos
from flowerseg.errors import DataError, FlowersegError
from flowerseg.matfile import read_integer_lists

SPLITS = {"trn1": [1, 2, 4], "val1": [3, 5], "tst1": [6]}


def _mat(variables: dict[str, object], *, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def _read(path: Path, content: bytes) -> dict[str, list[int]]:
    file = path / "datasplits.mat"
    file.write_bytes(content)
    return {name: numbers.tolist() for name, numbers in read_integer_lists(file).items()}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])
def test_numbers_of_every_type_are_read(tmp_path: Path, dtype: str, compressed: bool) -> None:
    row = np.array([[1, 127, 3]], dtype)
    content = _mat({"trn1": row, "val1": row.T, "none": row[:, :0]}, compressed=compressed)
    expected = {"trn1": [1, 127, 3], "val1": [1, 127, 3], "none": []}
    assert _read(tmp_path, content) == expected


def test_file_of_a_machine_with_the_high_byte_first(tmp_path: Path) -> None:
    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    matrix = (
        element(6, struct.pack(">II", 6, 0))  # class 6 is double
        + element(5, struct.pack(">ii", 1, 2))
        + element(1, b"trn1")
        + struct.pack(">HH", 4, 4)  # four bytes of uint16, in the element's own tag
        + struct.pack(">HH", 300, 7)
    )
    content = b"MATLAB 5.0".ljust(124) + struct.pack(">H", 0x0100) + b"MI" + element(14, matrix)
    assert _read(tmp_path, content) == {"trn1": [300, 7]}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"trn1": [[1.5, 2]]}, r"'trn1' has 1\.5, which is not a whole number"),
        ({"trn1": [[1, np.nan]]}, "'trn1' has nan, which is not a whole number"),
        ({"trn1": [[np.inf]]}, "'trn1' has inf, which is not a whole number"),
        ({"trn1": [[1e300]]}, r"'trn1' has 1e\+300, which is not a whole number"),
        ({"trn1": [[1 + 2j]]}, "'trn1' is not an array of real numbers"),
        ({"trn1": "one"}, "'trn1' is not an array of real numbers"),
        ({"trn1": {"a": 1}}, "'trn1' is not an array of real numbers"),
        ({"trn1": np.array([[1, "a"]], object)}, "'trn1' is not an array of real numbers"),
        ({"trn1": [[1, 2], [3, 4]]}, "'trn1' has 4 values in 2 x 2, not in one row"),
        ({"trn1": np.ones((1, 2, 3))}, "'trn1' has 6 values in 1 x 2 x 3, not in one row"),
        ({"trn1": [[0, 1]]}, r"split 'trn1' has numbers that no photo has \(0\)"),
        ({"trn1": [[1, -1]]}, r"split 'trn1' has numbers that no photo has \(-1\)"),
        ({"trn1": [[1, 1 << 40]]}, r"split 'trn1' has numbers that no photo has \(1099511627776\)"),
        ({}, "has no split in it"),
        ({"val1": [[1]]}, "no split 'trn1'. There are train, val, test and val1"),
        ({"trn1": np.zeros((1, 0))}, "split 'trn1' has no photo"),
    ],
)
def test_splits_that_name_no_photos_are_refused(
    tmp_path: Path, variables: dict[str, object], message: str
) -> None:
    (tmp_path / "datasplits.mat").write_bytes(_mat(variables))
    with pytest.raises(DataError, match=message):
        open_photos(tmp_path, "train")


@pytest.mark.parametrize(
    "content",
    [b"", b"MATLAB 5.0", bytes(4096), b"MATLAB 7.3 MAT-file".ljust(512), b"\x89HDF\r\n\x1a\n"],
)
def test_other_files_are_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"cannot be used as a MATLAB file: its first .*savemat"):
        _read(tmp_path, content)


def test_variable_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    once = _mat({"trn1": [[1, 2]]})
    with pytest.raises(DataError, match="'trn1' is in it twice"):
        _read(tmp_path, once + once[128:])


def test_file_that_is_cut_off_lacks_whole_splits_or_is_refused(tmp_path: Path) -> None:
    whole = _mat(SPLITS)
    for length in range(len(whole)):
        try:
            found = _read(tmp_path, whole[:length])
        except DataError:
            continue
        assert found.items() <= SPLITS.items()
        assert len(found) < len(SPLITS)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six empty files in each of both layouts: opening photos decodes none."""
    root = tmp_path_factory.mktemp("flowers")
    for number in range(1, 7):
        for folder in ("oxford/jpg", "mine/photos"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"image_{number:04d}.jpg").touch()
        for folder in ("oxford/trimaps", "mine/masks"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f"image_{number:04d}.png").touch()
    return root


def _damaged(whole: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for kind, place, new in changes:
        at = place % (len(whole) + 1)
        kept = {"replace": at + len(new), "insert": at, "delete": at + 4, "cut": len(whole)}[kind]
        whole = whole[:at] + (new if kind in ("replace", "insert") else b"") + whole[kept:]
    return whole


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["replace", "insert", "delete", "cut"]),
        st.integers(0, 2000),
        st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(compressed=st.booleans(), changes=CHANGES)
@example(compressed=False, changes=[("replace", 241, b"\1")])  # ends a process that runs scipy
def test_damaged_splits_are_opened_or_refused(
    flowers: Path, compressed: bool, changes: list[tuple[str, int, bytes]]
) -> None:
    whole = _mat(SPLITS, compressed=compressed)
    (flowers / "oxford/datasplits.mat").write_bytes(_damaged(whole, changes))
    for split in ("train", "val"):
        with suppress(FlowersegError):
            open_photos(flowers / "oxford", split)


LIST = "\ufeff# the good ones\nimage_0001\nimage_0002.jpg\n\nimage_0005\n".encode()


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(coding=st.sampled_from(["utf-8", "utf-16", "utf-16-le"]), changes=CHANGES)
def test_damaged_lists_are_opened_or_refused(
    flowers: Path, coding: str, changes: list[tuple[str, int, bytes]]
) -> None:
    whole = LIST.decode().encode(coding)
    (flowers / "mine/val.txt").write_bytes(_damaged(whole, changes))
    with suppress(FlowersegError):
        open_photos(flowers / "mine", "val")

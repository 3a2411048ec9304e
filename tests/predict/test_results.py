"""results.csv as spreadsheets and readers of CSV take it."""

import csv
import io
import os

import pytest

from flowerseg.predict import PhotoResult
from flowerseg.predict.results import utf8, write_rows


def _written(*results: PhotoResult) -> str:
    sink = io.StringIO()
    write_rows(sink, results)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        (b"rose.jpg", "rose.jpg"),
        ("Blüte 花.jpg".encode(), "Blüte 花.jpg"),
        (b"\xff.jpg", r"\xff.jpg"),
        (rb"\xff.jpg", r"\\xff.jpg"),
        (rb"\\xff.jpg", r"\\\\xff.jpg"),
        (b"\\\xff.jpg", r"\\\xff.jpg"),
        (b"a\\b.jpg", r"a\\b.jpg"),
        ("é".encode()[:1] + b".jpg", r"\xc3.jpg"),
    ],
)
def test_each_name_has_a_spelling_of_its_own(name: bytes, spelled: str) -> None:
    assert utf8(os.fsdecode(name)) == spelled


@pytest.mark.parametrize(
    ("path", "cell"),
    [
        ("=1+1.jpg", "./=1+1.jpg"),
        ("+1.jpg", "./+1.jpg"),
        ("-dash.jpg", "./-dash.jpg"),
        ("@SUM(A1).jpg", "./@SUM(A1).jpg"),
        ("＝1+1.jpg", "./＝1+1.jpg"),
        ("\t=1.jpg", "./\t=1.jpg"),
        ("\r=1.jpg", '"./\r=1.jpg"'),
        ("\n=1.jpg", '"./\n=1.jpg"'),
        ("=a,b.jpg", '"./=a,b.jpg"'),
        ("a=1.jpg", "a=1.jpg"),
        ("sub/=1.jpg", "sub/=1.jpg"),
        ("a\rb.jpg", '"a\rb.jpg"'),
        ("a\r\nb.jpg", '"a\r\nb.jpg"'),
        ('a"b.jpg', '"a""b.jpg"'),
        ("a\r", '"a\r"'),
    ],
)
def test_path_is_no_formula_and_is_read_back_whole(path: str, cell: str) -> None:
    text = _written(PhotoResult(path, (2, 3), 0.5, None))
    assert text.removeprefix(text.split("\n")[0] + "\n") == f"{cell},3,2,0.500000,,,,,ok,,\n"
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["path"].removeprefix("./") == path
    assert row["status"] == "ok"


def test_error_is_no_formula() -> None:
    text = _written(PhotoResult("=1.jpg", error="=1.jpg: cannot be read."))
    assert text.splitlines()[1] == "./=1.jpg,,,,,,,,error,./=1.jpg: cannot be read.,"


def test_rows_end_in_line_feeds() -> None:
    assert _written(PhotoResult("a.jpg"), PhotoResult("b.jpg")).count("\r") == 0

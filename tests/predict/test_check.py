"""A check finds every change since the run, and makes none."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner

from flowerseg.cli.predict import predict
from flowerseg.errors import OutputError, Stopped
from flowerseg.listing import list_photos, shard
from flowerseg.photofile import photo_bytes
from flowerseg.predict import (
    PredictSettings,
    Save,
    check_folder,
    segment_folder,
    segment_listing,
)
from flowerseg.predict.check import Finding
from flowerseg.predict.lock import locked, read_locked
from flowerseg.predict.rows import checksum
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]


@pytest.fixture
def out(photos: Path, tmp_path: Path, opened: Opened) -> Path:
    """A folder that a whole run has written; the photo 07.png is bad."""
    (photos / "07.png").write_bytes(b"no photo")
    segment_folder(
        photos, opened(), tmp_path / "out", PredictSettings(save=(Save.MASK, Save.CUTOUT))
    )
    return tmp_path / "out"


def _found(out: Path) -> list[tuple[str, str]]:
    """Kind and path of all findings."""
    findings: list[Finding] = []
    check_folder(out, findings.append)
    return [(str(finding.kind), finding.path) for finding in findings]


def _state(out: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(out).as_posix(): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in (out, *out.rglob("*"))
    }


def _execute(out: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(out / "journal.sqlite", isolation_level=None)) as db:
        db.execute(sql, values)


def _row(out: Path, sql: str) -> tuple[Any, ...]:
    with closing(sqlite3.connect(out / "journal.sqlite")) as db:
        return tuple(db.execute(sql).fetchone())


def _value(out: Path, sql: str) -> Any:
    return _row(out, sql)[0]


def test_folder_as_a_run_left_it_is_well_and_stays_as_it_is(out: Path) -> None:
    before = _state(out)
    checked = check_folder(out, pytest.fail)
    assert (checked.rows, checked.outputs, checked.photos, checked.photos_not_checked) == (
        16,
        30,
        16,
        0,
    )
    assert _state(out) == before


def test_check_needs_no_torch_and_no_place_to_write(out: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from flowerseg.cli.predict import predict\n"
        "try: predict(['--check', sys.argv[1]])\n"
        "finally: assert not {'torch', 'onnxruntime'} & sys.modules.keys()"
    )
    said = subprocess.run([sys.executable, "-c", program, out], capture_output=True, text=True)
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout == (
        f"{out}: 16 rows, 30 outputs and 16 photos checked: everything is as it was written\n"
    )


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_mask(path: Path) -> None:
    path.rename(path.parents[2] / "mask.png")
    path.symlink_to(path.parents[2] / "mask.png")


def _link_subfolder(out: Path) -> None:
    (out / "masks/sub").rename(out.parent / "sub")
    (out / "masks/sub").symlink_to(out.parent / "sub")


def _swap_rows(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[2], lines[1], *lines[3:]]))


def _recount(path: Path) -> None:
    run = json.loads(path.read_text())
    run["counts"]["ok"] += 1
    path.write_text(json.dumps(run, indent=2) + "\n")


MASK = "masks/01.png.png"


@pytest.mark.parametrize(
    ("happen", "expected"),
    [
        (lambda out: (out / MASK).unlink(), [("missing output", MASK)]),
        (lambda out: _flip(out / MASK), [("changed output", MASK)]),
        (lambda out: (out / MASK).write_bytes(b""), [("changed output", MASK)]),
        (lambda out: _pipe(out / MASK), [("missing output", MASK)]),
        (lambda out: _link_mask(out / MASK), [("missing output", MASK)]),
        (
            _link_subfolder,
            [
                *(("changed output", f"masks/sub/{i:02}.png.png") for i in range(0, 16, 3)),
                ("foreign file", "masks/sub"),
            ],
        ),
        (lambda out: (out / "masks/x.png").touch(), [("foreign file", "masks/x.png")]),
        (lambda out: (out / "cutouts/01.png").touch(), [("foreign file", "cutouts/01.png")]),
        (
            lambda out: (out / "masks/.tmp-a1b2c3d4").touch(),
            [("foreign file", "masks/.tmp-a1b2c3d4")],
        ),
        (
            lambda out: shutil.copytree(out / "masks/sub", out / "overlays"),
            [("foreign file", f"overlays/{i:02}.png.png") for i in range(0, 16, 3)],
        ),
        (
            lambda out: shutil.copy(out / MASK, out / "masks/07.png.png"),
            [("foreign file", "masks/07.png.png")],  # of the bad photo
        ),
        (lambda out: _flip(out / "results.csv"), [("results.csv", "results.csv")]),
        (lambda out: _swap_rows(out / "results.csv"), [("results.csv", "results.csv")]),
        (lambda out: (out / "results.csv").unlink(), [("results.csv", "results.csv")]),
        (
            lambda out: (out / "results.csv").open("a").write("more"),
            [("results.csv", "results.csv")],
        ),
        (lambda out: _recount(out / "run.json"), [("run.json", "run.json")]),
        (lambda out: (out / "run.json").unlink(), [("run.json", "run.json")]),
        (lambda out: _flip(out.parent / "photos/01.png"), [("changed photo", "01.png")]),
        (lambda out: _pipe(out.parent / "photos/01.png"), [("unreadable photo", "01.png")]),
        (
            lambda out: (out.parent / "photos/07.png").write_bytes(b"now it is one"),
            [("changed photo", "07.png")],
        ),
        (
            lambda out: (out.parent / "photos/sub").rename(out.parent / "gone"),
            [("unreadable photo", f"sub/{i:02}.png") for i in range(0, 16, 3)],
        ),
        (
            lambda out: _execute(out, "DELETE FROM photos WHERE path = X'30312E706E67'"),
            [
                ("foreign file", "cutouts/01.png.png"),
                ("foreign file", MASK),
                ("results.csv", "results.csv"),
                ("run.json", "run.json"),
            ],
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_not_as_it_was_is_found_and_nothing_else(
    out: Path, happen: Callable[[Path], object], expected: list[tuple[str, str]]
) -> None:
    happen(out)
    before = _state(out)
    assert sorted(_found(out)) == sorted(expected)
    assert _state(out) == before


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("photos", "path"),
        ("photos", "sha256"),
        ("photos", "made"),
        ("photos", "met"),
        ("photos", "ok"),
        ("photos", "outputs"),
        ("photos", "result"),
        ("photos", "checksum"),
        ("runs", "id"),
        ("runs", "basis"),
        ("runs", "finished"),
        ("runs", "folder"),
        ("runs", "record"),
        ("runs", "checksum"),
    ],
)
@pytest.mark.parametrize("value", [None, 7, -1.5, "", "[" * 100_000, "NaN", b"\xff\0", 2**63 - 1])
def test_any_other_value_in_any_row_is_found(
    out: Path, table: str, column: str, value: object
) -> None:
    where = "WHERE path = X'30312E706E67'" if table == "photos" else ""
    try:
        _execute(out, f"UPDATE {table} SET {column} = ? {where}", value)
    except sqlite3.IntegrityError:
        return
    assert "damaged row" in dict(_found(out))


def test_damaged_row_is_one_finding_beside_the_results_that_lack_it(out: Path) -> None:
    _execute(out, "UPDATE photos SET sha256 = 'x' WHERE path = X'30312E706E67'")
    assert _found(out) == [("damaged row", "01.png"), ("results.csv", "results.csv")]


@pytest.mark.parametrize("place", range(0, 12_000, 977))
def test_damaged_file_never_ends_in_another_error(out: Path, place: int) -> None:
    path = out / "journal.sqlite"
    content = bytearray(path.read_bytes())
    content[place : place + 300] = b"\xa5" * 300
    path.write_bytes(content)
    with suppress(OutputError):
        _found(out)  # empty where the bytes are of no row


# --- other runs than one whole one ---


def test_unfinished_run_is_said_to_be_one(
    photos: Path, out: Path, tmp_path: Path, opened: Opened
) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        segment_folder(photos, opened(), out, stop=stop)
    assert _found(out) == [("unfinished run", "journal.sqlite")]


def test_killed_run_is_checked_with_what_only_its_side_file_has(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    class Keeping:
        """Copies the output folder in the middle of the run, as a kill would leave it."""

        def note(self, text: str) -> None:
            pass

        def photo(self, result: object, *, is_kept: bool) -> None:
            if not (tmp_path / "killed").exists():
                shutil.copytree(
                    tmp_path / "out", tmp_path / "killed", ignore=shutil.ignore_patterns(".tmp-*")
                )

    segment_folder(photos, opened(), tmp_path / "out", PredictSettings(batch=1), Keeping())
    before = _state(tmp_path / "killed")
    assert (tmp_path / "killed/journal.sqlite-wal").stat().st_size
    kinds = Counter(kind for kind, _ in _found(tmp_path / "killed"))
    assert kinds["unfinished run"] == 1
    assert kinds.keys() <= {"unfinished run", "foreign file"}  # written, and not noted yet
    assert _state(tmp_path / "killed") == before


def test_run_that_was_killed_after_it_adopted_an_older_journal_is_unfinished(out: Path) -> None:
    """The last run is then the older flowerseg's, whose run.json is not in the journal."""
    fields = (1, _value(out, "SELECT basis FROM runs"), 1, None, "")
    _execute(out, "REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?)", *fields, checksum(*fields))
    assert _found(out) == [("unfinished run", "journal.sqlite")]


def test_rows_that_cannot_be_read_are_a_finding_among_the_others(out: Path) -> None:
    """The beginning of the file is whole, and a page of the photos is not."""
    root = _value(out, "SELECT rootpage FROM sqlite_master WHERE name = 'photos'")
    size = _value(out, "PRAGMA page_size")
    with (out / "journal.sqlite").open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xa5" * size)
    (out / "journal.sqlite-wal").unlink(missing_ok=True)
    assert {kind for kind, _ in _found(out)} == {"damaged journal"}
    result = CliRunner().invoke(predict, ["--check", str(out), "--json"])
    assert json.loads(result.stdout)["ok"] is False


@pytest.mark.parametrize("path", [b"/etc/hosts", b"../01.png", b"", b".", b"a\0b.png", b"a//b"])
def test_row_whose_path_leads_elsewhere_is_damaged(out: Path, path: bytes) -> None:
    row = _row(out, "SELECT * FROM photos LIMIT 1")
    fields = (path, *row[1:-1])
    basis = _value(out, "SELECT basis FROM runs")
    _execute(
        out,
        "INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        *fields,
        checksum(*fields, basis),
    )
    assert [kind for kind, _ in _found(out)] == ["damaged row", "run.json"]


def test_killed_run_needs_a_temporary_folder(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (out / "journal.sqlite-wal").write_bytes(b"some")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OutputError, match=r"copied to a temporary folder to be read: No such file"):
        check_folder(out, pytest.fail)


def test_photos_of_earlier_runs_are_not_looked_for_and_their_outputs_are(
    photos: Path, out: Path, opened: Opened
) -> None:
    (photos / "01.png").rename(photos.parent / "01.png")
    segment_folder(photos, opened(), out)
    checked = check_folder(out, pytest.fail)
    assert (checked.photos, checked.photos_not_checked) == (15, 1)
    (out / MASK).unlink()
    assert _found(out) == [("missing output", MASK)]


def test_folder_of_photos_that_is_gone_is_one_finding(photos: Path, out: Path) -> None:
    photos.rename(photos.with_name("renamed"))
    assert _found(out) == [("unreadable photo", str(photos))]


def test_photos_that_are_no_files_here_are_counted(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    listing = list_photos(photos, tmp_path / "out")
    remote = replace(listing, folder=Path("bucket"))

    def read(path: Path) -> bytes:
        return photo_bytes(photos / path.relative_to("bucket"))

    segment_listing(remote, opened(), tmp_path / "out", read=read)
    checked = check_folder(tmp_path / "out", pytest.fail)
    assert (checked.photos, checked.photos_not_checked) == (0, 16)


def test_relative_paths_are_found_from_another_folder(
    photos: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    segment_folder(Path("sub"), opened(), Path("../out"))
    monkeypatch.chdir(tmp_path)
    assert check_folder(Path("out"), pytest.fail).photos == 6


def test_parts_of_a_run_are_checked_each(photos: Path, tmp_path: Path, opened: Opened) -> None:
    listing = list_photos(photos, tmp_path / "out")
    for part in (1, 2):
        segment_listing(shard(listing, part, 2), opened(), tmp_path / f"out/{part}-of-2")
    rows = [check_folder(tmp_path / f"out/{part}-of-2", pytest.fail).rows for part in (1, 2)]
    assert sum(rows) == 16
    with pytest.raises(OutputError, match="give one part, such as 1-of-8"):
        check_folder(tmp_path / "out", pytest.fail)


def test_names_that_are_not_utf8_and_formulas_are_compared_as_they_are(
    tmp_path: Path, photos: Path, opened: Opened
) -> None:
    names = [b"\xff.png", rb"\xff.png", b"=1+1.png", b"a\rb\nc.png", b'",\t.png', b"-x.png"]
    for name in names:
        shutil.copy(photos / "01.png", photos / os.fsdecode(name))
    segment_folder(photos, opened(), tmp_path / "out")
    assert check_folder(tmp_path / "out", pytest.fail).rows == 16 + len(names)


def test_copy_of_hard_links_is_checked(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy", copy_function=os.link)
    assert check_folder(tmp_path / "copy", pytest.fail).rows == 16


def test_run_and_check_keep_out_of_each_others_way(photos: Path, out: Path, opened: Opened) -> None:
    with locked(out), pytest.raises(OutputError, match=rf"process {os.getpid()} on .* is writing"):
        check_folder(out, pytest.fail)
    with read_locked(out):
        with pytest.raises(OutputError, match="another process is checking it"):
            segment_folder(photos, opened(), out)
        check_folder(out, pytest.fail)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: None])
def test_folder_that_is_no_output_is_an_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "out")
    with pytest.raises(OutputError, match=r"no journal.sqlite in it|Not a directory"):
        check_folder(tmp_path / "out", pytest.fail)


# --- the command ---


def test_command_lists_the_first_findings_and_counts_all(out: Path) -> None:
    for i in range(30):
        (out / f"masks/{i}").touch()
    said = CliRunner().invoke(predict, ["--check", str(out)])
    lines = said.stdout.splitlines()
    assert said.exit_code == 1
    assert sum("the journal does not name it" in line for line in lines) == 20
    assert lines[-2:] == [
        "and 10 more, which --json lists",
        f"{out}: 16 rows, 30 outputs and 16 photos checked: foreign file 30",
    ]


@pytest.mark.parametrize("foreign", [0, 30])
def test_command_prints_all_as_json(out: Path, foreign: int) -> None:
    for i in range(foreign):
        (out / f"masks/{i}").touch()
    said = CliRunner().invoke(predict, ["--check", str(out), "--json"])
    report: Any = json.loads(said.stdout)
    assert (said.exit_code, report["ok"]) == (int(foreign > 0), foreign == 0)
    assert len(report["findings"]) == foreign
    assert report["counts"] == ({"foreign file": foreign} if foreign else {})
    assert report["checked"]["rows"] == 16


@pytest.mark.parametrize(
    ("more", "named"), [(["photos"], "FOLDER"), (["--out", "x"], "--out"), (["-0"], "-0")]
)
def test_command_takes_nothing_else_beside_the_check(
    out: Path, more: list[str], named: str
) -> None:
    said = CliRunner().invoke(predict, ["--check", str(out), *more])
    assert said.exit_code == 2
    assert f"--check looks at what is there: leave {named} out." in said.stderr


@pytest.mark.parametrize(
    ("words", "missing"),
    [(["--out", "x"], "argument 'FOLDER'"), (["photos"], "option '--out'"), ([], "argument")],
)
def test_run_still_needs_photos_and_a_folder(words: list[str], missing: str) -> None:
    said = CliRunner().invoke(predict, words)
    assert said.exit_code == 2
    assert f"Missing {missing}" in said.stderr

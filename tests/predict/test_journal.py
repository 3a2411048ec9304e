"""Journals of other versions, of other programs, and damaged ones."""

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowerseg.errors import FlowersegError, OutputError
from flowerseg.images import write_png
from flowerseg.predict import Checked, check_folder, segment_folder
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]
LeftIn = Callable[[Path], dict[str, object]]

# As the first release wrote it.
_VERSION_1 = """
CREATE TABLE runs (id INTEGER PRIMARY KEY, basis TEXT NOT NULL, finished INTEGER NOT NULL);
CREATE TABLE photos (
    path BLOB PRIMARY KEY, sha256 TEXT NOT NULL, made INTEGER NOT NULL, met INTEGER NOT NULL,
    ok INTEGER NOT NULL, outputs TEXT NOT NULL, result TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = 1;
"""


@pytest.fixture
def out(photos: Path, tmp_path: Path, opened: Opened) -> Path:
    """A folder that a whole run has written."""
    segment_folder(photos, opened(), tmp_path / "out")
    return tmp_path / "out"


def _to_version_1(journal: Path, is_killed: bool) -> None:
    """Make a journal one of the first release; of a killed run, all of it is in the WAL."""
    with closing(sqlite3.connect(journal)) as db:
        runs = db.execute("SELECT id, basis, finished FROM runs").fetchall()
        photos = db.execute(
            "SELECT path, sha256, made, met, ok, outputs, result FROM photos"
        ).fetchall()
    journal.unlink()
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.executescript(f"PRAGMA journal_mode = WAL; {_VERSION_1}")
        db.executemany("INSERT INTO runs VALUES (?, ?, ?)", runs)
        db.executemany("INSERT INTO photos VALUES (?, ?, ?, ?, ?, ?, ?)", photos)
        if is_killed:
            for file in journal.parent.glob("journal.sqlite*"):
                shutil.copyfile(file, file.with_suffix(file.suffix + ".left"))
    if is_killed:
        for file in journal.parent.glob("*.left"):
            file.replace(file.with_suffix(""))


@pytest.mark.parametrize("is_killed", [False, True])
def test_journal_of_the_first_release_is_adopted_and_nothing_is_done_again(
    photos: Path, out: Path, opened: Opened, watcher: Any, left_in: LeftIn, is_killed: bool
) -> None:
    before = left_in(out)
    _to_version_1(out / "journal.sqlite", is_killed)
    report = segment_folder(photos, opened(), out, watcher=watcher)
    assert (report.run.effort.kept, report.run.effort.segmented) == (16, 0)
    assert left_in(out) == before
    assert len(watcher.notes) == 1  # and no word of damage
    assert segment_folder(photos, opened(), out).run.effort.kept == 16


# --- databases of other programs ---


def _with_a_table(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("CREATE TABLE precious (a); INSERT INTO precious VALUES (1)")


def _with_wal(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("PRAGMA journal_mode = WAL; CREATE TABLE precious (a)")


def _with_version(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("CREATE TABLE photos (a); PRAGMA user_version = 1")


def _with_application(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"PRAGMA application_id = 7; {_VERSION_1}")


def _with_more_tables(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"{_VERSION_1} CREATE TABLE precious (a)")


def _left_by_a_kill(path: Path, script: str) -> None:
    """A database as a program leaves it that is killed after a script."""
    code = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.executescript(sys.argv[2]); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, path, script], check=True)


def _with_tables_in_its_wal(path: Path) -> None:
    _left_by_a_kill(path, "PRAGMA journal_mode = WAL; CREATE TABLE precious (a);")


def _with_half_a_transaction(path: Path) -> None:
    # A cache of two pages: the others go to the file before the end of the transaction.
    rows = "INSERT INTO precious VALUES (zeroblob(90000));"
    _left_by_a_kill(
        path, f"CREATE TABLE precious (a); {rows} PRAGMA cache_size = 2; BEGIN; {rows * 3}"
    )


@pytest.mark.parametrize(
    "make",
    [
        _with_a_table,
        _with_wal,
        _with_version,
        _with_application,
        _with_more_tables,
        _with_tables_in_its_wal,
        _with_half_a_transaction,
    ],
)
def test_database_of_another_program_is_refused_and_untouched(
    photos: Path, tmp_path: Path, opened: Opened, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "out/journal.sqlite"
    path.parent.mkdir()
    make(path)
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    for use in (lambda: segment_folder(photos, opened(), path.parent), lambda: _checked(path)):
        with pytest.raises(OutputError, match="not a journal of flowerseg"):
            use()
    (path.parent / ".lock").unlink()
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def _checked(path: Path) -> Checked:
    return check_folder(path.parent, pytest.fail)


def test_journal_that_another_program_has_open_is_not_called_damaged(
    photos: Path, out: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: connect(path, 0, **more))
    with closing(connect(out / "journal.sqlite", isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(OutputError, match="another program has it open"):
            segment_folder(photos, opened(), out)


# --- damage ---


def _execute(out: Path, sql: str, *values: object) -> None:
    with closing(sqlite3.connect(out / "journal.sqlite", isolation_level=None)) as db:
        assert db.execute(sql, values).rowcount > 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("sha256", "replace(sha256, substr(sha256, 1, 1), 'x')"),
        ("made", "made + 1"),
        ("met", "met + 1"),
        ("ok", "1 - ok"),
        ("outputs", "replace(outputs, 'mask', 'overlay')"),
        ("result", "replace(result, '[41, 50]', '[41, 51]')"),
        ("checksum", "'0' || substr(checksum, 2, 14) || 'x'"),
        ("sha256", "CAST(sha256 AS BLOB)"),
        ("ok", "'yes'"),
        ("result", "X'FF00FF'"),
    ],
)
def test_photo_whose_row_is_damaged_is_done_again_alone_and_it_is_said(
    photos: Path,
    out: Path,
    opened: Opened,
    watcher: Any,
    left_in: LeftIn,
    column: str,
    value: str,
) -> None:
    before = left_in(out)
    _execute(out, f"UPDATE photos SET {column} = {value} WHERE path = X'30312E706E67'")  # 01.png
    segment_folder(photos, opened(), out, watcher=watcher)
    assert watcher.done == {"01.png"}
    assert "1 rows were damaged; their photos were done again" in watcher.notes[-1]
    assert left_in(out) == before


def test_row_whose_path_is_damaged_is_of_no_photo(
    photos: Path, out: Path, opened: Opened, watcher: Any, left_in: LeftIn
) -> None:
    before = left_in(out)
    _execute(out, "UPDATE photos SET path = X'31312E706E68', met = 2 WHERE path = X'31312E706E67'")
    segment_folder(photos, opened(), out, watcher=watcher)
    assert watcher.done == {"11.png"}
    assert left_in(out) == before


def test_damaged_basis_of_a_run_does_all_again(photos: Path, out: Path, opened: Opened) -> None:
    _execute(out, "UPDATE runs SET basis = replace(basis, '0.5', '0.6')")
    assert segment_folder(photos, opened(), out).run.effort.kept == 0


def test_run_that_gets_the_number_of_a_lost_one_takes_none_of_its_rows(
    photos: Path, out: Path, opened: Opened, watcher: Any
) -> None:
    _execute(out, "DELETE FROM runs")
    segment_folder(photos, opened(threshold=0.6), out, watcher=watcher)
    assert len(watcher.done) == 16


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE runs SET id = 9223372036854775807",
        "ALTER TABLE photos RENAME COLUMN met TO mat",
        "DROP TABLE photos",
        "CREATE TRIGGER t AFTER INSERT ON photos BEGIN DELETE FROM photos; END",
        "CREATE VIEW v AS SELECT 1",
    ],
)
def test_journal_that_is_no_longer_one_is_an_error(
    photos: Path, out: Path, opened: Opened, damage: str
) -> None:
    with closing(sqlite3.connect(out / "journal.sqlite", isolation_level=None)) as db:
        db.execute(damage)
    with pytest.raises(OutputError, match=r"the journal of earlier runs cannot be used.*Remove it"):
        segment_folder(photos, opened(), out)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos, and room for their outputs."""
    folder = tmp_path_factory.mktemp("small")
    rng = np.random.default_rng(0)
    for i in range(4):
        write_png(folder / f"photos/{i}.png", rng.integers(0, 256, (9, 8, 3), dtype=np.uint8))
    return folder


_COLUMNS = [("runs", name) for name in ("id", "basis", "finished", "folder", "record", "checksum")]
_COLUMNS += [
    ("photos", name)
    for name in ("path", "sha256", "made", "met", "ok", "outputs", "result", "checksum")
]
_VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(
        [
            "[" * 100_000,
            "NaN",
            "[NaN, NaN, NaN, NaN, NaN]",
            "[[1, 2], 1e999, null, '', 1]",
            '[[1, 2], 0.5, null, "", ' + "9" * 5000 + "]",
            '{"mask": 7}',
            '{"mask": {"mask": "a"}}',
            "{}",
            "[]",
            "null",
            "",
        ]
    ),
)


def _runs_or_says_why(small: Path, out: Path, opened: Opened, left_in: LeftIn) -> None:
    """Run after damage: what is left is right, or there is an error that a user can act on."""
    try:
        segment_folder(small / "photos", opened(), out)
    except FlowersegError:
        return
    assert left_in(out) == left_in(small / "whole")


@pytest.fixture
def damageable(small: Path, opened: Opened) -> Callable[[], Path]:
    """Copies a folder that a whole run has written."""
    if not (small / "whole").exists():
        segment_folder(small / "photos", opened(), small / "whole")

    def fresh() -> Path:
        shutil.rmtree(small / "out", ignore_errors=True)
        shutil.copytree(small / "whole", small / "out")
        return small / "out"

    return fresh


_CHEAP = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@_CHEAP
@given(where=st.sampled_from(_COLUMNS), value=_VALUES)
def test_any_value_in_any_column_ends_in_right_outputs_or_an_error(
    small: Path,
    damageable: Callable[[], Path],
    opened: Opened,
    left_in: LeftIn,
    where: tuple[str, str],
    value: object,
) -> None:
    out = damageable()
    table, column = where
    with closing(sqlite3.connect(out / "journal.sqlite", isolation_level=None)) as db:
        try:
            db.execute(f"UPDATE OR REPLACE {table} SET {column} = ?", [value])
        except sqlite3.IntegrityError:
            return  # the column takes no such value
    _runs_or_says_why(small, out, opened, left_in)


@_CHEAP
@given(data=st.data())
def test_any_bytes_in_the_file_end_in_right_outputs_or_an_error(
    small: Path,
    damageable: Callable[[], Path],
    opened: Opened,
    left_in: LeftIn,
    data: st.DataObject,
) -> None:
    out = damageable()
    content = bytearray((out / "journal.sqlite").read_bytes())
    used = [i for i, byte in enumerate(content) if byte]  # most of it is empty
    for place in data.draw(st.lists(st.sampled_from(used), max_size=6), "places"):
        content[place] = data.draw(st.integers(0, 255), "byte")
    length = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), "length")
    (out / "journal.sqlite").write_bytes(content[:length])
    _runs_or_says_why(small, out, opened, left_in)

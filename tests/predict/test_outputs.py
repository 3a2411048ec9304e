"""Outputs stay in their folder: links in it are not followed, and what is taken away is noticed."""

import fcntl
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flowerseg.errors import OutputError
from flowerseg.files import remove_temporaries
from flowerseg.predict import PhotoResult, PredictSettings, segment_folder
from flowerseg.predict.lock import locked
from flowerseg.predict.outputs import OutputFolders
from flowerseg.segmenter import Segmenter

Opened = Callable[..., Segmenter]
LeftIn = Callable[[Path], dict[str, object]]


class Meddler:
    """A watcher that does something to the output folder after some photos."""

    def __init__(self, after: int, meddle: Callable[[], object]) -> None:
        self._left = after
        self._meddle = meddle
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def photo(self, result: PhotoResult, *, is_kept: bool) -> None:
        self._left -= 1
        if self._left == 0:
            self._meddle()


def _remove(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)  # a writer may be at work in it


def _rename(out: Path) -> None:
    out.rename(out.with_name("renamed"))


def _replace_by_nothing(out: Path) -> None:
    _rename(out)
    out.mkdir()


def _replace_by_a_copy(out: Path) -> None:
    _rename(out)
    temporary = shutil.ignore_patterns(".tmp-*")
    # A writer may make a folder of the copy before it is copied.
    shutil.copytree(out.with_name("renamed"), out, ignore=temporary, dirs_exist_ok=True)


def _remove_lock(out: Path) -> None:
    (out / ".lock").unlink()


def _remove_journal(out: Path) -> None:
    (out / "journal.sqlite").unlink()


def _remove_masks(out: Path) -> None:
    shutil.rmtree(out / "masks", ignore_errors=True)


def _copy_masks_back(out: Path) -> None:
    """The new folder would get the number of the old one, if no handle held that."""
    kept = shutil.copytree(
        out / "masks", out.with_name("kept"), ignore=shutil.ignore_patterns(".tmp-*")
    )
    shutil.rmtree(out / "masks", ignore_errors=True)
    shutil.copytree(kept, out / "masks", dirs_exist_ok=True)


def _link_masks(out: Path) -> None:
    (out / "masks").rename(out.with_name("elsewhere"))
    (out / "masks").symlink_to(out.with_name("elsewhere"))


def _remove_subfolder(out: Path) -> None:
    shutil.rmtree(out / "masks/sub", ignore_errors=True)


def _link_subfolder(out: Path) -> None:
    (out / "masks/sub").rename(out.with_name("elsewhere"))
    (out / "masks/sub").symlink_to(out.with_name("elsewhere"))


def _remove_a_mask(out: Path) -> None:
    (out / "masks/01.png.png").unlink()


MEDDLING = [
    _remove,
    _rename,
    _replace_by_nothing,
    _replace_by_a_copy,
    _remove_lock,
    _remove_journal,
    _remove_masks,
    _copy_masks_back,
    _link_masks,
    _remove_subfolder,
    _link_subfolder,
]


@pytest.mark.parametrize("after", [15, 16])  # photos of 16: with writes to come, and without
@pytest.mark.parametrize("meddle", MEDDLING)
def test_output_folder_that_does_not_stay_is_an_error(
    photos: Path, tmp_path: Path, opened: Opened, meddle: Callable[[Path], None], after: int
) -> None:
    out = tmp_path / "out"
    watcher = Meddler(after, lambda: meddle(out))
    with pytest.raises(OutputError, match=r"removed|missing|a link, and"):
        segment_folder(photos, opened(), out, PredictSettings(batch=2), watcher)
    assert not (out / "run.json").exists()


def test_mask_that_is_removed_meanwhile_is_named(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    out = tmp_path / "out"
    watcher = Meddler(16, lambda: _remove_a_mask(out))
    with pytest.raises(OutputError, match=r"1 files .* missing, such as .*masks/01\.png\.png\. S"):
        segment_folder(photos, opened(), out, watcher=watcher)
    assert not (out / "results.csv").exists()


def test_folder_that_helpers_write_into_is_looked_at_too(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    out = tmp_path / "out"
    watcher = Meddler(1, lambda: _replace_by_a_copy(out))
    with pytest.raises(OutputError, match="removed"):
        segment_folder(photos, opened(), out, PredictSettings(batch=2, processes=2), watcher)


@pytest.mark.parametrize("meddle", [_remove_masks, _remove_subfolder, _remove_journal])
def test_run_after_one_whose_outputs_were_removed_makes_them_anew(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn, meddle: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError):
        segment_folder(photos, opened(), out, watcher=Meddler(16, lambda: meddle(out)))
    segment_folder(photos, opened(), out)
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(out) == left_in(tmp_path / "whole")


def test_folder_is_looked_at_on_the_way(
    photos: Path, tmp_path: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowerseg.predict.folder._LOOK_EVERY_S", 0.0)
    out = tmp_path / "out"
    watcher = Meddler(1, lambda: _remove_lock(out))
    with pytest.raises(OutputError, match=r"\.lock: removed or replaced while"):
        segment_folder(photos, opened(), out, watcher=watcher)


def test_output_folder_may_be_a_link_to_a_folder(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    segment_folder(photos, opened(), tmp_path / "out")
    segment_folder(photos, opened(), tmp_path / "whole")
    assert left_in(tmp_path / "disk") == left_in(tmp_path / "whole")
    assert segment_folder(photos, opened(), tmp_path / "out").run.effort.kept == 16


@pytest.mark.parametrize("leads_to", ["out", "nowhere"])
def test_output_folder_that_is_a_link_to_no_folder_is_an_error(
    photos: Path, tmp_path: Path, opened: Opened, leads_to: str
) -> None:
    (tmp_path / "out").symlink_to(tmp_path / leads_to)
    with pytest.raises(OutputError, match="out is a link that leads to no folder"):
        segment_folder(photos, opened(), tmp_path / "out")


def test_link_that_names_another_folder_meanwhile_is_an_error(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    out = tmp_path / "out"
    for name in ("disk", "other"):
        (tmp_path / name).mkdir()
    out.symlink_to(tmp_path / "disk")

    def lead_elsewhere() -> None:
        out.unlink()
        out.symlink_to(tmp_path / "other")

    with pytest.raises(OutputError, match="out: removed or replaced"):
        segment_folder(photos, opened(), out, watcher=Meddler(3, lead_elsewhere))
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("link", ["masks", "masks/sub"])
@pytest.mark.parametrize("is_bad", [False, True])
def test_link_to_a_folder_among_the_outputs_is_refused_and_nothing_there_is_touched(
    photos: Path, tmp_path: Path, opened: Opened, link: str, is_bad: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for name in ("00.png.png", "sub/00.png.png"):
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_bytes(b"precious")
    before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")}
    (tmp_path / "out" / link).parent.mkdir(parents=True)
    (tmp_path / "out" / link).symlink_to(elsewhere)
    if is_bad:
        (photos / "sub/00.png").write_bytes(b"no photo: what was made of it would be removed")
    with pytest.raises(OutputError, match=rf"out/{link}: a link, and outputs are neither written"):
        segment_folder(photos, opened(), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*")} == before


@pytest.mark.parametrize("place", ["masks", "masks/sub"])
def test_folder_that_becomes_a_link_after_it_was_used_is_not_followed(
    tmp_path: Path, place: str
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    folders = OutputFolders(out)
    mask = out / "masks/sub/01.png.png"
    folders.write(mask, b"mask")
    (out / place).rename(elsewhere)
    (out / place).symlink_to(elsewhere)
    precious = elsewhere / mask.relative_to(out / place)
    for use in (lambda: folders.write(mask, b"other"), lambda: folders.remove(mask)):
        with pytest.raises(OutputError, match=rf"out/{place}: a link, and"):
            use()
        assert precious.read_bytes() == b"mask"


def test_folder_that_is_removed_after_it_was_made_is_not_made_again(tmp_path: Path) -> None:
    folders = OutputFolders(tmp_path)
    folders.write(tmp_path / "masks/01.png.png", b"mask")
    shutil.rmtree(tmp_path / "masks")
    with pytest.raises(OutputError, match="masks: removed while the run was writing into it"):
        folders.write(tmp_path / "masks/02.png.png", b"mask")
    assert not (tmp_path / "masks").exists()


def test_link_to_a_folder_where_masks_were_is_refused_by_the_next_run(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    segment_folder(photos, opened(), tmp_path / "out")
    _link_subfolder(tmp_path / "out")
    with pytest.raises(OutputError, match=r"out/masks/sub: a link, and"):
        segment_folder(photos, opened(), tmp_path / "out")


def test_link_where_a_mask_goes_is_replaced_and_its_file_stays(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    masks = tmp_path / "out/masks"
    masks.mkdir(parents=True)
    (masks / "01.png.png").symlink_to(precious)
    (masks / "02.png.png").hardlink_to(precious)
    (tmp_path / "out/results.csv").symlink_to(precious)
    segment_folder(photos, opened(), tmp_path / "out")
    assert precious.read_bytes() == b"precious"
    for path in (masks / "01.png.png", masks / "02.png.png", tmp_path / "out/results.csv"):
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1


def test_pipe_or_link_where_a_mask_was_is_replaced_by_the_next_run(
    photos: Path, tmp_path: Path, opened: Opened, left_in: LeftIn
) -> None:
    out = tmp_path / "out"
    segment_folder(photos, opened(), out)
    before = left_in(out)
    pipe, link = out / "masks/01.png.png", out / "masks/02.png.png"
    pipe.unlink()
    os.mkfifo(pipe)
    link.rename(tmp_path / "mask.png")
    link.symlink_to(tmp_path / "mask.png")
    report = segment_folder(photos, opened(), out)
    assert report.run.effort.segmented == 2
    assert left_in(out) == before
    assert not link.is_symlink()


# --- the files that a run keeps for itself ---


def _symlink(path: Path, target: Path) -> None:
    path.symlink_to(target)


def _dangling(path: Path, target: Path) -> None:
    path.symlink_to(target.with_name("nowhere"))


def _hard_link(path: Path, target: Path) -> None:
    path.hardlink_to(target)


def _pipe(path: Path, target: Path) -> None:
    os.mkfifo(path)


def _folder(path: Path, target: Path) -> None:
    path.mkdir()


def _socket(path: Path, target: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        "journal.sqlite",
        "journal.sqlite-wal",
        "journal.sqlite-shm",
        "journal.sqlite-journal",
    ],
)
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_symlink, "a link, and the run keeps"),
        (_dangling, "a link, and the run keeps"),
        (_hard_link, r"has 2 names \(hard links\)"),
        (_pipe, "a named pipe, and the run keeps"),
        (_folder, "a folder, and the run keeps"),
        (_socket, "a socket, and the run keeps"),
    ],
)
def test_own_files_of_a_run_that_are_something_else_are_refused(
    photos: Path,
    tmp_path: Path,
    opened: Opened,
    name: str,
    make: Callable[[Path, Path], None],
    message: str,
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    make(tmp_path / "out" / name, precious)
    with pytest.raises(OutputError, match=rf"out/{name}: .*{message}"):
        segment_folder(photos, opened(), tmp_path / "out")
    assert precious.read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "out/masks").exists()


def test_lock_file_that_holds_something_else_is_not_overwritten(
    photos: Path, tmp_path: Path, opened: Opened
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.lock").write_bytes(b"\xff\0 of another program")
    with pytest.raises(OutputError, match=r"\.lock: not the lock of a run"):
        segment_folder(photos, opened(), tmp_path / "out")
    assert (tmp_path / "out/.lock").read_bytes() == b"\xff\0 of another program"


# --- what killed runs leave ---


def test_lock_that_is_replaced_before_it_is_held_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / ".lock"

    def replace_then_hold(handle: int, kind: int) -> None:
        lock.rename(tmp_path / "old")
        lock.touch()
        flock(handle, kind)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", replace_then_hold)
    with (
        pytest.raises(OutputError, match=r"\.lock: removed or replaced"),
        locked(tmp_path),
    ):
        pytest.fail("another run could hold the new file")


def test_temporary_files_are_removed_where_they_are_and_links_are_not_followed(
    tmp_path: Path,
) -> None:
    name = ".tmp-a1b2c3d4"
    for folder in ("out/masks/sub", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(b"half")
    out = tmp_path / "out"
    (out / name).mkdir()
    (out / "masks" / name).symlink_to(tmp_path / "elsewhere")
    (out / "masks/link").symlink_to(tmp_path / "elsewhere")
    (out / "overlays").symlink_to(tmp_path / "elsewhere")
    remove_temporaries(out, ["masks", "overlays", "cutouts"])
    assert not (out / "masks/sub" / name).exists()
    assert (tmp_path / "elsewhere" / name).read_bytes() == b"half"
    assert (out / name).is_dir()
    assert (out / "masks" / name).is_symlink()

"""Decoding in other processes, with decoders that crash or hang when a photo's name says so."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flowerseg.arrays import Rgb
from flowerseg.errors import FlowersegError, ImageError
from flowerseg.images import decode_rgb, encode_png
from flowerseg.isolate import IsolatedDecoder, opened_decoder

PLANTED = """
import ctypes, os, signal, sys, time
from flowerseg.images import decode_rgb
from flowerseg.isolate import serve

def decode(data, name, max_pixels):
    word = name.rpartition(" ")[2]
    if word == "abort": os.abort()
    if word == "segfault": ctypes.string_at(0)
    if word == "killed": os.kill(os.getpid(), signal.SIGKILL)
    if word == "exit": os._exit(3)
    if word == "sleep": time.sleep(1000)
    if word == "spin":
        while True: pass
    if word == "print": print("to stdout", flush=True); print("to stderr", file=sys.stderr)
    return decode_rgb(data, name, max_pixels)

serve(decode)
"""


def _photo(seed: int = 0, size_hw: tuple[int, int] = (7, 11)) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


@pytest.fixture
def planted() -> Iterator[IsolatedDecoder]:
    """Faults are planted by the last word of a photo's name."""
    with IsolatedDecoder(2.0, command=[sys.executable, "-c", PLANTED]) as decode:
        yield decode


def _children() -> set[int]:
    path = Path(f"/proc/{os.getpid()}/task")
    return {
        int(child) for task in path.iterdir() for child in (task / "children").read_text().split()
    }


def _has_ended(child: int) -> bool:
    """Once it has, which may take a while."""
    ready, _, _ = select.select([os.pidfd_open(child)], [], [], 30)
    return bool(ready)


def test_pixels_and_errors_are_those_of_this_process(tmp_path: Path) -> None:
    large = _photo(1, (700, 900))  # more than a pipe holds
    name = os.fsdecode(b"ros\xe9 \n.jpg")
    with opened_decoder(max_pixels=700 * 900, isolate_s=30) as decode:
        for rgb in (_photo(), large, _photo(2)):
            np.testing.assert_array_equal(decode(encode_png(rgb), "a"), rgb)
        for data in (b"", b"no photo", encode_png(large)[:-9], encode_png(_photo(3, (701, 900)))):
            with pytest.raises(ImageError) as here:
                decode_rgb(data, name, 700 * 900)
            with pytest.raises(ImageError) as there:
                decode(data, name)
            assert str(there.value) == str(here.value)
        rgb = decode(encode_png(_photo()), "a")
        assert rgb.flags.writeable
        assert rgb.flags.owndata


def test_without_isolation_there_is_no_process() -> None:
    before = _children()
    with opened_decoder(max_pixels=77) as decode:
        np.testing.assert_array_equal(decode(encode_png(_photo()), "a"), _photo())
        with pytest.raises(ImageError, match="more than 77"):
            decode(encode_png(_photo(0, (6, 13))), "a")
        assert _children() == before


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("abort", r"it crashes the decoder \(SIGABRT\)"),
        ("segfault", r"it crashes the decoder \(SIGSEGV\)"),
        ("exit", r"it crashes the decoder \(exit code 3\)"),
        ("killed", r"its decoding was killed \(SIGKILL\): memory"),
        ("sleep", r"decoding took longer than 2 s, and was given up"),
        ("spin", r"decoding took longer than 2 s, and was given up"),
    ],
)
def test_photo_that_crashes_or_hangs_the_decoder_is_named_and_the_next_is_decoded(
    planted: IsolatedDecoder, fault: str, reason: str
) -> None:
    data = encode_png(_photo())
    with pytest.raises(ImageError, match=f"^a photo to {fault}: {reason}"):
        planted(data, f"a photo to {fault}")
    np.testing.assert_array_equal(planted(data, "a good one"), _photo())


def test_libraries_that_print_do_not_disturb_the_pixels(planted: IsolatedDecoder) -> None:
    for _ in range(2):
        np.testing.assert_array_equal(planted(encode_png(_photo()), "print"), _photo())


def test_process_that_died_while_it_was_idle_is_no_fault_of_the_next_photo(
    planted: IsolatedDecoder,
) -> None:
    before = _children()
    planted(encode_png(_photo()), "a")
    (child,) = _children() - before
    os.kill(child, signal.SIGKILL)
    assert _has_ended(child)
    large = _photo(1, (300, 300))
    np.testing.assert_array_equal(planted(encode_png(large), "b"), large)


def test_each_thread_gets_the_pixels_of_its_own_photo(planted: IsolatedDecoder) -> None:
    before = _children()
    words = ["good", "abort", "good", "good", "segfault", "good"] * 3

    def outcome(number: int) -> bool:
        try:
            pixels = planted(encode_png(_photo(number)), f"{number} {words[number]}")
        except ImageError as error:
            return words[number] != "good" and str(error).startswith(f"{number} ")
        return words[number] == "good" and np.array_equal(pixels, _photo(number))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(outcome, range(len(words))))
    assert len(_children() - before) <= 4


def test_processes_end_with_the_decoder_and_are_not_reached_by_ctrl_c() -> None:
    before = _children()
    with opened_decoder(isolate_s=30) as decode:
        decode(encode_png(_photo()), "a")
        (child,) = _children() - before
        assert os.getpgid(child) != os.getpgid(0)
    assert _children() == before


def test_process_that_hangs_does_not_outlive_one_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    program = (
        "import sys\n"
        "from flowerseg.isolate import IsolatedDecoder\n"
        f"command = [sys.executable, {str(tmp_path / 'planted.py')!r}]\n"
        "decode = IsolatedDecoder(1.0, command=command)\n"
        "try: decode(b'', 'empty')\n"
        "except Exception: print(decode._idle[0]._process.pid, flush=True)\n"
        "decode(b'', 'spin')\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        owner.kill()
    assert _has_ended(child)


def test_process_that_does_not_start_is_an_error_and_not_the_photos() -> None:
    decode = IsolatedDecoder(1.0, command=[sys.executable, "-c", "raise SystemExit(4)"])
    with pytest.raises(FlowersegError, match=r"ended with code 4 instead of decoding") as raised:
        decode(encode_png(_photo()), "a")
    assert not isinstance(raised.value, ImageError)

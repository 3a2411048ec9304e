"""File names as they are printed: no byte of a name reaches the terminal as a command."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerseg.markdown import markdown_code_block, markdown_line, markdown_text
from flowerseg.printable import printable, printable_lines

names = st.binary(min_size=1, max_size=60).map(lambda name: name.replace(b"\0", b"\x1b"))


def _steers(text: str) -> bool:
    """Independent of the module's own table: by the Unicode database that comes with Python."""
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return any(
        unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs")
        or unicodedata.bidirectional(character) in bidi
        for character in text
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("rose.jpg", "rose.jpg"),
        ("two words, Blüte 花 🌹.jpg", "two words, Blüte 花 🌹.jpg"),
        ("می‌خواهم.jpg", "می‌خواهم.jpg"),  # its joiner is part of the word
        ("a\nError: all lost", r"a\nError: all lost"),
        ("\x1b]0;title\x07\x1b[31mred", r"\x1b]0;title\x07\x1b[31mred"),
        ("\t\r\x7f\x9b", r"\t\r\x7f\x9b"),
        ("\u202egpj.exe\u2069\u2028\u2029", r"\u202egpj.exe\u2069\u2028\u2029"),
        (os.fsdecode(b"ros\xe9"), r"ros\xe9"),
        ("\ud800", r"\ud800"),
        (r"back\slash", r"back\slash"),
    ],
)
def test_characters_that_steer_a_terminal_are_spelled_out(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(names.map(os.fsdecode) | st.text())
def test_no_name_steers_a_terminal_and_escaping_twice_changes_nothing(name: str) -> None:
    shown = printable(name)
    assert not _steers(shown)
    assert printable(shown) == shown
    shown.encode()  # no surrogate is left


def test_line_breaks_of_a_text_stay() -> None:
    assert printable_lines("first\nsec\x1bond\n") == "first\nsec\\x1bond\n"


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("flower_mobilenet_v3.pt", "flower_mobilenet_v3.pt"),
        ("_a_|b*c`d<e>[f](g)&amp;\\$h~", r"\_a\_\|b\*c\`d\<e\>\[f\](g)\&amp;\\\$h\~"),
        ("a\nb", r"a\\nb"),
        ("0.5", "0.5"),
    ],
)
def test_text_in_markdown_stays_text(text: str, markdown: str) -> None:
    assert markdown_text(text) == markdown


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("# head", r"\# head"),
        ("- item", r"\- item"),
        ("-", r"\-"),
        ("12. item", r"12\. item"),
        ("5.0 ms", "5.0 ms"),
        ("---", r"\---"),
        ("#tag", "#tag"),
    ],
)
def test_line_in_markdown_is_no_heading_and_no_item(text: str, markdown: str) -> None:
    assert markdown_line(text) == markdown


def test_code_block_is_not_ended_by_its_text() -> None:
    assert markdown_code_block("a ```\n```") == ["````", "a ```\n```", "````"]

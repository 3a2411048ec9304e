"""Text in Markdown files that stays text: names of files and words of other programs.

Escapes as in the GitHub Flavored Markdown specification, sections 6.1 (backslash escapes) and 4.10
(tables).
"""

import re
from collections.abc import Sequence

from flowerseg.printable import printable, printable_lines

# `_` within a word is no markup, and names are full of it.
_MARKUP = re.compile(r"[\\`*\[\]<>|&$~]|(?<![^\W_])_|_(?![^\W_])")
# What makes a heading, a list or a rule of a line, alone or before a space.
_AT_THE_START = re.compile(r"^(\d{0,9})([#+\-=.)])(?=[#\-=]*(?:\s|$))")
_BACKTICKS = re.compile("`+")


def markdown_text(text: str) -> str:
    """Text within a line that Markdown shows as it is, in a table's cell too."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def markdown_line(text: str) -> str:
    """The same for text that a line or the item of a list begins with."""
    return _AT_THE_START.sub(r"\1\\\2", markdown_text(text))


def markdown_code_block(text: str) -> list[str]:
    """The lines of a code block."""
    shown = printable_lines(text)
    fence = "`" * max(3, 1 + max(map(len, _BACKTICKS.findall(shown)), default=0))
    return [fence, shown, fence]


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a table, of cells that are Markdown already."""
    return f"| {' | '.join(cells)} |"

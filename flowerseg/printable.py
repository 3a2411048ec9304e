r"""Text that may hold file names, as it is shown to people: it cannot steer the terminal.

A file name may hold every byte but NUL and the slash: line breaks that look like another message,
escape sequences that clear the screen or paint it, marks that turn the order of letters round.
Everything that is printed goes through `printable` where it is printed, not where it is written.
"""

import re

# Control characters (Cc), line and paragraph separators (Zl, Zp), the marks with the property
# Bidi_Control in Unicode 15, and surrogates, in which Python keeps bytes that are no UTF-8.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SHORT = {"\t": r"\t", "\n": r"\n", "\r": r"\r"}
_ESCAPED_BYTES = range(0xDC80, 0xDD00)  # what `os.fsdecode` makes of the bytes 0x80 to 0xFF


def printable(text: str) -> str:
    r"""One line in which each character that could steer a terminal is spelled out: `\n`, `\x1b`.

    A byte that is no UTF-8 becomes `\xNN`, as Python writes it. Text that was printable, a
    backslash too, stays as it is, so applying this twice is the same as once.
    """
    return _UNPRINTABLE.sub(_spelled, text)


def printable_lines(text: str) -> str:
    """The same for a text whose line breaks are ours: they stay."""
    return "\n".join(map(printable, text.split("\n")))


def _spelled(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

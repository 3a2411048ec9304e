"""The examination in a process of its own: a library that crashes or hangs takes only that along.

What libraries print on the way, and what drivers complain of, stays out of the report too.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

from flowerseg.doctor import PARTS, Finding, Part

LONGEST_S = 180.0  # for all parts; torch's libraries alone may take a minute from a cold disk


def examine_apart(
    parts: Sequence[Part] = PARTS,
    command: Sequence[str] = (sys.executable, "-m", "flowerseg.doctor"),
    longest_s: float = LONGEST_S,
) -> list[Finding]:
    """Try every part as `examine` does; where one ends the process, go on behind it."""
    findings: list[Finding] = []
    while len(findings) < len(parts):
        answers, end = _ran([*command, str(len(findings))], longest_s)
        findings += [Finding(**json.loads(line)) for line in answers.splitlines()]
        if len(findings) < len(parts):
            findings.append(parts[len(findings)].broken(end))
    return findings


def _ran(words: Sequence[str], longest_s: float) -> tuple[bytes, str]:
    """What the process wrote, and how it came to its end."""
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=longest_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        return error.stdout or b"", f"no answer within {longest_s:g} s"
    return done.stdout, _end(done.returncode, done.stderr)


def _end(code: int, stderr: bytes) -> str:
    if code < 0:
        return f"crashes the process ({signal.Signals(-code).name})"
    said = stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return ": ".join([f"ends the process with exit code {code}", *said])

"""`python -m flowerseg.doctor N`: findings from the N-th part on, a line of JSON each."""

import dataclasses
import json
import os
import sys

from flowerseg.doctor import PARTS, tried


def main(first: int) -> None:
    """Try the parts from `first` on; stdout gets the findings and nothing else."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # libraries print too, and what they print is no answer
    for part in PARTS[first:]:
        print(json.dumps(dataclasses.asdict(tried(part))), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))

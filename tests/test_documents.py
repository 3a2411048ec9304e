"""What the documents name is there."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_test_file_that_the_table_names_exists() -> None:
    named = re.findall(r"`([\w/]*test_\w+\.py)`", (TESTS / "README.md").read_text())
    assert len(named) > 40
    assert [name for name in named if not (TESTS / name).is_file()] == []

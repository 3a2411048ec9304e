"""What stands in messages."""

import pytest

from flowerseg.errors import some_of


@pytest.mark.parametrize(
    ("names", "text"), [("", ""), ("a", "a"), ("abc", "a, b, c"), ("abcd", "a, b, c, …")]
)
def test_names_beyond_the_first_few_are_only_hinted_at(names: str, text: str) -> None:
    assert some_of(names) == text


def test_few_may_be_another_number() -> None:
    assert some_of(iter("abcdef"), most=5) == "a, b, c, d, e, …"

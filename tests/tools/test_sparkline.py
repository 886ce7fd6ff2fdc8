"""A sparkline has a letter for each value, and the letters rise with the values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from underlay.tools._sparkline import sparkline


def test_a_sparkline_goes_from_zero_to_the_greatest() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline(range(8)) == "▁▂▃▄▅▆▇█"
    assert sparkline([1, 1]) == "██"


def test_a_sparkline_without_unicode_tells_as_many_levels() -> None:
    drawn = sparkline(range(8), plain=True)
    assert drawn.isascii()
    assert len(set(drawn)) == 8


def test_what_is_above_the_top_is_drawn_as_the_top() -> None:
    assert sparkline([50, 250], 100) == "▅█"


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e18)), max_size=60), st.one_of(st.none(), st.just(100.0)))
def test_a_sparkline_has_a_letter_for_each_value(values: list[float | None], top: float | None) -> None:
    drawn = sparkline(values, top)
    assert len(drawn) == len(values)
    assert [letter == " " for letter in drawn] == [value is None for value in values]

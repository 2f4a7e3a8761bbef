"""How long the rest of a recipe takes, by hand."""

from __future__ import annotations

import pytest

from qstep.recipes.forecast import Forecast, duration

HINTS = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 5.0}
AFTER = {"a": frozenset[str](), "b": frozenset({"a"}), "c": frozenset({"b"}), "d": frozenset[str]()}


def test_nothing_is_known_before_a_job_has_ended() -> None:
    assert Forecast(HINTS, AFTER, 1).seconds_left({"a": 3.0}) is None


def test_one_process_does_what_is_left_one_after_another() -> None:
    """a took 30 s instead of 10: b, c and d take 3 * (20 + 30 + 5) = 165 s, of which b has done 6."""
    forecast = Forecast(HINTS, AFTER, 1, {"a": 30.0})
    assert forecast.seconds_left({}) == pytest.approx(165)
    assert forecast.seconds_left({"b": 6.0}) == pytest.approx(159)


def test_several_processes_wait_for_the_longest_chain() -> None:
    """b and c follow each other: 3 * (20 + 30) = 150 s, however many processes there are; d runs beside them."""
    assert Forecast(HINTS, AFTER, 2, {"a": 30.0}).seconds_left({}) == pytest.approx(150)
    assert Forecast(HINTS, AFTER, 8, {"a": 30.0}).seconds_left({"b": 60.0}) == pytest.approx(90)


def test_a_job_that_takes_longer_than_its_hint_takes_no_less_than_nothing() -> None:
    assert Forecast(HINTS, AFTER, 1, {"a": 10.0, "b": 20.0, "c": 30.0}).seconds_left({"d": 50.0}) == 0
    assert Forecast(HINTS, AFTER, 1, dict(HINTS)).seconds_left({}) == 0


def test_all_measured_jobs_set_the_scale() -> None:
    """a and d took 10 + 20 s instead of 10 + 5: the scale is 2, and 2 * (20 + 30) = 100 s are left."""
    assert Forecast(HINTS, AFTER, 1, {"a": 10.0, "d": 20.0}).seconds_left({}) == pytest.approx(100)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (89, "89 s"), (100, "2 min"), (89 * 60, "89 min"), (7800, "2 h 10 min")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text

"""Counts and lists in sentences."""

from qstep.words import counted, listed, shortened


def test_one_and_many() -> None:
    assert [counted(n, "row") for n in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]
    assert [counted(n, "entry", "entries") for n in (1, 7)] == ["1 entry", "7 entries"]
    assert [listed(list("abc"[:n])) for n in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert listed(["a", "b"], "or") == "a or b"


def test_more_than_are_named() -> None:
    assert [shortened(["a", "b"], total) for total in (2, 3)] == ["a, b", "a, b, ..."]

"""A raw row of a published set: typed access to its fields, errors that name them, and its row in qstep's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qstep.data.columns import shown
from qstep.data.jsonl import RowError
from qstep.data.rows import prompt_id
from qstep.types import Prompt, Row


@dataclass(frozen=True)
class LeftOut:
    """The reason why a row, or a part of one such as an alternative step, is not used."""

    reason: str
    what: Literal["row", "part"] = "row"


@dataclass(frozen=True)
class Steps:
    """The steps of a list that are not blank.

    texts: the steps. entries: how many entries the list has. place: for each entry of the list that is a step, the
    index among the steps. So an index that counts blank entries too is counted down.
    """

    texts: list[str]
    entries: int
    place: Mapping[int, int]

    @property
    def blank(self) -> list[LeftOut]:
        """A part that is not used, for each blank entry."""
        return [LeftOut("a blank step", "part")] * (self.entries - len(self.texts))


@dataclass(frozen=True)
class Record:
    """A raw row.

    `path` and `line` are its place. `name` is the prefix of ids made for it, `<set>/<index>`. `source` is the set's
    name.
    """

    path: Path
    line: int
    row: Row
    name: str
    source: str

    def error(self, field: str, problem: str) -> RowError:
        """The error to raise for a field such as `label.steps[2].completions`."""
        return RowError(self.path, self.line, field, problem)

    def field(self, field: str, row: Row | None = None) -> Any:
        """The value of a field of the row, or of an object in it. Raises RowError if it is missing."""
        held = self.row if row is None else row
        name = field.rpartition(".")[2]
        if name not in held:
            raise self.error(field, f"is missing; found {', '.join(held) or 'nothing'}")
        return held[name]

    def text(self, field: str, row: Row | None = None) -> str:
        """A string that is not blank, unchanged."""
        value = self.field(field, row)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, f"is {shown(value)}; it must be a string that is not blank")
        return value

    def answer(self, field: str, row: Row | None = None) -> str:
        """A gold answer: a string that is not blank, or a whole number as a string."""
        value = self.field(field, row)
        return str(value) if type(value) is int else self.text(field, row)

    def mapping(self, field: str, row: Row | None = None) -> Row:
        """An object."""
        value = self.field(field, row)
        if not isinstance(value, dict):
            raise self.error(field, f"is {shown(value)}; it must be an object")
        return value

    def items(self, field: str, row: Row | None = None) -> list[Any]:
        """A list."""
        value = self.field(field, row)
        if not isinstance(value, list):
            raise self.error(field, f"is {shown(value)}; it must be a list")
        return value

    def steps(self, field: str) -> Steps:
        """The steps of a list without surrounding white space. Blank ones are left out.

        Raises RowError for a list without steps, or an entry that is not a string.
        """
        steps = self.items(field)
        for i, step in enumerate(steps):
            if not isinstance(step, str):
                raise self.error(f"{field}[{i}]", f"is {shown(step)}; a step must be a string")
        kept = [i for i, step in enumerate(steps) if step.strip()]
        if not kept:
            raise self.error(field, "is empty; it must contain the steps")
        return Steps([steps[i].strip() for i in kept], len(steps), {i: place for place, i in enumerate(kept)})

    def number(self, field: str, least: int, most: int, row: Row | None = None) -> int:
        """A whole number within limits, which excludes `1.0` and `true`."""
        value = self.field(field, row)
        if type(value) is not int or not least <= value <= most:
            raise self.error(field, f"is {shown(value)}; it must be a whole number from {least} to {most}")
        return value

    def stepwise(
        self,
        prompt: Prompt,
        steps: Sequence[str],
        labels: Sequence[bool | None],
        label_source: str,
        *,
        id: str | None = None,
        **more: Any,
    ) -> Row:
        """The row in qstep's format, with the entries of `more` that are not None."""
        row: Row = {"id": id or self.name, "problem_id": prompt_id({"prompt": prompt}), "prompt": prompt}
        row |= {"completions": list(steps), "labels": list(labels), "label_source": label_source, "source": self.source}
        return row | {name: value for name, value in more.items() if value is not None}

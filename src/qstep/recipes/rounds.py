"""The rounds of a recipe: stages that are repeated, each time with the outputs of the round before.

    rounds: 3
    start: {policy: base}
    each_round:
      samples: {command: sample, model_name_or_path: "${previous.policy}", first_sample: "${round}00"}
      policy: {command: train dqo, model_name_or_path: "${base}", train_file: "${all.samples}"}

The stage `samples` becomes `samples_1`, `samples_2` and `samples_3`. In their options `${round}` is the number of the
round, `${samples}` the output of this round, `${previous.policy}` that of the round before, and `${all.samples}` the
list of the outputs up to this round. `start` names the stage whose output `${previous.policy}` is in round 1. In the
other stages, `${policy}` is the output of the last round, and `${all.policy}` the list of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qstep.recipes.references import REFERENCE


@dataclass(frozen=True)
class Rounds:
    """The repeated stages by name, how often they are repeated, and the stages that stand before round 1."""

    names: frozenset[str]
    number: int
    start: Mapping[str, str]

    def unrolled(self, name: str, options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """The stages that a stage becomes, by name. It stays as it is if it is not repeated.

        Raises ValueError, naming the option, for a reference that has no meaning in its place.
        """
        if name not in self.names:
            yield name, self._filled(options, None)
            return
        for number in range(1, self.number + 1):
            yield in_round(name, number), self._filled(options, number)

    def last(self, name: str) -> str:
        """The stage of that name. Of a repeated one it is that of the last round."""
        return in_round(name, self.number) if name in self.names else name

    def _filled(self, options: Mapping[str, Any], number: int | None) -> dict[str, Any]:
        found = {}
        for option, value in options.items():
            try:
                found[option] = _each_text(value, lambda text: self._text(text, number))
            except ValueError as error:
                raise ValueError(f"option {option!r}: {error}") from None
        return found

    def _text(self, text: str, number: int | None) -> Any:
        """A text with its references to rounds replaced by those to stages. `number` is None outside of the rounds."""
        lists = [name for name in REFERENCE.findall(text) if name.startswith("all.")]
        if not lists:
            whole = number is not None and text == "${round}"
            return number if whole else REFERENCE.sub(lambda match: self._reference(match[1], number), text)
        if len({*lists}) > 1:
            raise ValueError(f"{text!r} refers to several lists: write a list with a text for each")
        one = lists[0].removeprefix("all.")
        self._check_repeated(one, lists[0])
        last = self.number if number is None else number
        each = (text.replace(f"${{{lists[0]}}}", f"${{{in_round(one, i)}}}") for i in range(1, last + 1))
        return [self._text(item, number) for item in each]

    def _reference(self, name: str, number: int | None) -> str:
        kind, dot, stage = name.partition(".")
        if not dot or kind != "previous":
            if name == "round" and number is not None:
                return str(number)
            return f"${{{in_round(name, number or self.number)}}}" if name in self.names else f"${{{name}}}"
        if number is None:
            raise ValueError(f"${{{name}}} has a meaning in the stages of `each_round` only")
        self._check_repeated(stage, name)
        if number > 1:
            return f"${{{in_round(stage, number - 1)}}}"
        if stage not in self.start:
            problem = "has no value in round 1: name the stage that comes before it"
            raise ValueError(f"${{{name}}} {problem}, as `start: {{{stage}: STAGE}}`")
        return f"${{{self.start[stage]}}}"

    def _check_repeated(self, stage: str, reference: str) -> None:
        if stage not in self.names:
            raise ValueError(f"${{{reference}}} needs a stage of `each_round`, and {stage!r} is none")


def in_round(name: str, number: int) -> str:
    """The name of a repeated stage in one round."""
    return f"{name}_{number}"


def _each_text(value: Any, change: Callable[[str], Any]) -> Any:
    """The value with each text changed. A list in the place of a list's item is spliced into it."""
    if isinstance(value, Mapping):
        return {key: _each_text(item, change) for key, item in value.items()}
    if not isinstance(value, list):
        return change(value) if isinstance(value, str) else value
    found: list[Any] = []
    for item in value:
        changed = _each_text(item, change)
        found.extend(changed if isinstance(changed, list) and isinstance(item, str) else [changed])
    return found

"""From a request's bytes to token sequences. The size is checked before parsing, then the types, then the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import orjson

from qstep.data import first_cut, is_conversation, plain_prompt
from qstep.scoring.formats import ContractFormat
from qstep.scoring.windows import encode_windows, longest
from qstep.words import counted

_FIELDS = ("model", "input", "task", "use_activation", "encoding_format")
_MOST_SEQUENCES = 4096
_SHOWN = 100
"""Maximum number of characters that a refusal quotes from the request."""


class Refused(Exception):
    """A request that is not answered: the HTTP status, and a sentence that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """One input: sequences of token ids, and for each the numbers of the separators whose Qs are wanted.

    `wanted` is None for all of them. There are several sequences if a response is read in windows. `warning` says how
    the prompt differs from those that the scorer was trained on.
    """

    sequences: list[list[int]]
    wanted: list[list[int]] | None = None
    warning: str | None = None

    @property
    def tokens(self) -> int:
        return sum(map(len, self.sequences))

    def rows(self, q_values: Sequence[Sequence[float]]) -> list[list[float]]:
        """The rows of a reply, given the Q of every separator of each sequence."""
        if self.wanted is None:
            return [[q] for of_sequence in q_values for q in of_sequence]
        return [[q[i]] for q, wanted in zip(q_values, self.wanted, strict=True) for i in wanted]


class RequestReader:
    """Reads the bodies of `/pooling` for one scorer. Only one thread may use it, because of its tokenizer.

    `windows` says whether a response longer than the scorer's `max_length` is read in windows.
    """

    def __init__(
        self, format: ContractFormat, vocabulary: int, model: str, most_tokens: int, *, windows: bool = False
    ) -> None:
        self.format, self.contract, self.windows = format, format.contract, windows
        self.vocabulary = vocabulary
        self.model, self.most_tokens = model, most_tokens

    def read(self, body: bytes) -> list[Asked]:
        """The sequences that a request asks for. Raises Refused."""
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Refused(400, f"the body is no JSON: {_clipped(str(error))}") from None
        if not isinstance(request, dict):
            raise Refused(400, f"the body must be an object, not {_kind(request)}")
        self._check_fields(request)
        sequences = self._sequences(request["input"])
        self._check_tokens(sum(asked.tokens for asked in sequences))
        return sequences

    def _check_tokens(self, tokens: int) -> None:
        if tokens > self.most_tokens:
            raise Refused(
                400,
                f"`input` has {counted(tokens, 'token')} and this server takes {self.most_tokens} at once: send less",
            )

    def _check_fields(self, request: Mapping[str, Any]) -> None:
        for name in request:
            if name not in _FIELDS:
                raise Refused(400, f"unknown field {_quoted(name)}; known are {', '.join(_FIELDS)}")
        model = request.get("model", self.model)
        if not isinstance(model, str):
            raise Refused(400, f"`model` must be a string, not {_kind(model)}")
        if model != self.model:
            raise Refused(404, f"no model {_quoted(model)} here; GET /v1/models names the one that is served")
        if "input" not in request:
            raise Refused(400, "`input` is missing")
        for name, known in (("task", (None, "token_classify")), ("encoding_format", (None, "float"))):
            if request.get(name) not in known:
                raise Refused(400, f"`{name}` must be {known[1]!r}, not {_quoted(request[name])}")
        if not isinstance(request.get("use_activation"), bool | None):
            raise Refused(400, f"`use_activation` must be true or false, not {_kind(request['use_activation'])}")

    def _sequences(self, sent: Any) -> list[Asked]:
        if isinstance(sent, str):
            raise Refused(400, "`input` is a string: send token ids, or an object with `prompt` and `steps`")
        if not isinstance(sent, list | dict):
            raise Refused(400, f"`input` must be a list of token ids or a list of such lists, not {_kind(sent)}")
        if not sent:
            raise Refused(400, "`input` is empty")
        if isinstance(sent, dict) or not isinstance(sent[0], list | dict):
            return [self._asked(sent, "input")]
        if len(sent) > _MOST_SEQUENCES:
            raise Refused(400, f"`input` has {len(sent)} sequences and this server takes {_MOST_SEQUENCES} at once")
        return [self._asked(item, f"input[{i}]") for i, item in enumerate(sent)]

    def _asked(self, item: Any, where: str) -> Asked:
        return self._encoded(item, where) if isinstance(item, dict) else Asked([self._checked(item, where)])

    def _checked(self, ids: Any, where: str) -> list[int]:
        """The token ids unchanged, if the model can take them. Raises Refused otherwise."""
        if not isinstance(ids, list):
            raise Refused(400, f"`{where}` must be a list of token ids, not {_kind(ids)}")
        if not ids:
            raise Refused(400, f"`{where}` is empty")
        if len(ids) > self.contract.max_length:
            raise Refused(
                400,
                f"`{where}` has {counted(len(ids), 'token')}, and the model's max_length is {self.contract.max_length}",
            )
        for i, token in enumerate(ids):
            if type(token) is not int:  # True is an int as well
                raise Refused(400, f"`{where}[{i}]` must be a token id, not {_kind(token)}")
            if not 0 <= token < self.vocabulary:
                raise Refused(400, f"`{where}[{i}]` is {token}: token ids go from 0 to {self.vocabulary - 1}")
        return ids

    def _encoded(self, item: Mapping[str, Any], where: str) -> Asked:
        """A prompt and steps, encoded by the scorer's contract. The steps' Qs are wanted."""
        if item.keys() != {"prompt", "steps"}:
            raise Refused(400, f"`{where}` must have `prompt` and `steps`, and nothing else")
        prompt, steps = item["prompt"], item["steps"]
        try:
            prompt = plain_prompt(prompt)
        except ValueError as error:
            raise Refused(400, f"`{where}.prompt` {error}") from None
        if not _is_prompt(prompt):
            raise Refused(400, f"`{where}.prompt` must be a string or a list of messages with `role` and `content`")
        if not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
            raise Refused(400, f"`{where}.steps` must be a list of strings")
        if blank := [i for i, step in enumerate(steps) if not step.strip()]:
            raise Refused(400, f"`{where}.steps[{blank[0]}]` is blank: leave it out")
        separator = self.contract.step_separator
        cut = first_cut(steps, separator, split_by_it=True)
        if cut is not None:
            i = steps.index(cut)
            raise Refused(400, f"`{where}.steps[{i}]` contains the separator {separator!r}: it is several steps")
        try:
            encoded = self.format.encode(prompt, steps)
            if self.windows and longest(encoded) > self.contract.max_length:
                encoded = encode_windows(self.format, prompt, steps) or encoded
        except Exception as error:  # a chat template may raise anything, and tokenizers raises only Exception
            raise Refused(400, f"`{where}` cannot be tokenised for this model: {_clipped(str(error))}") from None
        self._check_tokens(sum(len(shared) + len(ids) for shared, ids, _ in encoded))
        sequences = [self._checked([*shared, *ids], where) for shared, ids, _ in encoded]
        wanted = [
            self._numbers(sequence, {len(shared) + end for end in ends})
            for sequence, (shared, _, ends) in zip(sequences, encoded, strict=True)
        ]
        difference = self.contract.unlike_training(prompt)
        return Asked(sequences, wanted, None if difference is None else f"`{where}.prompt` {difference}")

    def _numbers(self, sequence: Sequence[int], steps_at: Set[int]) -> list[int]:
        """The numbers of the separators at these places of a sequence, among all of its separators."""
        separators = [i for i, token in enumerate(sequence) if token == self.contract.separator_token_id]
        return [number for number, at in enumerate(separators) if at in steps_at]


def _is_prompt(value: Any) -> bool:
    return isinstance(value, str) or is_conversation(value)


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a fraction",
        bool: "a boolean",
    }
    return "null" if value is None else names[type(value)]


def _quoted(value: Any) -> str:
    return _clipped(repr(value)) if isinstance(value, str) else _kind(value)


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

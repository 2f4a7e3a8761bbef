"""Scorers with a step contract: rows become token ids one way, whoever computes the Qs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from qstep.data import bytes_growth, encode_prompt, encode_texts, most_text_tokens
from qstep.models import StepContract, encode_steps
from qstep.scoring.scorer import Scored
from qstep.types import Aggregation, Prompt, Row


class ContractScorer(ABC):
    """What a scorer by a step contract has beside its Qs; `StepScorer` and `EndpointScorer` say where they are from."""

    def __init__(self, contract: StepContract, tokenizer: PreTrainedTokenizerBase) -> None:
        self.contract = contract
        self.tokenizer = tokenizer
        self._growth = bytes_growth(tokenizer)
        self._prompt: tuple[Prompt, int] | None = None

    @property
    def step_separator(self) -> str:
        return self.contract.step_separator

    @property
    def max_length(self) -> int:
        return self.contract.max_length

    @property
    def aggregation(self) -> Aggregation:
        return self.contract.aggregation

    @property
    def objective(self) -> str:
        return self.contract.objective

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q-value of each step.

        Raises ValueError if prompt and steps are longer than the contract's `max_length`; nothing is truncated.
        """
        [[(_, q_values)]] = self.score_rows([{"id": "score()", "prompt": prompt, "completions": list(steps)}])
        return q_values

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int = 8192) -> Iterator[list[Scored]]:
        """Scores rows with a `prompt` and step texts in `completions`, in order, with memory flat.

        Yields those computed together: as many as have `max_tokens` tokens in all, and those of the last row, a prompt
        counting once for its rows, and so do equal responses to it. Neighbours that share a prompt cost least.

        Raises ValueError, naming the row, if one is longer than the contract's `max_length`; nothing is truncated.
        """
        return self._score_batches(self._batches(rows, max_tokens))

    @abstractmethod
    def _score_batches(self, batches: Iterator[Pending]) -> Iterator[list[Scored]]:
        """The rows of each batch, in order, with their Qs."""

    def _batches(self, rows: Iterable[Row], max_tokens: int) -> Iterator[Pending]:
        batch = Pending()
        for row in rows:
            batch.add(row, self.tokenizer, self.contract)
            if batch.tokens >= max_tokens or len(batch.rows) >= max_tokens:
                yield batch
                batch = Pending()
        if batch.rows:
            yield batch

    def fits(self, row: Row) -> bool:
        """Whether a row, as `score_rows` takes it, is within the contract's `max_length`."""
        if self._prompt is None or self._prompt[0] != row["prompt"]:
            self._prompt = row["prompt"], len(encode_prompt(self.tokenizer, row["prompt"]))
        steps = row["completions"]
        room = self.max_length - self._prompt[1] - len(steps)  # a separator each
        if self._growth is not None:
            text = "".join(steps)
            size = len(text.encode())
            if most_text_tokens(size, size - len(text), len(steps), self._growth) <= room:
                return True
        return sum(map(len, encode_texts(self.tokenizer, steps))) <= room


@dataclass
class Group:
    """A prompt's token ids and, of each different response to it, its token ids and where its separators are."""

    prompt_ids: list[int]
    responses: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)


@dataclass
class Pending:
    """Rows to be computed together: different prompts, of each its different responses, and which of them a row is."""

    groups: dict[str, Group] = field(default_factory=dict)
    rows: list[tuple[Row, tuple[str, str]]] = field(default_factory=list)
    tokens: int = 0

    def add(self, row: Row, tokenizer: PreTrainedTokenizerBase, contract: StepContract) -> None:
        prompt, response = repr(row["prompt"]), repr(row["completions"])
        group = self.groups.get(prompt)
        if group is None or response not in group.responses:
            prompt_ids, ids, ends = encode_steps(tokenizer, contract, row["prompt"], row["completions"])
            contract.check_length(len(prompt_ids) + len(ids), f"row {row.get('id')!r}")
            if group is None:
                group = self.groups[prompt] = Group(prompt_ids)
                self.tokens += len(prompt_ids)
            group.responses[response] = ids, ends
            self.tokens += len(ids)
        self.rows.append((row, (prompt, response)))

    def scored(self, q_values: Sequence[Sequence[float]]) -> list[Scored]:
        """The rows with their Qs, given those of each group's responses, which may be padded."""
        names = [(prompt, response) for prompt, group in self.groups.items() for response in group.responses]
        q_of = dict(zip(names, q_values, strict=True))
        return [(row, [*q_of[name][: len(row["completions"])]]) for row, name in self.rows]

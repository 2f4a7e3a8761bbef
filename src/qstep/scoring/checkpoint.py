"""A scorer that `qstep train` made, on groups: what responses share is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qstep.data import encode_prompt, encode_texts
from qstep.models import Dtype, ScorerModel, StepContract, collate_steps, encode_steps
from qstep.types import Aggregation, Prompt, Row


class StepScorer:
    """A trained scorer ready to use: `score(prompt, steps)`, or `score_rows` for a stream of rows."""

    def __init__(self, model: ScorerModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.contract = StepContract.of(model.config, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._prompt: tuple[Prompt, int] | None = None

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu", dtype: Dtype = "float32") -> StepScorer:
        """Loads a checkpoint written by `qstep train pqm|bce|mse|orm`, or its adapter.

        Raises ValueError where the checkpoint has no step contract, or one that does not fit its tokenizer.
        """
        return cls(ScorerModel.load(path, dtype).to(device), AutoTokenizer.from_pretrained(path))

    @property
    def step_separator(self) -> str:
        return self.contract.step_separator

    @property
    def aggregation(self) -> Aggregation:
        return self.contract.aggregation

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q-value of each step.

        Raises ValueError if prompt and steps are longer than the contract's `max_length`; nothing is truncated.
        """
        return next(self.score_rows([{"id": "score()", "prompt": prompt, "completions": list(steps)}]))[1]

    def score_rows(self, rows: Iterable[Row], *, max_tokens: int = 8192) -> Iterator[tuple[Row, list[float]]]:
        """Scores rows with a `prompt` and step texts in `completions`; yields in order, memory flat.

        Rows are computed together while they have no more than `max_tokens` tokens in all, a prompt counting once for
        its rows, and so do equal responses to it: neighbours that share a prompt cost least.

        Raises ValueError, naming the row, if one is longer than the contract's `max_length`; nothing is truncated.
        """
        batch = _Pending()
        for row in rows:
            batch.add(row, self.tokenizer, self.contract)
            if batch.tokens >= max_tokens or len(batch.rows) >= max_tokens:
                yield from self._scored(batch)
                batch = _Pending()
        yield from self._scored(batch)

    def fits(self, row: Row) -> bool:
        """Whether a row, as `score_rows` takes it, is within the contract's `max_length`."""
        if self._prompt is None or self._prompt[0] != row["prompt"]:
            self._prompt = row["prompt"], len(encode_prompt(self.tokenizer, row["prompt"]))
        steps, room = row["completions"], self.contract.max_length - self._prompt[1]
        text = "".join(steps)
        size = len(text.encode())
        # A token covers a byte at least, of text that normalisation (NFC) makes at most three times as long where it
        # is not ASCII; so most rows need not be tokenised to know that they are short enough.
        if size + 4 * (size - len(text)) + 2 * len(steps) <= room:
            return True
        return sum(len(ids) + 1 for ids in encode_texts(self.tokenizer, steps)) <= room

    @torch.inference_mode()
    def _scored(self, pending: _Pending) -> Iterator[tuple[Row, list[float]]]:
        groups = pending.groups.values()
        encoded = [response for group in groups for response in group.responses.values()]
        if not encoded:
            return
        batch = collate_steps(
            [group.prompt_ids for group in groups],
            [[ids for ids, _ in group.responses.values()] for group in groups],
            [ends for _, ends in encoded],
        )
        q_values = self.model({name: tensor.to(self.model.device) for name, tensor in batch.items()}).cpu().tolist()
        first_of = dict(zip(pending.groups, _starts([len(group.responses) for group in groups]), strict=True))
        for row, group, place in pending.rows:
            index = first_of[group] + place
            yield row, q_values[index][: len(encoded[index][1])]


@dataclass
class _Group:
    prompt_ids: list[int]
    responses: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)


@dataclass
class _Pending:
    """Rows to be computed together: different prompts, of each its different responses, and where each row's is."""

    groups: dict[str, _Group] = field(default_factory=dict)
    rows: list[tuple[Row, str, int]] = field(default_factory=list)
    tokens: int = 0

    def add(self, row: Row, tokenizer: PreTrainedTokenizerBase, contract: StepContract) -> None:
        name, text = repr(row["prompt"]), repr(row["completions"])
        group = self.groups.get(name)
        if group is None or text not in group.places:
            prompt_ids, ids, ends = encode_steps(
                tokenizer, contract, row["prompt"], row["completions"], where=f"row {row.get('id')!r}"
            )
            if group is None:
                group = self.groups[name] = _Group(prompt_ids)
                self.tokens += len(prompt_ids)
            group.places[text] = len(group.responses)
            group.responses[text] = ids, ends
            self.tokens += len(ids)
        self.rows.append((row, name, group.places[text]))


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts[:-1]

"""A scorer that `qstep train` made, on groups: what responses share is computed once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from qstep.data import bytes_growth, encode_prompt, encode_texts, most_text_tokens
from qstep.models import ScorerModel, StepContract, collate_steps, encode_steps
from qstep.scoring.scorer import Scored
from qstep.types import Aggregation, Dtype, Prompt, Row


class StepScorer:
    """A trained scorer ready to use: `score(prompt, steps)`, or `score_rows` for a stream of rows."""

    def __init__(self, model: ScorerModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.contract = StepContract.of(model.config, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._growth = bytes_growth(tokenizer)
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

        Yields the rows of a forward pass: as many as have `max_tokens` tokens in all, and those of the last row, a
        prompt counting once for its rows, and so do equal responses to it. Neighbours that share a prompt cost least.

        Raises ValueError, naming the row, if one is longer than the contract's `max_length`; nothing is truncated.
        """
        batch = _Pending()
        for row in rows:
            batch.add(row, self.tokenizer, self.contract)
            if batch.tokens >= max_tokens or len(batch.rows) >= max_tokens:
                yield self._scored(batch)
                batch = _Pending()
        if batch.rows:
            yield self._scored(batch)

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

    @torch.inference_mode()
    def _scored(self, pending: _Pending) -> list[Scored]:
        groups = pending.groups.values()
        batch = collate_steps(
            [group.prompt_ids for group in groups],
            [[ids for ids, _ in group.responses.values()] for group in groups],
            [ends for group in groups for _, ends in group.responses.values()],
        )
        q_values = self.model({name: tensor.to(self.model.device) for name, tensor in batch.items()}).cpu().tolist()
        names = [(prompt, response) for prompt, group in pending.groups.items() for response in group.responses]
        q_of = dict(zip(names, q_values, strict=True))
        return [(row, q_of[name][: len(row["completions"])]) for row, name in pending.rows]


@dataclass
class _Group:
    prompt_ids: list[int]
    responses: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)


@dataclass
class _Pending:
    """Rows to be computed together: different prompts, of each its different responses, and which of them a row is."""

    groups: dict[str, _Group] = field(default_factory=dict)
    rows: list[tuple[Row, tuple[str, str]]] = field(default_factory=list)
    tokens: int = 0

    def add(self, row: Row, tokenizer: PreTrainedTokenizerBase, contract: StepContract) -> None:
        prompt, response = repr(row["prompt"]), repr(row["completions"])
        group = self.groups.get(prompt)
        if group is None or response not in group.responses:
            prompt_ids, ids, ends = encode_steps(tokenizer, contract, row["prompt"], row["completions"])
            contract.check_length(len(prompt_ids) + len(ids), f"row {row.get('id')!r}")
            if group is None:
                group = self.groups[prompt] = _Group(prompt_ids)
                self.tokens += len(prompt_ids)
            group.responses[response] = ids, ends
            self.tokens += len(ids)
        self.rows.append((row, (prompt, response)))

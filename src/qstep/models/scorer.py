"""The step scorer: a plain `AutoModelForTokenClassification` and the step contract that travels with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from qstep.data import encode_prompt, encode_texts
from qstep.models.forward import Batch, collate_groups, response_hidden
from qstep.types import Aggregation, Prompt, Row

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class StepContract:
    """How a response is cut, tokenised and read by a scorer; stored in its `config.json` under `qstep`.

    Each step's text is tokenised on its own, as text (never as special tokens), and followed by the separator
    token, inserted by id; the scorer's output at that token is the step's Q-value (a logit, with Q = 0 for the
    question). Training, scoring and search all go through `encode_steps`, so they cannot disagree.
    """

    step_separator: str
    separator_token_id: int
    separator_token: str
    max_length: int
    aggregation: Aggregation
    objective: str
    chat_template_sha256: str
    version: int = 1

    @classmethod
    def create(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        step_separator: str,
        separator_token: str,
        max_length: int,
        aggregation: Aggregation,
        objective: str,
    ) -> StepContract:
        """Raises ValueError if `separator_token` is not exactly one token of the tokenizer."""
        ids = tokenizer(separator_token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"The step separator {separator_token!r} is {len(ids)} tokens for this tokenizer: {ids}. "
                "Choose one that is a single token."
            )
        return cls(
            step_separator=step_separator,
            separator_token_id=ids[0],
            separator_token=str(tokenizer.convert_ids_to_tokens(ids[0])),
            max_length=max_length,
            aggregation=aggregation,
            objective=objective,
            chat_template_sha256=_template_hash(tokenizer),
        )

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> StepContract:
        """The contract a checkpoint carries, checked against the tokenizer it is about to be used with.

        Raises:
            ValueError: if the checkpoint has no contract, one of another version, or was trained with
                another separator token or chat template.
        """
        stored = getattr(model.config, "qstep", None)
        if not isinstance(stored, dict):
            raise ValueError(
                "This checkpoint has no step contract ('qstep' in its config.json): it was not trained by "
                "`qstep train`, so how its steps are separated is unknown."
            )
        known = {field.name for field in fields(cls)}
        if stored.get("version") != cls.version or set(stored) != known:
            raise ValueError(
                f"This checkpoint's step contract {stored} is not one this version of qstep reads "
                f"(version {cls.version} with fields {sorted(known)})."
            )
        contract = cls(**stored)
        token = tokenizer.convert_ids_to_tokens(contract.separator_token_id)
        if token != contract.separator_token:
            raise ValueError(
                f"Token {contract.separator_token_id} is {token!r} for this tokenizer, but the scorer was trained "
                f"with {contract.separator_token!r} as its separator: use the tokenizer saved with the scorer."
            )
        if _template_hash(tokenizer) != contract.chat_template_sha256:
            raise ValueError(
                "This tokenizer's chat template differs from the one the scorer was trained with: "
                "use the tokenizer saved with the scorer."
            )
        return contract

    def attach(self, model: PreTrainedModel) -> None:
        """Writes the contract into the model's config, so that `save_pretrained` stores it."""
        model.config.qstep = asdict(self)


def _template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest()


def encode_steps(
    tokenizer: PreTrainedTokenizerBase,
    contract: StepContract,
    prompt: Prompt,
    steps: Sequence[str],
    *,
    where: str,
) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the prompt, of the steps with their separators, and each separator's index in the latter.

    Raises:
        ValueError: naming `where` if the whole is longer than the contract's `max_length`; nothing is truncated.
    """
    prompt_ids = encode_prompt(tokenizer, prompt)
    response_ids: list[int] = []
    ends: list[int] = []
    for step_ids in encode_texts(tokenizer, steps):
        response_ids += [*step_ids, contract.separator_token_id]
        ends.append(len(response_ids) - 1)
    if len(prompt_ids) + len(response_ids) > contract.max_length:
        raise ValueError(
            f"{where}: {len(prompt_ids)} prompt and {len(response_ids)} response tokens exceed this scorer's "
            f"max_length of {contract.max_length}. Shorten or drop the row; it is not truncated."
        )
    return prompt_ids, response_ids, ends


def new_scorer(model_name_or_path: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A scorer about to be trained: the trunk of any causal LM under a fresh scalar head, without dropout, fp32."""
    config = AutoConfig.from_pretrained(
        model_name_or_path, num_labels=1, problem_type="regression", trust_remote_code=trust_remote_code
    )
    config.classifier_dropout = 0.0
    return AutoModelForTokenClassification.from_pretrained(
        model_name_or_path, config=config, dtype=torch.float32, trust_remote_code=trust_remote_code
    )


def step_q_values(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "B S"]:
    """Q of each step, read at its separator: `batch["step_ends"] [B, S]` indexes response tokens, -1 absent.

    Values at absent steps are 0.
    """
    after = response_hidden(model.base_model, batch)[:, 1:]
    ends = batch["step_ends"]
    states = after.gather(1, ends.clamp(min=0).unsqueeze(-1).expand(-1, -1, after.shape[-1]))
    return model.get_submodule("score")(states).squeeze(-1).masked_fill(ends < 0, 0.0)


def collate_steps(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    step_ends: Sequence[Sequence[int]],
) -> Batch:
    """A batch of groups with `step_ends [B, S]`, one list per response, padded with -1."""
    batch = collate_groups(prompts, responses)
    width = max((len(ends) for ends in step_ends), default=0)
    batch["step_ends"] = torch.tensor([[*ends, *[-1] * (width - len(ends))] for ends in step_ends], dtype=torch.long)
    return batch


class StepScorer:
    """A trained scorer ready to use: `score(prompt, steps)`, or `score_rows` for a stream of rows."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.contract = StepContract.of(model, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> StepScorer:
        """Loads a checkpoint written by `qstep train pqm|bce|mse|orm`."""
        from transformers import AutoTokenizer

        model = AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).to(device)
        return cls(model, AutoTokenizer.from_pretrained(path))

    def score(self, prompt: Prompt, steps: Sequence[str]) -> list[float]:
        """The Q-value of each step."""
        return next(iter(self._score_batch([(prompt, [list(steps)])], ["score()"])))

    def score_rows(self, rows: Iterable[Row], *, batch_size: int = 64) -> Iterator[tuple[Row, list[float]]]:
        """Scores rows with a `prompt` and step texts in `completions`; yields in order, memory flat.

        Equal responses to a prompt, of which a confident policy draws many, are computed once where they are
        near each other.
        """
        for chunk, distinct, which in _distinct_chunks(rows, batch_size):
            groups = [(prompt, list(members)) for prompt, members in groupby(distinct, key=lambda row: row["prompt"])]
            q_values = self._score_batch(
                [(prompt, [row["completions"] for row in members]) for prompt, members in groups],
                [str(row.get("id", "row")) for row in distinct],
            )
            for row, place in zip(chunk, which, strict=True):
                yield row, list(q_values[place])

    @torch.inference_mode()
    def _score_batch(self, groups: Sequence[tuple[Any, list[list[str]]]], names: Sequence[str]) -> list[list[float]]:
        prompts: list[list[int]] = []
        responses: list[list[list[int]]] = []
        all_ends: list[list[int]] = []
        labels = iter(names)
        for prompt, members in groups:
            encoded = [
                encode_steps(self.tokenizer, self.contract, prompt, steps, where=next(labels)) for steps in members
            ]
            prompts.append(encoded[0][0])
            responses.append([ids for _, ids, _ in encoded])
            all_ends.extend(ends for _, _, ends in encoded)
        batch = collate_steps(prompts, responses, all_ends)
        q = step_q_values(self.model, {k: v.to(self.model.device) for k, v in batch.items()}).float().cpu()
        return [q[i, : len(ends)].tolist() for i, ends in enumerate(all_ends)]


def _distinct_chunks(rows: Iterable[Row], most: int) -> Iterator[tuple[list[Row], list[Row], list[int]]]:
    """Rows in lists that hold `most` different responses (in 16 times as many rows at most).

    Yields each list, the first row of each different response in it, and which of these each row equals.
    """
    chunk: list[Row] = []
    distinct: list[Row] = []
    which: list[int] = []
    places: dict[str, int] = {}
    for row in rows:
        place = places.setdefault(repr((row["prompt"], row["completions"])), len(distinct))
        if place == len(distinct):
            distinct.append(row)
        chunk.append(row)
        which.append(place)
        if len(distinct) == most or len(chunk) == 16 * most:
            yield chunk, distinct, which
            chunk, distinct, which, places = [], [], [], {}
    if chunk:
        yield chunk, distinct, which

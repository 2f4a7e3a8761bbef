"""Q, V, advantage and log-ratio of each token and step of a response, by a policy and its reference."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from qstep.data import encode_prompt, has_turns, part_of, row_step_ends, steps_of
from qstep.data.parts import part_span, thinking_opened_for
from qstep.data.turns import encode_response
from qstep.models import LogRatioModel, ModelOptions, PolicyModel, PolicyWithValue, collate_groups
from qstep.models.adapters import load_adapter
from qstep.models.inference import choose_device
from qstep.models.loading import ADAPTER_CONFIG, load_causal_lm, load_tokenizer
from qstep.models.packing import moved
from qstep.models.policy import VALUE_FILE
from qstep.runs.seals import settings_of_marker
from qstep.scoring.policies import reference_of
from qstep.types import Dtype, Row

_CONTEXT = 8
"""The number of tokens before a token that are decoded with it, since some decoders drop a blank at the beginning."""

_KEPT = ("id", "problem_id", "prompt", "label", "reward", "verdict")
"""The columns of a row that are written with its numbers."""


@dataclass(frozen=True)
class TokenValues:
    """Reads responses by a policy and its reference.

    model: both. tokenizer: the policy's. beta: the factor of the log-ratio in Q; None if it is not known. of_tokens:
    whether V is that of each token's state. If not, V is that of the prompt only, as DRO trains it.
    """

    model: LogRatioModel
    tokenizer: PreTrainedTokenizerBase
    beta: float | None
    of_tokens: bool

    @classmethod
    def load(
        cls, name: str, reference: str | None, beta: float | None, *, device: str = "auto", dtype: Dtype = "float32"
    ) -> TokenValues:
        """The policy in a folder, or of a Hub id, with its reference.

        Args:
            reference: a model, or `uniform`. By default the reference of the training: an adapter's base, or the model
                that the training recorded.
            beta: by default the one of the training.

        Raises ValueError if no reference is given and none is recorded, or its vocabulary is another.
        """
        settings = settings_of_marker(Path(name)) or {}
        tokenizer = load_tokenizer(name)
        has_value = (Path(name) / VALUE_FILE).exists()
        policy = PolicyWithValue.load(name, dtype) if has_value else _policy(name, dtype)
        other = reference_of(policy, name, reference, tokenizer=tokenizer, dtype=dtype, option="--reference")
        beta = settings.get("beta") if beta is None else beta
        model = LogRatioModel(policy, other, 1.0 if beta is None else beta).to(choose_device(device)).eval()
        return cls(model, tokenizer, beta, has_value and settings.get("method") != "dro")

    def of_row(self, row: Row, step_separator: str = "\n") -> Row:
        """What the command writes for a row: numbers of the response, and lists of its tokens and its steps.

        Raises ValueError if the row's steps are not those of its tokens.
        """
        separator = row.get("step_separator", step_separator)
        texts = steps_of(row, separator)
        ends = row_step_ends(self.tokenizer, row, texts, separator) if texts else []
        first, tokens = self._tokens(row, ends, _answer_begins(row, separator))
        own = [token for token in tokens if "log_ratio" in token]
        advantage = _sum(own, "advantage")
        whole = {"log_ratio": _sum(own, "log_ratio"), "advantage": advantage, "value": first}
        if first is not None and advantage is not None and not self.of_tokens:
            whole["q"] = first + advantage
        steps = [_step(number, text, [t for t in own if t["step"] == number], own) for number, text in enumerate(texts)]
        return {
            **{name: row[name] for name in _KEPT if name in row},
            **{"beta": self.beta, **whole, "steps": steps, "tokens": tokens},
        }

    @torch.inference_mode()
    def _tokens(self, row: Row, ends: Sequence[int], begin: int) -> tuple[float | None, list[Row]]:
        """V of the first state, and the tokens of the response. Those of others' turns have no numbers.

        Tokens within the first `begin` characters are in no step.
        """
        response = encode_response(self.tokenizer, row)
        if not any(response.own):
            raise ValueError("the response has no tokens, so there is nothing to show. Choose other rows")
        batch = collate_groups([encode_prompt(self.tokenizer, row["prompt"])], [[response.ids]])
        batch["response_mask"][0] = torch.tensor(response.own)
        found = self.model.tokens(moved(batch, self.model.device))
        values: list[float | None] = [None] * len(response.ids) if found[2] is None else found[2][0].tolist()
        logps, log_ratios = found[0][0].tolist(), found[1][0].tolist()
        spelled = pieces(self.tokenizer, response.ids)
        tokens: list[Row] = []
        read = 0
        for place, token in enumerate(response.ids):
            read += len(spelled[place])
            step = bisect_left(ends, place) if read > begin else len(ends)
            tokens.append(
                {"token": place, "id": token, "text": spelled[place], "step": step if step < len(ends) else None}
            )
            if response.own[place]:
                tokens[-1] |= self._numbers(logps[place], log_ratios[place], values[place])
        return values[response.own.index(True)], tokens

    def _numbers(self, logp: float, log_ratio: float, value: float | None) -> Row:
        advantage = None if self.beta is None else self.beta * log_ratio
        value = value if self.of_tokens else None
        q = None if advantage is None or value is None else advantage + value
        return {"logp": logp, "log_ratio": log_ratio, "advantage": advantage, "value": value, "q": q}


def _answer_begins(row: Row, separator: str) -> int:
    """How many characters of a response come before the first step, if steps are of the answer only; else 0."""
    if part_of(separator) != "answer" or has_turns(row["completion"]):
        return 0
    return part_span(row["completion"], "answer", opened=thinking_opened_for(row) or False)[0]


def _step(number: int, text: str, tokens: Sequence[Row], own: Sequence[Row]) -> Row:
    """The numbers of a step. Its V is that of the state before it, and `value_after` that of the state after it.

    Its Q is that of its last token, which may be the line break after it. `qstep score` reads Q where the text of the
    step is complete.
    """
    after = [token for token in own if tokens and token["token"] > tokens[-1]["token"]]
    return {
        "step": number,
        "text": text,
        "tokens": len(tokens),
        "log_ratio": _sum(tokens, "log_ratio"),
        "advantage": _sum(tokens, "advantage"),
        "value": tokens[0]["value"] if tokens else None,
        "value_after": after[0]["value"] if after else None,
        "q": tokens[-1]["q"] if tokens else None,
    }


def _sum(tokens: Sequence[Row], name: str) -> float | None:
    values = [token[name] for token in tokens]
    return None if None in values else sum(values)


def pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token. A character of several tokens belongs to the last of them."""

    def read(start: int, end: int) -> str:
        text = tokenizer.decode(list(ids[start:end]), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).rstrip("\ufffd")

    found = []
    for place in range(len(ids)):
        start = max(0, place - _CONTEXT)
        before, text = read(start, place), read(start, place + 1)
        found.append(text[len(before) :] if text.startswith(before) else read(place, place + 1))
    return found


def _policy(name: str, dtype: Dtype) -> PolicyModel:
    if (Path(name) / ADAPTER_CONFIG).exists():

        def base(name: str, revision: str | None) -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, revision=revision)

        return PolicyModel(load_adapter(name, base))
    return PolicyModel(load_causal_lm(ModelOptions(model_name_or_path=name, dtype=dtype)))

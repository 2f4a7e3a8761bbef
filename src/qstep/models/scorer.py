"""The step scorer: a plain `AutoModelForTokenClassification` with a step contract in its config."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase

from qstep.data import (
    check_model_name,
    checked_prompt,
    checked_steps,
    encode_ended,
    encode_prompt,
    last_text,
    prompt_kind,
)
from qstep.data.chat import steps_without_opening
from qstep.models.adapters import adapted, load_adapter
from qstep.models.checkpoints import fitting_weights, read_config
from qstep.models.loading import ADAPTER_CONFIG, EmptyModel, LoadedModel, ModelOptions, bare, dtype_of, is_scorer
from qstep.models.packing import Batch, StepBatch, collate_groups, hidden_states, response_starts
from qstep.models.pretrained import PretrainedModule
from qstep.models.token_classifiers import empty_token_classifier, head_name, load_token_classifier, token_classifier_of
from qstep.types import Aggregation, Dtype, Prompt, PromptKind
from qstep.words import counted

_NEWER = {"prompts", "instruction"}
"""Fields that are absent in checkpoints of an older qstep."""

_OTHER_KIND = {
    "messages": "is a conversation, and the scorer was trained on strings. Give a string (--conversational false)",
    "string": "is a string, and the scorer was trained on conversations. Give a conversation (--conversational true "
    "for problems, --columns.user COLUMN for a file of responses)",
}


@dataclass(frozen=True)
class StepContract:
    """How a scorer splits, tokenises and reads a response. It is stored in `config.json` under `qstep`.

    Each step is tokenised on its own, as text without special tokens. The separator token is put after it, by id. The
    scorer's output at that token is the step's Q, a logit; the question has Q = 0. Training, scoring and search all use
    `encode_steps`, so they agree.

    `prompts` says whether the prompts of training were strings, conversations or both. `instruction` is the text that
    all of them end with, after a blank line. Both are None in checkpoints of an older qstep.
    """

    step_separator: str
    separator_token_id: int
    separator_token: str
    max_length: int
    aggregation: Aggregation
    objective: str
    chat_template_sha256: str
    prompts: PromptKind | None = None
    instruction: str | None = None
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
        prompts: PromptKind | None = None,
        instruction: str | None = None,
    ) -> StepContract:
        """Raises ValueError if `separator_token` is not exactly one token of the tokenizer."""
        ids = tokenizer(separator_token, add_special_tokens=False)["input_ids"]
        if len(ids) != 1:
            raise ValueError(
                f"--separator_token {separator_token!r} is {counted(len(ids), 'token')} for this tokenizer: {ids}. "
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
            prompts=prompts,
            instruction=instruction,
        )

    @classmethod
    def of(cls, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> StepContract:
        """The contract of a checkpoint, checked against the tokenizer that it is used with.

        Raises:
            ValueError: the checkpoint has no contract or one of another version, or it was trained with another
                separator token or chat template.
        """
        stored = getattr(config, "qstep", None)
        if not isinstance(stored, dict):
            raise ValueError(
                "This checkpoint has no step contract ('qstep' in its config.json), so how its steps are separated is "
                "unknown. Give one that `qstep train` or `qstep export` wrote."
            )
        contract = cls.read(stored)
        if contract is None:
            raise ValueError(
                f"This checkpoint's step contract {stored} is not one this version of qstep reads "
                f"(version {cls.version} with fields {sorted(field.name for field in fields(cls))})."
            )
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

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> StepContract | None:
        """The contract that a config or a server states; None if it is of another version or has other fields."""
        known = {field.name for field in fields(cls)}
        if stored.get("version") != cls.version or not known - _NEWER <= set(stored) <= known:
            return None
        return cls(**stored)

    def unlike_training(self, prompt: Prompt, instruction: str | None = None) -> str | None:
        """How a prompt differs from those of training, and what to do about it; None if it does not differ.

        `instruction` is the one that the current command put after the question.
        """
        kind = prompt_kind(prompt)
        if self.prompts not in (None, "mixed", kind):
            return _OTHER_KIND[kind]
        if self.instruction is not None and not last_text(prompt).endswith(f"\n\n{self.instruction}"):
            return (
                "does not end with the instruction that the scorer was trained with. Put it after the question "
                f"(--instruction {self.instruction!r})"
            )
        if self.prompts is not None and self.instruction is None and instruction is not None:
            return "ends with an instruction, and the scorer was trained without one. Leave it out (--instruction)"
        return None

    def attach(self, config: PretrainedConfig) -> None:
        """Writes the contract into a model's config, so that `save_pretrained` stores it."""
        config.qstep = asdict(self)


def check_length(tokens: int, max_length: int, where: str) -> None:
    """Raises ValueError, naming `where`, for more tokens than `max_length`; nothing is truncated."""
    if tokens > max_length:
        raise ValueError(
            f"{where}: its prompt and response are {counted(tokens, 'token')}, and this scorer's max_length is "
            f"{max_length}. Shorten or drop the row; it is not truncated."
        )


def _template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    return hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest()


def encode_steps(
    tokenizer: PreTrainedTokenizerBase,
    contract: StepContract,
    prompt: Prompt,
    steps: Sequence[str],
    prompt_ids: list[int] | None = None,
) -> tuple[list[int], list[int], list[int]]:
    """The token ids of the prompt, those of the steps with their separators, and each separator's index in these.

    `prompt_ids` are those of the prompt, if they are known.
    """
    prompt = checked_prompt(prompt)
    written, left_out = steps_without_opening(tokenizer, prompt, checked_steps(steps))
    ids, ends = encode_ended(tokenizer, written, [contract.separator_token_id])
    prompt_ids = encode_prompt(tokenizer, prompt) if prompt_ids is None else prompt_ids
    return prompt_ids, ids, [*ends[:left_out], *ends]


class ScorerModel(PretrainedModule):
    """A step scorer. `forward(batch)` gives the Q of each step, `[B, S]`, in fp32.

    `pretrained` is an `AutoModelForTokenClassification`, or a peft model around one. A head with one output gives Q.
    For a head with two outputs, wrong and right, Q is right minus wrong. Then sigmoid(Q) is the softmax of the second.
    """

    @classmethod
    def new(cls, options: ModelOptions) -> ScorerModel:
        """A scorer to be trained: the backbone of a causal LM with a new scalar head, without dropout.

        Raises ValueError if the model's states depend on later tokens, or a package is needed and not installed.
        """
        if isinstance(options, LoadedModel):
            return cls(token_classifier_of(options.model))
        config = _scalar(options)
        if isinstance(options, EmptyModel):
            model = empty_token_classifier(config, dtype_of(config, options))
        else:
            arguments = options.weights_arguments(config)
            with fitting_weights(options.model_name_or_path):
                loaded = load_token_classifier(options.model_name_or_path, config, **arguments)
            model = options.as_published(loaded)
        lora = options.lora(model, "TOKEN_CLS", modules_to_save=[head_name(model)])
        return cls(model if lora is None else adapted(model, lora))

    @classmethod
    def load(cls, folder: str | Path, dtype: Dtype = "float32") -> ScorerModel:
        """Loads a scorer that `save` or `qstep merge` wrote. An adapter is put on the base model that it names."""
        check_model_name(folder)
        config = AutoConfig.from_pretrained(folder)
        if not is_scorer(config):
            raise ValueError(
                f"{folder} is not a scorer: its config.json has no step contract ('qstep'). Give the output_dir of "
                "`qstep train METHOD`, with a method that trains a scorer"
            )
        if not (Path(folder) / ADAPTER_CONFIG).exists():
            return cls(load_token_classifier(folder, config, dtype=dtype, complete=True))
        return cls(
            load_adapter(
                folder, lambda base, revision: load_token_classifier(base, config, dtype=dtype, revision=revision)
            )
        )

    @classmethod
    def published(
        cls,
        name: str,
        dtype: Dtype,
        *,
        labels: int,
        head: Callable[[PretrainedConfig], nn.Module] | None = None,
        renamed: dict[str, str] | None = None,
    ) -> ScorerModel:
        """A published scorer, read from safetensors: a backbone of transformers and a head with `labels` outputs.

        Args:
            head: makes the head if it is not one linear layer. Its weights are called `score.<...>`.
            renamed: patterns of weight names in the file, and their names here.

        Raises:
            ValueError: the checkpoint lacks weights, or its states depend on later tokens.
        """
        config = AutoConfig.from_pretrained(name, num_labels=labels)
        return cls(load_token_classifier(name, config, dtype=dtype, head=head, complete=True, key_mapping=renamed))

    def forward(self, batch: StepBatch) -> Float[Tensor, "B S"]:
        """The Q of each step, read at its separator, whose index is in `batch["step_ends"] [B, S]`.

        The index -1 means that there is no step. Its Q is 0.
        """
        states = step_states(hidden_states(self.trunk, batch), batch)
        return self.read(states).masked_fill(batch["step_ends"] < 0, 0.0)

    def q_of_tokens(self, batch: Batch) -> Float[Tensor, " L"]:
        """The Q read at every token of the packed batch, including prompts, in fp32."""
        return self.read(hidden_states(self.trunk, batch))

    def read(self, states: Float[Tensor, "... D"]) -> Float[Tensor, ...]:
        """The Q read from states, in fp32."""
        model = bare(self.pretrained)
        with torch.autocast(states.device.type, enabled=False):
            logits = model.get_submodule(head_name(model))(states.float())
        return logits[..., 0] if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0]


def _scalar(options: ModelOptions) -> PretrainedConfig:
    """A model's config, for a head with one output."""
    more = options.load_arguments() | {"num_labels": 1, "problem_type": "regression"}
    return read_config(options.model_name_or_path, **more)


def step_states(hidden: Float[Tensor, "L D"], batch: StepBatch) -> Float[Tensor, "B S D"]:
    """The states at the tokens where steps are read. The state of an absent step is arbitrary."""
    starts, _ = response_starts(batch)
    ends = batch["step_ends"]
    places = (starts[:, None] + ends.clamp(min=0)).clamp(max=len(hidden) - 1)
    return hidden.index_select(0, places.flatten()).view(*ends.shape, hidden.shape[-1])


def collate_steps(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[Sequence[int]]],
    step_ends: Sequence[Sequence[int]],
) -> StepBatch:
    """A batch of groups with `step_ends [B, S]`: a list for each response, padded with -1."""
    batch = collate_groups(prompts, responses)
    width = max((len(ends) for ends in step_ends), default=0)
    padded = [[*ends, *[-1] * (width - len(ends))] for ends in step_ends]
    return {**batch, "step_ends": torch.tensor(padded, dtype=torch.long)}

"""Policies as scorers: a step's Q comes from the log-ratio of the policy to a reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from torch import nn
from transformers import PreTrainedTokenizerBase

from qstep.data import encode_joined, encode_prompt
from qstep.data.chat import steps_without_opening
from qstep.models import LogRatioModel, ModelOptions, PolicyModel, PolicyWithValue
from qstep.models.loading import ADAPTER_CONFIG, load_causal_lm, load_tokenizer
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import Bounds
from qstep.runs.seals import settings_of_marker
from qstep.runs.sidecar import sidecar
from qstep.runs.training_log import TRAINING_LOG
from qstep.scoring.formats import Encoded
from qstep.scoring.published.base import Published
from qstep.types import Dtype, Prompt


@dataclass(kw_only=True)
class LogRatio(Published):
    """What both kinds share: the prompt as the policy reads it, then the steps, joined by their separator.

    A step is read at the token that completes its text. No end-of-sequence token follows the last step.

    Args:
        beta: the factor on the log-ratio.
        conversational: put a prompt that is a string through the chat template as the user's turn.
    """

    beta: Annotated[float | None, Bounds(above=0)] = None
    conversational: bool = False

    reads_reference: ClassVar[bool] = True

    def encode(self, prompt: Prompt, steps: Sequence[str]) -> list[Encoded]:
        if self.conversational and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        written, left_out = steps_without_opening(self.tokenizer, prompt, steps)
        joint = self.joint
        texts = [part for step in written for part in (step, joint)][:-1]
        ids, places = encode_joined(self.tokenizer, texts)
        ends = places[::2]
        return [(encode_prompt(self.tokenizer, prompt), ids, [*ends[:left_out], *ends])]


def reference_of(
    policy: PolicyModel,
    name: str,
    reference: str | None,
    *,
    tokenizer: PreTrainedTokenizerBase,
    dtype: Dtype,
    option: str,
) -> PolicyModel | None:
    """The reference of a policy, as `LogRatioModel` takes it: None is the uniform one.

    Args:
        name: the policy's folder or Hub id.
        reference: a model, or `uniform`. By default it is that of the training: `uniform`, the base of an adapter, or
            the model that the training recorded.
        tokenizer: the policy's.
        option: the option that gives the reference, for messages.

    Raises ValueError if no reference is given and none is recorded, or its vocabulary is not the policy's.
    """
    folder, revision = Path(name), None
    if reference is None:
        if (settings_of_marker(folder) or {}).get("reference") == "uniform":
            return None
        if (folder / ADAPTER_CONFIG).exists():
            return policy
        reference, revision = recorded_base(folder, option)
    if reference == "uniform":
        return None
    return _load_reference(reference, tokenizer, dtype, option, revision)


def _load_reference(
    name: str, tokenizer: PreTrainedTokenizerBase, dtype: Dtype, option: str, revision: str | None = None
) -> PolicyModel:
    """A policy's reference model. Raises ValueError, which names the option, if its vocabulary is not the policy's."""
    options = ModelOptions(model_name_or_path=name, dtype=dtype, model_revision=revision)
    if load_tokenizer(name, revision=revision).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{option} {name} has another vocabulary than the policy")
    return PolicyModel(load_causal_lm(options, use_safetensors=True))


@dataclass(kw_only=True)
class Implicit(LogRatio):
    """An implicit PRM (arXiv 2412.01981): a policy trained on outcomes, against the model it was trained from.

    A step's reward is beta times the sum of its tokens' log pi/pi_ref. Its Q is the sum of the rewards up to it, as in
    the paper: beta times the log-ratio of the response so far. It needs `--scorer_reference`.

    Args:
        beta: the one used in training; the paper's by default.
    """

    beta: Annotated[float | None, Bounds(above=0)] = 0.05

    kind: ClassVar[str] = "implicit"
    sums_over_response: ClassVar[bool] = True

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        if reference is None or self.beta is None:
            lacks = "--scorer_reference, the model that it was trained from" if reference is None else "a beta"
            raise ValueError(f"an implicit PRM needs {lacks}")
        policy = PolicyModel(load_causal_lm(ModelOptions(model_name_or_path=name, dtype=dtype), use_safetensors=True))
        other = _load_reference(reference, self.tokenizer, dtype, "--scorer_reference")
        return LogRatioModel(policy, other, self.beta)


@dataclass(kw_only=True)
class Policy(LogRatio):
    """A policy that `qstep train dqo` made. Q is `beta log pi/pi_ref + V` at a step's last token (arXiv 2410.09302).

    This Q is an expected reward, not a logit. It ranks steps and responses, but its sigmoid is not a probability.
    Policy and V are in the checkpoint. The reference is that of the training: the base of an adapter, `uniform`, or the
    model that the training recorded. `--scorer_reference` names another.

    Args:
        beta: the one used in training; by default it is read from the checkpoint.
    """

    step_separator: str = "\n"

    kind: ClassVar[str] = "policy"

    @property
    def objective(self) -> str:
        return "dqo"

    def model(self, name: str, reference: str | None, dtype: Dtype) -> nn.Module:
        settings = settings_of_marker(Path(name)) or {}
        method = settings.get("method", "dqo")
        if method != "dqo":
            raise ValueError(
                f"{name} was trained by `qstep train {method}`, whose V does not value steps, so it is no scorer. Give "
                "a policy of `qstep train dqo`"
            )
        beta = self.beta or _trained_beta(Path(name))
        policy = PolicyWithValue.load(name, dtype)
        other = reference_of(
            policy, name, reference, tokenizer=self.tokenizer, dtype=dtype, option="--scorer_reference"
        )
        return LogRatioModel(policy, other, beta)


def recorded_base(folder: Path, option: str) -> tuple[str, str | None]:
    """The model that a training of `qstep train` began with, as it recorded it, and its commit on the Hub.

    Raises ValueError if nothing is recorded, or the model is not there any more.
    """
    meta = sidecar(folder / TRAINING_LOG)
    try:
        known = json.loads(meta.read_text(encoding="utf-8"))
        base, fingerprint = known["summary"]["base_model"], known["settings"]["model"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} does not record the model that its training began with: give {option}") from None
    if base["on_hub"]:
        return str(base["name"]), str(fingerprint).rpartition("@")[2]
    path = folder / base.get("path", "?")
    if not path.is_dir() or model_fingerprint(str(path)) != fingerprint:
        raise ValueError(
            f"the model that the training of {folder} began with ({base['name']}) is not where it was: give {option}"
        )
    return str(path), None


def _trained_beta(folder: Path) -> float:
    """The beta in the settings of a checkpoint. Raises ValueError if there is none."""
    try:
        return float((settings_of_marker(folder) or {})["beta"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{folder} does not record the beta of its training: give --scorer_options.beta") from None

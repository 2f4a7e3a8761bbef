"""The options of what gives steps their Q: a scorer in this process, or at a server."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data import file_fingerprint, refuse_unread
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import CallOptions, DeviceOptions
from qstep.runs.progress import console
from qstep.scoring.kinds import ScorerKind
from qstep.types import Prompt

if TYPE_CHECKING:
    from qstep.scoring import Scorer


@dataclass(kw_only=True)
class ScorerChoice(DeviceOptions):
    """Which scorer.

    Args:
        scorer: a folder or Hub id written by `qstep train pqm|bce|mse|orm`, a published process reward model, a policy,
            or a YAML file that names an ensemble's members.
        scorer_kind: whose computation gives the Qs; `auto` recognises it by the checkpoint.
        scorer_reference: the model that the kinds `implicit` and `policy` compare with.
        scorer_options: what else a kind reads, such as `--scorer_options.max_length 4096`.
    """

    scorer: str
    scorer_kind: ScorerKind = "auto"
    scorer_reference: str | None = None
    scorer_options: dict[str, Any] | None = None

    def readers(self) -> dict[str, set[str]]:
        return {**super().readers(), "a scorer here": {"device", "dtype"}}

    def scorer_fingerprint(self) -> str:
        """Names the scorer by all that its Qs follow from: its models, and an ensemble's file."""
        from qstep.scoring import is_ensemble, read_ensemble

        if not is_ensemble(self.scorer):
            return _models_fingerprint(self.scorer, self.scorer_reference)
        members = read_ensemble(Path(self.scorer)).members
        models = [_models_fingerprint(member["name"], member.get("reference")) for member in members]
        return " ".join([file_fingerprint(Path(self.scorer)), *models])

    def load_scorer(self) -> "Scorer":
        """The scorer, ready to use."""
        from qstep.models.inference import choose_device, hide_loading_bars
        from qstep.scoring import load_scorer

        hide_loading_bars()
        return load_scorer(
            self.scorer,
            self.scorer_kind,
            reference=self.scorer_reference,
            options=self.scorer_options,
            device=choose_device(self.device),
            dtype=self.dtype,
        )


_SCORER_KEY = "QSTEP_SCORER_API_KEY"
"""Not the engine's: a key is sent to the server that it is of, and to no other."""


@dataclass(kw_only=True)
class ScorerOptions(ScorerChoice, CallOptions):
    """What gives steps their Q.

    Args:
        score_tokens: tokens scored at once; a prompt counts once for the rows that share it.
        endpoint: address of a server that holds the scorer's weights, `qstep serve` or vLLM: of `--scorer`, which
            `qstep train` or `qstep export` wrote, only config.json and the tokenizer are read. Its key, where it wants
            one, is read from the environment variable QSTEP_SCORER_API_KEY.
        step_separator: what cuts responses into steps, where that is a function of your own (`split:module:function`):
            it runs only if you name it. Else the scorer knows it.
    """

    score_tokens: int = 8192
    endpoint: str | None = None
    step_separator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.endpoint is not None:
            unread = ["scorer_kind", "scorer_reference", "scorer_options"]
            refuse_unread(self, unread, "a scorer here: with --endpoint the server has its own")
            from qstep.calls import checked_url

            checked_url(self.endpoint, "--endpoint")

    def readers(self) -> dict[str, set[str]]:
        return super().readers() | ({} if self.endpoint is None else {"a scorer here": set()})

    def scorer_fingerprint(self) -> str:
        """Names the scorer by all that its Qs follow from; at a server, by what it says of its weights as well."""
        fingerprint = super().scorer_fingerprint()
        if self.endpoint is None:
            return fingerprint
        from qstep.scoring.endpoint import served_model

        served = served_model(self._server(self.endpoint, _SCORER_KEY), self.scorer)
        return f"{fingerprint} served as {served.name} {served.fingerprint} {served.dtype}"

    def load_scorer(self) -> "Scorer":
        """The scorer, ready to use.

        Raises ValueError where its steps are not cut as these options say.
        """
        scorer = super().load_scorer() if self.endpoint is None else self._served(self.endpoint)
        if self.step_separator not in (None, scorer.step_separator):
            raise ValueError(
                f"--step_separator is {self.step_separator!r}, and {self.scorer} scores steps that were cut by "
                f"{scorer.step_separator!r}: leave the option out, or name that"
            )
        return scorer

    def _served(self, endpoint: str) -> "Scorer":
        from qstep.models.inference import hide_loading_bars
        from qstep.scoring.endpoint import EndpointScorer

        hide_loading_bars()
        has_weights = any(Path(self.scorer).glob("*.safetensors"))
        weights = model_fingerprint(self.scorer) if has_weights else None
        return EndpointScorer.load(self.scorer, self._server(endpoint, _SCORER_KEY), fingerprint=weights)


def warn_of_prompts(prompts: Iterable[Prompt], scorer: "Scorer", where: str, instruction: str | None = None) -> None:
    """Says how many prompts are unlike those that the scorer was trained on, a line for each difference."""
    total, found = 0, Counter[str]()
    for prompt in prompts:
        total += 1
        found.update(filter(None, [scorer.unlike_training(prompt, instruction)]))
    for difference, count in found.items():
        console.print(
            f"Warning: {where}: {count} of {total} prompts are unlike those that the scorer was trained on, so its Qs "
            f"may mean little. Such a prompt {difference}",
            markup=False,
        )


def _models_fingerprint(scorer: str, reference: str | None) -> str:
    named = [scorer] if reference in (None, "uniform") else [scorer, str(reference)]
    return " ".join(map(model_fingerprint, named))

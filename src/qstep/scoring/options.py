"""The options of scorers, which give steps their Qs: in this process, or at a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from qstep.data import file_fingerprint
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import CHANGES_NOTHING, GIVEN, ONLY_WHETHER_GIVEN, AtLeast1, Options, ReadIf, Reads
from qstep.runs.progress import console
from qstep.runs.shared_options import CallOptions, DeviceOptions, ServerUrl, StepSeparator, path_inputs
from qstep.scoring.kinds import ScorerKind
from qstep.types import Prompt

if TYPE_CHECKING:
    from qstep.scoring import Scorer


def _scorer_inputs(option: str, value: str) -> Iterator[tuple[str, str]]:
    """A scorer's folder; or an ensemble's file, its members and their references."""
    from qstep.scoring import is_ensemble, read_ensemble

    yield from path_inputs(option, value)
    if is_ensemble(value) and Path(value).is_file():
        for member in read_ensemble(Path(value)).members:
            for name in (member["name"], member.get("reference")):
                yield from path_inputs(option, name) if name is not None else ()


@dataclass(kw_only=True)
class LocalScorerOptions(DeviceOptions):
    """A scorer in this process.

    Args:
        scorer: a folder or Hub id of a scorer that `qstep train` wrote, a published process reward model, a policy,
            or a YAML file that names an ensemble's members.
        scorer_kind: the kind of scorer. `auto` recognises it from the checkpoint.
        scorer_reference: the model that the kinds `implicit` and `policy` compare with.
        scorer_options: further options of the kind, such as `--scorer_options.max_length 4096`.
    """

    GROUP = "scorer options"
    READ_IF = ReadIf(endpoint=None)
    USES: ClassVar[Mapping[str, ReadIf]] = {"device": ReadIf(endpoint=None), "dtype": ReadIf(endpoint=None)}

    scorer: Annotated[str, Reads(_scorer_inputs), ReadIf()]
    scorer_kind: ScorerKind = "auto"
    scorer_reference: Annotated[str | None, Reads(path_inputs)] = None
    scorer_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer_reference is not None or self.scorer_options:
            from qstep.scoring import is_ensemble
            from qstep.scoring.loading import check_kind

            kind = "ensemble" if self.scorer_kind == "auto" and is_ensemble(self.scorer) else self.scorer_kind
            check_kind(kind, self.scorer_reference, self.scorer_options)

    def scorer_fingerprint(self) -> str:
        """Identifies all that determines the Qs: the models, and an ensemble's file."""
        from qstep.scoring import is_ensemble, read_ensemble

        if not is_ensemble(self.scorer):
            return _models_fingerprint(self.scorer, self.scorer_reference)
        members = read_ensemble(Path(self.scorer)).members
        models = [_models_fingerprint(member["name"], member.get("reference")) for member in members]
        return " ".join([file_fingerprint(Path(self.scorer)), *models])

    def load_scorer(self) -> Scorer:
        """The scorer, ready to use."""
        from qstep.models.inference import hide_loading_bars
        from qstep.scoring import load_scorer

        hide_loading_bars()
        return load_scorer(
            self.scorer,
            self.scorer_kind,
            reference=self.scorer_reference,
            options=self.scorer_options,
            device=self.device,
            dtype=self.dtype,
        )


_SCORER_KEY = "QSTEP_SCORER_API_KEY"
"""Not the engine's variable, so that a key is sent only to its own server."""


@dataclass(kw_only=True)
class EndpointOptions(CallOptions):
    """A scorer at a server.

    Args:
        endpoint: address of a server that holds the weights (`qstep serve` or vLLM). `--scorer` then names the same
            checkpoint, and only its config.json and tokenizer are read. The server's key is read from the environment
            variable QSTEP_SCORER_API_KEY.
    """

    GROUP = "options of a scorer at a server"
    USES: ClassVar[Mapping[str, ReadIf]] = {
        "request_timeout_s": ReadIf(endpoint=GIVEN),
        "retries": ReadIf(endpoint=GIVEN),
    }

    endpoint: Annotated[ServerUrl | None, ONLY_WHETHER_GIVEN] = None

    def served_fingerprint(self, scorer: str) -> str:
        """The server's description of its weights."""
        from qstep.scoring.endpoint import served_model

        assert self.endpoint is not None
        served = served_model(self._server(self.endpoint, _SCORER_KEY), scorer)
        return f"served as {served.name} {served.fingerprint} {served.dtype}"

    def load_served(self, scorer: str) -> Scorer:
        """The scorer at the server."""
        from qstep.models.inference import hide_loading_bars
        from qstep.scoring.endpoint import EndpointScorer

        assert self.endpoint is not None
        hide_loading_bars()
        has_weights = any(Path(scorer).glob("*.safetensors"))
        weights = model_fingerprint(scorer) if has_weights else None
        return EndpointScorer.load(scorer, self._server(self.endpoint, _SCORER_KEY), fingerprint=weights)


@dataclass(kw_only=True)
class ScoringOptions(Options):
    """How rows are scored.

    Args:
        score_tokens: maximum number of tokens scored at once. A prompt counts once for the rows that share it.
        step_separator: your own splitter, `split:module:function`. It runs only if you name it here. Other separators
            are in the scorer's step contract.
    """

    GROUP = "scoring options"

    score_tokens: Annotated[AtLeast1, CHANGES_NOTHING] = 8192
    step_separator: StepSeparator | None = None

    def check_steps(self, scorer: Scorer, name: str) -> Scorer:
        """Returns the scorer. Raises ValueError if `step_separator` is not the scorer's."""
        if self.step_separator not in (None, scorer.step_separator):
            raise ValueError(
                f"--step_separator is {self.step_separator!r}, but {name} was trained on steps cut at "
                f"{scorer.step_separator!r}. Remove the option, or give {scorer.step_separator!r}"
            )
        return scorer


@dataclass(kw_only=True)
class ScorerOptions(LocalScorerOptions, EndpointOptions, ScoringOptions):
    """A scorer in this process or at a server."""

    def scorer_fingerprint(self) -> str:
        """Identifies all that determines the Qs, including what a server says of its weights."""
        fingerprint = super().scorer_fingerprint()
        return fingerprint if self.endpoint is None else f"{fingerprint} {self.served_fingerprint(self.scorer)}"

    def load_scorer(self) -> Scorer:
        """The scorer, ready to use. Raises as `check_steps` does."""
        scorer = super().load_scorer() if self.endpoint is None else self.load_served(self.scorer)
        return self.check_steps(scorer, self.scorer)


def warn_of_prompts(prompts: Iterable[Prompt], scorer: Scorer, where: str, instruction: str | None = None) -> None:
    """Prints how many prompts differ from those of training, a line for each kind of difference."""
    total, found = 0, Counter[str]()
    for prompt in prompts:
        total += 1
        found.update(filter(None, [scorer.unlike_training(prompt, instruction)]))
    for difference, count in found.items():
        console.print(
            f"Warning: {where}: {count} of {total} prompts differ from those of training, so their Qs may be "
            f"unreliable: each {difference}",
            markup=False,
            soft_wrap=True,
        )


def in_windows(config: Any) -> bool:
    """Whether rows that are too long are read in windows. Only then do the settings hold `over_long`."""
    return config.over_long == "window"


def _models_fingerprint(scorer: str, reference: str | None) -> str:
    named = [scorer] if reference in (None, "uniform") else [scorer, str(reference)]
    return " ".join(map(model_fingerprint, named))

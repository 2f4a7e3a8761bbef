"""Options that several commands share, each written once; a command's config inherits those it takes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from qstep.data import Unanswerable, check_separator, file_fingerprint, refuse_unread
from qstep.stages.cluster import Work, map_blocks
from qstep.stages.inputs import (
    choose_device,
    hide_loading_bars,
    load_for_sampling,
    load_tokenizer,
    model_fingerprint,
)
from qstep.stages.progress import console
from qstep.types import Dtype, Row, ScorerKind

if TYPE_CHECKING:
    from qstep.calls import Server
    from qstep.generation import Engine, SamplingSettings, VLLMEngine
    from qstep.scoring import Scorer
    from qstep.tasks import Tasks
    from qstep.types import Problem

NO_EFFECT = (
    *("output", "max_rows", "max_tokens", "score_tokens", "device"),
    *("engine_url", "concurrency", "request_timeout_s", "retries"),
    *("executor", "workers", "worker_gpus"),
    *("rows_at_once", "problems_at_once"),
)
"""Options that cannot change a stage's rows."""


_LEAST = {
    **dict.fromkeys(("num_problems", "max_problems", "max_per_problem", "num_samples", "rollouts", "draws"), 1),
    "rollout_budget": 1,
    **dict.fromkeys(("rows_at_once", "max_rows", "max_tokens", "score_tokens"), 1),
    **dict.fromkeys(("max_new_tokens", "textbook_rows", "concurrency", "request_timeout_s", "workers"), 1),
    **dict.fromkeys(("width", "expand", "lookahead_steps", "max_steps", "token_budget", "problems_at_once"), 1),
    "max_length": 1,
    **dict.fromkeys(("max_body_bytes", "queue_tokens", "max_connections", "client_s", "drain_s"), 1),
    **dict.fromkeys(("offset", "temperature", "deadline_s", "retries", "worker_gpus"), 0),
    **dict.fromkeys(("max_contradictions", "max_shared_problems"), 0),
}


@dataclass(kw_only=True)
class Options:
    """What every command's options are checked for as soon as they are given.

    Raises ValueError, naming the option, for a count that is too small or a step separator that cannot be meant.
    """

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name, None)
            if value is not None and not value >= least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        separator = getattr(self, "step_separator", None)
        if separator is not None:
            check_separator("step_separator", separator)


@dataclass(kw_only=True)
class TaskOptions(Options):
    """Who knows the answers.

    Args:
        task: the task of problems and rows that name none: `math`, `miniature`, `reasoning_gym:<family>`, or
            `module:object`, one of your own (`qstep.tasks.Task`), which rows may name only if you do.
    """

    task: str = "math"


@dataclass(kw_only=True)
class GradingOptions(TaskOptions):
    """How answers are graded.

    Args:
        grader: `module:function`, a reward function as TRL has them (prompts, completions, **columns), instead of
            the task's grading; 1 and more is right, less is wrong, None ungradable.
        deadline_s: seconds one answer may take before its worker is killed.
    """

    grader: str | None = None
    deadline_s: float = 3.0

    def tasks(self) -> Tasks:
        """Finds the task of a row, graded as these options say."""
        from qstep.tasks import Tasks

        return Tasks(self.task, self.grader, self.deadline_s)


@dataclass(kw_only=True)
class PromptOptions(Options):
    """How questions are put.

    Args:
        instruction: text put after each question, behind a blank line.
        conversational: put the question through the model's chat template.
    """

    instruction: str | None = None
    conversational: bool = False


@dataclass(kw_only=True)
class ProblemOptions(PromptOptions, TaskOptions):
    """Which problems.

    Args:
        dataset_name: `miniature`, `reasoning_gym:<family>`, `module:object` (a task of your own), a
            .jsonl/.json/.parquet file, or a Hub id.
        dataset_options: parameters of a reasoning_gym family, such as `--dataset_options.min_terms 2`.
        split: the split of the data set.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        unanswerable: whether a problem whose answer is the word None (GSM-Plus has such questions) is refused, or
            dropped and counted.
    """

    dataset_name: str = "miniature"
    dataset_options: dict[str, Any] | None = None
    split: str = "train"
    num_problems: int | None = None
    offset: int = 0
    data_seed: int = 0
    unanswerable: Unanswerable = "refuse"

    def problems(self) -> list[Problem]:
        """The problems these options name; raises as `qstep.tasks.load_problems` does."""
        from qstep.tasks import load_problems

        left_out: Counter[str] = Counter()
        problems = load_problems(
            self.dataset_name,
            options=self.dataset_options,
            split=self.split,
            limit=self.num_problems,
            offset=self.offset,
            seed=self.data_seed,
            instruction=self.instruction,
            conversational=self.conversational,
            task=self.task,
            unanswerable=self.unanswerable,
            left_out=left_out,
        )
        if left_out:
            console.print(f"{self.dataset_name}: left out {dict(left_out)}")
        return problems


@dataclass(kw_only=True)
class SamplingOptions(Options):
    """How responses are drawn.

    Args:
        max_new_tokens: length limit of a whole response, counted from its prompt.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: of the sampling; each response has its own stream, whatever the batch.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def sampling(self) -> SamplingSettings:
        """The same for an engine."""
        from qstep.generation import SamplingSettings

        return SamplingSettings(self.max_new_tokens, self.temperature, self.top_p, self.seed)


@dataclass(kw_only=True)
class DeviceOptions(Options):
    """Where a model is computed.

    Args:
        device: cpu, cuda, or auto.
        dtype: of the weights.
    """

    device: str = "auto"
    dtype: Dtype = "float32"


@dataclass(kw_only=True)
class CallOptions(Options):
    """How a server is asked.

    Args:
        request_timeout_s: seconds that one call to a server may take, waiting in its queue included (--engine http,
            --endpoint).
        retries: calls in a row that bring nothing, after the first, before the job stops, with what is done on disk
            (--engine http, --endpoint).
    """

    request_timeout_s: float = 600.0
    retries: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        engine, endpoint = getattr(self, "engine", None), getattr(self, "endpoint", None)
        if engine != "http" and endpoint is None:
            ways = [*(["--engine http"] if engine else []), *(["--endpoint"] if hasattr(self, "endpoint") else [])]
            refuse_unread(self, ["request_timeout_s", "retries"], " or ".join(ways))

    def _server(self, url: str, key: str) -> Server:
        """A server whose key, where it wants one, is in this environment variable."""
        from qstep.calls import Server

        return Server(url, os.environ.get(key) or None, self.request_timeout_s, self.retries)


_OF_HTTP = ("engine_url", "engine_model", "engine_input", "engine_logprobs", "concurrency")


@dataclass(kw_only=True)
class EngineOptions(DeviceOptions, CallOptions):
    """What draws responses.

    Args:
        engine: hf computes the model in this process, vllm does so by vLLM, http asks an OpenAI-compatible server (its
            key, where it wants one, is read from the environment variable OPENAI_API_KEY).
        max_rows: responses decoded at once (hf, vllm).
        max_tokens: positions held in the cache at once; lower it when memory runs out (hf).
        model_revision: of a Hub id: branch, tag or commit.
        vllm_options: further arguments of vllm.LLM, such as `--vllm_options.tensor_parallel_size 2`.
        engine_url: address of the server, such as http://127.0.0.1:8000 (http). `model_name_or_path` is then the model
            that it serves, and gives the tokenizer and the fingerprint; its weights are not read.
        engine_model: the model's name on the server; that of `model_name_or_path` by default (http).
        engine_input: how prompts are sent: tokens as vLLM, SGLang and llama.cpp take them, which also asks for token
            ids and log-probs; text as OpenAI takes them (http).
        engine_logprobs: what log-probs the server gives: raw, before temperature and top_p, or processed (http).
        concurrency: requests under way at once (http).
        executor: ray has the engines of several processes at work, through Ray Data: on the cluster that the
            environment variable RAY_ADDRESS names, else on this machine.
        workers: how many of them (ray).
        worker_gpus: GPUs of each (ray).
    """

    engine: Literal["hf", "vllm", "http"] = "hf"
    max_rows: int = 1024
    max_tokens: int = 131_072
    model_revision: str | None = None
    vllm_options: dict[str, Any] | None = None
    engine_url: str | None = None
    engine_model: str | None = None
    engine_input: Literal["tokens", "text"] = "tokens"
    engine_logprobs: Literal["raw", "processed"] = "raw"
    concurrency: int = 32
    executor: Literal["local", "ray"] = "local"
    workers: int = 2
    worker_gpus: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor != "ray":
            refuse_unread(self, ["workers", "worker_gpus"], "--executor ray")
        elif self.engine == "http":
            raise ValueError("--executor ray spreads engines over machines; a server is one: raise --concurrency")
        if self.engine != "http":
            refuse_unread(self, _OF_HTTP, "--engine http")
        if self.engine != "vllm":
            refuse_unread(self, ["vllm_options"], "--engine vllm")
        scores_here = isinstance(self, ScorerOptions) and self.endpoint is None
        if self.engine == "vllm":
            refuse_unread(self, ["max_tokens", *([] if scores_here else ["device"])], "--engine hf")
        if self.engine == "http":
            refuse_unread(self, ["max_rows"], "--engine hf or vllm")
            refuse_unread(self, ["max_tokens", *([] if scores_here else ["device", "dtype"])], "--engine hf")
            if self.engine_input == "text" and self.engine_logprobs == "processed":
                raise ValueError("--engine_logprobs is 'processed', and --engine_input text asks for no log-probs")
            if self.engine_url is None:
                raise ValueError("--engine http needs --engine_url, an address such as http://127.0.0.1:8000")
            from qstep.calls import checked_url

            checked_url(self.engine_url, "--engine_url")

    def load_engine(self, model_name_or_path: str) -> Engine:
        """The engine of a model."""
        if self.engine == "http":
            assert self.engine_url is not None, "checked above"
            from qstep.generation import HTTPEngine

            return HTTPEngine(
                self._server(self.engine_url, "OPENAI_API_KEY"),
                self.engine_model or model_name_or_path,
                load_tokenizer(model_name_or_path, self.model_revision),
                prompts_as=self.engine_input,
                logprobs=self.engine_logprobs,
                concurrency=self.concurrency,
            )
        if self.engine == "vllm":
            return _vllm_engine().load(
                model_name_or_path,
                load_tokenizer(model_name_or_path, self.model_revision),
                dtype=self.dtype,
                revision=self.model_revision,
                max_rows=self.max_rows,
                options=self.vllm_options,
            )
        from qstep.generation import HFEngine

        model, tokenizer = load_for_sampling(
            model_name_or_path, device=self.device, dtype=self.dtype, revision=self.model_revision
        )
        return HFEngine(model, tokenizer, max_rows=self.max_rows, max_tokens=self.max_tokens)

    def spread(self, make: Callable[[], Work], blocks: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """What workers of the cluster make of blocks; see `qstep.stages.cluster.map_blocks`."""
        return map_blocks(make, blocks, workers=self.workers, gpus=self.worker_gpus)


def _vllm_engine() -> type[VLLMEngine]:
    """ValueError, with the remedy, where vLLM is not installed."""
    try:
        from qstep.generation import VLLMEngine
    except ModuleNotFoundError as error:
        raise ValueError(
            f"--engine vllm needs {error.name}, which is not installed: an environment with vLLM, see docs/engines.md"
        ) from None
    return VLLMEngine


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

    def scorer_fingerprint(self) -> str:
        """Names the scorer by all that its Qs follow from: its models, and an ensemble's file."""
        from qstep.scoring import is_ensemble, read_ensemble

        if not is_ensemble(self.scorer):
            return _models_fingerprint(self.scorer, self.scorer_reference)
        members = read_ensemble(Path(self.scorer)).members
        models = [_models_fingerprint(member["name"], member.get("reference")) for member in members]
        return " ".join([file_fingerprint(Path(self.scorer)), *models])

    def load_scorer(self) -> Scorer:
        """The scorer, ready to use."""
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
            draws_here = isinstance(self, EngineOptions) and self.engine != "http"
            unread = [*([] if draws_here else ["device", "dtype"]), "scorer_kind", "scorer_reference", "scorer_options"]
            refuse_unread(self, unread, "a scorer here: with --endpoint the server has its own")
            from qstep.calls import checked_url

            checked_url(self.endpoint, "--endpoint")

    def scorer_fingerprint(self) -> str:
        """Names the scorer by all that its Qs follow from; at a server, by what it says of its weights as well."""
        fingerprint = super().scorer_fingerprint()
        if self.endpoint is None:
            return fingerprint
        from qstep.scoring.endpoint import served_model

        served = served_model(self._server(self.endpoint, _SCORER_KEY), self.scorer)
        return f"{fingerprint} served as {served.name} {served.fingerprint} {served.dtype}"

    def load_scorer(self) -> Scorer:
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

    def _served(self, endpoint: str) -> Scorer:
        from qstep.scoring.endpoint import EndpointScorer

        hide_loading_bars()
        has_weights = any(Path(self.scorer).glob("*.safetensors"))
        weights = model_fingerprint(self.scorer) if has_weights else None
        return EndpointScorer.load(self.scorer, self._server(endpoint, _SCORER_KEY), fingerprint=weights)


def _models_fingerprint(scorer: str, reference: str | None) -> str:
    named = [scorer] if reference in (None, "uniform") else [scorer, str(reference)]
    return " ".join(map(model_fingerprint, named))

"""Options that several commands share, each written once; a command's config inherits those it takes."""

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qstep.data import Unanswerable, check_separator, refuse_unread
from qstep.stages.progress import console
from qstep.types import Dtype

if TYPE_CHECKING:
    from qstep.calls import Server
    from qstep.generation import SamplingSettings
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

    def tasks(self) -> "Tasks":
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

    def problems(self) -> "list[Problem]":
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

    def sampling(self) -> "SamplingSettings":
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

    def __post_init__(self) -> None:
        super().__post_init__()
        readers = self.readers()
        refuse_unread(self, sorted({"device", "dtype"}.difference(*readers.values())), " or ".join(readers))

    def readers(self) -> dict[str, set[str]]:
        """Which of `device` and `dtype` are read, by what reads them, or would."""
        return {}


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

    def _server(self, url: str, key: str) -> "Server":
        """A server whose key, where it wants one, is in this environment variable."""
        from qstep.calls import Server

        return Server(url, os.environ.get(key) or None, self.request_timeout_s, self.retries)

"""`qstep sample`: reads problems, and samples a group of responses to each."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qstep.generation.options import EngineOptions, SamplingOptions
from qstep.runs.cluster import ClusterOptions
from qstep.runs.fingerprints import problems_fingerprint
from qstep.runs.options import NOT_IN_SETTINGS, AtLeast1, Bounds, NotInSettings, OutputFile, settings_of
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.shared_options import ModelName
from qstep.tasks.options import ProblemOptions
from qstep.types import OverLong, Problem, Response, Row
from qstep.words import counted, shortened

if TYPE_CHECKING:
    from qstep.generation import Engine, SamplingSettings


@dataclass(kw_only=True)
class Sampling(ProblemOptions, SamplingOptions, EngineOptions, ClusterOptions):
    """The problems, the model, and how responses are drawn.

    Args:
        model_name_or_path: the causal language model to sample from: a folder or a Hub id.
        num_samples: responses per problem.
        over_long: `refuse` stops before the first response if a prompt and `max_new_tokens` exceed the model's
            positions; `drop` leaves such problems out and counts them. A server and a cluster find them later.
    """

    model_name_or_path: ModelName
    num_samples: AtLeast1 = 16
    over_long: Annotated[OverLong, NOT_IN_SETTINGS] = "refuse"


def _is_further(config: Any) -> bool:
    """Whether the samples do not begin at 0. Settings of earlier versions, which always did, have no entry."""
    return bool(config.first_sample)


@dataclass(kw_only=True)
class SampleConfig(Sampling):
    """Samples `num_samples` responses to each problem.

    Args:
        output: the JSONL file to write. The same command resumes an interrupted job.
        first_sample: the number of the first response to each problem. To draw further responses, give how many there
            are. Their ids and their random numbers then differ from those of the first ones.
    """

    output: OutputFile
    first_sample: Annotated[int, Bounds(least=0), NotInSettings(unless=_is_further)] = 0

    @property
    def samples(self) -> range:
        """The numbers of the responses to each problem."""
        return range(self.first_sample, self.first_sample + self.num_samples)


def sample(config: SampleConfig, engine: "Engine | None" = None) -> Path:
    """Runs the stage and returns its output. `engine` replaces the model's own."""
    from qstep.data.chat import PROMPT_DATE

    problems = {problem.id: problem for problem in config.problems()}
    settings = settings_of(
        config,
        model=config.model_setting(config.model_name_or_path, engine),
        problems=problems_fingerprint(problems.values()),
        prompt_date=str(PROMPT_DATE),
    )

    def work(done: Collection[str]) -> Work:
        missing = [
            (problem, wanted)
            for problem in problems.values()
            if (wanted := [i for i in config.samples if _row_id(problem, i) not in done])
        ]
        drawn, left_out = _drawn(config, missing, engine)
        total = (len(problems) - left_out) * config.num_samples
        return Work(total, drawn, lambda rows: _finish_reasons(rows) | ({"over_long": left_out} if left_out else {}))

    left_out = write_rows(config.output, "sample", settings, work).get("over_long", 0)
    if left_out and config.over_long == "refuse":
        raise ValueError(
            f"{config.output} was written with --over_long drop, without {counted(left_out, 'problem')} whose prompts "
            "are too long: give this option again, or choose another output"
        )
    return config.output


_NAMED = 5
_Wanted = Sequence[tuple[Problem, list[int]]]
"""Problems with the indices of the responses to draw."""


def _drawn(config: SampleConfig, missing: _Wanted, engine: "Engine | None") -> tuple[Iterator[list[Row]], int]:
    """The missing rows in groups, as they finish, and the number of problems that are left out.

    They are drawn in this process or on the cluster.
    """
    if config.executor == "ray" and engine is None:
        wanted = [{"problem": asdict(problem), "samples": samples} for problem, samples in missing]
        blocks = in_blocks(wanted, max(1, config.max_rows // config.num_samples))
        return config.spread(partial(_Sampler, config), blocks), 0
    engine = engine or config.load_engine(config.model_name_or_path)
    fitting = _fitting(engine, missing, config)
    return _draw(engine, fitting, config.sampling()), len(missing) - len(fitting)


def _fitting(engine: "Engine", missing: _Wanted, config: SampleConfig) -> _Wanted:
    """The problems whose prompt leaves room for `max_new_tokens` in the model's positions.

    Raises ValueError, naming the first others, if `over_long` is `refuse`.
    """
    from qstep.data import encode_prompt

    positions: int | None = getattr(engine, "positions", None)
    if positions is None:
        return missing
    room = positions - config.max_new_tokens
    lengths = [len(encode_prompt(engine.tokenizer, problem.prompt)) for problem, _ in missing]
    long = [(problem.id, n) for (problem, _), n in zip(missing, lengths, strict=True) if n > room]
    if long and config.over_long == "refuse":
        named = shortened([f"{name} ({length} tokens)" for name, length in long[:_NAMED]], len(long))
        raise ValueError(
            f"{counted(len(long), 'prompt')} and --max_new_tokens {config.max_new_tokens} exceed the {positions} "
            f"positions of the model: {named}. Lower --max_new_tokens, or leave "
            "these problems out with --over_long drop"
        )
    return [wanted for wanted, n in zip(missing, lengths, strict=True) if n <= room]


def _finish_reasons(rows: Iterator[Row]) -> dict[str, Any]:
    return {"finish_reasons": dict(sorted(Counter(row["finish_reason"] for row in rows).items()))}


class _Sampler:
    """Draws the responses to blocks of problems, in a worker of a cluster."""

    def __init__(self, config: SampleConfig) -> None:
        self.engine, self.settings = config.load_engine(config.model_name_or_path), config.sampling()

    def __call__(self, block: list[Row]) -> list[Row]:
        wanted = [(Problem(**row["problem"]), row["samples"]) for row in block]
        return [row for rows in _draw(self.engine, wanted, self.settings) for row in rows]


def _draw(engine: "Engine", wanted: _Wanted, settings: "SamplingSettings") -> Iterator[list[Row]]:
    """The rows of the wanted responses, one problem at a time, as they finish."""
    from qstep.data import encode_prompt
    from qstep.generation import Request
    from qstep.tasks import opened_thinking

    problems = {problem.id: problem for problem, _ in wanted}
    requests = (Request(problem.id, encode_prompt(engine.tokenizer, problem.prompt), s) for problem, s in wanted)
    for request, responses in engine.sample(requests, settings):
        problem = problems[request.key]
        opened = opened_thinking(engine.tokenizer, problem.prompt, request.prompt_ids)
        yield [{**row, **opened} for row in _rows(problem, responses)]


def _row_id(problem: Problem, sample: int) -> str:
    return f"{problem.id}#{sample}"


def _rows(problem: Problem, responses: Sequence[Response]) -> list[Row]:
    return [
        {
            "id": _row_id(problem, response.sample),
            "problem_id": problem.id,
            "sample": response.sample,
            "task": problem.task,
            "prompt": problem.prompt,
            "gold": problem.gold,
            **({"metadata": dict(problem.metadata)} if problem.metadata else {}),
            "completion": response.text,
            **({} if response.token_ids is None else {"completion_ids": response.token_ids}),
            **({} if response.logps is None else {"logps_behavior": response.logps}),
            "finish_reason": response.finish_reason,
        }
        for response in responses
    ]

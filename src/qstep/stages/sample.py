"""`qstep sample`: problems in, a group of responses for each out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.stages.inputs import model_fingerprint, problems_fingerprint, refuse_overwriting, settings_of
from qstep.stages.options import NO_EFFECT, EngineOptions, ProblemOptions, SamplingOptions
from qstep.stages.progress import bar
from qstep.types import Problem, Response, Row

if TYPE_CHECKING:
    from qstep.generation import Engine


@dataclass(kw_only=True)
class Sampling(ProblemOptions, SamplingOptions, EngineOptions):
    """Which problems to answer, with which model, and how responses are drawn.

    Args:
        model_name_or_path: a causal language model: a folder or a Hub id.
        num_samples: responses per problem.
    """

    model_name_or_path: str
    num_samples: int = 16


@dataclass(kw_only=True)
class SampleConfig(Sampling):
    """Samples `num_samples` responses to each problem.

    Args:
        output: the JSONL file to write; a job that was killed goes on where it stopped.
    """

    output: Path


def sample(config: SampleConfig, engine: "Engine | None" = None) -> Path:
    """Runs the stage and returns its output. `engine` replaces the model's own."""
    from qstep.data import StageFile, encode_prompt, read_rows
    from qstep.data.tokens import PROMPT_DATE
    from qstep.generation import Request

    refuse_overwriting(config)
    problems = {problem.id: problem for problem in config.problems()}
    settings = settings_of(
        config,
        *NO_EFFECT,
        model=model_fingerprint(config.model_name_or_path, config.model_revision)
        if engine is None
        else config.model_name_or_path,
        problems=problems_fingerprint(problems.values()),
        prompt_date=str(PROMPT_DATE),
    )
    with StageFile.open(config.output, stage="sample", settings=settings) as file:
        if file.complete:
            return config.output
        engine = engine or config.load_engine(config.model_name_or_path)
        tokenizer = engine.tokenizer

        def requests() -> Iterator[Request]:
            for problem in problems.values():
                missing = [i for i in range(config.num_samples) if _row_id(problem, i) not in file.done]
                if missing:
                    yield Request(problem.id, encode_prompt(tokenizer, problem.prompt), missing)

        with bar(f"sample {config.output.stem}", len(problems) * config.num_samples, len(file.done)) as advance:
            for request, responses in engine.sample(requests(), config.sampling()):
                file.append(_rows(problems[request.key], responses))
                advance(len(responses))
        ended = Counter(row["finish_reason"] for row in read_rows(config.output, allow_torn=True))
        file.finish({"finish_reasons": dict(sorted(ended.items()))})
    return config.output


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

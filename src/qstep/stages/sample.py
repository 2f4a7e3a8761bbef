"""`qstep sample`: problems in, a group of responses for each out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.stages.inputs import load_causal_lm, model_fingerprint, settings_of
from qstep.stages.progress import bar
from qstep.types import Problem, Response, Row

if TYPE_CHECKING:
    from qstep.generation import Engine


@dataclass(kw_only=True)
class Sampling:
    """Which problems to answer, with which model, and how responses are drawn.

    Args:
        model_name_or_path: a causal language model: a folder or a Hub id.
        dataset_name: `miniature`, `reasoning_gym:<task>`, a .jsonl/.json/.parquet file, or a Hub id.
        split: the split of the data set.
        num_problems: how many problems, all by default.
        offset: how many problems to skip first.
        data_seed: seed of generated problems.
        instruction: text put after each question, behind a blank line.
        conversational: put the question through the model's chat template.
        num_samples: responses per problem.
        max_new_tokens: length limit of a response.
        temperature: 0 is greedy.
        top_p: nucleus.
        seed: of the sampling; each response has its own stream, whatever the batch.
        max_rows: responses decoded at once.
        max_tokens: positions held in the cache at once; lower it when memory runs out.
        device: cpu, cuda, or auto.
        dtype: of the model's weights.
    """

    model_name_or_path: str
    dataset_name: str = "miniature"
    split: str = "train"
    num_problems: int | None = None
    offset: int = 0
    data_seed: int = 0
    instruction: str | None = None
    conversational: bool = False
    num_samples: int = 16
    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    max_rows: int = 1024
    max_tokens: int = 131_072
    device: str = "auto"
    dtype: str = "float32"


@dataclass(kw_only=True)
class SampleConfig(Sampling):
    """Samples `num_samples` responses to each problem.

    Args:
        output: the JSONL file to write; a job that was killed goes on where it stopped.
    """

    output: Path


def sample(config: SampleConfig, engine: "Engine | None" = None) -> Path:
    """Runs the stage and returns its output. `engine` replaces the model's own."""
    from qstep.data import StageFile, encode_prompt, load_problems
    from qstep.generation import Request, SamplingSettings

    settings = settings_of(
        config,
        "output",
        "max_rows",
        "max_tokens",
        "device",
        model=model_fingerprint(config.model_name_or_path),
    )
    with StageFile.open(config.output, stage="sample", settings=settings) as file:
        if file.complete:
            return config.output
        problems = {
            problem.id: problem
            for problem in load_problems(
                config.dataset_name,
                split=config.split,
                limit=config.num_problems,
                offset=config.offset,
                seed=config.data_seed,
                instruction=config.instruction,
                conversational=config.conversational,
            )
        }
        if engine is None:
            from qstep.generation import HFEngine

            model, tokenizer = load_causal_lm(config.model_name_or_path, device=config.device, dtype=config.dtype)
            engine = HFEngine(model, tokenizer, max_rows=config.max_rows, max_tokens=config.max_tokens)
        tokenizer = engine.tokenizer

        def requests() -> Iterator[Request]:
            for problem in problems.values():
                missing = [i for i in range(config.num_samples) if _row_id(problem, i) not in file.done]
                if missing:
                    yield Request(problem.id, encode_prompt(tokenizer, problem.prompt), missing)

        sampling = SamplingSettings(config.max_new_tokens, config.temperature, config.top_p, config.seed)
        with bar(f"sample {config.output.stem}", len(problems) * config.num_samples, len(file.done)) as advance:
            for request, responses in engine.sample(requests(), sampling):
                file.append(_rows(problems[request.key], responses))
                advance(len(responses))
        file.finish()
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
            "completion_ids": response.token_ids,
            "logps_behavior": response.logps,
            "finish_reason": response.finish_reason,
        }
        for response in responses
    ]

"""`qstep search`: problems, a policy and a step scorer in, the candidates of a guided search for each problem out."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data import refuse_unread
from qstep.stages.engine_options import EngineOptions
from qstep.stages.inputs import in_blocks, model_fingerprint, problems_fingerprint, refuse_overwriting, settings_of
from qstep.stages.options import NO_EFFECT, ProblemOptions, SamplingOptions
from qstep.stages.progress import bar, console
from qstep.stages.scorer_options import ScorerOptions, warn_of_prompts
from qstep.types import Problem, Row, SearchMethod

if TYPE_CHECKING:
    from qstep.generation import Engine
    from qstep.scoring import Scorer
    from qstep.search import Found, SearchSettings

_OF_METHOD = {
    "best_of_n": ("width", "token_budget"),
    "beam": ("width", "expand", "max_steps", "token_budget"),
    "dvts": ("width", "expand", "max_steps", "token_budget"),
    "lookahead": ("width", "expand", "lookahead_steps", "max_steps", "token_budget"),
}
"""The options that a method reads; they stand in its rows."""


@dataclass(kw_only=True)
class SearchConfig(ProblemOptions, SamplingOptions, EngineOptions, ScorerOptions):
    """Answers problems by decoding that a step scorer guides, and says what tokens that took.

    best_of_n draws `width` whole responses. beam draws `width` first steps, keeps the best `width / expand` responses
    begun, draws `expand` next steps from each, and so on; lookahead values each by its score `lookahead_steps` greedy
    steps later. dvts does so in `width / expand` trees that know nothing of each other. A step ends at the scorer's
    separator. Writes a row for each candidate: those that ended, and those cut off where tokens or steps ran out. The
    answer is the row with `chosen`: the best score among those that ended, of all where none did.

    Args:
        model_name_or_path: a causal language model: a folder or a Hub id.
        output: the JSONL file to write; a job that was killed goes on where it stopped.
        method: best_of_n, beam, dvts or lookahead.
        width: responses drawn, or begun at once; a multiple of `expand`.
        expand: next steps drawn from each response begun that is kept (beam, dvts, lookahead).
        lookahead_steps: greedy steps drawn to value a step (lookahead).
        max_steps: steps after which a response is cut off (beam, dvts, lookahead); only by its length by default.
        token_budget: the most tokens drawn for one problem, by whatever the search draws; never exceeded. Without it
            as many as the method takes.
        problems_at_once: problems searched side by side; as many are redone after a kill.
    """

    model_name_or_path: str
    output: Path
    method: SearchMethod = "beam"
    width: int = 16
    expand: int = 4
    lookahead_steps: int = 1
    max_steps: int | None = None
    token_budget: int | None = None
    problems_at_once: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in sorted({"expand", "max_steps", "lookahead_steps"} - {*_OF_METHOD[self.method]}):
            readers = " or ".join(method for method, names in _OF_METHOD.items() if name in names)
            refuse_unread(self, [name], f"--method {readers}")
        if self.temperature == 0 and self.width > 1:
            raise ValueError("--temperature is 0, and all draws from one place would be the same: sample, or --width 1")
        refuse_unread(self, ["executor"], "`qstep sample` or `qstep annotate`: a search runs in one process")
        self.settings()

    def settings(self) -> SearchSettings:
        """The same for a search; raises ValueError where the numbers do not go together."""
        from qstep.search import SearchSettings

        return SearchSettings(
            self.sampling(),
            self.width,
            expand=1 if self.method == "best_of_n" else self.expand,
            lookahead_steps=self.lookahead_steps if self.method == "lookahead" else 0,
            max_steps=self.max_steps,
            token_budget=self.token_budget,
        )


def search(config: SearchConfig, engine: Engine | None = None, scorer: Scorer | None = None) -> Path:
    """Runs the stage and returns its output. `engine` and `scorer` replace those that the options name."""
    from qstep.data import StageFile, read_rows
    from qstep.data.splitters import is_named
    from qstep.data.tokens import PROMPT_DATE
    from qstep.search import search_together

    refuse_overwriting(config)
    problems = {problem.id: problem for problem in config.problems()}
    settings = settings_of(
        config,
        *NO_EFFECT,
        model=model_fingerprint(config.model_name_or_path, config.model_revision)
        if engine is None
        else config.model_name_or_path,
        scorer=config.scorer_fingerprint() if scorer is None else config.scorer,
        problems=problems_fingerprint(problems.values()),
        prompt_date=str(PROMPT_DATE),
    )
    with StageFile.open(config.output, stage="search", settings=settings) as file:
        if file.complete:
            return config.output
        engine = engine or config.load_engine(config.model_name_or_path)
        scorer = scorer or config.load_scorer()
        of_problems = (problem.prompt for problem in problems.values())
        warn_of_prompts(of_problems, scorer, config.dataset_name, config.instruction)
        if is_named(scorer.step_separator):
            raise ValueError(
                f"{config.scorer} reads steps that {scorer.step_separator} cuts, and a search has to know where a step "
                "ends while it is written: use a scorer whose steps end at a text"
            )
        done = {
            row["problem_id"]
            for row in read_rows(config.output, allow_torn=True)
            if row["sample"] + 1 == row["search"]["candidates"]
        }
        with bar(f"search {config.output.stem}", len(problems), len(done)) as advance:
            # Blocks are the same after a kill, so that what was computed together is so again.
            for block in in_blocks(problems.values(), config.problems_at_once):
                missing = sum(problem.id not in done for problem in block)
                if not missing:
                    continue
                found = search_together(
                    block, config.method, config.settings(), engine, scorer, score_tokens=config.score_tokens
                )
                of_block = zip(block, found, strict=True)
                rows = [row for problem, of in of_block for row in _rows(problem, of, config, scorer.step_separator)]
                file.append([row for row in rows if row["id"] not in file.done])
                advance(missing)
        summary = _summary(config.output)
        file.finish(summary)
        if summary["too_long"]:
            console.print(
                f"{summary['too_long']} responses begun were longer than the scorer's max_length of "
                f"{scorer.max_length} tokens: they are not scored, and lose to all that are"
            )
    return config.output


def _rows(problem: Problem, found: Found, config: SearchConfig, separator: str) -> list[Row]:
    from qstep.search import pick

    chosen = pick(found.candidates)
    how = {name: getattr(config, name) for name in _OF_METHOD[config.method]}
    spent = {name: getattr(found.tree, name) for name in ("tokens_generated", "tokens_scored", "too_long")}
    return [
        {
            "id": f"{problem.id}#{sample}",
            "problem_id": problem.id,
            "sample": sample,
            "task": problem.task,
            "prompt": problem.prompt,
            "gold": problem.gold,
            **({"metadata": dict(problem.metadata)} if problem.metadata else {}),
            "completion": rated.partial.text,
            **({"completion_ids": list(rated.partial.ids)} if rated.partial.sampled else {}),
            "finish_reason": rated.partial.finish_reason,
            "completions": rated.partial.steps(separator),
            "step_separator": separator,
            **({} if rated.q_values is None else {"q_values": rated.q_values}),
            "score": rated.score if math.isfinite(rated.score) else None,
            "chosen": sample == chosen,
            "search": {"method": config.method, **how, **spent, "candidates": len(found.candidates)},
        }
        for sample, rated in enumerate(found.candidates)
    ]


def _summary(path: Path) -> dict[str, Any]:
    """What the searches spent in all, and how the answers ended."""
    from qstep.data import read_rows

    spent: Counter[str] = Counter(problems=0, candidates=0, tokens_generated=0, tokens_scored=0, too_long=0)
    ended: Counter[str] = Counter()
    for row in read_rows(path, allow_torn=True):
        spent["candidates"] += 1
        if row["chosen"]:
            spent.update({name: row["search"][name] for name in ("tokens_generated", "tokens_scored", "too_long")})
            spent["problems"] += 1
            ended[row["finish_reason"]] += 1
    return {**spent, "finish_reasons": dict(sorted(ended.items()))}

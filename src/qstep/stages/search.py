"""`qstep search`: reads problems, a policy and a step scorer, and writes the candidates of guided searches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from qstep.generation.options import EngineOptions, SamplingOptions
from qstep.runs.fingerprints import problems_fingerprint
from qstep.runs.options import CHANGES_NOTHING, AtLeast1, NotInSettings, OutputFile, ReadIf, is_read, settings_of
from qstep.runs.progress import console
from qstep.runs.runner import Work, in_blocks, write_rows
from qstep.runs.shared_options import ModelName
from qstep.scoring.options import ScorerOptions, in_windows, warn_of_prompts
from qstep.search.methods import SearchMethod, readers_of
from qstep.tasks.options import ProblemOptions
from qstep.types import OverLongSearched, Problem, Row

if TYPE_CHECKING:
    from qstep.generation import Engine
    from qstep.scoring import Scorer
    from qstep.search import Found, SearchSettings

_SHAPE = ("width", "expand", "lookahead_steps", "max_steps", "token_budget")
"""The options that shape a search. Rows record those that their method reads."""

_SPENT = ("tokens_generated", "tokens_scored", "too_long", "in_windows")
"""What a search counts for its problem."""


@dataclass(kw_only=True)
class SearchConfig(ProblemOptions, SamplingOptions, EngineOptions, ScorerOptions):
    """Answers problems with a search that a step scorer guides, and counts the tokens it uses.

    `best_of_n` draws `width` complete responses. `beam` draws `width` first steps and keeps the best `width / expand`
    partial responses. It then draws `expand` next steps from each, and repeats this until the responses end.
    `lookahead` is a beam search that values each step by its score `lookahead_steps` greedy steps later. `dvts` is a
    beam search in `width / expand` independent trees. A step ends at the scorer's separator.

    The output has a row for each candidate. Candidates are complete, or cut off at the limit of tokens or steps. The
    answer is the row with `chosen`. It has the best score among complete candidates, or among all if none is complete.

    Args:
        model_name_or_path: the causal language model to sample from: a folder or a Hub id.
        output: the JSONL file to write. The same command resumes an interrupted job.
        method: the search method. `best_of_n` chooses among complete responses; the others choose after each step.
        width: number of responses drawn in parallel, a multiple of `expand`.
        expand: next steps drawn from each partial response that is kept.
        lookahead_steps: greedy steps drawn to value a step.
        max_steps: maximum number of steps of a response. By default only `max_new_tokens` limits a response.
        token_budget: maximum number of tokens drawn for one problem, including discarded steps; no limit by default.
        over_long: `unscored` gives no score to a partial response longer than the scorer's `max_length`, so it ranks
            below all that have one; `window` reads it in windows over its steps, as `qstep score` does. Both are
            counted.
        problems_at_once: problems searched at the same time. A resumed job repeats at most this many.
    """

    model_name_or_path: ModelName
    output: OutputFile
    method: SearchMethod = "beam"
    width: AtLeast1 = 16
    expand: Annotated[AtLeast1, ReadIf(method=readers_of("expand"))] = 4
    lookahead_steps: Annotated[AtLeast1, ReadIf(method=readers_of("lookahead_steps"))] = 1
    max_steps: Annotated[AtLeast1 | None, ReadIf(method=readers_of("max_steps"))] = None
    token_budget: AtLeast1 | None = None
    over_long: Annotated[OverLongSearched, NotInSettings(unless=in_windows)] = "unscored"
    problems_at_once: Annotated[AtLeast1, CHANGES_NOTHING] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature == 0 and self.width > 1:
            raise ValueError(
                f"--temperature is 0, so all {self.width} responses would be equal: raise it, or give --width 1"
            )
        self.settings()

    def settings(self) -> SearchSettings:
        """These options as the settings of a search. Raises ValueError if they are inconsistent."""
        from qstep.search import SearchSettings

        return SearchSettings(
            self.sampling(),
            self.width,
            expand=self.expand if is_read(self, "expand") else 1,
            lookahead_steps=self.lookahead_steps if is_read(self, "lookahead_steps") else 0,
            max_steps=self.max_steps,
            token_budget=self.token_budget,
        )


def search(config: SearchConfig, engine: Engine | None = None, scorer: Scorer | None = None) -> Path:
    """Runs the stage and returns its output. `engine` and `scorer` replace the ones named by the options."""
    from qstep.data.chat import PROMPT_DATE

    problems = {problem.id: problem for problem in config.problems()}
    settings = settings_of(
        config,
        model=config.model_setting(config.model_name_or_path, engine),
        scorer=config.scorer_fingerprint() if scorer is None else config.scorer,
        problems=problems_fingerprint(problems.values()),
        prompt_date=str(PROMPT_DATE),
    )

    write_rows(config.output, "search", settings, lambda done: _search(config, problems, engine, scorer))
    return config.output


def _search(config: SearchConfig, problems: dict[str, Problem], engine: Engine | None, scorer: Scorer | None) -> Work:
    from qstep.data import read_rows
    from qstep.data.splitters import is_named
    from qstep.search import search_together
    from qstep.tasks import opened_thinking

    searching = engine or config.load_engine(config.model_name_or_path)
    judging = scorer or config.load_scorer()
    if config.over_long == "window":
        judging.use_windows()
    warn_of_prompts((problem.prompt for problem in problems.values()), judging, config.dataset_name, config.instruction)
    if is_named(judging.step_separator):
        raise ValueError(
            f"{config.scorer} has the step separator {judging.step_separator}, and a search must recognise the end of "
            "a step while it is drawn. Use a scorer whose step separator is a string, such as a line break"
        )
    searched = {
        row["problem_id"]
        for row in read_rows(config.output, allow_torn=True)
        if row["sample"] + 1 == row["search"]["candidates"]
    }

    def rows_of(problem: Problem, result: Found) -> list[Row]:
        opened = opened_thinking(searching.tokenizer, problem.prompt, result.prompt_ids)
        return [{**row, **opened} for row in _rows(problem, result, config, judging.step_separator)]

    def candidates(block: list[Problem]) -> list[Row]:
        found = search_together(
            block, config.method, config.settings(), searching, judging, score_tokens=config.score_tokens
        )
        pairs = zip(block, found, strict=True)
        return [row for problem, result in pairs for row in rows_of(problem, result)]

    blocks = in_blocks(problems.values(), config.problems_at_once)
    return Work(
        len(problems),
        (candidates(block) for block in blocks if any(problem.id not in searched for problem in block)),
        partial(_summary, judging.max_length),
        done=len(searched),
        advance=lambda rows: len({row["problem_id"] for row in rows}),
    )


def _rows(problem: Problem, found: Found, config: SearchConfig, separator: str) -> list[Row]:
    from qstep.search import choose

    chosen = choose(found.candidates)
    how = {name: getattr(config, name) for name in _SHAPE if is_read(config, name)}
    spent = {name: getattr(found.tree, name) for name in _SPENT if name != "in_windows" or config.over_long == "window"}
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


def _summary(max_length: int, rows: Iterator[Row]) -> dict[str, Any]:
    """The tokens of all searches, and how the answers ended."""
    spent: Counter[str] = Counter(problems=0, candidates=0, tokens_generated=0, tokens_scored=0, too_long=0)
    ended: Counter[str] = Counter()
    for row in rows:
        spent["candidates"] += 1
        if row["chosen"]:
            spent.update({name: row["search"][name] for name in _SPENT if name in row["search"]})
            spent["problems"] += 1
            ended[row["finish_reason"]] += 1
    if spent["too_long"]:
        console.print(
            f"{spent['too_long']} partial responses were longer than the scorer's max_length of {max_length} tokens. "
            "They have no score, and rank below all that have one"
        )
    if windows := spent["in_windows"]:
        console.print(
            f"{windows} partial responses were longer than the scorer's max_length of {max_length} tokens and were "
            "read in windows over their steps"
        )
    if cut_off := ended["length"]:
        console.print(
            f"{cut_off} of {spent['problems']} answers were cut off: no candidate for these problems ended. Raise "
            "--max_new_tokens, --max_steps or --token_budget"
        )
    return {**spent, "finish_reasons": dict(sorted(ended.items()))}

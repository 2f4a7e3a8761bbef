"""PRM800K: human ratings of steps and of their alternatives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from qstep.data.columns import shown
from qstep.data.published.record import LeftOut, Record
from qstep.types import Row

Neutral = Literal["right", "wrong", "null"]
"""The label of a neutral rating."""

_SERVED_TO_ALL = {
    "is_quality_control_question": "a quality control question",
    "is_initial_screening_question": "an initial screening question",
}
_Ended = Literal["solution", "found_error", "give_up", "bad_problem"]


def read_prm800k(record: Record, neutral: Neutral = "right") -> Iterator[Row | LeftOut]:
    """A row of `openai/prm800k`, phase 1 or 2 (arXiv 2305.20050): a solution that a person rated step by step.

        {"labeler": "340d...", "timestamp": "2023-01-22T04:34:27.052924", "generation": 9,
         "is_quality_control_question": false, "is_initial_screening_question": false,
         "question": {"problem": "What is ...?", "ground_truth_answer": "40,\\\\!000", "ground_truth_solution": "..."},
         "label": {"steps": [{"completions": [{"text": "I want to ...", "rating": 0, "flagged": null}],
                              "human_completion": null, "chosen_completion": 0},
                             {"completions": [{"text": "I know ...", "rating": -1, "flagged": null},
                                              {"text": "I can ...", "rating": 0, "flagged": false}],
                              "human_completion": null, "chosen_completion": null}],
                   "total_time": 278270, "finish_reason": "found_error"}}

    The solution that was followed is one row. Each of its steps is the chosen completion, or the step that the person
    wrote, which has no rating (null). If a step has neither, it is the first completion, and it ends the solution. In
    phase 2 this is the model's own step, the first wrong one. A blank step is left out with its label.

    Each other completion is an alternative, and a row of its own. Its earlier steps are unlabelled (null), and the
    alternative has its label. So each rating counts once, and no row has a label of another branch. `phase`,
    `generation` and `ended` (the finish_reason) are kept. An alternative also has `branch`, the number of steps before
    it.

    A rating of 1 is right, and -1 is wrong. No rating, or a flag (the person did not know), is null. 0 is neutral: "not
    incorrect, but it does not make any progress". It is right by default, because the paper's own scores count it as
    positive (appendix F).

    Answers to control and screening questions are not used, since every labeler got them. Nor are problems that the
    labeler reported as broken. Labels from before the person gave up are used.
    """
    reason = _why_not_used(record)
    if reason is not None:
        yield LeftOut(reason)
        return
    more = _about(record)
    prompt = record.text("question.problem", record.mapping("question"))
    path, alternatives, left_out = _walk(record, record.items("label.steps", record.mapping("label")), neutral)
    yield from left_out
    texts = [text for text, _ in path]
    rated = any(value is not None for _, value in path)
    if rated:
        yield record.stepwise(prompt, texts, [value for _, value in path], "prm800k", **more)
    for before, place, text, value in alternatives:
        yield record.stepwise(
            prompt,
            [*texts[:before], text],
            [*[None] * before, value],
            "prm800k",
            id=f"{record.name}/{place}",
            branch=before,
            **more,
        )
    if not rated:
        yield LeftOut("no step has a rating", "part" if alternatives else "row")


def _why_not_used(record: Record) -> str | None:
    """Why a row is not used at all; None if it is."""
    for column, reason in _SERVED_TO_ALL.items():
        served = record.field(column)
        if not isinstance(served, bool):
            raise record.error(column, f"is {shown(served)}; it must be true or false")
        if served:
            return reason
    ended = record.field("label.finish_reason", record.mapping("label"))
    if ended not in get_args(_Ended):
        raise record.error("label.finish_reason", f"is {shown(ended)}; it must be one of {', '.join(get_args(_Ended))}")
    return "the labeler reported the problem as broken" if ended == "bad_problem" else None


def _about(record: Record) -> dict[str, Any]:
    """The columns that all rows of a labeler's answer share."""
    question, generation = record.mapping("question"), record.row.get("generation")
    gold = record.field("question.ground_truth_answer", question)
    return {
        "gold": None if gold is None else record.answer("question.ground_truth_answer", question),
        "phase": 1 if generation is None else 2,
        "generation": generation,
        "ended": record.field("label.finish_reason", record.mapping("label")),
    }


_Step = tuple[str, bool | None]
_Alternative = tuple[int, str, str, bool | None]
"""The number of steps before it, its place in the answer, its text and its label."""


def _walk(record: Record, steps: list[Any], neutral: Neutral) -> tuple[list[_Step], list[_Alternative], list[LeftOut]]:
    """The solution that was followed, the alternatives to its steps, and the unused parts."""
    path: list[_Step] = []
    alternatives: list[_Alternative] = []
    left_out: list[LeftOut] = []
    for t in range(len(steps)):
        where = f"label.steps[{t}]"
        found, chosen, human = _step(record, where, steps[t], neutral)
        if chosen is None and human is None:
            chosen = 0 if found else None
        seen: dict[str, bool | None] = {}
        if chosen is not None:
            seen[found[chosen][0]] = found[chosen][1]
        for number, (text, value) in enumerate(found):
            if number == chosen:
                continue
            if text in seen:
                same = seen[text] is value
                left_out.append(
                    LeftOut(f"alternative: the text of another, rated {'alike' if same else 'differently'}", "part")
                )
            elif value is None or not text:
                left_out.append(LeftOut(f"alternative: {'no rating' if text else 'blank'}", "part"))
            else:
                alternatives.append((len(path), f"{t}.{number}", text, value))
            seen.setdefault(text, value)
        if chosen is None and human is None:
            break
        step = found[chosen] if chosen is not None else (human or "", None)
        if step[0]:
            path.append(step)
        else:
            left_out.append(LeftOut("a blank step", "part"))
        if chosen is not None and steps[t]["chosen_completion"] is None:
            break
    for _ in steps[t + 1 :] if steps else ():
        left_out.append(LeftOut("a step after the one that ends the solution", "part"))
    return path, alternatives, left_out


def _step(record: Record, where: str, step: Any, neutral: Neutral) -> tuple[list[_Step], int | None, str | None]:
    """The completions of a step with their labels, the index of the chosen one, and what the person wrote instead."""
    if not isinstance(step, dict):
        raise record.error(where, f"is {shown(step)}; it must be an object")
    completions = record.field(f"{where}.completions", step)
    if completions is None:  # the labeler gave up before any was drawn
        completions = []
    if not isinstance(completions, list):
        raise record.error(f"{where}.completions", f"is {shown(completions)}; it must be a list or null")
    found = []
    for i, completion in enumerate(completions):
        name = f"{where}.completions[{i}]"
        if not isinstance(completion, dict):
            raise record.error(name, f"is {shown(completion)}; it must be an object")
        text, rating = record.field(f"{name}.text", completion), record.field(f"{name}.rating", completion)
        if not isinstance(text, str):
            raise record.error(f"{name}.text", f"is {shown(text)}; a step must be a string")
        if rating is not None and (type(rating) is not int or rating not in (-1, 0, 1)):
            raise record.error(f"{name}.rating", f"is {shown(rating)}; it must be -1, 0, 1 or null")
        flagged = completion.get("flagged")
        if not isinstance(flagged, bool | None):
            raise record.error(f"{name}.flagged", f"is {shown(flagged)}; it must be true, false or null")
        found.append((text.strip(), None if flagged else _label(rating, neutral)))
    chosen = record.field(f"{where}.chosen_completion", step)
    if chosen is not None:
        record.number(f"{where}.chosen_completion", 0, len(found) - 1, step)
    human = record.field(f"{where}.human_completion", step)
    if human is not None:
        held = record.mapping(f"{where}.human_completion", step)
        human = record.field(f"{where}.human_completion.text", held)
        if not isinstance(human, str):
            raise record.error(f"{where}.human_completion.text", f"is {shown(human)}; a step must be a string")
        human = human.strip()
    return found, chosen, human if chosen is None else None


def _label(rating: int | None, neutral: Neutral) -> bool | None:
    if rating == 0:
        return {"right": True, "wrong": False, "null": None}[neutral]
    return None if rating is None else rating == 1

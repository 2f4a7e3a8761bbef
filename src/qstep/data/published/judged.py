"""Solutions of language models whose first wrong step people have marked, beyond ProcessBench."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qstep.data.columns import shown
from qstep.data.first_wrong import NO_ERROR, labels_until
from qstep.data.published.record import LeftOut, Record, Steps
from qstep.types import Row

BLANK_ERROR = "the first wrong step is blank"


def read_mrben(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `Randolphzeng/Mr-Ben` (arXiv 2406.13975), or of a file of its repository, an object of lists.

        {"Question_UUID": "1f6d...", "Subject": "college_physics", "Question": "A satellite ...", "Options": "A: ...",
         "Ground_Truth_Answer": "D", "Sampled_Model": "Claude2", "Model_Solution_Steps": ["Step 1: ...", "", ...],
         "Model_Solution_Correctness": "incorrect", "Model_Solution_First_Error_Step": "3", ...}

    The prompt is the question and its options. `Model_Solution_First_Error_Step` is the number that a step begins with,
    as in `Step 3:`; where none does, it counts the steps that are not blank, from 1. "N/A" is a solution without a
    wrong step. It becomes `first_error`, from 0. Later steps were not judged, so their labels are null. The set is for
    evaluation only.
    """
    steps = record.steps("Model_Solution_Steps")
    named = record.field("Model_Solution_First_Error_Step")
    if named == "N/A":
        first = NO_ERROR
    elif (isinstance(named, str) and named.strip().isdecimal()) or type(named) is int:
        place = _numbered(steps, int(named))
        if place is None:
            yield LeftOut("no step has the number of the first wrong one")
            return
        first = place
    else:
        problem = f'is {shown(named)}; it must be the number of a step, or "N/A"'
        raise record.error("Model_Solution_First_Error_Step", problem)
    yield from steps.blank
    options = record.row.get("Options")
    question = record.text("Question")
    yield record.stepwise(
        f"{question}\n{options.strip()}" if isinstance(options, str) and options.strip() else question,
        steps.texts,
        labels_until(first, len(steps.texts)),
        "mrben",
        gold=record.text("Ground_Truth_Answer"),
        generator=record.text("Sampled_Model"),
        subset=record.text("Subject"),
        question_uuid=record.text("Question_UUID"),
    ) | {"first_error": first}


def _numbered(steps: Steps, number: int) -> int | None:
    """The index of the step `Step <number>`, or of the step at that place, counted from 1. None if there is none."""
    begins = [re.match(r"\W*step\s*(\d+)", text, re.IGNORECASE) for text in steps.texts]
    if (found := [i for i, match in enumerate(begins) if match and int(match[1]) == number]) != []:
        return found[0]
    return number - 1 if 1 <= number <= len(steps.texts) and not any(begins) else None


def read_stepverify(record: Record) -> Iterator[Row | LeftOut]:
    """A row of the teachers' annotations of `eth-lre/verify-then-generate` (arXiv 2407.09136).

        {"problem": "Ignatius owns ...", "reference_solution": "Ignatius has 8 tires ...", "steps": ["Since ...", ...],
         "incorrect_index": 0, "error_category": "Missing ...", "correct_response": "Ignatius owns ..."}

    `incorrect_index`, from 0, is the first wrong step. It becomes `first_error`. Later steps were not judged, so their
    labels are null.
    """
    steps = record.steps("steps")
    first = steps.place.get(record.number("incorrect_index", 0, steps.entries - 1))
    if first is None:
        yield LeftOut(BLANK_ERROR)
        return
    yield from steps.blank
    yield record.stepwise(
        record.text("problem"),
        steps.texts,
        labels_until(first, len(steps.texts)),
        "stepverify",
        error_category=record.row.get("error_category"),
    ) | {"first_error": first}

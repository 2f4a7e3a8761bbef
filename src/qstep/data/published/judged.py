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
    evaluation only. A row whose `Model_Solution_Correctness` contradicts this is left out.
    """
    steps = record.steps("Model_Solution_Steps")
    first = _marked(record, steps, "Model_Solution_First_Error_Step", "Model_Solution_Correctness")
    if isinstance(first, LeftOut):
        yield first
        return
    yield from steps.blank
    options = record.row.get("Options")
    question = record.text("Question")
    yield record.stepwise(
        f"{question}\n{options.strip()}" if isinstance(options, str) and options.strip() else question,
        steps.texts,
        labels_until(first, len(steps.texts)),
        "mrben",
        gold=record.answer("Ground_Truth_Answer"),
        generator=record.text("Sampled_Model"),
        subset=record.text("Subject"),
        question_uuid=record.text("Question_UUID"),
    ) | {"first_error": first}


def read_mr_gsm8k(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `Randolphzeng/Mr-GSM8K` (arXiv 2312.17080), or of `MR-GSM8K.json` of its repository.

        {"uuid": "f25b...", "question": "There are ...", "ground_truth_answer": 18, "ground_truth_solution": "...",
         "model_output_steps": ["Step 1: ...", "Step 2: ...", "Step 3: #### 18"],
         "model_output_answer_correctness": "correct", "model_output_solution_correctness": "wrong",
         "model_output_solution_first_error_step": "2", "question_type": "original", ...}

    The first wrong step is marked as in Mr-Ben, and becomes `first_error`, from 0. `question_type` (original, POT or
    reversed) becomes `subset`, and `model_output_answer_correctness` becomes `final_answer_correct`. The set is for
    evaluation only.
    """
    steps = record.steps("model_output_steps")
    first = _marked(record, steps, "model_output_solution_first_error_step", "model_output_solution_correctness")
    if isinstance(first, LeftOut):
        yield first
        return
    yield from steps.blank
    gold = record.field("ground_truth_answer")
    yield record.stepwise(
        record.text("question"),
        steps.texts,
        labels_until(first, len(steps.texts)),
        "mr_gsm8k",
        gold=str(gold) if type(gold) is float else record.answer("ground_truth_answer"),
        subset=record.text("question_type"),
        question_uuid=record.text("uuid"),
        final_answer_correct=_right(record, "model_output_answer_correctness"),
    ) | {"first_error": first}


def _marked(record: Record, steps: Steps, field: str, verdict: str) -> int | LeftOut:
    """The index of the first wrong step, or why the row is not used."""
    named = record.field(field)
    right = _right(record, verdict)
    if named == "N/A":
        return NO_ERROR if right else LeftOut("wrong, but no step is marked as wrong")
    if not (isinstance(named, str) and named.strip().isdecimal()) and type(named) is not int:
        raise record.error(field, f'is {shown(named)}; it must be the number of a step, or "N/A"')
    if right:
        return LeftOut("right, but a step is marked as wrong")
    place = _numbered(steps, int(named))
    return LeftOut("no step has the number of the first wrong one") if place is None else place


def _right(record: Record, field: str) -> bool:
    """Whether a verdict is "correct", and not "incorrect" or "wrong"."""
    verdict = record.text(field).strip().lower()
    if verdict not in ("correct", "incorrect", "wrong"):
        raise record.error(field, f'is {shown(verdict)}; it must be "correct", "incorrect" or "wrong"')
    return verdict == "correct"


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

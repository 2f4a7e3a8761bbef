"""Benchmarks of step scorers: solutions whose first wrong step, or every wrong step, is known."""

from __future__ import annotations

from collections.abc import Iterator

from qstep.data.columns import shown
from qstep.data.first_wrong import labels_until
from qstep.data.published.judged import BLANK_ERROR
from qstep.data.published.record import LeftOut, Record
from qstep.types import Row


def read_processbench(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `Qwen/ProcessBench` (arXiv 2412.06559; splits gsm8k, math, olympiadbench, omnimath).

        {"id": "gsm8k-0", "generator": "Qwen2-7B-Instruct", "problem": "Sue lives ...", "steps": ["To find ...", ...],
         "final_answer_correct": false, "label": 1}

    `label` is the index of the first wrong step, or -1 if all are right. It becomes `first_error`. Later steps were not
    judged, so their labels are null. The step separator is a blank line. The set is for evaluation only.
    """
    steps = record.steps("steps")
    label = record.number("label", -1, steps.entries - 1)
    if label >= 0 and label not in steps.place:
        yield LeftOut(BLANK_ERROR)
        return
    yield from steps.blank
    label = steps.place.get(label, -1)
    name = record.text("id")
    correct = record.field("final_answer_correct")
    if not isinstance(correct, bool):
        raise record.error("final_answer_correct", f"is {shown(correct)}; it must be true or false")
    yield record.stepwise(
        record.text("problem"),
        steps.texts,
        labels_until(label, len(steps.texts)),
        "processbench",
        id=name,
        generator=record.text("generator"),
        subset=name.rpartition("-")[0] or None,
        final_answer_correct=correct,
    ) | {"first_error": label}


_CORRECT = "correct"
_REDUNDANT = "redundency"  # as its owners spell it


def read_prmbench(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `hitsmy/PRMBench_Preview` (arXiv 2501.03124), or of a file of its repository.

        {"idx": "circular_prm_test_p1_0", "classification": "circular", "question": "...", "original_question": "...",
         "modified_question": "Three pencils ...", "original_process": ["1. Let's call ...", ...],
         "modified_process": ["1. Let's call ...", ...], "modified_steps": [3, 4, 5, 6], "error_steps": [3, 4, 5],
         "reason": "Steps 3, 4 and 5 introduce circular reasoning ..."}

    The row is the modified process. `error_steps`, counted from 1, are its wrong steps, and all others are right. Three
    rules follow the owners' evaluation. The original process of a "redundency" row is another row, with the
    classification "correct". An error step beyond the last step is ignored. If two rows have the same `idx`, the first
    counts. A row without any existing error step is left out, since it would count as right. `classification` and
    `first_error` (from 0, -1 for none) are kept. The set is for evaluation only.
    """
    kind, idx = record.text("classification"), record.text("idx")
    steps, wrong = record.steps("modified_process"), record.items("error_steps")
    for i, number in enumerate(wrong):
        if type(number) is not int or number < 1:
            raise record.error(f"error_steps[{i}]", f"is {shown(number)}; it must be a whole number from 1")
    known = [steps.place[number - 1] for number in wrong if number - 1 in steps.place]
    if wrong and not known:
        yield LeftOut("no error step is among the steps")
        return
    beyond = sum(number > steps.entries for number in wrong)
    yield from [LeftOut("an error step beyond the last step", "part")] * beyond
    yield from [LeftOut("a blank error step", "part")] * (len(wrong) - len(known) - beyond)
    yield from steps.blank
    name = idx.removeprefix(f"{kind}_")
    yield record.stepwise(
        record.text("modified_question"),
        steps.texts,
        [t not in known for t in range(len(steps.texts))],
        "prmbench",
        id=f"{kind}_{name}",
        classification=kind,
    ) | {"first_error": min(known, default=-1)}
    if kind == _REDUNDANT:
        original = record.steps("original_process")
        yield from original.blank
        yield record.stepwise(
            record.text("original_question"),
            original.texts,
            [True] * len(original.texts),
            "prmbench",
            id=f"{_CORRECT}_{name}",
            classification=_CORRECT,
        ) | {"first_error": -1}


def read_bigbench_mistake(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `WHGTyen/BIG-Bench-Mistake` (arXiv 2311.08516), which has a .jsonl file for each of its five tasks.

        {"input": "kitten normative scan ...", "steps": ["I should start by ...", ...], "answer": "being ...",
         "target": "being ...", "mistake_index": 5}

    `mistake_index` counts from 0, and is null without a mistake. It becomes `first_error`, with -1 for null. Later
    steps were not judged, so their labels are null. `target` is the gold answer. `answer` is the model's answer, if it
    gave one, and is kept as `model_answer`.
    """
    steps = record.steps("steps")
    first = -1
    if record.field("mistake_index") is not None:
        place = steps.place.get(record.number("mistake_index", 0, steps.entries - 1))
        if place is None:
            yield LeftOut(BLANK_ERROR)
            return
        first = place
    yield from steps.blank
    answer = record.field("answer")
    if answer is not None and not isinstance(answer, str):
        raise record.error("answer", f"is {shown(answer)}; it must be a string or null")
    yield record.stepwise(
        record.text("input"),
        steps.texts,
        labels_until(first, len(steps.texts)),
        "bigbench_mistake",
        gold=record.answer("target"),
        model_answer=answer,
    ) | {"first_error": first}

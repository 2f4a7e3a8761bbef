"""Math-Shepherd: steps labelled by rollouts, stored as two strings that differ only in the marks after the steps."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qstep.data.published.record import LeftOut, Record
from qstep.types import Row

_TAG = "ки"
_FIRST = "Step 1:"
_MARK = re.compile(r"[+-](?=\s*(?:\n|\Z))")


def read_math_shepherd(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `peiyi9979/Math-Shepherd` (arXiv 2312.08935).

    `input` has the question, a space, and one line for each step, which ends with the tag "ки". In `label` the tag is
    replaced by `+` (a rollout from here reached the right answer) or `-`:

        {"input": "How many seeds? Step 1: There are 20 x 40 = <<20*40=800>>800 black seeds. ки\\nStep 2: ... ки",
         "label": "How many seeds? Step 1: There are 20 x 40 = <<20*40=800>>800 black seeds. +\\nStep 2: ... -",
         "task": "GSM8K"}

    Steps keep their text, including "Step 1:" and calculator marks. A blank step is left out with its label. `task`
    becomes `subset`. There is no gold answer.
    """
    unmarked, marked = record.text("input"), record.text("label")
    *texts, rest = unmarked.split(_TAG)
    labels = _labels(texts, rest, marked)
    if not texts:
        yield LeftOut("no step ends with the tag")
    elif rest.strip():
        yield LeftOut("text after the last tag")
    elif labels is None:
        differ = len(_MARK.findall(marked)) != len(texts)
        yield LeftOut(f"steps and labels disagree in {'number' if differ else 'text'}")
    elif (begins := texts[0].count(_FIRST)) != 1:
        yield LeftOut("'Step 1:' stands there twice" if begins else "no 'Step 1:'")
    else:
        question, _, first = texts[0].partition(_FIRST)
        steps = [_FIRST + first, *texts[1:]]
        if not question.strip():
            yield LeftOut("no question")
        else:
            kept = [(step.strip(), label) for step, label in zip(steps, labels, strict=True) if step.strip()]
            yield from [LeftOut("a blank step", "part")] * (len(steps) - len(kept))
            subset = record.text("task") if record.row.get("task") is not None else None
            yield record.stepwise(
                question.strip(),
                [step for step, _ in kept],
                [label for _, label in kept],
                "math_shepherd",
                subset=subset,
            )


def _labels(texts: list[str], rest: str, marked: str) -> list[bool] | None:
    """The marks + or - of `marked` after each of the texts, or None if the two differ elsewhere."""
    labels, at = [], 0
    for text in texts:
        at += len(text)
        if not marked.startswith(text, at - len(text)) or marked[at : at + 1] not in ("+", "-"):
            return None
        labels.append(marked[at] == "+")
        at += 1
    return labels if marked[at:].strip() == rest.strip() else None

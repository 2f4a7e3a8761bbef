"""MATH-APS: solutions whose ends of text are labelled by rollouts, as OpenR publishes them."""

from __future__ import annotations

from collections.abc import Iterator

from qstep.data.columns import shown
from qstep.data.published.record import LeftOut, Record
from qstep.data.steps import split_steps
from qstep.types import Row

_TAG = "\n\n\n\n\n"


def read_math_aps(record: Record) -> Iterator[Row | LeftOut]:
    """A row of `openreasoner/MATH-APS` (arXiv 2410.09671), and of other sets in the form that OpenR trains on.

        {"question": "Find ...", "process": "We begin ...\\n\\nNext, 2 + 3 = 5. \\n\\n\\n\\n\\n", "label": ["+"]}

    `preprocess/` of the repository openreasoner/openr writes this form, and `prm/code/` and `gen_rm/` there read it. A
    tag of five line breaks follows each labelled text of `process`, and `label` has `+` or `-` for each. It is `+` if
    more than half of the rollouts from the end of that text are right. A row of MATH-APS has one label, for a solution
    or the beginning of one.

    The texts are cut into steps at blank lines. The last step of a text has its label, and the others have none (null).
    """
    process, marks = record.text("process"), record.items("label")
    for i, mark in enumerate(marks):
        if mark not in ("+", "-"):
            raise record.error(f"label[{i}]", f'is {shown(mark)}; it must be "+" or "-"')
    texts = process.split(_TAG)
    if not texts[-1].strip():
        texts.pop()
    if len(texts) != len(marks):
        yield LeftOut("texts and labels disagree in number")
        return
    steps: list[str] = []
    labels: list[bool | None] = []
    for text, mark in zip(texts, marks, strict=True):
        found = split_steps(text, "\n\n")
        if not found:
            yield LeftOut("a blank step", "part")
            continue
        steps += found
        labels += [*[None] * (len(found) - 1), mark == "+"]
    yield record.stepwise(record.text("question"), steps, labels, "math_aps")

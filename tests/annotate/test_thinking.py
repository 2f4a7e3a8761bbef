"""Labels of steps of the thinking: the verdict on the answer is none on the last step of closed thinking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chats import TEMPLATE, chat_tokenizer
from fake_engine import CharacterTokenizer
from qstep.annotate import OutcomePool, RolloutSettings, label_by_outcome, label_by_rollouts
from qstep.annotate.rollouts import prefixes_of
from qstep.data import (
    contradicting_rows,
    decode_text,
    encode_text,
    index_rows,
    row_step_ends,
    steps_of,
    with_steps,
    write_jsonl,
)
from qstep.generation import Request, SamplingSettings
from qstep.objectives.labels import without_end
from qstep.tasks import miniature
from qstep.types import Response, Row

CLOSED = "<think>\n1+1=2\nSo 2.\n</think>\n#3"
OPEN = "<think>\n1+1=2\nSo 3."
THINKING, ANSWER, ALL = "split:thinking:line", "split:answer:line", "split:line"


def row(completion: str = CLOSED, **more: Any) -> Row:
    given = {"id": "p#0", "problem_id": "p", "prompt": "1+1?", "task": "math", "gold": "2", "verdict": "wrong"}
    return {**given, "completion": completion, "finish_reason": "stop", **more}


@pytest.mark.parametrize(
    ("completion", "separator", "labels"),
    [
        (CLOSED, THINKING, [None, None]),
        (CLOSED, ANSWER, [False]),
        (OPEN, THINKING, [None, False]),
        (OPEN, ALL, [None, None, False]),
    ],
)
def test_only_the_end_of_a_wrong_response_is_wrong(completion: str, separator: str, labels: list[bool | None]) -> None:
    given = row(completion)
    pool = OutcomePool.of([given], separator)
    assert label_by_outcome(given, pool, separator)["labels"][-len(labels) :] == labels


@pytest.mark.parametrize(
    ("prompt", "completion"), [("1+1?", OPEN), ("1+1? <think>\n", "1+1=2\nSo 3."), ("1+1?", "<think>\n1+1=2\nSo")]
)
def test_thinking_that_is_never_closed_was_cut_off_unless_it_stopped(prompt: str, completion: str) -> None:
    """Responses of others have no `finish_reason`."""
    given = row(completion, prompt=prompt)
    del given["finish_reason"]

    def last(given: Row) -> bool | None:
        return label_by_outcome(given, OutcomePool.of([given], ALL), ALL)["labels"][-1]

    assert last(given) is None and last({**given, "completion": "1+1=2\nSo 3.", "prompt": "1+1?"}) is False
    assert last({**given, "finish_reason": "stop"}) is False


class Alphabet(CharacterTokenizer):
    """A token a character, of any text."""

    def encode(self, text: str, **options: bool) -> list[int]:
        return [ord(character) + 1 for character in text]

    def decode(self, ids: list[int], **options: bool) -> str:
        return "".join(chr(i - 1) for i in ids if i != self.eos_token_id)


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_rollouts_continue_from_the_end_of_the_thinking(finish: str) -> None:
    class Engine:
        tokenizer = Alphabet()

    engine: Any = Engine()
    steps, prefixes = prefixes_of(engine, row(finish_reason=finish), THINKING, max_new_tokens=99)
    texts = [engine.tokenizer.decode(prefix.ids) for prefix in prefixes]
    assert steps == ["1+1=2", "So 2."] and texts == ["<think>\n1+1=2\n", "<think>\n1+1=2\nSo 2.\n"]
    _, others = prefixes_of(engine, row(OPEN), THINKING, max_new_tokens=99)
    assert [engine.tokenizer.decode(prefix.ids) for prefix in others] == ["<think>\n1+1=2\n"]


def test_rewards_stand_where_the_thinking_ends() -> None:
    """Also in the tokens of a tokenizer that reads another text, here one that knows none of the letters."""
    tokenizer = Alphabet()
    steps = steps_of(row(), THINKING)
    ends = row_step_ends(tokenizer, row(), steps, THINKING)  # type: ignore[arg-type]
    assert ends == [CLOSED.index("So") - 1, CLOSED.index("</think>") - 1]
    lossy = miniature.tokenizer()
    given = {"prompt": "1+1=", "completion": "<think>1+1=2</think>#3"}
    with pytest.raises(ValueError):
        row_step_ends(lossy, given, ["1+1=2"], THINKING)


def test_a_finished_step_of_thinking_keeps_its_label() -> None:
    cut = {"finish_reason": "length", "label": False, "labels": [True, True]}
    assert without_end(with_steps(row(**cut), THINKING))["labels"] == [True, True]
    assert without_end(with_steps(row(OPEN, **cut), THINKING))["labels"] == [True, None]


def test_equal_thinking_or_no_steps_make_no_equal_responses(tmp_path: Path) -> None:
    """Two responses that think the same and answer differently, and two without any thinking, contradict nothing."""
    rows = [
        {**with_steps(row(text, id=f"p#{i}"), THINKING), "labels": labels, "label": right}
        for i, (text, labels, right) in enumerate(
            [
                (CLOSED, [True, None], False),
                (CLOSED.replace("#3", "#2"), [True, True], True),
                ("#3", [], False),
                ("#2", [], True),
                (CLOSED, [False, None], False),
            ]
        )
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    index = index_rows(tmp_path / "rows.jsonl", "stepwise")
    assert contradicting_rows(index).tolist() == [0, 4]


class Continues:
    """Continues every prefix with the same text, and ends by itself."""

    def __init__(self, template: str, text: str) -> None:
        self.tokenizer, self.text = chat_tokenizer(template), text

    def decode(self, ids: list[int]) -> str:
        return decode_text(self.tokenizer, ids)

    def sample(
        self, requests: Iterable[Request], settings: SamplingSettings
    ) -> Iterator[tuple[Request, list[Response]]]:
        ids = [*encode_text(self.tokenizer, self.text), self.tokenizer.eos_token_id]
        for request in requests:
            yield request, [Response(sample, self.text, ids, None, "stop") for sample in request.samples]


@pytest.mark.parametrize(("opens", "labels"), [(True, [0.0, 0.0, 1.0, 0.0]), (False, [1.0, 1.0, 1.0, 0.0])])
def test_a_rollout_that_never_closes_what_the_template_opened_fails(opens: bool, labels: list[float]) -> None:
    """The row comes from elsewhere: its text has the mark, and no column says that the template opens the thinking."""
    assistant = "<|im_start|>assistant\n"
    template = TEMPLATE.replace(assistant + "{% endif %}", assistant + "<think>\n{% endif %}") if opens else TEMPLATE
    completion = ("<think>\n" if opens else "") + "1+1=3\nSo 3.\n</think>\nThe answer is 3."
    given = row(completion, prompt=[{"role": "user", "content": "1+1?"}])
    settings = RolloutSettings(1, SamplingSettings(400), ALL)
    engine = Continues(template, "The answer is 2.")
    (labelled,) = label_by_rollouts(engine, [given], settings)
    assert labelled["labels"][-4:] == labels


def test_the_last_step_of_thinking_that_was_cut_off_is_continued() -> None:
    given = row(OPEN)
    del given["finish_reason"]
    engine = Continues(TEMPLATE, "\n</think>\nThe answer is 2.")
    (labelled,) = label_by_rollouts(engine, [given], RolloutSettings(2, SamplingSettings(400), THINKING))
    assert (labelled["labels"], labelled["trials"]) == ([1.0, 1.0], [2, 2])


def test_ids_of_tool_calls_do_not_make_two_turns_different() -> None:
    def turns(name: str, answer: str) -> list[dict[str, Any]]:
        call = {"id": name, "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}}
        return [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "2", "tool_call_id": name},
            {"role": "assistant", "content": answer},
        ]

    prompt = [{"role": "user", "content": "1+1?"}]
    right = row(prompt=prompt, verdict="right") | {"completion": turns("call_1", "The answer is 2.")}
    wrong = row(prompt=prompt) | {"completion": turns("call_2", "The answer is 3.")}
    pool = OutcomePool.of([right, wrong], ALL)
    assert label_by_outcome(wrong, pool, ALL)["labels"] == [True, False]

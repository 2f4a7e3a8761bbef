"""Steps of reasoning traces: paragraphs, and the thinking or the answer alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from byte_tokenizer import byte_tokenizer
from qstep.data import RowError, check_row, first_cut, split_steps, step_regions, step_token_ends, steps_of, with_steps
from qstep.data.parts import CLOSING
from qstep.data.tokens import decode_text, encode_text
from qstep.tasks import grade_rows

LONG = "The sum of the first ten odd numbers is one hundred, since it is the square of their number."
TRACE = f"""<think>
Okay, ten odd numbers.

{LONG}

Wait, is the first of the odd numbers really 1?

Yes. So that holds:

\\[
1 + 3

= 4
\\]

{LONG}

</think>

**Answer**

#### 100"""


def test_paragraphs() -> None:
    """Short ones are joined, a turn and the end of the thinking begin a step, and a colon ends none."""
    steps = [
        f"<think>\nOkay, ten odd numbers.\n\n{LONG}",
        "Wait, is the first of the odd numbers really 1?\n\nYes. So that holds:\n\n\\[\n1 + 3\n\n= 4\n\\]",
        f"{LONG}\n\n</think>",
        "**Answer**\n\n#### 100",
    ]
    assert split_steps(TRACE, "split:paragraph") == steps
    assert all(split_steps(step, "split:paragraph") == [step] for step in steps)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (f"<think>\n\nWait, {LONG}\n\n</think>\nYes.", [f"<think>\n\nWait, {LONG}\n\n</think>", "Yes."]),
        ("<think>\n\n</think>\n\n4", ["<think>\n\n</think>\n\n4"]),
        ("a</think>\nb", ["a</think>", "b"]),
        ("a</think>b", ["a</think>", "b"]),
        ("<think></think> 4", ["<think></think> 4"]),
        (f"[THINK]{LONG}[/THINK]The answer is 4.", [f"[THINK]{LONG}[/THINK]", "The answer is 4."]),
        (f"\u25c1think\u25b7{LONG}\u25c1/think\u25b7 4", [f"\u25c1think\u25b7{LONG}\u25c1/think\u25b7", "4"]),
        (
            "a<|end|><|start|>assistant<|channel|>final<|message|>4",
            ["a<|end|><|start|>assistant<|channel|>final<|message|>", "4"],
        ),
        ("Hmm.\n\nWait.\n\nAlternatively, 4", ["Hmm.", "Wait.", "Alternatively, 4"]),
        ("Waiters are paid.\n\nWaiters eat.", ["Waiters are paid.\n\nWaiters eat."]),
        (f"{LONG}\n\n{LONG}\n\n4", [LONG, LONG, "4"]),
        (f"```\n{LONG}\n\n{LONG}\n```", [f"```\n{LONG}\n\n{LONG}\n```"]),
    ],
)
def test_no_mark_is_a_step_of_its_own(text: str, steps: list[str]) -> None:
    assert split_steps(text, "split:paragraph") == steps
    assert all(split_steps(step, "split:paragraph") == [step] for step in steps)


@pytest.mark.parametrize(
    ("text", "opened", "thinking", "answer"),
    [
        ("<think>\na\nb\n</think>\nb\nc", False, ["a", "b"], ["b", "c"]),
        ("a\nb\n</think>\n\nc", False, ["a", "b"], ["c"]),
        ("a\nb\n</think>\n\nc", True, ["a", "b"], ["c"]),
        ("<think>\na\nb", False, ["a", "b"], []),
        ("a\nb", True, ["a", "b"], []),
        ("a\nb", False, [], ["a", "b"]),
        ("[THINK]a[/THINK]b", False, ["a"], ["b"]),
    ],
)
def test_steps_of_one_part(text: str, opened: bool, thinking: list[str], answer: list[str]) -> None:
    """What is outside of a part belongs to its first or last region. The tokens of closed thinking end with it."""
    row = {"id": "a", "prompt": "q" + "<think>\n" * opened, "completion": text}
    tokenizer = byte_tokenizer()
    ids = encode_text(tokenizer, text)
    for part, steps in (("thinking", thinking), ("answer", answer)):
        separator = f"split:{part}:line"
        assert steps_of(row, separator) == steps
        checked = check_row(Path("x"), 1, {**with_steps(row, separator), "labels": [True] * len(steps)}, "stepwise")
        assert steps_of(checked, separator) == steps
        if steps:
            regions = step_regions(text, steps, separator)
            assert "".join(text[start:end] for start, end in regions) == text
            end = step_token_ends(tokenizer, ids, steps, separator)[-1] + 1
            closed = part == "thinking" and bool(answer)
            through = text[: min(text.index(mark) for mark in CLOSING if mark in text)] if closed else text
            assert decode_text(tokenizer, ids[:end]).strip() == through.strip()
            assert closed == (end < len(ids))
    mark = "[THINK]" if "[THINK]" in text else "<think>"
    templated = {**row, "prompt": [{"role": "user", "content": "q"}], "thinking_opened": mark}
    assert steps_of(templated, "split:thinking:line") == (thinking or answer)


@pytest.mark.parametrize(
    ("text", "prompt", "steps", "regions"),
    [
        ("OK.\n<think>\nOK.\n2+2=4", "q", ["OK.", "2+2=4"], [(0, 16), (16, 21)]),
        ("OK.\n<think>\nOK.", "q<think>", ["OK.", "<think>", "OK."], [(0, 4), (4, 12), (12, 15)]),
        ("a\nb\n<think>\na\nb", "q", ["a", "b"], [(0, 14), (14, 15)]),
        ("a\nb\n<think>\na", "q<think>", ["a", "b", "<think>", "a"], [(0, 2), (2, 4), (4, 12), (12, 13)]),
    ],
)
def test_thinking_that_is_never_closed_after_words_that_it_repeats(
    text: str, prompt: str, steps: list[str], regions: list[tuple[int, int]]
) -> None:
    """It begins at its mark, or with the text if the prompt opened it, for the steps and for their regions."""
    separator = "split:thinking:line"
    assert steps_of({"id": "a", "prompt": prompt, "completion": text}, separator) == steps
    assert step_regions(text, steps, separator) == regions


ANALYSIS, FINAL = "<|channel|>analysis<|message|>", "<|channel|>final<|message|>"


@pytest.mark.parametrize("header", ["<|end|><|start|>assistant", "<|start|>assistant", "assistant", ""])
def test_the_header_before_the_final_channel_belongs_to_no_step(header: str) -> None:
    """The decoded tokens of gpt-oss have only its word. The tokens of the thinking end before it."""
    text = f"{ANALYSIS}3+5=8\nSo 8/2=4.{header}{FINAL}The answer is 4."
    assert split_steps(text, "split:thinking:line") == ["3+5=8", "So 8/2=4."]
    assert split_steps(text, "split:answer:line") == ["The answer is 4."]
    assert split_steps(f"{ANALYSIS}{header}{FINAL}4", "split:thinking:line") == []
    assert split_steps(f"My assistant</think>{header}4", "split:thinking:line") == ["My assistant"]
    tokenizer = byte_tokenizer()
    ids = encode_text(tokenizer, text)
    end = step_token_ends(tokenizer, ids, ["3+5=8", "So 8/2=4."], "split:thinking:line")[-1]
    assert decode_text(tokenizer, ids[: end + 1]).lstrip() == f"{ANALYSIS}3+5=8\nSo 8/2=4."


@pytest.mark.parametrize(
    ("opening", "text", "answer"),
    [
        ("", "<think>a</thought> 4", "4"),
        ("", "<thought>a</think> 4", "4"),
        ("", "<think>a <thought>b</thought> c", ""),
        ("", "<think>a <thought>b</think> 4", "4"),
        ("", "[THINK]a <think> b[/THINK]4", "4"),
        ("", "a</think>4", "4"),
        ("", "4 <think> 5", "4"),
        ("", "<think>4", ""),
        ("<think>", "a</thought> 4", ""),
        ("<think>", "<thought>a</think> 4", "4"),
        ("<think>", "<thought>a</thought> 4", ""),
        ("<think>", "<think>a</think> 4", "4"),
    ],
)
def test_steps_and_grading_agree_where_the_answer_is(opening: str, text: str, answer: str) -> None:
    """Also for marks that do not match. Thinking that is not closed has one reason, whoever opened it."""
    row = {"id": "a", "prompt": "q" + opening, "completion": text, "gold": "4", "task": "math"}
    assert steps_of(row, "split:answer:line") == ([answer] if answer else [])
    [grade] = grade_rows([row])
    reason = "identical text" if answer else "no final answer: the thinking is never closed"
    assert (grade.answer or "", grade.reason) == (answer, reason)


def test_names_of_parts() -> None:
    assert first_cut(["a\nb"], "split:answer:line") == "a\nb"
    assert first_cut(["a b"], "split:thinking:line") is None
    with pytest.raises(ValueError, match=r"'lines' .* is unknown"):
        split_steps("a", "split:answer:lines")
    with pytest.raises(ValueError, match=r"'thinking:answer:line' .* is unknown"):
        split_steps("a", "split:thinking:answer:line")
    with pytest.raises(RowError, match="is empty; give at least one step"):
        check_row(Path("x"), 1, {"prompt": "q", "completion": "a", "completions": [], "labels": []}, "stepwise")


def test_a_function_of_the_user_splits_a_part() -> None:
    from qstep.data import use_splitter
    from qstep.data.splitters import is_users_splitter, splitter_version

    separator = "split:answer:my_splitter:at_semicolons"
    assert is_users_splitter(separator)
    use_splitter(separator)
    assert split_steps("<think>a;b</think>c;d", separator) == ["c;", "d"]
    assert splitter_version(separator).startswith(separator)


@pytest.mark.parametrize("opened", [True, "<foo>", "think", 1])
def test_what_opened_the_thinking_is_a_mark(opened: object) -> None:
    with pytest.raises(RowError, match=r"field 'thinking_opened': is .*; give the mark that opened the thinking"):
        check_row(Path("x"), 1, {"prompt": "q", "completion": "a", "thinking_opened": opened}, "prompt-completion")

"""Named splitters: what they cut, that nothing is lost, and which token ends each step in three tokenizer families."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

import tokenizer_families as families
from qstep.cli import main
from qstep.data import (
    RowError,
    check_row,
    encode_text,
    encode_texts,
    index_rows,
    locate_steps,
    map_steps,
    read_responses,
    read_rows,
    row_step_ends,
    split_steps,
    splitter_version,
    spread_scores,
    step_regions,
    step_spans,
    step_token_ends,
    steps_of,
    text_offsets,
    use_splitter,
    write_jsonl,
)
from qstep.data.splitters import cuts
from real_data import DATA, needs_data

TEXTS = int(os.environ.get("QSTEP_TEXTS", "25"))
"""Texts that are truncated everywhere; 500 in `make test-faults`."""
STEPS = min(10_000, 100 * TEXTS)
"""Steps of real responses that are placed on the tokens of each family; 10,000 in `make test-faults`."""
NAMES = ("line", "blank_line", "numbered", "sentence")
SPLITTERS = [f"split:{name}" for name in NAMES]
FAMILIES = ("byte_level", "unigram", "wordpiece")
KEPT: dict[str, Callable[[str], str]] = {
    "byte_level": families.exact,
    "unigram": families.nfkc,
    "wordpiece": families.bert,
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokens(family: str, request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if family == "byte_level":
        return request.getfixturevalue("smollm2")
    return families.unigram() if family == "unigram" else families.wordpiece()


@pytest.fixture(autouse=True)
def only_named_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test names is not named in the next; `my_splitter` is found beside the tests."""
    monkeypatch.setattr("qstep.data.splitters._users", {})
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "support"))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("It is 3.5 ft. tall. So $1.50. Then 5!", ["It is 3.5 ft. tall.", "So $1.50.", "Then 5!"]),
        ("We use e.g. Mr. Smith's 2 vs. Dr. Who's. Done.", ["We use e.g. Mr. Smith's 2 vs. Dr. Who's.", "Done."]),
        ("J. K. Rowling of the U.S. Army left. At point B. We go.", None),
        ('He said "No." She left. (It rained.) So?', ['He said "No."', "She left.", "(It rained.)", "So?"]),
        ("1. First. Second.\n2. Third\n- (a) x", ["1. First.", "Second.", "2. Third", "- (a) x"]),
        ("Step 1. Add. Then go.\n**Step 2.** Halve.", ["Step 1. Add.", "Then go.", "**Step 2.** Halve."]),
        ("Hmm... so 1, 2, ... 10. Wait... No", ["Hmm... so 1, 2, ... 10.", "Wait...", "No"]),
        ("3 * 5 = 15. 15 - 2 = 13. x = 4. y = 5", ["3 * 5 = 15.", "15 - 2 = 13.", "x = 4.", "y = 5"]),
        ("There are $3! \\times 5!$ ways. 4! = 24", ["There are $3! \\times 5!$ ways.", "4! = 24"]),
        ("So\n\\[x. Y\n= 5.\\]Then $y = 2.$ Also z", ["So\n\\[x. Y\n= 5.\\]", "Then $y = 2.$", "Also z"]),
        ("See No. 5 in Fig. 2. The end.#### 5", ["See No. 5 in Fig. 2.", "The end.#### 5"]),
        ("```py\na. B\nc\n``` Run it.\r\nNext  \n\n End", ["```py\na. B\nc\n``` Run it.", "Next", "End"]),
        ("答案是5。所以是。好", ["答案是5。", "所以是。", "好"]),
        ("A \\(x. Y\\) b. $$1. 2\n3$$ C", ["A \\(x. Y\\) b.", "$$1. 2\n3$$ C"]),
    ],
)
def test_sentences_by_hand(text: str, steps: list[str] | None) -> None:
    wanted = ["J. K. Rowling of the U.S. Army left.", "At point B.", "We go."] if steps is None else steps
    assert split_steps(text, "split:sentence") == wanted


@pytest.mark.parametrize(
    "heading",
    [
        *("Step 2:", "step 2.", "STEP 2)", "Step two:", "Step II:", "Step 2 -", "Step 2 (why):", "- Step 2:"),
        *("**Step 2:**", "**Step 2**", "*Step 2*", "__Step 2.__", "### Step 2", "## **Step 2: Halve**", "  Step 2:"),
        *("\\textbf{Step 2:}", "Step 2\nHalve", "Step 2\uff1a"),
    ],
)
def test_headings_by_hand(heading: str) -> None:
    for line_break in ("\n", "\r\n", "\n\n"):
        text = f"We go.{line_break}Step 1: Add.{line_break}Two.{line_break}{heading} Halve.\nSo 2"
        steps = split_steps(text, "split:numbered")
        assert steps == ["We go.", f"Step 1: Add.{line_break}Two.", f"{heading.strip()} Halve.\nSo 2"]


@pytest.mark.parametrize("line", ["By step 2: x", "Step 2 and 3: x", "Stephen: x", "Step 2.5: x", "Step by step: x"])
def test_what_is_no_heading(line: str) -> None:
    assert split_steps(f"Step 1: Add.\n{line}", "split:numbered") == [f"Step 1: Add.\n{line}"]


def test_lines_by_hand() -> None:
    text = "\n a\r\n\tb\r\n \r\nc\rd \n\x0b\n\n e\n"
    assert split_steps(text, "split:line") == ["a", "b", "c", "d", "e"]
    assert split_steps(text, "split:blank_line") == ["a\r\n\tb", "c\rd", "e"]
    assert step_spans("\n a\n", "split:line") == [(2, 3)]


PIECES = [
    *families.HOSTILE,
    *families.ENDS,
    *families.GAPS,
    *" .:;-*#$!?`'()[]{}\\",
    *("\\[", "\\]", "$$", "```", "\\begin{a}", "\\end{a}.", "[asy]", "[/asy]"),
    *("Step 1", "Step 2:", "**Step 3**", "### Step 4", "Mr. ", "J. ", "Then ", "then ", "5. ", "x = "),
    *("\x0b", "\x1c", "\x85", "\u2028", "\u043a\u0438", "\u3002", "\uff01\u300d"),
]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=40).map("".join))


@given(TEXT, st.sampled_from([*SPLITTERS, "\n", "\n\n", "ки", "split:my_splitter:at_semicolons"]))
@settings(max_examples=20 * TEXTS, deadline=None)
def test_every_cut_is_reversible(text: str, separator: str) -> None:
    if "my_splitter" in separator:
        use_splitter(separator)
    spans, steps = step_spans(text, separator), split_steps(text, separator)
    if separator.startswith("split:"):
        ends = cuts(text, separator)
        assert ends == sorted(ends) and "".join(text[a:b] for a, b in pairwise([0, *ends])) == text
    assert steps == [text[start:end] for start, end in spans]
    assert all(step and step == step.strip() for step in steps)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    rest = "".join(text[end:start] for (_, end), (start, _) in pairwise([(0, 0), *spans, (len(text), 0)]))
    assert not (rest if separator.startswith("split:") else rest.replace(separator, "")).strip()
    regions = step_regions(text, steps, separator)
    assert "".join(text[a:b] for a, b in regions) == (text if steps else "")
    assert all(a <= start and end <= b for (a, b), (start, end) in zip(regions, spans, strict=True))
    if separator.startswith("split:"):
        assert locate_steps(text, steps) == spans
    for step in steps:
        assert split_steps(step, separator) == [step], "a step alone is one step"
    row = {"id": "1", "completion": text, "completions": steps, "step_separator": separator}
    assert steps_of(row, separator) == steps


def test_given_steps_are_found_or_named() -> None:
    assert locate_steps("1+1=2, 1+1=2; so 2", ["1+1=2", "1+1=2", "2"]) == [(0, 5), (7, 12), (17, 18)]
    with pytest.raises(ValueError, match=r"step 2 of 2, 'a', is not in the text after its first 1 characters: ' b'"):
        locate_steps("a b", ["a", "a"])


def test_a_step_owns_the_line_breaks_behind_it_and_no_indentation() -> None:
    text = " \nA b.  C\r\n\n  D"
    regions = step_regions(text, ["A b.", "C", "D"], "split:sentence")
    assert [text[a:b] for a, b in regions] == [" \nA b.", "  C\r\n\n", "  D"]
    with pytest.raises(ValueError, match="are not those of the text"):
        step_regions(text, ["A b.", "D"], "split:sentence")


def test_unknown_splitters_are_refused() -> None:
    for refused in ("split:lines", "split:", "split:a:b:c"):
        with pytest.raises(
            ValueError,
            match=r"unknown; choose one of line, blank_line, paragraph, numbered, sentence, turn, or your own",
        ):
            split_steps("a", refused)
    for name, says in (
        ("no_such_module:f", "cannot be loaded"),
        ("my_splitter:nothing", "cannot be loaded"),
        ("my_splitter:not_a_function", "is 7; it must be a function"),
    ):
        with pytest.raises(ValueError, match=says):
            use_splitter(f"split:{name}")


def test_a_users_function_runs_only_where_it_was_named() -> None:
    row = {"id": "1", "completion": "a; b;c", "step_separator": "split:my_splitter:at_semicolons"}
    with pytest.raises(
        ValueError, match=r"is your own function, and it is not loaded. Give --step_separator split:my_splitter:at_"
    ):
        steps_of(row, row["step_separator"])
    assert "my_splitter" not in sys.modules or not sys.modules["qstep.data.splitters"]._users
    use_splitter("split:my_splitter:at_semicolons")
    assert steps_of(row, row["step_separator"]) == ["a;", "b;", "c"]
    assert splitter_version(row["step_separator"]).startswith("split:my_splitter:at_semicolons ")
    assert splitter_version("split:line") == "split:line" and splitter_version("\n") == "\n"


def test_a_users_parts_have_to_be_the_text() -> None:
    use_splitter("split:my_splitter:without_blanks")
    says = r"from character 1 they read 'b' instead of ' b'\. Return every character"
    with pytest.raises(ValueError, match=says):
        split_steps("a b", "split:my_splitter:without_blanks")
    use_splitter("split:my_splitter:one_text")
    with pytest.raises(ValueError, match="must return a list of strings"):
        split_steps("a b", "split:my_splitter:one_text")


def test_steps_that_would_be_cut_again_are_refused() -> None:
    row = {"id": "1", "completions": ["Add. Halve.", "So"]}
    for separator in SPLITTERS[:3]:
        assert steps_of(row, separator) == ["Add. Halve.", "So"]
    for said in ({}, {"step_separator": "split:sentence"}):
        with pytest.raises(
            ValueError, match=r"has a step that contains the separator 'split:sentence': 'Add\. Halve\.'"
        ):
            steps_of({**row, **said}, "split:sentence")
    with pytest.raises(ValueError, match="was split into steps at 'split:line', not at 'split:sentence'"):
        steps_of({**row, "step_separator": "split:line"}, "split:sentence")
    halved = "split:my_splitter:halves"
    use_splitter(halved)
    assert steps_of({**row, "step_separator": halved}, halved) == row["completions"], "it saw what was around"
    with pytest.raises(ValueError, match="contains the separator"):
        steps_of(row, halved)


def test_rows_say_by_what_they_were_split(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["Add. Halve.", "So"], "labels": [True, None]}
    path = tmp_path / "rows.jsonl"
    for separator in (*SPLITTERS[:3], "split:no_such_module:f"):
        assert check_row(path, 1, {**row, "step_separator": separator}, "stepwise")
    for separator, says in (("split:sentence", "contains the step_separator"), ("split:words", "is unknown")):
        with pytest.raises(RowError, match=says):
            check_row(path, 1, {**row, "step_separator": separator}, "stepwise")


@pytest.mark.parametrize("separator", ["split:sentence", "split:my_splitter:at_semicolons"])
def test_the_index_checks_steps_by_the_splitter_in_its_processes_too(
    separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qstep.data.scanning._BYTES_A_PROCESS", 400)
    use_splitter("split:my_splitter:at_semicolons")
    rows = [{"prompt": "p", "completions": [f"Add {i}", "So"], "labels": [True, None]} for i in range(40)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert len(index_rows(tmp_path / "rows.jsonl", "stepwise", forbidden=[separator])) == 40
    rows[30]["completions"][0] = "Add. So; x"
    write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(RowError, match=r"line 31, field 'completions': the step 'Add. So; x' contains the separator"):
        index_rows(tmp_path / "rows.jsonl", "stepwise", forbidden=[separator])


def test_steps_without_their_text_are_put_together(tmp_path: Path) -> None:
    row = {"question": "q", "gold": "5", "completions": ["Add.", "So 5"]}
    path = tmp_path / "rows.jsonl"
    for separator, text in (
        ("split:sentence", "Add. So 5"),
        ("split:blank_line", "Add.\n\nSo 5"),
        ("\n", "Add.\nSo 5"),
    ):
        write_jsonl(path, [{**row, "step_separator": separator}])
        assert next(read_responses(path))["completion"] == text
    write_jsonl(path, [{**row, "step_separator": "split:my_module:f"}])
    with pytest.raises(RowError, match=r"field 'completion.*': is missing, and steps of 'split:my_module:f', your own"):
        next(read_responses(path))


def test_mapping_by_hand() -> None:
    """`ab.c d`: steps `ab.`, `c`, `d`, `e`; a beginning, a token over the border, two bytes of one character, a special
    token; nothing is kept of `e`."""
    offsets = [(0, 0), (0, 2), (2, 4), (5, 6), (5, 6), (0, 0)]
    mapped = map_steps(offsets, [(0, 3), (3, 4), (5, 6), (6, 7)])
    assert mapped.ends == [2, 2, 4, 4]
    assert mapped.step_of == [-1, 0, 0, 2, 2, -1]
    assert spread_scores([0.5, 0.25, 1.0, -1.0], mapped.ends, len(offsets)) == [0, 0, 0.75, 0, 0, 0]
    with pytest.raises(ValueError, match="drops all characters of step 1"):
        map_steps([(0, 0), (3, 4)], [(0, 3)])
    for scores, ends in (([1.0], [0, 1]), ([1.0], [6]), ([1.0], [-1])):
        with pytest.raises(ValueError, match=r"score for|there are 6"):
            spread_scores(scores, ends, 6)


def check_places(tokens: PreTrainedTokenizerBase, kept: Callable[[str], str], text: str, separator: str) -> int:
    """Each step's last token is the first with which the tokens, read, hold all that is kept of the text up to there.

    That is found by decoding, and so knows nothing of offsets.
    """
    spans = step_spans(text, separator)
    ids, offsets = text_offsets(tokens, text)
    assert ids == encode_text(tokens, text) and families.read(tokens, ids) == kept(text).rstrip("\ufffd")
    mapped = map_steps(offsets, spans)
    before = -1
    for number, ((_, behind), end) in enumerate(zip(spans, mapped.ends, strict=True)):
        target = len(kept(text[:behind]))
        assert len(families.read(tokens, ids[: end + 1])) >= target > len(families.read(tokens, ids[:end]))
        own = {step for step in mapped.step_of[before + 1 : end + 1] if step >= 0}
        assert own in ({number}, set()) or end == before
        before = end
    return len(spans)


def real_texts() -> Iterator[tuple[str, str]]:
    """Responses of 12 models in turn, and ProcessBench's, each with a splitter that cuts it."""
    for path in sorted(DATA.glob("gsm8k_responses.jsonl")):
        for number, line in enumerate(path.open(encoding="utf-8")):
            for response in json.loads(line)["responses"]:
                yield response["text"], ("split:line", "split:sentence", "\n")[number % 3]
    for solution in json.loads((DATA / "processbench_gsm8k.json").read_text(encoding="utf-8")):
        yield "\n\n".join(solution["steps"]), "split:blank_line"


@needs_data
def test_no_step_of_real_responses_is_misplaced(family: str, request: pytest.FixtureRequest) -> None:
    """By a real byte-level BPE, and a Unigram and a WordPiece model that were learned of other real texts."""
    texts = list(real_texts())
    random.Random(0).shuffle(texts)
    learned_of = tuple(text for text, _ in texts[-300:])
    tokens = {"unigram": families.unigram, "wordpiece": families.wordpiece}.get(family, lambda _: None)(learned_of)
    if tokens is None:
        tokens = request.getfixturevalue("smollm2")
    count = passed = 0
    for text, separator in texts[:-300]:
        if tokens.unk_token_id in encode_text(tokens, text) and family != "byte_level":
            passed += 1  # a character that was in none of the texts it was learned of
        else:
            count += check_places(tokens, KEPT[family], text, separator)
        if count >= STEPS:
            break
    assert count >= STEPS and passed <= 3


def test_no_step_of_hostile_texts_is_misplaced(family: str, tokens: PreTrainedTokenizerBase) -> None:
    rng = random.Random(3)
    count = 0
    while count < 3000:
        count += check_places(tokens, KEPT[family], families.hostile_text(rng), rng.choice(SPLITTERS))


def test_what_reads_back_has_the_same_ends_by_decoding_and_by_offsets(smollm2: Any) -> None:
    rng = random.Random(4)
    for _ in range(150):
        text = families.hostile_text(rng)
        for separator in (*SPLITTERS, "\n"):
            ids, offsets = text_offsets(smollm2, text)
            steps = split_steps(text, separator)
            ends = map_steps(offsets, step_regions(text, steps, separator)).ends
            assert step_token_ends(smollm2, ids, steps, separator)[:-1] == ends[:-1]


def test_rows_of_any_tokenizer_end_their_steps(family: str, tokens: PreTrainedTokenizerBase) -> None:
    """What a scorer of another tokenizer has scored is placed on this one's tokens; the last step ends the response."""
    rng = random.Random(5)
    for number in range(100):
        text = families.hostile_text(rng)
        separator = SPLITTERS[number % 4]
        row = {"id": "1", "completion": text}
        steps = steps_of(row, separator)
        ids = [*encode_text(tokens, text), tokens.eos_token_id]
        ends = row_step_ends(tokens, row, steps, separator)
        assert len(ends) == len(steps) and ends == sorted(ends) and ends[-1] == len(ids) - 1
        kept = KEPT[family]
        for (_, behind), end in zip(step_spans(text, separator)[:-1], ends, strict=False):
            assert len(families.read(tokens, ids[: end + 1])) >= len(kept(text[:behind]))
        if family == "byte_level":
            assert row_step_ends(tokens, {**row, "completion_ids": ids}, steps, separator) == ends
        with pytest.raises(ValueError, match=r"are not those of|'more', is not in"):
            row_step_ends(tokens, row, [*steps, "more"], separator)


def test_the_same_tokens_alone_and_together_whatever_is_padded(tokens: PreTrainedTokenizerBase) -> None:
    rng = random.Random(6)
    texts = [families.hostile_text(rng, steps=2) for _ in range(TEXTS)]
    alone = [encode_text(tokens, text) for text in texts]
    before = tokens.padding_side
    try:
        for side in ("left", "right"):
            tokens.padding_side = side
            assert encode_texts(tokens, texts) == alone
            assert [text_offsets(tokens, text)[0] for text in texts] == alone
    finally:
        tokens.padding_side = before


def test_every_truncation_keeps_the_ends_of_whole_steps(smollm2: Any) -> None:
    """Cut off behind each of its tokens in turn, a response has the ends it had, but for the step that was cut."""
    rng = random.Random(7)
    for _ in range(TEXTS):
        text = families.hostile_text(rng, steps=3, gaps=["\n", "\n\n"])
        ids = encode_text(smollm2, text)
        whole = step_token_ends(smollm2, ids, split_steps(text, "split:line"), "split:line")
        for length in range(1, len(ids)):
            steps = split_steps(smollm2.decode(ids[:length]), "split:line")
            ends = step_token_ends(smollm2, ids[:length], steps, "split:line")
            assert len(ends) == len(steps) and ends[-1:] == ([length - 1] if steps else [])
            assert all(end in whole for end in ends[:-1]), "a step that is not the last is whole"


def test_the_page_says_what_happens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/steps.md: its example, and its options as commands take them."""
    page = (Path(__file__).parents[2] / "docs" / "steps.md").read_text(encoding="utf-8")
    response = page.split("```text\n")[1].split("\n```")[0]
    counts = {name: len(split_steps(response, f"split:{name}")) for name in NAMES}
    assert counts == {"line": 5, "numbered": 4, "blank_line": 2, "sentence": 7}
    shown = page.split("# [")[1].split("]\n```")[0].replace("\n# ", "\n")
    assert split_steps(response, "split:sentence")[4:] == ast.literal_eval(f"[{shown}]")
    row = {"prompt": "p", "completion": response, "gold": "45", "verdict": "right", "task": "math"}
    write_jsonl(tmp_path / "graded.jsonl", [row, {**row, "verdict": "wrong", "completion": "No. #### 5"}])
    options = f"--input {tmp_path}/graded.jsonl --method outcome --output {tmp_path}/labels.jsonl"
    assert main(["annotate", *options.split(), "--step_separator", "split:sentence"]) in (0, None)
    right, wrong = read_rows(tmp_path / "labels.jsonl")
    assert right["completions"] == split_steps(response, "split:sentence") and right["labels"] == [True] * 7
    assert wrong["completions"] == ["No.", "#### 5"] and wrong["labels"] == [None, False]
    assert {row["step_separator"] for row in (right, wrong)} == {"split:sentence"}
    assert len(index_rows(tmp_path / "labels.jsonl", "stepwise", forbidden=["split:sentence", "<|endoftext|>"])) == 2
    with pytest.raises(
        RowError, match=r"a step contains '\. This', where this run splits .* Give --step_separator and"
    ):
        write_jsonl(
            tmp_path / "lines.jsonl",
            [
                {
                    **right,
                    "completions": response.split("\n\n"),
                    "labels": [True, True],
                    "step_separator": "split:blank_line",
                    "successes": None,
                    "trials": None,
                }
            ],
        )
        index_rows(tmp_path / "lines.jsonl", "stepwise", forbidden=[". This"])


def test_importing_it_needs_no_tokenizer() -> None:
    code = "import qstep.data, sys; assert not {'torch', 'transformers', 'tokenizers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

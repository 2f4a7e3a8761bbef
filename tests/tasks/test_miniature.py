from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest

from qstep.tasks import miniature
from qstep.types import Problem

PROMPT = "7+8*3-9+1*2=\n"
SOLUTION = "7+8=5\n5*3=5\n5-9=6\n6+1=7\n7*2=4\n#4"
LINES = SOLUTION.split("\n")


def test_solution_by_hand() -> None:
    """7+8 = 15 -> 5; 5*3 = 15 -> 5; 5-9 = -4 -> 6; 6+1 = 7; 7*2 = 14 -> 4: left to right, no precedence."""
    assert miniature.solution(PROMPT) == SOLUTION


@pytest.mark.parametrize("text", ["", "7=\n", "7+8=", "7+8=\n\n", "7+8*=\n", "17+8=\n", "7/8=\n", "\u0667+8=\n"])
def test_a_text_that_is_not_a_problem_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a miniature problem"):
        miniature.solution(text)
    with pytest.raises(ValueError, match="not a miniature problem"):
        miniature.check_steps(text, ["7+8=5"])


def test_problems_are_pinned() -> None:
    """The sequence is part of every recorded result: the first problem of each split never changes."""
    first = {split: miniature.problems(split, 1)[0] for split in ("train", "validation", "test")}
    assert first == {
        "train": Problem("miniature/train/0/0", "5*7-9+1+4+3-7=\n", "7", "miniature"),
        "validation": Problem("miniature/validation/0/0", "2-5-1+1*3+0=\n", "1", "miniature"),
        "test": Problem("miniature/test/0/0", "6*2-8-0*4*6+5*7+1=\n", "8", "miniature"),
    }


def test_problems_chain_five_to_nine_operations() -> None:
    operations = Counter(len(p.prompt) // 2 - 1 for p in miniature.problems("train", 2000))
    assert sorted(operations) == [5, 6, 7, 8, 9]
    assert min(operations.values()) > 300  # of 400 expected each, standard deviation 18


def test_gold_is_the_final_answer() -> None:
    for problem in miniature.problems("validation", 50):
        assert isinstance(problem.prompt, str)
        assert miniature.solution(problem.prompt).endswith(f"\n#{problem.gold}")


@pytest.mark.parametrize(("split", "buckets"), [("train", set(range(8))), ("validation", {8}), ("test", {9})])
def test_a_split_is_a_set_of_hash_buckets(split: miniature.Split, buckets: set[int]) -> None:
    """So no problem is in two splits, whatever the seeds and however many are drawn."""
    drawn = [p.prompt for seed in range(5) for p in miniature.problems(split, 200, seed)]
    assert {int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 10 for prompt in drawn} == buckets


def test_problems_are_distinct_prefix_stable_and_reached_by_offset() -> None:
    whole = miniature.problems("test", 500, seed=3)
    assert len({p.prompt for p in whole}) == 500
    assert miniature.problems("test", 120, seed=3) == whole[:120]
    assert miniature.problems("test", 120, seed=3, offset=200) == whole[200:320]
    assert whole[200].id == "miniature/test/3/200"
    assert not {p.prompt for p in whole} & {p.prompt for p in miniature.problems("test", 500, seed=4)}
    assert miniature.problems("test", 0) == []


def test_repeated_draws_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One digit and one operator leave one text a length, 5 in all; drawing a sixth would never end."""
    monkeypatch.setattr(miniature, "_DIGITS", "1")
    monkeypatch.setattr(miniature, "_OPERATORS", "+")
    monkeypatch.setattr(miniature, "split_of", lambda problem: "train")
    assert len({p.prompt for p in miniature.problems("train", 5)}) == 5


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="split is 'dev': choose one of train, validation, test"):
        miniature.problems("dev", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n is -1"):
        miniature.problems("train", -1, offset=5)
    with pytest.raises(ValueError, match="offset is -2"):
        miniature.problems("train", 5, offset=-2)
    with pytest.raises(ValueError, match="n is -1"):
        miniature.textbook(-1)


@pytest.mark.parametrize(
    ("completion", "verdict", "answer"),
    [
        (SOLUTION, "right", "4"),
        ("#4", "right", "4"),
        ("nonsense\n#4\n", "right", "4"),
        ("7+8=5\n#5", "wrong", "5"),
        ("#4\n#5", "wrong", "5"),
        ("", "wrong", None),
        ("7+8=5\n5*3=4", "wrong", None),
        ("#4\n7+8=5", "wrong", None),
        ("#4\n\n", "wrong", None),
        ("#44", "wrong", None),
        ("x#4", "wrong", None),
        ("#\u0664", "wrong", None),
    ],
)
def test_grade(completion: str, verdict: str, answer: str | None) -> None:
    graded = miniature.grade("4", completion)
    assert (graded.verdict, graded.answer) == (verdict, answer)
    assert answer is not None or graded.reason == "no final answer"


def test_gold_answers_grade_right() -> None:
    for problem in miniature.problems("train", 200):
        assert isinstance(problem.prompt, str)
        assert miniature.grade(problem.gold, miniature.solution(problem.prompt)).verdict == "right"


@pytest.mark.parametrize("gold", ["", "12", "x", "\u0664"])
def test_a_gold_that_is_not_a_digit_is_refused(gold: str) -> None:
    with pytest.raises(ValueError, match="one digit"):
        miniature.grade(gold, "#1")


def test_the_solution_has_only_correct_steps() -> None:
    assert miniature.check_steps(PROMPT, LINES) == [True] * 6
    assert miniature.check_steps(PROMPT, SOLUTION.splitlines(keepends=True)) == [True] * 6
    assert miniature.check_steps(PROMPT, []) == []


def test_any_changed_character_makes_all_from_its_step_on_wrong() -> None:
    for t, line in enumerate(LINES):
        for i in range(len(line)):
            for character in set("0123456789+-*=#") - {line[i]}:
                steps = [*LINES[:t], line[:i] + character + line[i + 1 :], *LINES[t + 1 :]]
                assert miniature.check_steps(PROMPT, steps) == [True] * t + [False] * (6 - t)


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        ([*LINES, "#4"], "TTTTTTF"),  # a line beyond the end
        ([*LINES[:5], "7*2=4", "#4"], "TTTTTFF"),  # a line twice
        ([*LINES[:2], *LINES[3:]], "TTFFF"),  # a line left out
        ([*LINES[:3], "#6"], "TTTF"),  # an answer too early
        (LINES[:4], "TTTT"),  # cut off between steps
        ([*LINES[:2], "5-9="], "TTF"),  # cut off within a step
        (["7+8=5\n\n"], "F"),
        (["7+8=15", *LINES[1:]], "FFFFFF"),  # not reduced modulo 10
        # a self-consistent chain from a wrong value: 5*3 taken for 0; 0-9 -> 1; 1+1 = 2; 2*2 = 4, as by luck
        (["7+8=5", "5*3=0", "0-9=1", "1+1=2", "2*2=4", "#4"], "TFFFFF"),
    ],
)
def test_check_steps(steps: list[str], labels: str) -> None:
    assert miniature.check_steps(PROMPT, steps) == [label == "T" for label in labels]


def test_a_fifth_of_the_facts_is_hard() -> None:
    hard = miniature.hard_facts()
    assert len(hard) == 60
    for (a, op, b), fact in hard.items():
        truth = {"+": a + b, "-": a - b, "*": a * b}[op] % 10
        assert fact.distractor in set(range(10)) - {truth}
        assert 0.25 <= fact.reliability <= 0.75
    mean = sum(fact.reliability for fact in hard.values()) / 60
    assert abs(mean - 0.5) < 0.06  # standard error .5 / sqrt(12 * 60) = .019
    with pytest.raises(TypeError):
        hard[0, "+", 0] = miniature.HardFact(1, 0.5)  # type: ignore[index]


def test_each_seed_has_a_world_of_its_own_which_is_pinned() -> None:
    assert miniature.hard_facts(1) != miniature.hard_facts(2) != miniature.hard_facts(3)
    assert len(set(miniature.hard_facts(1)) & set(miniature.hard_facts(2))) < 30
    text = repr(sorted(miniature.hard_facts().items()))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "00576b29c820ead0"


def test_textbook_states_easy_facts_correctly_and_hard_ones_with_their_reliability() -> None:
    stated: Counter[tuple[tuple[int, str, int], int]] = Counter()
    for row in miniature.textbook(4000):
        *lines, _ = row["completion"].split("\n")
        stated.update(((int(line[0]), line[1], int(line[2])), int(line[4])) for line in lines)
    hard = miniature.hard_facts()
    for fact in {fact for fact, _ in stated}:
        a, op, b = fact
        truth = {"+": a + b, "-": a - b, "*": a * b}[op] % 10
        occurrences = sum(stated[fact, digit] for digit in range(10))
        if fact not in hard:
            assert stated[fact, truth] == occurrences
            continue
        assert stated[fact, truth] + stated[fact, hard[fact].distractor] == occurrences
        p = hard[fact].reliability
        assert abs(stated[fact, truth] - p * occurrences) < 4 * (p * (1 - p) * occurrences) ** 0.5
    assert {fact for fact, _ in stated} >= set(hard)


def test_textbook_rows_follow_their_problem_and_their_own_chain() -> None:
    """Operators and second operands are the problem's; each line starts from the value written before."""
    rows = miniature.textbook(300, seed=7)
    right = 0
    for row in rows:
        *lines, last = row["completion"].split("\n")
        prompt = row["prompt"]
        assert [line[1:3] for line in lines] == [prompt[i : i + 2] for i in range(1, len(prompt) - 2, 2)]
        values = [line[4] for line in lines]
        assert [line[0] for line in lines] == [prompt[0], *values[:-1]]
        assert last == f"#{values[-1]}"
        right += row["completion"] == miniature.solution(prompt)
    assert 0.3 < right / 300 < 0.7


def test_textbook_is_drawn_from_the_train_split_distinct_and_prefix_stable() -> None:
    rows = miniature.textbook(300, seed=1)
    assert list(rows[0]) == ["id", "prompt", "completion"]
    assert rows[299]["id"] == "miniature/textbook/1/299"
    assert len({row["prompt"] for row in rows}) == 300
    assert all(int(hashlib.sha256(row["prompt"].encode()).hexdigest(), 16) % 10 < 8 for row in rows)
    assert miniature.textbook(100, seed=1) == rows[:100]
    assert not {row["prompt"] for row in rows} & {row["prompt"] for row in miniature.textbook(300, seed=2)}


def test_tokenizer_is_one_token_a_character_and_survives_saving(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = miniature.tokenizer()
    miniature.base_config().save_pretrained(tmp_path)  # a model's config beside it, as in a checkpoint
    made.save_pretrained(tmp_path)
    for tokenizer in (made, AutoTokenizer.from_pretrained(tmp_path)):
        assert len(tokenizer) == 18
        assert tokenizer("0123456789")["input_ids"] == list(range(10))
        assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (16, 17)
        assert tokenizer.convert_tokens_to_ids("\n") == 15
        for row in miniature.textbook(20):
            text = row["prompt"] + row["completion"]
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text)
            assert ids == tokenizer(row["prompt"])["input_ids"] + tokenizer(row["completion"])["input_ids"]
            assert tokenizer.decode(ids) == text
        assert tokenizer.decode([4, 16, 17]) == "4<eos><pad>"
        assert tokenizer.decode([4, 16, 17], skip_special_tokens=True) == "4"
        batch = tokenizer(["1+1=\n", "1"], padding=True)
        assert batch["input_ids"][1] == [1, 17, 17, 17, 17]
        assert batch["attention_mask"][1] == [1, 0, 0, 0, 0]


def test_text_cannot_smuggle_in_a_special_token_or_an_unknown_character() -> None:
    tokenizer = miniature.tokenizer()
    assert tokenizer(SOLUTION, split_special_tokens=True)["input_ids"] == tokenizer(SOLUTION)["input_ids"]
    assert tokenizer("4<eos>")["input_ids"] == [4, 16]
    for text in ("4<eos>", "4 ", "x"):
        with pytest.raises(Exception, match="WordLevel"):
            tokenizer(text, split_special_tokens=True)


def test_base_config_fits_the_tokenizer_and_the_longest_response() -> None:
    from transformers import Qwen3ForCausalLM

    config, tokenizer = miniature.base_config(), miniature.tokenizer()
    assert (config.vocab_size, config.eos_token_id, config.pad_token_id, config.bos_token_id) == (
        len(tokenizer),
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        None,
    )
    assert 0.32e6 < Qwen3ForCausalLM(config).num_parameters() < 0.34e6
    longest = max((p.prompt for p in miniature.problems("train", 100) if isinstance(p.prompt, str)), key=len)
    tokens = len(tokenizer(longest + miniature.solution(longest))["input_ids"]) + 1  # and end of sequence
    assert tokens == 78
    assert tokens + 10 <= config.max_position_embeddings  # a separator after each of at most 10 steps

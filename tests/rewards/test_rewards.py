"""Rewards, called as TRL, verl and OpenRLHF call them. The Qs come from a server, so every number is worked out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import qstep
from byte_tokenizer import byte_tokenizer
from chats import PROMPT as ASKED
from chats import TURNS
from pooling_server import answering, pooled
from qstep.losses import potential_based_rewards
from qstep.scoring import StepScorer
from qstep.scoring.formats import ContractFormat
from qstep.tasks import miniature
from scorers import miniature_scorer

TOKENIZER = miniature.tokenizer()
PROMPT, SOLUTION = "7+8*3=\n", "7+8=5\n5*3=5\n#5"
Q_OF = {"7+8=5": math.log(4), "5*3=5": 0.0, "#5": -math.log(4), "5*3=6": -math.log(9)}
"""The sigmoids are .8, .5, .2 and .1."""
OF_TRL = {"trainer_state": SimpleNamespace(global_step=3), "log_extra": lambda name, values: None}
"""What TRL 1.16 passes in addition to the columns of the data set."""


def ids(text: str, *, ended: bool = True) -> list[int]:
    return [*TOKENIZER.encode(text), *([TOKENIZER.eos_token_id] if ended else [])]


def q_values(number: int, body: Any) -> tuple[int, Any]:
    """A row for each line break of a sequence, as vLLM gives them. The first one is the prompt's."""
    lines = [TOKENIZER.decode(sequence).split("\n") for sequence in body["input"]]
    return pooled(*[[[9.0], *([Q_OF[step]] for step in of[1:-1])] for of in lines])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return miniature_scorer(tmp_path_factory.mktemp("models") / "pqm")


@pytest.fixture
def url() -> Iterator[str]:
    with answering(q_values) as address:
        yield address


def test_steps_as_trl_calls_them(folder: Path, url: str) -> None:
    """.8, .5, .2: their lowest, their sum, the last. 1.5 = .8 + .5 + .2, and .9 = .8 + .1."""
    completions = [SOLUTION, "7+8=5\n5*3=6"]
    metrics: dict[str, float] = {}
    expected = {"min": [0.2, 0.1], "sum": [1.5, 0.9], "last": [0.2, 0.1]}
    for form, wanted in expected.items():
        reward = qstep.StepReward(folder, form, endpoint=url)
        found = reward(
            prompts=[PROMPT] * 2,
            completions=completions,
            completion_ids=list(map(ids, completions)),
            gold=["5"] * 2,
            log_metric=metrics.__setitem__,
            **OF_TRL,
        )
        assert found == pytest.approx(wanted)
        assert reward.__name__ == f"pqm_{form}", "the name in TRL's log"
    assert (metrics["pqm_min/steps"], metrics["pqm_min/unanswered"]) == (2.5, 0.0)


def test_metrics_show_what_exploits_a_scorer(folder: Path, url: str) -> None:
    """Four steps in three completions; one of the four repeats another; one completion has one step, one none."""
    metrics: dict[str, float] = {}
    reward = qstep.StepReward(folder, "sum", endpoint=url)
    found = reward([PROMPT] * 3, ["7+8=5\n7+8=5\n5*3=5", "#5", "\n \n"], log_metric=metrics.__setitem__)
    assert found == pytest.approx([2.1, 0.2, 0.0])
    assert metrics == pytest.approx(
        {
            "pqm_sum/steps": 4 / 3,
            "pqm_sum/repeated_steps": 1 / 4,
            "pqm_sum/single_step": 1 / 3,
            "pqm_sum/unanswered": 1 / 3,
        }
    )


def test_a_scorer_in_this_process_is_the_one_of_score(folder: Path) -> None:
    rows = [{"prompt": PROMPT, "completion": text} for text in (SOLUTION, "7+8=5")]
    scored = qstep.score(rows, folder)
    reward = qstep.StepReward(qstep.load_scorer(folder))
    assert reward([PROMPT] * 2, [SOLUTION, "7+8=5"]) == [min(row["step_rewards"]) for row in scored]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("sum", {5: 0.8, 11: 0.5, 14: 0.2}),
        ("min", {14: 0.2}),
        ("last", {14: 0.2}),
        ("potential", {5: 0.8, 11: -0.3, 14: -0.5}),
    ],
)
def test_steps_are_placed_on_the_policys_tokens(form: str, expected: dict[int, float], folder: Path, url: str) -> None:
    """One character is one token: the steps end with the line breaks 5 and 11 and with the end-of-sequence token 14.

    Potentials .8, .5 and, at the end, 0 have the differences .8, -.3 and -.5.
    """
    reward = qstep.StepReward(folder, form, endpoint=url, tokenizer=TOKENIZER)
    [found] = reward.on_tokens([PROMPT], [SOLUTION], [ids(SOLUTION)])
    assert found == pytest.approx([expected.get(token, 0.0) for token in range(15)])
    if form == "potential":
        mask = torch.ones(1, 15, dtype=torch.bool)
        same = potential_based_rewards(torch.tensor([[0.8, 0.5, 0.2]]), torch.tensor([[5, 11, 14]]), mask)
        assert found == pytest.approx(same[0].tolist()) and sum(found) == pytest.approx(0, abs=1e-6)
        with pytest.raises(ValueError, match="add up to 0 in every response"):
            reward([PROMPT], [SOLUTION])
    else:
        assert sum(found) == pytest.approx(reward([PROMPT], [SOLUTION])[0])


def test_tokens_of_another_text_are_refused(folder: Path, url: str) -> None:
    reward = qstep.StepReward(folder, endpoint=url, tokenizer=TOKENIZER)
    with pytest.raises(ValueError, match=r"completions\[0\]: the steps .* are not those of the tokens"):
        reward.on_tokens([PROMPT], [SOLUTION], [ids("7+8=6\n#6")])
    with pytest.raises(ValueError, match="needs the policy's tokenizer"):
        qstep.StepReward(folder, endpoint=url).on_tokens([PROMPT], [SOLUTION], [ids(SOLUTION)])


def test_a_completion_that_was_cut_off_without_an_answer_is_worth_nothing(folder: Path, url: str) -> None:
    reward = qstep.StepReward(folder, "sum", endpoint=url, tokenizer=TOKENIZER)
    tokens = [ids(SOLUTION), ids("7+8=5", ended=False)]
    assert reward([PROMPT] * 2, [SOLUTION, "7+8=5"], tokens) == pytest.approx([1.5, 0.0])
    assert reward([PROMPT], ["7+8=5"], ended=[True]) == pytest.approx([0.8])
    assert reward.on_tokens([PROMPT], ["7+8=5"], tokens[1:]) == [[0.0] * 5]


def test_outcomes_as_trl_calls_them() -> None:
    """Ungradable is None, which TRL leaves out. An answer may be a number or GSM8K's text."""
    reward = qstep.OutcomeReward("math", gold="solution")
    texts = ["The answer is 5.", "#### 6", "I do not know.", f"#### {'1' * 600_000}"]
    golds = ["2 + 3 = <<2+3=5>>5\n#### 5", 5, "5", "5"]
    assert reward.__name__ == "outcome"
    found = reward(prompts=["2 + 3?"] * 4, completions=texts, completion_ids=[[1]] * 4, solution=golds, **OF_TRL)
    assert found == [1.0, 0.0, 0.0, None]
    turns = [[{"role": "assistant", "content": text}] for text in texts[:2]]
    asked = [[{"role": "user", "content": "2 + 3?"}]] * 2
    assert reward(prompts=asked, completions=turns, solution=golds[:2]) == [1.0, 0.0]


def test_columns_of_an_earlier_response_are_not_read() -> None:
    """A data set of graded rows has the verdict, answer and ending of another response."""
    earlier = {"verdict": ["right"], "finish_reason": ["length"], "id": ["p#0"], "label": [True], "reward": [1]}
    reward = qstep.OutcomeReward("miniature", gold="gold")
    assert reward([PROMPT], [f"{SOLUTION[:-1]}6"], gold=["5"], answer=["6"], **earlier) == [0.0]
    assert reward([PROMPT], [SOLUTION], gold=["5"], **earlier) == [1.0]


@pytest.mark.parametrize("mark", [None, "<think>"])
def test_thinking_that_is_never_closed_has_no_answer(mark: str | None, folder: Path, url: str) -> None:
    """A string shows that its template opened the thinking. For messages, `thinking_opened` says so."""
    prompt: Any = "2 + 3?<think>\n" if mark is None else [{"role": "user", "content": "2 + 3?"}]
    texts = ["It is 5.", "Hm.</think>It is 5.", "It is 5.</think>It is 6."]
    reward = qstep.OutcomeReward("math", thinking_opened=mark)
    assert reward([prompt] * 3, texts, answer=["5"] * 3) == [0.0, 1.0, 0.0]
    steps = qstep.StepReward(folder, endpoint=url, thinking_opened=mark)
    assert steps([prompt], ["7+8=5"]) == [0.0]


def test_a_cut_off_answer_is_recognised_by_the_tokens_of_a_chat(smollm2: Any) -> None:
    """A turn ends with the template's own token, which need not be the end-of-sequence token."""
    end = smollm2.convert_tokens_to_ids("<|im_end|>")
    reward = qstep.OutcomeReward("math", tokenizer=smollm2)
    asked = [[{"role": "user", "content": "2 + 3?"}]] * 3
    tokens = [[5, end], [5], []]
    assert reward(asked, ["So 5"] * 3, tokens, answer=["5"] * 3) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("[THINK]So the answer is 4. But", 0.0), ("[THINK]It is 4?[/THINK]Hm.", 0.0), ("[THINK]5?[/THINK]It is 4.", 1.0)],
)
def test_marks_that_trainers_leave_out_are_read_from_the_tokens(text: str, wanted: float) -> None:
    """Magistral's and gpt-oss' marks are special tokens, and TRL decodes without special tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]"]})
    tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
    decoded = tokenizer.decode(tokens, skip_special_tokens=True)
    assert "[THINK]" not in decoded
    assert qstep.OutcomeReward("math", tokenizer=tokenizer)(["2+2?"], [decoded], [tokens], answer=["4"]) == [wanted]


@pytest.mark.parametrize("last", [{"role": "tool", "content": "4"}, {"role": "assistant", "content": ""}])
def test_a_conversation_that_stops_without_a_word_has_no_answer(last: dict[str, str], folder: Path, url: str) -> None:
    """TRL gives one if the policy's last turn is empty, or if there was no room for it after the tool's message."""
    turns = [*TURNS[:1], *([TURNS[1]] if last["role"] == "assistant" else []), last]
    assert qstep.OutcomeReward("math")([ASKED] * 2, [TURNS, turns], answer=["4"] * 2) == [1.0, 0.0]
    assert qstep.StepReward(folder, endpoint=url)([ASKED], [turns]) == [0.0]


def test_reasoning_without_a_reply_is_thinking_that_is_never_closed(folder: Path, url: str) -> None:
    """So TRL's parser gives a trace that was cut off in its thinking."""
    cut = [{"role": "assistant", "reasoning_content": "7+8=5", "content": ""}]
    assert qstep.StepReward(folder, endpoint=url)([PROMPT], [cut]) == [0.0]
    assert qstep.OutcomeReward("math")([PROMPT], [cut], answer=["5"]) == [0.0]


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"answer": ["5", None]}, ValueError, r"answer\[1\] is None; give the answer"),
        ({"gold": ["5", "5"]}, ValueError, r"no column 'answer': name it with gold=. The columns are gold"),
        ({"answer": ["5"]}, ValueError, "answer has 1 entry, and prompts has 2"),
        ({"completions": ["a"], "answer": ["5"] * 2}, ValueError, "completions has 1 entry, and prompts has 2"),
        ({"completions": ["a", 5], "answer": ["5"] * 2}, TypeError, r"completions\[1\] is 5: give a string"),
        ({"prompts": ["a", None], "answer": ["5"] * 2}, TypeError, r"prompts\[1\] must be one question"),
        ({"completion_ids": [[1]], "answer": ["5"] * 2}, ValueError, "completion_ids has 1 entry"),
        (
            {"completions": ["a", [{"role": "user", "content": "b"}]], "answer": ["5"] * 2},
            ValueError,
            r"completions\[1\] begins with a message of 'user'",
        ),
    ],
)
def test_a_bad_value_is_named_by_column_and_index(call: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        qstep.OutcomeReward("math")(**{"prompts": ["2 + 3?"] * 2, "completions": ["5"] * 2, **call})


def test_a_reward_that_cannot_be_meant_is_refused_at_once(folder: Path) -> None:
    with pytest.raises(ValueError, match="task 'maths' is unknown"):
        qstep.OutcomeReward("maths")
    with pytest.raises(ValueError, match="form is 'mean': choose min, sum, last, potential"):
        qstep.StepReward(folder, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="thinking_opened is 'think'"):
        qstep.OutcomeReward("math", thinking_opened="think")
    with pytest.raises(ValueError, match="endpoint has no effect with a loaded scorer"):
        qstep.StepReward(qstep.load_scorer(folder), endpoint="http://127.0.0.1:1")
    with pytest.raises(TypeError, match="scorer is 5"):
        qstep.StepReward(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="end is empty"):
        qstep.openrlhf_reward(qstep.OutcomeReward("math"), end="")


def test_what_the_scorer_cannot_read_is_named(folder: Path) -> None:
    reward = qstep.StepReward(folder)
    with pytest.raises(ValueError, match=r"row 'completions\[1\]': .* max_length is 128"):
        reward([PROMPT] * 2, [SOLUTION, "\n".join(["7+8=5"] * 30)])
    with pytest.raises(ValueError, match=r"prompts\[0\] is blank: a scorer needs the question"):
        reward([""], [SOLUTION])


def test_the_scorer_may_read_another_column_than_the_prompt(folder: Path) -> None:
    chat = [[{"role": "user", "content": "Think. 7+8*3="}]]
    reward = qstep.StepReward(folder, question="asked")
    assert reward(chat, [SOLUTION], asked=[PROMPT]) == qstep.StepReward(folder)([PROMPT], [SOLUTION])
    with pytest.raises(ValueError, match=r"no column 'asked': name it with question=. The columns are gold"):
        reward(chat, [SOLUTION], gold=["5"])


def test_prompts_that_differ_from_those_of_training_are_warned_of_once(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer = StepScorer.load(folder)
    assert isinstance(scorer.format, ContractFormat)
    scorer.format.contract = replace(scorer.format.contract, prompts="string", instruction="#")
    reward = qstep.StepReward(scorer)
    for _ in range(2):
        reward([PROMPT], [SOLUTION])
    said = " ".join("".join(capsys.readouterr()).split())
    assert said.count("Warning: prompts: 1 of 1 prompts differ from those of training") == 1


def test_as_verl_calls_it(folder: Path, url: str) -> None:
    """By keyword, from threads, one response at a time; `extra_info` also has what verl adds to it."""
    extra = {"split": "train", "index": 0, "question": PROMPT, "num_turns": None, "rollout_reward_scores": {}}
    given = {"data_source": "miniature", "ground_truth": "5", "extra_info": extra, "reward_router_address": None}
    outcome = qstep.verl_reward(qstep.OutcomeReward("miniature"))
    steps = qstep.verl_reward(qstep.StepReward(folder, "sum", endpoint=url))
    assert outcome(solution_str=SOLUTION, **given) == {"score": 1.0, "ungradable": 0.0}
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: steps(solution_str=text, **given)["score"], [SOLUTION, "#5"] * 4))
    assert found == pytest.approx([1.5, 0.2] * 4)
    unknown = qstep.verl_reward(lambda **columns: [None], ungradable=-1.0)
    assert unknown(solution_str="", **given) == {"score": -1.0, "ungradable": 1.0}
    with pytest.raises(ValueError, match=r"extra_info has no 'question': .* It has index"):
        outcome("miniature", SOLUTION, "5", {"index": 0})


def test_as_openrlhf_calls_it(folder: Path, url: str) -> None:
    """By position, one response at a time: the query has the special tokens of prompt and response."""
    prompt = "<|user|>7+8*3=\n<|assistant|>"
    steps = qstep.openrlhf_reward(
        qstep.StepReward(folder, "sum", endpoint=url),
        end="<eos>",
        question=lambda text: text.removeprefix("<|user|>").removesuffix("<|assistant|>"),
    )
    found = steps([f"{prompt}{SOLUTION}<eos>"], [prompt], ["5"])
    assert found["rewards"].tolist() == found["scores"].tolist() == pytest.approx([1.5])
    assert found["extra_logs"]["ungradable"].tolist() == [0.0]
    assert steps([f"{prompt}7+8=5"], [prompt], ["5"])["rewards"].tolist() == [0.0], "it was cut off"
    outcome = qstep.openrlhf_reward(qstep.OutcomeReward("math"), end="</s>", ungradable=0.5)
    asked, long = "2 + 3?", f"2 + 3?#### {'1' * 600_000}</s>"
    graded = outcome([f"{asked} It is 5.</s>", f"{asked} It is 5", long], [asked] * 3, ["5"] * 3)
    assert graded["rewards"].tolist() == [1.0, 0.0, 0.5]
    assert graded["extra_logs"]["ungradable"].tolist() == [0.0, 0.0, 1.0]
    with pytest.raises(ValueError, match=r"queries\[0\] does not begin with prompts\[0\]"):
        outcome([" 2+3? It is 5.</s>"], [asked], ["5"])

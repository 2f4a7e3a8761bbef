"""Who grades what, which verifiers are trusted, and which answers count as the same."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym.factory import DATASETS

from byte_tokenizer import byte_tokenizer
from qstep.annotate import label_exactly
from qstep.data import encode_prompt
from qstep.tasks import Tasks, answer_classes_of, grade_rows, load_problems, miniature, opened_thinking
from qstep.tasks.procedural import ReasoningGym
from qstep.types import Row


def row(task: str, gold: str, completion: str, **columns: Any) -> Row:
    return {"id": "r", "task": task, "gold": gold, "completion": completion, **columns}


def test_a_mixed_batch_keeps_its_order() -> None:
    (problem,) = load_problems("reasoning_gym:gsm_symbolic", limit=1)
    entry = {"metadata": dict(problem.metadata)}
    grades = grade_rows(
        [
            row("math", "42", "So \\boxed{42}"),
            row("miniature", "7", "3+4=7\n#7"),
            row(problem.task, problem.gold, f"Work.\n#### {problem.gold}", **entry),
            row("math", "42", "The answer is 41."),
            row("miniature", "7", "3+4=8\n#8"),
            row(problem.task, problem.gold, f"\n{problem.gold} \n", **entry),
            row(problem.task, problem.gold, f"The answer is {int(problem.gold) + 1}", **entry),
            row(problem.task, problem.gold, " \n", **entry),
        ]
    )
    verdicts = [grade.verdict for grade in grades]
    assert verdicts == ["right", "right", "right", "wrong", "wrong", "right", "wrong", "wrong"]
    assert grades[2].answer == grades[5].answer == problem.gold and grades[7].answer is None
    assert grade_rows([]) == []


def test_the_gold_answer_of_every_reasoning_gym_family_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare, after `####`, in a box, and after "The answer is"."""
    monkeypatch.setattr("qstep.tasks.procedural._BLOCK", 8)
    wrong, known = set(), 0
    for family in sorted(DATASETS):
        try:
            task = ReasoningGym.named(f"reasoning_gym:{family}")
        except ValueError:  # a family that is refused by name
            continue
        known += 1
        for problem in task.problems("train", seed=1, offset=0, limit=4):
            gold, entry = problem.gold, {"metadata": dict(problem.metadata)}
            says = [gold, f"Work.\n#### {gold}", f"Work.\n\\boxed{{{gold}}}", f"Work.\nThe answer is {gold}."]
            grades = task.grade([row(task.name, gold, text, **entry) for text in says], deadline_s=2)
            wrong |= {(family, text) for text, g in zip(says, grades, strict=True) if g.verdict != "right"}
    assert known >= 40 and wrong == set()


def test_unknown_tasks_and_missing_entries_are_named() -> None:
    with pytest.raises(ValueError, match="task 'algebra' is unknown"):
        grade_rows([row("algebra", "1", "1")])
    with pytest.raises(ValueError, match="algebra"):
        Tasks().named("algebra")
    with pytest.raises(ValueError, match=r"row 'r': metadata\.entry is missing"):
        grade_rows([row("reasoning_gym:lcm", "1", "1")])
    with pytest.raises(ValueError, match="not a task of reasoning_gym"):
        ReasoningGym.named("reasoning_gym:nonsense")


def test_grader_versions_differ_by_task() -> None:
    versions = {Tasks().named(task).version for task in ("miniature", "math", "reasoning_gym:lcm")}
    assert len(versions) == 3 and all(versions)


@pytest.mark.parametrize("family", ["countdown", "string_insertion", "n_queens", "simple_integration", "composite"])
def test_verifiers_that_run_answers_are_refused(family: str) -> None:
    with pytest.raises(ValueError, match="may run what a model wrote"):
        load_problems(f"reasoning_gym:{family}", limit=1)


def test_no_trusted_verifier_evaluates() -> None:
    """Reads the source of every verifier that is let through, and of the module functions it calls."""
    from reasoning_gym.factory import DATASETS

    forbidden = {"eval", "exec", "parse_expr", "sympify", "literal_eval", "compile", "loads", "Fraction"}

    def calls(function: Any, owner: type, depth: int = 3) -> set[str]:
        names = set()
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                names.add(name)
                module = sys.modules[owner.__module__]
                inner = getattr(owner, name, None) or getattr(module, name, None)
                if depth and inspect.isfunction(inner) and inner.__module__.startswith("reasoning_gym"):
                    names |= calls(inner, owner, depth - 1)
        return names

    trusted = []
    for family, (owner, _) in DATASETS.items():
        try:
            ReasoningGym.named(f"reasoning_gym:{family}")
        except ValueError:
            continue
        trusted.append(family)
        assert not calls(owner.score_answer, owner) & forbidden, family
    assert "gsm_symbolic" in trusted and "lcm" in trusted and len(trusted) > 30
    evaluating = DATASETS["n_queens"][0]
    assert "eval" in calls(evaluating.score_answer, evaluating), "the reading finds what it looks for"


def test_steps_are_checked_where_they_can_be() -> None:
    (problem,) = miniature.problems("train", 1, 0)
    steps = miniature.solution(problem.prompt).split("\n")
    exact = {"task": "miniature", "prompt": problem.prompt}
    task = Tasks().of(exact)
    assert task.check_steps(exact, steps) == [True] * len(steps)
    wrong = [steps[0][:-1] + str((int(steps[0][-1]) + 1) % 10), *steps[1:]]
    assert task.check_steps(exact, wrong) == [False] * len(steps)
    with pytest.raises(ValueError, match="monte_carlo"):
        label_exactly({"task": "math", "prompt": "Q", "completion": "a"})


def test_answer_classes() -> None:
    answers = ["1/2", "3", None, "0.5", "3"]
    assert answer_classes_of([{"task": "math", "answer": a} for a in answers]) == [0, 1, None, 0, 1]
    assert answer_classes_of([{"task": "miniature", "answer": a} for a in answers]) == [0, 1, None, 2, 1]
    assert answer_classes_of([]) == []
    equations = ["3 + 12 = 15", "15", "3 + 12 = 16", "x = 15", "16"]
    for order in (equations, equations[::-1]):
        classes = answer_classes_of([{"task": "math", "answer": a} for a in order])
        assert sorted(map(classes.count, classes)) == [2, 2, 3, 3, 3]


def test_a_task_of_the_users_own_is_loaded_where_the_user_names_it() -> None:
    problems = load_problems("my_task:doubling", limit=2, offset=3)
    assert [(p.prompt, p.gold, p.task) for p in problems] == [
        ("What is twice 3?", "6", "my_task:doubling"),
        ("What is twice 4?", "8", "my_task:doubling"),
    ]
    assert len(load_problems("my_task:doubling")) == 10
    rows = [row("my_task:doubling", "8", text) for text in ("4+4= 8", "4+4= 8.0", "so 9")]
    with pytest.raises(ValueError, match="name it too: --task my_task:doubling"):
        grade_rows(rows)
    own = Tasks("my_task:doubling")
    grades = grade_rows([*rows, row("miniature", "7", "#7")], own)
    assert [grade.verdict for grade in grades] == ["right", "wrong", "wrong", "right"]
    graded = [{**r, "answer": grade.answer} for r, grade in zip(rows, grades, strict=False)]
    assert answer_classes_of(graded, own) == [0, 0, 1]
    assert own.named("my_task:doubling").check_steps(rows[0], ["4+4=8", "4+4=9"]) == [True, False]


@pytest.mark.parametrize(
    ("task", "grader", "message"),
    [
        ("my_task:not_a_task", None, "has no version, problems, grade, check_steps, same_answer"),
        ("my_task:nothing", None, "cannot be loaded: .*nothing"),
        ("no_such_module:task", None, "cannot be loaded: No module named 'no_such_module'"),
        ("math", "my_task", "not of the form module:function"),
        ("math", "my_task:not_a_task", "is not a function"),
        ("math", "my_task:one_reward", r"returned 1\.0; it must return a list with one number for each"),
    ],
)
def test_what_is_no_task_or_grader_is_refused(task: str, grader: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grade_rows([row(task, "1", "1", prompt="Q")], Tasks(task, grader))


def test_a_reward_function_with_trls_signature_grades() -> None:
    rows = [row("math", "8", text, prompt="Q", source="s") for text in ("It is 8", "It is 9", "?")]
    rows[1]["source"] = None
    tasks = Tasks(grader="my_task:reward_by_gold")
    grades = grade_rows(rows, tasks)
    assert [(g.verdict, g.reward, g.reason) for g in grades] == [
        ("right", 1.0, "reward 1"),
        ("wrong", 0.5, "reward 0.5"),
        ("ungradable", None, "no reward"),
    ]
    assert grades[0].answer == "8", "votes need an answer"
    version = tasks.named("math").version
    assert version.startswith("my_task:reward_by_gold ") and len(version.split()[1]) == 12, "changes with the file"
    chat = [{"role": "user", "content": "Q"}]
    known = row("math", "8", "It is 8", prompt="Q", source="s", metadata={"gold": "9"})
    assert [grade.verdict for grade in grade_rows([known], tasks)] == ["right"], "a column is before its metadata"
    spoken = [row("math", "8", text, prompt=chat, metadata={"solution": "eight"}) for text in ("eight", "8")]
    of_messages = Tasks(grader="my_task:reward_of_messages")
    assert [grade.verdict for grade in grade_rows(spoken, of_messages)] == ["right", "wrong"]


def test_fractions_in_an_entry_are_written_and_its_verifier_still_works() -> None:
    """About one in fifty gsm_symbolic problems keeps a Fraction among its variables."""
    problems = load_problems("reasoning_gym:gsm_symbolic", limit=400, seed=1)
    rows = [row(p.task, p.gold, f"#### {p.gold}", metadata=json.loads(json.dumps(dict(p.metadata)))) for p in problems]
    assert any("serving_fraction" in r["metadata"]["entry"]["metadata"]["variables"] for r in rows)
    assert {grade.verdict for grade in grade_rows(rows)} == {"right"}


def test_families_take_parameters_which_are_part_of_the_task() -> None:
    options = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    problems = load_problems("reasoning_gym:chain_sum", options=options, limit=5)
    name = "reasoning_gym:chain_sum?max_digits=1&max_terms=2&min_terms=2"
    assert {p.task for p in problems} == {name} and problems[0].id == f"{name}/train/0/0"
    assert all(re.search(r"\b\d [+-] \d =$", str(p.prompt)) for p in problems), problems[0].prompt
    assert problems == load_problems(name, limit=5)
    assert len({str(p.prompt) for p in load_problems(name, limit=60)}) == 60, "no question twice, of a few hundred"
    rows = [row(p.task, p.gold, p.gold, metadata=dict(p.metadata)) for p in problems]
    assert {grade.verdict for grade in grade_rows(rows)} == {"right"}
    with pytest.raises(ValueError, match="does not take these parameters"):
        load_problems("reasoning_gym:chain_sum", options={"terms": 2}, limit=1)
    with pytest.raises(ValueError, match="does not take these parameters"):
        load_problems("reasoning_gym:chain_sum", options={"min_terms": 9, "max_terms": 2}, limit=1)
    with pytest.raises(ValueError, match="seed cannot be set"):
        load_problems("reasoning_gym:chain_sum", options={"seed": 2}, limit=1)
    with pytest.raises(ValueError, match="it has no effect without a family of reasoning_gym as --dataset_name"):
        load_problems("miniature", options=options, limit=1)


@pytest.mark.parametrize(
    ("dataset_name", "option", "words"),
    [
        ("p.jsonl", "data_seed 7", "generated problems"),
        ("owner/problems", "data_seed 7", "generated problems"),
        ("miniature", "task reasoning_gym:chain_sum", "a file, a Hub id or your own code"),
    ],
)
def test_options_of_other_problems_are_refused(dataset_name: str, option: str, words: str) -> None:
    from qstep.stages.commands import COMMANDS

    given = ["--model_name_or_path=m", "--output=o", f"--dataset_name={dataset_name}", *f"--{option}".split()]
    with pytest.raises(ValueError, match=f"it has no effect without {words} as --dataset_name"):
        COMMANDS["sample"].parse(given)


def test_a_familys_parameters_are_flags_or_a_mapping_in_yaml(tmp_path: Path) -> None:
    from qstep.stages.commands import COMMANDS

    flags = ["--model_name_or_path", "m", "--output", "o", "--dataset_name", "reasoning_gym:chain_sum"]
    by_flags = ["--dataset_options.min_terms", "2", "--dataset_options.max_terms", "2", "--num_problems", "1"]
    (tmp_path / "c.yaml").write_text("dataset_options: {min_terms: 2, max_terms: 2}\nnum_problems: 1\n")
    sample = COMMANDS["sample"]
    (config,) = sample.parse([*flags, *by_flags])
    (same,) = sample.parse([*flags, "--config", str(tmp_path / "c.yaml")])
    assert config == same and config.dataset_options == {"min_terms": 2, "max_terms": 2}
    assert config.problems()[0].task == "reasoning_gym:chain_sum?max_terms=2&min_terms=2"


THINKS = "<|user|>How many?<|assistant|><think>\n"


@pytest.mark.parametrize(
    ("prompt", "completion", "finish_reason", "verdict", "answer"),
    [
        (THINKS, "Maybe it is \\boxed{143}, but wait: 2002 = 7 * 286, so", "length", "wrong", None),
        (THINKS, "Maybe it is \\boxed{143}.", "stop", "wrong", None),
        (THINKS, "Maybe it is \\boxed{14}</think>So \\boxed{143}.", "stop", "right", "143"),
        (
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "[THINK]"}],
            "\\boxed{143}",
            "stop",
            "wrong",
            None,
        ),
        ("Reason between <think> and </think>, or only in <think>. How many?", "\\boxed{143}", "stop", "right", "143"),
        ("<think>a</think>How many?", "\\boxed{143}", "stop", "right", "143"),
        ("Q", "6*7=42 pens.\nNow 286/2=143 and then", "length", "wrong", None),
        ("Q", "<think>so \\boxed{143}", "length", "wrong", None),
        ("Q", "The answer is 143. Let me check", "length", "right", "143"),
        ("Q", "#### 143 and", "length", "wrong", None),
        ("Q", "#### 143 and\n143", "length", "wrong", "143 and"),
        ("Q", "The answer is 143 +", "length", "wrong", None),
        ("Q", "So\n#### 143", "length", "right", "143"),
        ("Q", "286/2=143", "stop", "right", "286/2=143"),
    ],
)
def test_what_never_ends_has_no_answer(
    prompt: Any, completion: str, finish_reason: str, verdict: str, answer: str | None
) -> None:
    given = row("math", "143", completion, prompt=prompt, finish_reason=finish_reason)
    (grade,) = grade_rows([given])
    assert (grade.verdict, grade.answer) == (verdict, answer)


def test_thinking_that_the_template_opened_is_known_from_the_row() -> None:
    given = row("math", "1", "\\boxed{1}", prompt=[{"role": "user", "content": "Q"}], thinking_opened="<think>\n")
    assert grade_rows([given])[0].reason == "no final answer: the thinking is never closed"
    assert grade_rows([given | {"completion": "</think>\\boxed{1}"}])[0].verdict == "right"


def test_the_template_says_whether_it_opens_thinking() -> None:
    """The mark is found at the end of the rendered prompt, not where an instruction speaks of it."""
    tokenizer = byte_tokenizer()
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    prompt = [{"role": "user", "content": "Reason in <think>. 2+2?"}]
    tokenizer.chat_template = turns + "assistant: <think>\n"
    assert opened_thinking(tokenizer, prompt, encode_prompt(tokenizer, prompt)) == {"thinking_opened": "<think>"}
    tokenizer.chat_template = turns + "assistant: "
    assert opened_thinking(tokenizer, prompt, encode_prompt(tokenizer, prompt)) == {}
    assert opened_thinking(tokenizer, "<think>", []) == {}, "a text shows it itself"


def test_repeated_questions_are_counted_and_two_golds_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def problems(*answers: str) -> int:
        rows = [{"question": "7+8=", "answer": answer} for answer in answers]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return len(load_problems(str(tmp_path / "rows.jsonl")))

    assert problems("15") == 1 and not caplog.messages
    assert problems("15", "15.0", "15") == 3
    assert "2 of 3 rows ask a question again, and each counts as a problem of its own" in caplog.text
    with pytest.raises(
        ValueError, match="rows/train/0 and rows/train/1 ask the same, but their answers are '15' and '16'"
    ):
        problems("15", "16")

"""Who grades what, which verifiers are trusted, and which answers count as the same."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from typing import Any

import pytest

from qstep.data import answer_classes_of, check_steps, grade_rows, grader_version, load_problems, miniature
from qstep.data.tasks import verifier
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


def test_unknown_tasks_and_missing_entries_are_named() -> None:
    with pytest.raises(ValueError, match="task 'algebra' is unknown"):
        grade_rows([row("algebra", "1", "1")])
    with pytest.raises(ValueError, match="algebra"):
        grader_version("algebra")
    with pytest.raises(ValueError, match=r"row 'r': metadata\.entry is missing"):
        grade_rows([row("reasoning_gym:lcm", "1", "1")])
    with pytest.raises(ValueError, match="not a task of reasoning_gym"):
        verifier("reasoning_gym:nonsense")


def test_grader_versions_differ_by_task() -> None:
    versions = {grader_version(task) for task in ("miniature", "math", "reasoning_gym:lcm")}
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
            verifier(f"reasoning_gym:{family}")
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
    assert check_steps(exact, steps) == [True] * len(steps)
    wrong = [steps[0][:-1] + str((int(steps[0][-1]) + 1) % 10), *steps[1:]]
    assert check_steps(exact, wrong) == [False] * len(steps)
    with pytest.raises(ValueError, match="monte_carlo"):
        check_steps({"task": "math", "prompt": "Q"}, ["a"])


def test_answer_classes() -> None:
    answers = ["1/2", "3", None, "0.5", "3"]
    assert answer_classes_of([{"task": "math", "answer": a} for a in answers]) == [0, 1, None, 0, 1]
    assert answer_classes_of([{"task": "miniature", "answer": a} for a in answers]) == [0, 1, None, 2, 1]
    assert answer_classes_of([]) == []

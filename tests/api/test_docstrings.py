"""What `qstep` itself offers: it is found, it loads late, and the example in each docstring is true."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch

import qstep
from scorers import miniature_scorer

ROOMS = {module.name for module in iter_modules(qstep.__path__)}


def test_names_are_found_and_collide_with_no_room() -> None:
    assert {*qstep.__all__} <= {*dir(qstep)}
    assert not {*qstep.__all__} & ROOMS
    assert qstep.__all__ == sorted(qstep.__all__)
    for name in qstep.__all__:
        assert getattr(qstep, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'best_of_m'"):
        qstep.best_of_m  # noqa: B018
    with pytest.raises(AttributeError, match=r"only the command `qstep sample`\. qstep\.write_rows makes the file"):
        qstep.sample  # noqa: B018
    with pytest.raises(AttributeError, match=r"trainers and their options are in qstep\.trainers"):
        qstep.DQOTrainer  # noqa: B018


@pytest.mark.parametrize("room", ["losses", "search", "grading", "scoring", "annotate"])
def test_rooms_are_attributes(room: str) -> None:
    assert getattr(qstep, room) is import_module(f"qstep.{room}")


def test_importing_loads_nothing() -> None:
    program = (
        "import sys, time; began = time.process_time(); import qstep; took = time.process_time() - began; dir(qstep); "
        "print(took, *(name for name in sys.modules if name.startswith(('qstep.', 'torch', 'transformers', 'numpy'))))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", program], text=True).split() for _ in range(3)]
    assert all(loaded == ["qstep.lazy"] for _, *loaded in runs)
    assert min(float(took) for took, *_ in runs) < 0.2


def test_grading_loads_no_torch() -> None:
    program = "import sys, qstep; qstep.grade, qstep.split_steps; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


@pytest.mark.parametrize("name", sorted({*qstep.__all__} - {"ChoiceAccuracies"}))
def test_the_example_of_a_docstring_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if "runs/" in _docstrings(name):
        miniature_scorer(tmp_path / "runs" / "pqm")  # from runs/base, which it also makes
    found = doctest.DocTestFinder(recurse=True).find(getattr(qstep, name), name, globs={"qstep": qstep, "torch": torch})
    assert sum(len(test.examples) for test in found) > 0
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in found:
        runner.run(test, out=sys.stderr.write)
    assert runner.summarize(verbose=False).failed == 0


def _docstrings(name: str) -> str:
    found = doctest.DocTestFinder().find(getattr(qstep, name), name)
    return "".join(test.docstring for test in found)


def test_a_type_checker_knows_the_names() -> None:
    """They are imported where only a type checker looks, and no `__getattr__` hides a misspelled one from it."""
    checked, unchecked = [node for node in ast.parse(Path(qstep.__file__).read_text()).body if isinstance(node, ast.If)]
    assert (ast.unparse(checked.test), ast.unparse(unchecked.test)) == ("TYPE_CHECKING", "not TYPE_CHECKING")
    imported = [alias.name for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(imported) == qstep.__all__
    assert [node.name for node in unchecked.body if isinstance(node, ast.FunctionDef)] == ["__getattr__"]

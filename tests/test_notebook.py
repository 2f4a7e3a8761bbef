"""What a notebook's user meets first: names that Tab finds, objects that say what they are, and steps as a list."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import qstep
from byte_tokenizer import byte_tokenizer
from qstep.annotate import OutcomePool, label_by_outcome, label_exactly
from qstep.calls import Server
from qstep.data import first_cut, locate_steps, step_regions, step_token_ends, steps_of
from qstep.generation import HFEngine, HTTPEngine
from qstep.grading import equivalent, extract_answer, grade, grade_many
from qstep.models import encode_steps
from qstep.scoring import Ensemble, StepScorer
from qstep.scoring.endpoint import EndpointScorer
from qstep.scoring.formats import ContractFormat
from qstep.tasks import Tasks, miniature
from scorers import miniature_scorer

ROOMS = sorted(
    module.name
    for module in pkgutil.walk_packages(qstep.__path__, "qstep.")
    if module.ispkg and module.name != "qstep.cli"
)
ROW: dict[str, Any] = {
    "id": "r",
    "prompt": "1+1=\n",
    "completion": "1+1=2\n#2",
    "task": "miniature",
    "verdict": "right",
}


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> StepScorer:
    return StepScorer.load(miniature_scorer(tmp_path_factory.mktemp("models") / "scorer"), device="cpu")


@pytest.mark.parametrize("name", ROOMS)
def test_names_are_listed_and_a_star_import_works(name: str) -> None:
    room = importlib.import_module(name)
    public = set(getattr(room, "__all__", ()))
    assert public <= set(dir(room))
    exec(f"from {name} import *", names := {})
    assert public <= set(names)
    if "lazy" in vars(room):
        assert "TYPE_CHECKING" not in dir(room) and "__all__" in dir(room)
        with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'nothing'"):
            room.nothing  # noqa: B018


def test_listing_names_loads_nothing() -> None:
    code = (
        "import sys, qstep.scoring, qstep.generation; "
        "assert 'StepScorer' in dir(qstep.scoring) and 'VLLMEngine' in dir(qstep.generation); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def as_row(steps: Any) -> dict[str, Any]:
    return {**ROW, "completions": steps}


def test_a_string_is_refused_where_steps_are_asked_for(scorer: StepScorer) -> None:
    """Each character was a step: 12 Qs for a response of 12 characters."""
    assert isinstance(scorer.format, ContractFormat)
    contract, tokenizer = scorer.format.contract, scorer.format.tokenizer
    ensemble = Ensemble([scorer, scorer])
    served = EndpointScorer(contract, tokenizer, Server("http://127.0.0.1:1"), "m")
    tasks = Tasks()
    takers: dict[str, Callable[[Any], Any]] = {
        "score": lambda steps: scorer.score("1+1=\n", steps),
        "score_rows": lambda steps: list(scorer.score_rows([as_row(steps)])),
        "fits": lambda steps: scorer.fits(as_row(steps)),
        "ensemble": lambda steps: ensemble.score("1+1=\n", steps),
        "ensemble's rows": lambda steps: list(ensemble.score_rows([as_row(steps)])),
        "endpoint": lambda steps: served.score("1+1=\n", steps),
        "encode_steps": lambda steps: encode_steps(tokenizer, contract, "1+1=\n", steps),
        "steps_of": lambda steps: steps_of(as_row(steps), "\n"),
        "locate_steps": lambda steps: locate_steps("1+1=2\n#2", steps),
        "step_regions": lambda steps: step_regions("1+1=2\n#2", steps),
        "step_token_ends": lambda steps: step_token_ends(tokenizer, tokenizer.encode("1+1=2\n#2"), steps),
        "first_cut": lambda steps: first_cut(steps, "\n"),
        "label_exactly": lambda steps: label_exactly(as_row(steps)),
        "pool": lambda steps: OutcomePool.of([as_row(steps)]),
        **{
            f"task {name}": lambda steps, name=name: tasks.named(name).check_steps(ROW, steps)
            for name in ("math", "miniature")
        },
    }
    for name, take in takers.items():
        take(["1+1=2", "#2"]) if name != "endpoint" else None
        with pytest.raises(TypeError, match="must be a list of strings, one for each step, not str"):
            take("1+1=2\n#2")
    with pytest.raises(TypeError, match=r"row 'r': completions\[1\] must be a string, the step's text, not int"):
        list(scorer.score_rows([as_row(["1+1=2", 7])]))
    assert scorer.score("1+1=\n", (step for step in ["1+1=2", "#2"])) == scorer.score("1+1=\n", ["1+1=2", "#2"])


def test_several_questions_at_once_are_refused_with_the_way_to_score_them(scorer: StepScorer) -> None:
    for prompt in (["1+1=\n", "2+2=\n"], None, {"role": "user", "content": "1+1=\n"}):
        with pytest.raises(TypeError, match=r"prompt must be one question, not .* use score_rows"):
            scorer.score(prompt, ["#2"])  # type: ignore[arg-type]


def test_answers_are_strings() -> None:
    for call in (
        lambda: grade(42, "42"),  # type: ignore[arg-type]
        lambda: grade("42", None),  # type: ignore[arg-type]
        lambda: grade_many([(42, "42")]),  # type: ignore[list-item]
        lambda: equivalent("42", 42),  # type: ignore[arg-type]
        lambda: extract_answer(42),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"is (42|None), but it must be a string, such as '42'"):
            call()


def test_a_pool_says_how_it_is_filled() -> None:
    rows = [ROW, {**ROW, "verdict": "wrong", "completion": "1+1=2\n#3"}]
    with pytest.raises(TypeError, match=r"make the pool with OutcomePool.of\(rows\)"):
        OutcomePool(rows)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"pool is a list: make one with OutcomePool.of\(rows\)"):
        label_by_outcome(ROW, rows)  # type: ignore[arg-type]
    bare = {name: value for name, value in ROW.items() if name != "verdict"}
    for call in (lambda: OutcomePool.of([bare]), lambda: label_by_outcome(bare, OutcomePool())):
        with pytest.raises(ValueError, match="row 'r' has no verdict: grade the rows first"):
            call()
    assert label_by_outcome(rows[1], OutcomePool.of(rows))["labels"] == [True, False]


def test_objects_say_what_they_are(scorer: StepScorer, base: Path) -> None:
    says = r"StepScorer(pqm, step_separator='\n', max_length=128, aggregation='min', cpu, float32)"
    assert repr(scorer) == says
    assert repr(Ensemble([scorer, scorer], "probability")) == (
        f"Ensemble([{says}, {says}], mean='probability', aggregation='min')"
    )
    assert isinstance(scorer.format, ContractFormat)
    server = Server("http://127.0.0.1:8100", "secret")
    endpoint = EndpointScorer(scorer.format.contract, byte_tokenizer(), server, "mine")
    assert repr(endpoint) == "EndpointScorer(pqm, 'mine' at http://127.0.0.1:8100)"
    assert repr(HTTPEngine(server, "mine", miniature.tokenizer())) == "HTTPEngine('mine' at http://127.0.0.1:8100)"
    engine = HFEngine(AutoModelForCausalLM.from_pretrained(base), miniature.tokenizer())
    assert repr(engine) == f"HFEngine(Qwen3ForCausalLM {str(base)!r}, cpu, float32)"
    assert "secret" not in repr(server)

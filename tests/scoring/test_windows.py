"""Windows over the steps of responses that are longer than a scorer's `max_length`."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from byte_tokenizer import byte_tokenizer
from published_scorers import implicit
from qstep.data import encode_joined, encode_prompt, read_rows, write_jsonl
from qstep.models import StepContract
from qstep.runs.sidecar import SettingsChanged
from qstep.runs.stage_file import read_meta
from qstep.scoring import Ensemble, StepScorer, load_scorer
from qstep.scoring.formats import ContractFormat
from qstep.scoring.scorer import Scored
from qstep.scoring.step_scorer import Pending
from qstep.scoring.windows import encode_windows, windows
from qstep.stages.score import ScoreConfig, score
from scorers import miniature_scorer


@pytest.mark.parametrize(
    ("sizes", "room", "expected"),
    [
        ([1, 1, 1, 1, 1, 1, 1], 4, [(0, 0, 4), (2, 4, 6), (3, 6, 7)]),
        ([4], 4, [(0, 0, 1)]),
        ([1, 4, 1], 4, [(0, 0, 1), (1, 1, 2), (2, 2, 3)]),  # no room for context
        ([3, 3, 3], 8, [(0, 0, 2), (1, 2, 3)]),  # a half would be two steps, and three do not fit
        ([2, 2, 2, 2], 8, [(0, 0, 4)]),
        ([1, 1, 1, 7, 1], 8, [(0, 0, 3), (2, 3, 4), (3, 4, 5)]),
    ],
)
def test_windows_by_hand(sizes: list[int], room: int, expected: list[tuple[int, int, int]]) -> None:
    reached = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
    assert list(windows(reached, room)) == expected


def test_each_step_is_scored_once_with_half_a_window_before_it() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = torch.randint(1, 12, (40,), generator=generator).tolist()
        reached = [sum(sizes[:n]) for n in range(len(sizes) + 1)]
        found = list(windows(reached, 40))
        assert [step for _, done, end in found for step in range(done, end)] == list(range(40))
        for first, done, end in found:
            assert reached[end] - reached[first] <= 40 and (first == 0 or reached[end] - reached[first - 1] > 40)
            assert first == 0 or reached[done] - reached[first] >= 20 - 11  # the next step may need some of it


class Computed(StepScorer):
    """The Q of a step is the sum of the last `reach` token ids up to its end. Lengths of sequences are recorded."""

    def __init__(self, format: ContractFormat, reach: int) -> None:
        super().__init__(torch.nn.Identity(), format)
        self.reach = reach
        self.lengths: list[int] = []

    def _scored(self, pending: Pending) -> list[Scored]:
        q_values = []
        for shared, ids, places in pending.sequences():
            tokens = [*shared, *ids]
            self.lengths.append(len(tokens))
            ends = [len(shared) + place + 1 for place in places]
            q_values.append([float(sum(tokens[max(0, end - self.reach) : end])) for end in ends])
        return pending.scored(q_values)


def computed(max_length: int, reach: int) -> Computed:
    tokenizer = byte_tokenizer()
    contract = StepContract.create(
        tokenizer,
        step_separator="\n",
        separator_token="<eos>",
        max_length=max_length,
        aggregation="min",
        objective="pqm",
    )
    return Computed(ContractFormat(tokenizer, contract), reach)


STEPS = [f"{'abc'[n % 3] * (n % 5 + 1)}{n}" for n in range(60)]


def test_a_causal_scorer_of_near_tokens_scores_the_same_in_windows() -> None:
    whole, cut = computed(2000, 12), computed(64, 12)
    expected = whole.score("q", STEPS)
    with pytest.raises(ValueError, match="max_length is 64"):
        cut.score("q", STEPS)
    assert not cut.fits({"id": "a", "prompt": "q", "completions": STEPS})
    cut.use_windows()
    row = {"id": "a", "prompt": "q", "completions": STEPS}
    assert cut.fits(row) and cut.in_windows(row)
    assert cut.score("q", STEPS) == expected
    assert len(cut.lengths) > 5 and max(cut.lengths) <= 64


def test_a_prompt_is_tokenised_once_for_all_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def counting(tokenizer: Any, prompt: Any) -> list[int]:
        calls.append(prompt if isinstance(prompt, str) else prompt[0]["content"])
        return encode_prompt(tokenizer, prompt)

    for module in ("qstep.scoring.formats", "qstep.models.scorer"):
        monkeypatch.setattr(f"{module}.encode_prompt", counting)
    cut = computed(64, 12)
    cut.use_windows()
    cut.score("q", STEPS)
    assert len(cut.lengths) > 5 and calls == ["q"]


def test_a_prompt_that_is_changed_in_place_is_read_again() -> None:
    scorer = computed(64, 1000)
    prompt = [{"role": "user", "content": "q"}]
    scorer.format.tokenizer.chat_template = "{{ messages[0].content }}"
    first = scorer.score(prompt, ["a"])
    prompt[0]["content"] = "another"
    assert scorer.score(prompt, ["a"]) != first
    assert scorer.score("another", ["a"]) == scorer.score(prompt, ["a"])


def test_rows_that_fit_are_read_as_without_windows() -> None:
    plain, cut = computed(64, 1000), computed(64, 1000)
    cut.use_windows()
    row = {"id": "a", "prompt": "q", "completions": STEPS[:6]}
    assert cut.score("q", STEPS[:6]) == plain.score("q", STEPS[:6]) and cut.lengths == plain.lengths
    assert not cut.in_windows(row)
    assert cut.score("q", []) == []


def test_a_step_longer_than_a_window_is_refused() -> None:
    cut = computed(32, 5)
    cut.use_windows()
    steps = ["a", "b" * 400, "c"]
    assert not cut.fits({"id": "a", "prompt": "q", "completions": steps})
    with pytest.raises(ValueError, match="max_length is 32"):
        cut.score("q", steps)


def test_windows_of_a_format_that_joins_steps() -> None:
    """Texts of steps and separators tokenised together: every window fits, and each step has one place in order."""
    tokenizer = byte_tokenizer()

    def encode(prompt: str, steps: list[str]) -> Any:
        texts = [part for step in steps for part in (step, " ; ")][:-1]
        ids, ends = encode_joined(tokenizer, texts)
        return [(encode_prompt(tokenizer, prompt), ids, ends[::2])]

    calls: list[int] = []
    format: Any = SimpleNamespace(max_length=50, encode=lambda p, s: calls.append(len(s)) or encode(p, s))
    found = encode_windows(format, "q", STEPS)
    assert found is not None and calls[:2] == [60, 1]
    assert len(calls) < 2 * len(found) < 60, "not once a step"
    assert max(len(shared) + len(ids) for shared, ids, _ in found) <= 50
    texts = [tokenizer.decode(ids[: end + 1]) for _, ids, ends in found for end in ends]
    assert len(texts) == 60 and all(text.endswith(step) for text, step in zip(texts, STEPS, strict=True))


def test_sums_over_a_response_have_no_windows(tmp_path: Path) -> None:
    """A real implicit scorer: the Q of a step is the sum through it, so that a window would change it."""
    folder = implicit(tmp_path / "model")
    given: Any = {"kind": "implicit", "reference": str(tmp_path / "model_reference")}
    q_values = load_scorer(folder, **given).score("q", ["a", "b", "c"])
    alone = load_scorer(folder, **given).score("q", ["c"])
    assert q_values[2] != pytest.approx(alone[0]), "the third Q depends on what stands before it"
    with pytest.raises(ValueError, match="implicit sums over all tokens of a response"):
        load_scorer(folder, windows=True, **given)
    rows = [{"prompt": "q", "completion": "a\nb"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options: Any = {"scorer_kind": "implicit", "scorer_reference": given["reference"], "over_long": "window"}
    config = ScoreConfig(tmp_path / "rows.jsonl", tmp_path / "out.jsonl", scorer=str(folder), **options)
    with pytest.raises(ValueError, match="sums over all tokens of a response"):
        score(config)


def test_an_ensemble_reads_windows_of_its_members() -> None:
    long, short = computed(2000, 12), computed(64, 12)
    ensemble = Ensemble([long, short])
    row = {"id": "a", "prompt": "q", "completions": STEPS}
    assert not ensemble.fits(row)
    ensemble.use_windows()
    assert ensemble.fits(row) and ensemble.in_windows(row)
    assert ensemble.score("q", STEPS) == pytest.approx(long.score("q", STEPS))


def test_the_command_counts_what_it_reads_in_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scorer = str(miniature_scorer(tmp_path / "scorer", max_length=24))
    rows = [{"prompt": "1+2=\n", "completion": "\n".join(["1+2=3"] * n)} for n in (2, 9)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    given = {"input": tmp_path / "rows.jsonl", "scorer": scorer}
    with pytest.raises(ValueError, match=r"1 rows are longer than .* read them in windows with --over_long window"):
        score(ScoreConfig(output=tmp_path / "none.jsonl", **given))
    output = score(ScoreConfig(output=tmp_path / "out.jsonl", over_long="window", **given))
    found = list(read_rows(output))
    assert [len(row["q_values"]) for row in found] == [2, 9]
    assert read_meta(output)["summary"]["in_windows"] == 1
    assert "1 of 2 responses are longer than this scorer's max_length of 24 tokens" in capsys.readouterr().err
    alone = load_scorer(scorer, windows=True)
    for row in found:
        assert alone.score(row["prompt"], row["completions"]) == pytest.approx(row["q_values"], abs=1e-5)
    with pytest.raises(SettingsChanged):
        score(ScoreConfig(output=output, over_long="drop", **given))
    write_jsonl(tmp_path / "rows.jsonl", [*rows, {"prompt": "1+2=\n", "completion": "1+2=3\n" + "1" * 30}])
    with pytest.raises(ValueError, match=r"1 rows have a step that, after the prompt, does not fit into"):
        score(ScoreConfig(output=tmp_path / "last.jsonl", over_long="window", **given))


def test_a_response_without_steps_has_no_windows() -> None:
    class Never:
        max_length = 1

        def encode(self, prompt: str, steps: list[str]) -> list[Any]:
            raise AssertionError("nothing to encode")

    never: Any = Never()
    assert encode_windows(never, "a long prompt", []) is None

"""Published scorers: each one's Q is the owner's documented computation (owners.py)."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from owners import OWNERS, last_tokens, response_logps
from published_scorers import (
    MAKERS,
    chatml_tokenizer,
    llama_tokenizer,
    plain_tokenizer,
    policy,
    sentencepiece_tokenizer,
)
from qstep.data import encode_chat, encode_joined, encode_text, read_rows
from qstep.models import PolicyWithValue
from qstep.scoring import Scorer, StepScorer, load_scorer, recognise
from qstep.stages.score import ScoreConfig, score
from real_data import DATA

QUESTION = "Tom has 3 apples and buys 12 more.\nHow many apples does he have in all?"
SOLUTIONS = [
    ["He starts with 3 apples.", "3 + 12 = 15", "The answer is 15."],
    ["He starts with 3 apples.", "3 * 12 = 36!"],
    ["15"],
]
HIDDEN = ["no <extra_0> here", "ки + - <|im_end|>", "<s> <bos> <|endoftext|> <|eot_id|> ки"]
"""Steps with the texts of tags and special tokens in them."""
RECOGNISED = ("qwen_prm", "skywork", "trl", "policy")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp("published") / kind) for kind, make in MAKERS.items()}


def arguments(folder: Path) -> dict[str, Any]:
    kind = folder.name
    reference = str(folder.with_name(f"{kind}_reference")) if kind in ("implicit", "policy") else None
    return {"name": str(folder), "kind": kind, "reference": reference}


def load(folder: Path, **others: Any) -> Scorer:
    return load_scorer(**arguments(folder) | others)


def logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


@pytest.mark.parametrize("kind", MAKERS)
def test_q_is_the_owners_computation(kind: str, folders: dict[str, Path]) -> None:
    scorer = load(folders[kind])
    seen = []
    for steps in SOLUTIONS:
        q_values = scorer.score(QUESTION, steps)
        theirs = OWNERS[kind](folders[kind], QUESTION, steps)
        wanted = theirs if kind in ("implicit", "policy") else [logit(p) for p in theirs]
        assert len(wanted) == len(steps)
        assert q_values == pytest.approx(wanted, abs=1e-5, rel=1e-5)
        seen += q_values
    assert max(seen) - min(seen) > 0.005, "the models tell steps apart"
    assert scorer.score(QUESTION, []) == []


@pytest.mark.parametrize("kind", MAKERS)
def test_shared_prefix_batches_equal_single_calls(kind: str, folders: dict[str, Path]) -> None:
    """Two questions with their responses, one twice, one without a step; the question is computed once."""
    scorer = load(folders[kind])
    assert isinstance(scorer, StepScorer)
    rows = [
        {"id": f"{question}{n}", "prompt": question, "completions": steps}
        for question in (QUESTION, "What is 12 * 30 - 7 ?")
        for n, steps in enumerate([*SOLUTIONS, SOLUTIONS[0], [], HIDDEN])
    ]
    alone = [scorer.score(row["prompt"], row["completions"]) for row in rows]
    assert [len(q) for q in alone] == [len(row["completions"]) for row in rows]
    sizes: list[tuple[int, ...]] = []
    scorer.model.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0]["prompt_lengths"].tolist())))
    for max_tokens in (1, 300, 100_000):
        sizes.clear()
        together = list(chain.from_iterable(scorer.score_rows(rows, max_tokens=max_tokens)))
        assert [row for row, _ in together] == rows
        for (_, q), single in zip(together, alone, strict=True):
            assert q == pytest.approx(single, abs=1e-5)
    [lengths] = sizes
    assert len(lengths) == 2 and min(lengths) >= 5, "each question once, its tokens shared"


@pytest.mark.parametrize("kind", MAKERS)
def test_text_never_becomes_a_tag_or_a_special_token(kind: str, folders: dict[str, Path]) -> None:
    scorer = load(folders[kind])
    assert isinstance(scorer, StepScorer)
    tokenizer = scorer.format.tokenizer
    added = set(tokenizer.added_tokens_encoder.values())

    def specials(steps: list[str]) -> list[int]:
        return sorted(
            token
            for shared, ids, _ in scorer.format.encode(QUESTION, steps)
            for token in (*shared, *ids)
            if token in added
        )

    if kind in ("qwen_prm", "skywork", "trl", "math_shepherd"):
        assert specials(HIDDEN) == specials(["a", "b", "c"])
    assert all(map(math.isfinite, scorer.score(QUESTION, HIDDEN)))
    assert len(scorer.score(QUESTION, HIDDEN)) == 3


@pytest.mark.parametrize("kind", MAKERS)
def test_over_long_rows_are_refused(kind: str, folders: dict[str, Path]) -> None:
    """A row of exactly max_length tokens fits and is scored; with a limit one lower it is refused by its name."""
    scorer = load(folders[kind])
    assert isinstance(scorer, StepScorer) and scorer.max_length == 4096
    row = {"id": "here", "prompt": QUESTION, "completions": SOLUTIONS[0]}
    length = max(len(shared) + len(ids) for shared, ids, _ in scorer.format.encode(QUESTION, SOLUTIONS[0]))
    exact, short = (load(folders[kind], options={"max_length": n}) for n in (length, length - 1))
    assert exact.fits(row) and exact.score(QUESTION, SOLUTIONS[0]) == scorer.score(QUESTION, SOLUTIONS[0])
    assert not short.fits(row)
    with pytest.raises(ValueError, match=rf"row 'here': .* are {length} tokens, and this scorer's max_length is"):
        list(short.score_rows([row], max_tokens=100))


@pytest.mark.parametrize("kind", MAKERS)
def test_bf16_is_close(kind: str, folders: dict[str, Path]) -> None:
    exact, half = (load(folders[kind], dtype=dtype).score(QUESTION, SOLUTIONS[0]) for dtype in ("float32", "bfloat16"))
    assert half == pytest.approx(exact, abs=0.25, rel=0.1) and half != exact


def test_kinds_are_recognised_or_asked_for(folders: dict[str, Path], tmp_path: Path) -> None:
    for kind, folder in folders.items():
        if kind in RECOGNISED:
            assert recognise(str(folder)) == kind
        else:
            with pytest.raises(ValueError, match=r"ForCausalLM\) is not recognisable. Give --scorer_kind"):
                recognise(str(folder))
    other = MAKERS["skywork"](tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForCausalLM"]}))
    assert recognise(str(other)) == "skywork", "by its v_head"


def test_a_policys_adapter_is_compared_with_its_base_or_the_reference_that_is_named(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Q is beta times the log-ratio plus V, with a beta of 0.3: `owners.py` computes the references."""
    folder = policy(tmp_path / "policy", lora=True)
    [q_adapter] = [load_scorer(str(folder)).score(QUESTION, SOLUTIONS[0])]
    model = PolicyWithValue.load(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt, response = tokenizer.encode(QUESTION), tokenizer.encode("\n".join(SOLUTIONS[0]))
    from qstep.models import collate_groups

    with torch.no_grad():
        logps, values = model(collate_groups([prompt], [[response]]))
    ratios = logps[0] - response_logps(tmp_path / "policy_reference", prompt, response).float()
    wanted = (0.3 * ratios + values[0])[last_tokens(tokenizer, SOLUTIONS[0], "\n")]
    assert q_adapter == pytest.approx(wanted.tolist(), abs=1e-5) and ratios.abs().max() > 0.01
    other = folders["generative"]
    named = load_scorer(str(folder), reference=str(other)).score(QUESTION, SOLUTIONS[0])
    ratios = logps[0] - response_logps(other, prompt, response).float()
    wanted = (0.3 * ratios + values[0])[last_tokens(tokenizer, SOLUTIONS[0], "\n")]
    assert named == pytest.approx(wanted.tolist(), abs=1e-5)
    assert named != pytest.approx(q_adapter, abs=0.01)
    uniform = load_scorer(str(folder), reference="uniform").score(QUESTION, SOLUTIONS[0])
    wanted = (0.3 * logps[0] + values[0])[last_tokens(tokenizer, SOLUTIONS[0], "\n")]
    assert uniform == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_policy_whose_v_values_no_steps_is_refused(tmp_path: Path) -> None:
    """DRO trains V at the prompt only. With and without `--scorer_kind policy`."""
    folder = policy(tmp_path / "policy")
    (folder / "qstep_checkpoint.json").write_text(json.dumps({"settings": {"method": "dro", "beta": 0.3}}))
    for kind in ("auto", "policy"):
        with pytest.raises(ValueError, match=r"was trained by `qstep train dro`, whose V does not value steps"):
            load_scorer(str(folder), kind, reference="uniform")


def test_an_implicit_prm_can_be_asked_as_a_chat(folders: dict[str, Path]) -> None:
    text = load(folders["implicit"], options={"conversational": True}).score(QUESTION, SOLUTIONS[0])
    turn = load(folders["implicit"]).score([{"role": "user", "content": QUESTION}], SOLUTIONS[0])
    assert text == turn != load(folders["implicit"]).score(QUESTION, SOLUTIONS[0])
    doubled = load(folders["implicit"], options={"beta": 0.1}).score([{"role": "user", "content": QUESTION}], ["15"])
    assert doubled[0] == pytest.approx(
        2 * load(folders["implicit"]).score([{"role": "user", "content": QUESTION}], ["15"])[0]
    )


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        (
            "qwen_prm",
            {"options": {"beta": 1.0}},
            r"--scorer_options.beta is not read by a scorer of kind qwen_prm. It reads aggregation, max_length",
        ),
        ("qwen_prm", {"reference": "x"}, "--scorer_reference x has no effect: .* qwen_prm does not read it"),
        ("qwen_prm", {"kind": "skywork"}, "no beginning-of-sequence token"),
        ("trl", {"kind": "qwen_prm"}, "has no token <extra_0>"),
        ("rlhflow", {"kind": "trl"}, r"lacks score\.bias, score\.weight, or has it in another size"),
        ("generative", {"kind": "qwen_prm"}, r"lacks score\.0\.bias"),
        ("math_shepherd", {"options": {"step_tag": "кииик"}}, "step_tag 'кииик' is . tokens for this tokenizer"),
        ("math_shepherd", {"options": {"good_token": "apples and"}}, r"good_token 'apples and' is \d+ tokens"),
        ("rlhflow", {"options": {"bad_token": "+"}}, "good_token and bad_token are the same token"),
        ("math_shepherd", {"kind": "rlhflow"}, "no chat template"),
        ("generative", {"options": {"template": "{solution}"}}, "has to hold {question} and then {solution}"),
        ("implicit", {"reference": None}, "needs --scorer_reference"),
        (
            "policy",
            {"reference": None},
            "does not record the model that its training began with: give --scorer_reference",
        ),
        ("implicit", {"options": {"beta": 0.0}}, "beta is 0.0; it must be above 0"),
        ("trl", {"options": {"max_length": 5000}}, "max_length is 5000, but this model has only 4096 positions"),
        ("trl", {"options": {"max_length": 0}}, "--scorer_options.max_length is 0; it must be at least 1"),
        ("trl", {"options": {"aggregation": "best"}}, "aggregation is 'best'; choose one of min"),
        ("trl", {"options": {"agregation": "min"}}, r"kind trl \(did you mean --scorer_options\.aggregation\?\)"),
        ("trl", {"kind": "qstep", "options": {"max_length": 5}}, "have no effect"),
        ("trl", {"options": {"max_length": "512"}}, "max_length is '512'; a scorer of kind trl takes a whole number"),
        ("trl", {"options": {"step_separator": 5}}, "step_separator is 5; a scorer of kind trl takes a string there"),
        ("implicit", {"options": {"beta": "x"}}, "beta is 'x'; a scorer of kind implicit takes a number there"),
        (
            "generative",
            {"options": {"good_token": True}},
            "good_token is True; a scorer of kind generative takes a string",
        ),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, changes: dict[str, Any], says: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=says):
        load(folders[kind], **changes).score(QUESTION, ["15"])


def test_another_tokenizer_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = MAKERS["trl"](tmp_path / "trl")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"more {n}" for n in range(10)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="more tokens than its model"):
        load(folder)
    with pytest.raises(ValueError, match="has another vocabulary than the policy"):
        load(folders["implicit"], reference=str(folders["generative"]))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    folder = MAKERS["rlhflow"](tmp_path / "rlhflow")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        load(folder)


def test_conversations_keep_their_turns_or_are_refused(folders: dict[str, Path]) -> None:
    """Qwen's format has a place for the prompt's own system turn; Skywork's for a question alone."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}
    qwen, skywork = load(folders["qwen_prm"]), load(folders["skywork"])
    own = load(folders["qwen_prm"], options={"system_prompt": "Be brief."})
    assert qwen.score([user], SOLUTIONS[0]) == qwen.score(QUESTION, SOLUTIONS[0])
    assert qwen.score([system, user], SOLUTIONS[0]) == own.score(QUESTION, SOLUTIONS[0])
    assert skywork.score([user], SOLUTIONS[0]) == skywork.score(QUESTION, SOLUTIONS[0])
    with pytest.raises(ValueError, match=r"turns of system, user; .* one question only"):
        skywork.score([system, user], SOLUTIONS[0])
    with pytest.raises(ValueError, match="prompt ends with an assistant's message"):
        qwen.score([user, {"role": "assistant", "content": "Well"}], SOLUTIONS[0])


@pytest.mark.parametrize("tokenizer", [chatml_tokenizer(), llama_tokenizer()], ids=["chatml", "llama"])
def test_a_conversation_without_special_text_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerBase) -> None:
    turns = [("system", ["  Be brief.\n"]), ("user", [" What is", " 12 + 3 ?\n\n"]), ("assistant", ["15"])]
    messages = [{"role": role, "content": "".join(content)} for role, content in turns]
    for opened in (False, True):
        ids, places = encode_chat(tokenizer, turns, add_generation_prompt=opened)
        assert places == []
        assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=opened, return_dict=False)


@pytest.mark.parametrize(
    "tokenizer", [plain_tokenizer(), sentencepiece_tokenizer(), chatml_tokenizer()], ids=["bytes", "pieces", "chat"]
)
def test_joined_texts_end_at_the_tokens_that_complete_them(tokenizer: PreTrainedTokenizerBase) -> None:
    """The tokens through a text's last one read as a text that holds it; without that one they do not."""
    texts = ["3 apples", " and 12 more.", "\n\n", "é 𝅘𝅥 ки", " ", "The answer is 15"]
    ids, ends = encode_joined(tokenizer, texts)
    assert ids == encode_text(tokenizer, "".join(texts)) and ends[-1] == len(ids) - 1

    def read(count: int) -> str:
        return str(tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)).lstrip()

    for n, end in enumerate(ends, 1):
        assert read(end + 1).startswith("".join(texts[:n]))
        assert not read(end).startswith("".join(texts[:n]))


def ensemble(path: Path, **content: Any) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_an_ensemble_is_the_mean_of_its_members(folders: dict[str, Path], tmp_path: Path) -> None:
    members = [
        {"scorer": str(folders["qwen_prm"]), "options": {"step_separator": "\n"}},
        str(folders["skywork"]),
        {"scorer": str(folders["math_shepherd"]), "kind": "math_shepherd"},
    ]
    alone = [load(folders[kind]).score(QUESTION, SOLUTIONS[0]) for kind in ("qwen_prm", "skywork", "math_shepherd")]
    of_q = load_scorer(ensemble(tmp_path / "q.yaml", members=members))
    assert of_q.score(QUESTION, SOLUTIONS[0]) == pytest.approx([sum(q) / 3 for q in zip(*alone, strict=True)])
    of_p = load_scorer(ensemble(tmp_path / "p.yaml", members=members, mean="probability", aggregation="last"))
    wanted = [logit(sum(1 / (1 + math.exp(-q)) for q in of_step) / 3) for of_step in zip(*alone, strict=True)]
    assert of_p.score(QUESTION, SOLUTIONS[0]) == pytest.approx(wanted, abs=1e-6)
    assert (of_p.aggregation, of_p.step_separator, of_p.max_length) == ("last", "\n", 4096)
    rows = [{"id": str(n), "prompt": QUESTION, "completions": steps} for n, steps in enumerate([*SOLUTIONS, []] * 3)]
    for max_tokens in (1, 100, 10_000):
        together = list(chain.from_iterable(of_q.score_rows(rows, max_tokens=max_tokens)))
        assert [row for row, _ in together] == rows
        for row, q in together:
            assert q == pytest.approx(of_q.score(QUESTION, row["completions"]), abs=1e-5)


def test_ensembles_that_cannot_be_meant_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    qwen, skywork = str(folders["qwen_prm"]), str(folders["skywork"])
    for content, says in (
        ({"members": [qwen, skywork]}, r"cut responses into steps at '\\n', '\\n\\n'"),
        ({"members": [qwen]}, "two or more"),
        ({"members": [qwen, skywork], "weights": [1, 2]}, "has weights; an ensemble has members, mean"),
        ({"members": [qwen, "other.yaml"]}, "member 2 is an ensemble itself"),
        ({"members": [qwen, {"scorer": skywork, "beta": 1}]}, "member 2 is .* give the name"),
        (
            {"members": [qwen, {"scorer": skywork, "kind": "foo"}]},
            "member 2 is of kind 'foo'; choose one of auto, qstep",
        ),
        ({"members": [qwen, skywork], "mean": "max"}, "mean is 'max'; choose one of q, probability"),
    ):
        with pytest.raises(ValueError, match=says):
            load_scorer(ensemble(tmp_path / "ensemble.yaml", **content))


@pytest.mark.parametrize("kind", [*MAKERS, "ensemble"])
def test_real_responses_are_scored_by_every_kind(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Two real problems with their 12 responses each: all there, each step with a finite Q."""
    file = DATA / "gsm8k_responses.jsonl"
    if not file.exists():
        pytest.skip(f"needs {file.name}; set QSTEP_DATA to the folder that holds it")
    few = tmp_path / "few.jsonl"
    few.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    if kind == "ensemble":
        options = {"scorer": ensemble(tmp_path / "e.yaml", members=[str(folders["skywork"]), str(folders["trl"])])}
    else:
        given = arguments(folders[kind])
        options = {"scorer": given["name"], "scorer_kind": kind, "scorer_reference": given["reference"]}
    rows = list(read_rows(score(ScoreConfig(few, tmp_path / "scored.jsonl", device="cpu", **options))))
    assert len(rows) == 24 and len({row["id"] for row in rows}) == 24
    for row in rows:
        assert len(row["q_values"]) == len(row["completions"]) > 0
        assert all(map(math.isfinite, row["q_values"])) and math.isfinite(row["score"])
    assert len({row["score"] for row in rows}) > 12
    again = score(ScoreConfig(few, tmp_path / "scored.jsonl", device="cpu", **options))
    assert list(read_rows(again)) == rows


def test_a_changed_reference_is_other_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    """Same path, other weights: the fingerprint covers the reference too."""
    reference = tmp_path / "reference"
    MAKERS["rlhflow"](reference)
    options = {"scorer": str(folders["implicit"]), "scorer_kind": "implicit", "scorer_reference": str(reference)}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"id": "a", "prompt": QUESTION, "completion": "15", "task": "math"}) + "\n")
    config = ScoreConfig(rows, tmp_path / "out.jsonl", device="cpu", **options)
    before = config.scorer_fingerprint()
    score(config)
    weights = load_file(reference / "model.safetensors")
    save_file({name: 2 * value for name, value in weights.items()}, reference / "model.safetensors", {"format": "pt"})
    assert config.scorer_fingerprint() != before
    with pytest.raises(Exception, match="scorer"):
        score(config)

"""The models: shared-prefix forward, log-probabilities, the value network, the step contract."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from qstep.data import miniature
from qstep.models import (
    PolicyWithValue,
    StepContract,
    StepScorer,
    collate_groups,
    collate_steps,
    encode_steps,
    load_policy,
    new_scorer,
    policy_logps,
    response_hidden,
    step_q_values,
    token_logps,
)
from qstep.models import policy as policy_module

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10], [2] * 6], [[5]]]


def tiny(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = dict(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=18,
        initializer_range=0.06,
        max_position_embeddings=64,
        tie_word_embeddings=kind == "llama",
    )
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape))
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=16))
    return Qwen2ForCausalLM(Qwen2Config(**shape))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_shared_prefix_gives_the_loss_and_gradients_of_the_padded_forward(kind: str) -> None:
    """Within 1e-5 relative, every parameter, in fp32; and the values are those of each sequence run alone."""
    model, batch = tiny(kind), collate_groups(PROMPTS, RESPONSES)
    weights = torch.arange(1.0, 7.0)
    losses, gradients = [], []
    for shared in (True, False):
        model.zero_grad()
        states = response_hidden(model.base_model, batch, shared=shared)[:, :-1]
        logps = token_logps(states, model.lm_head, batch["response_ids"], batch["response_mask"])
        loss = (logps.sum(1) * weights).sum()
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, gradient in gradients[0].items():
        reference = gradients[1][name]
        assert (gradient - reference).norm() <= 1e-5 * reference.norm(), name
    alone = [
        model(torch.tensor([prompt + ids]))
        .logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        .gather(1, torch.tensor(ids)[:, None])
        for prompt, group in zip(PROMPTS, RESPONSES, strict=True)
        for ids in group
    ]
    for row, expected in enumerate(alone):
        torch.testing.assert_close(logps[row, : len(expected)], expected[:, 0], rtol=1e-4, atol=1e-5)
        assert (logps[row, len(expected) :] == 0).all()


def test_logps_in_slices_are_the_same_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny("llama"), collate_groups(PROMPTS, RESPONSES)
    whole = policy_logps(model, batch)
    whole.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(policy_module, "_LOGITS_AT_ONCE", 3 * 18)  # three tokens at a time
    sliced = policy_logps(model, batch)
    sliced.sum().backward()
    torch.testing.assert_close(sliced, whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_slices_never_hold_tokens_by_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor with a vocabulary axis that the head produces has three rows, not all sixteen."""
    model, batch = tiny("llama"), collate_groups(PROMPTS, RESPONSES)
    monkeypatch.setattr(policy_module, "_LOGITS_AT_ONCE", 3 * 18)
    rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    policy_logps(model, batch).sum().backward()
    assert max(rows) == 3
    assert sum(rows) == 2 * 17  # each token once forward, once again for the backward pass


def test_padding_content_changes_nothing() -> None:
    model, batch = tiny("llama"), collate_groups(PROMPTS, RESPONSES)
    before = policy_logps(model, batch)
    batch["response_ids"][batch["response_mask"] == 0] = 9
    batch["prompt_ids"][batch["prompt_mask"] == 0] = 9
    assert torch.equal(policy_logps(model, batch), before)


@pytest.mark.parametrize("value", ["separate", "head"])
def test_value_network_starts_constant_and_survives_saving(value: str, tmp_path) -> None:
    model, batch = PolicyWithValue(tiny("llama"), value, value_init=0.25), collate_groups(PROMPTS, RESPONSES)
    _, values = model(batch)
    assert torch.allclose(values, torch.full_like(values, 0.25))
    torch.nn.init.normal_(model.value_head.weight)
    logps, values = model(batch)
    model.policy.save_pretrained(tmp_path)
    model.save_value(tmp_path)
    torch.manual_seed(1)
    other = PolicyWithValue(LlamaForCausalLM(model.policy.config), value)
    other.load_saved(tmp_path)
    for restored, original in zip(other(batch), (logps, values), strict=True):
        assert torch.equal(restored, original)


def test_value_gradient_reaches_the_policy_only_through_a_shared_trunk() -> None:
    batch = collate_groups(PROMPTS, RESPONSES)
    for value, expected in (("separate", False), ("head", True)):
        model = PolicyWithValue(tiny("llama"), value)
        torch.nn.init.normal_(model.value_head.weight)
        _, values = model(batch)
        values.sum().backward()
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.policy.parameters())
        assert reached is expected


def test_a_model_that_bends_its_logits_is_refused(tmp_path) -> None:
    model = tiny("llama")
    model.lm_head.register_forward_hook(lambda module, inputs, output: output)
    policy_module._check_head(model)
    original = model.forward

    def soft_capped(*args, **kwargs):
        output = original(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    model.forward = soft_capped
    model.lm_head.weight.data.mul_(30)
    with pytest.raises(ValueError, match="soft-capping or scaling"):
        policy_module._check_head(model)


@pytest.fixture
def scorer_folder(tmp_path):
    torch.manual_seed(0)
    tokenizer = miniature.tokenizer()
    Qwen3ForCausalLM(miniature.base_config()).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = new_scorer(tmp_path / "base")
    StepContract.create(
        tokenizer,
        step_separator="\n",
        separator_token="\n",
        max_length=128,
        aggregation="min",
        objective="pqm",
    ).attach(model)
    model.save_pretrained(tmp_path / "scorer")
    tokenizer.save_pretrained(tmp_path / "scorer")
    return tmp_path / "scorer"


def test_a_scorer_is_a_plain_token_classifier(scorer_folder) -> None:
    """What qstep scores is what any user of AutoModelForTokenClassification reads at the separators."""
    scorer = StepScorer.load(scorer_folder)
    prompt, steps = "7+8*3=\n", ["7+8=5", "5*3=5", "#5"]
    q_values = scorer.score(prompt, steps)
    plain = AutoModelForTokenClassification.from_pretrained(scorer_folder).eval()
    text = prompt + "".join(step + "\n" for step in steps)
    ids = miniature.tokenizer()(text)["input_ids"]
    logits = plain(torch.tensor([ids])).logits[0, :, 0]
    newlines = [i for i, token in enumerate(ids) if token == scorer.contract.separator_token_id][1:]
    assert q_values == pytest.approx(logits[newlines].tolist(), abs=1e-5)
    assert plain.config.num_labels == 1 and plain.config.problem_type == "regression"


def test_scores_do_not_depend_on_the_batch(scorer_folder) -> None:
    scorer = StepScorer.load(scorer_folder)
    rows = []
    for problem in miniature.problems("train", 5):
        steps = miniature.solution(problem.prompt).split("\n")
        rows += [
            {"id": f"{problem.id}#{n}", "prompt": problem.prompt, "completions": steps[: n + 1]}
            for n in range(len(steps))
        ]
    single = [scorer.score(row["prompt"], row["completions"]) for row in rows]
    for batch_size in (1, 3, 100):
        together = list(scorer.score_rows(rows, batch_size=batch_size))
        assert [row for row, _ in together] == rows
        for (_, q), expected in zip(together, single, strict=True):
            assert q == pytest.approx(expected, abs=1e-5)


def test_equal_responses_are_scored_once(scorer_folder, monkeypatch) -> None:
    """Of 40 rows, 2 prompts with 2 responses each, at batch size 3: chunks of 3 and 2 distinct ones, not 40 rows."""
    scorer = StepScorer.load(scorer_folder)
    rows = [
        {"id": f"{n}", "prompt": f"{5 + n // 20}+3=\n", "completions": ["8+3=1", "#1"][: 1 + n % 2]} for n in range(40)
    ]
    computed = []
    whole = scorer._score_batch
    monkeypatch.setattr(
        scorer, "_score_batch", lambda groups, names: computed.append(len(names)) or whole(groups, names)
    )
    scored = list(scorer.score_rows(rows, batch_size=3))
    assert [row for row, _ in scored] == rows
    assert computed == [3, 2]
    for row, q in scored:
        assert q == pytest.approx(scorer.score(row["prompt"], row["completions"]), abs=1e-5)


def test_contract_refuses_what_it_was_not_trained_with(scorer_folder) -> None:
    model = AutoModelForTokenClassification.from_pretrained(scorer_folder)
    tokenizer = miniature.tokenizer()
    with pytest.raises(ValueError, match="2 tokens"):
        StepContract.create(
            tokenizer,
            step_separator="\n",
            separator_token="==",
            max_length=9,
            aggregation="min",
            objective="pqm",
        )
    with pytest.raises(ValueError, match="scorer was trained"):
        broken = copy.deepcopy(model)
        broken.config.qstep["separator_token"] = "+"
        StepContract.of(broken, tokenizer)
    with pytest.raises(ValueError, match="chat template"):
        templated = miniature.tokenizer()
        templated.chat_template = "{{ messages }}"
        StepContract.of(model, templated)
    with pytest.raises(ValueError, match="version"):
        old = copy.deepcopy(model)
        old.config.qstep["version"] = 0
        StepContract.of(old, tokenizer)
    with pytest.raises(ValueError, match="no step contract"):
        del model.config.qstep
        StepContract.of(model, tokenizer)


def test_an_over_long_row_is_refused_not_truncated(scorer_folder) -> None:
    scorer = StepScorer.load(scorer_folder)
    with pytest.raises(ValueError, match=r"here: .* exceed this scorer's max_length of 128"):
        encode_steps(miniature.tokenizer(), scorer.contract, "7+8=\n", ["7+8=5"] * 30, where="here")


def test_step_q_values_are_read_at_the_separators(scorer_folder) -> None:
    model = AutoModelForTokenClassification.from_pretrained(scorer_folder).eval()
    batch = collate_steps(PROMPTS[:1], [RESPONSES[0]], [[1, 3], [1]])
    q = step_q_values(model, batch)
    whole = [model(torch.tensor([PROMPTS[0] + ids])).logits[0, len(PROMPTS[0]) :, 0] for ids in RESPONSES[0]]
    expected = torch.stack([torch.stack([whole[0][1], whole[0][3]]), torch.stack([whole[1][1], torch.tensor(0.0)])])
    torch.testing.assert_close(q, expected, rtol=1e-4, atol=1e-5)


def test_load_policy_reads_a_saved_model(scorer_folder) -> None:
    policy = load_policy(scorer_folder.parent / "base")
    assert policy.dtype == torch.float32

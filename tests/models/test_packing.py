"""Packed groups: what every family computes on them is what it computes on each sequence alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from model_families import FAMILIES, PADDED, saved, tiny, with_contract
from qstep.models import (
    ModelOptions,
    PolicyModel,
    PolicyWithValue,
    ScorerModel,
    attention,
    collate_groups,
    collate_steps,
)
from qstep.models import logps as logps_module
from qstep.models.packing import Packing, trunk_of

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10], [2] * 6], [[5]]]
WEIGHTS = torch.arange(1.0, 7.0)
EXPERTS = ("qwen3_moe", "mixtral", "gpt_oss", "deepseek_v3", "glm4_moe", "qwen3_next")
"""Families whose layers of experts cannot be computed in fp64."""


def options(folder: Path, **others: object) -> ModelOptions:
    return ModelOptions(model_name_or_path=str(folder), **others)


def alone(model: nn.Module) -> list[torch.Tensor]:
    """The log-probs of each response, in a forward pass of its own through transformers' attention."""
    return [
        model(torch.tensor([prompt + ids]), use_cache=False)
        .logits.float()
        .log_softmax(-1)[0, len(prompt) - 1 : -1]
        .gather(1, torch.tensor(ids)[:, None])[:, 0]
        for prompt, group in zip(PROMPTS, RESPONSES, strict=True)
        for ids in group
    ]


@pytest.mark.parametrize("family", [*FAMILIES, *PADDED])
@pytest.mark.parametrize("kept", ["everything", "products", "nothing"])
def test_logps_and_gradients_are_those_of_each_sequence_alone(family: str, kept: str) -> None:
    """Within 1e-5 relative for every parameter, whatever is kept of a layer for the backward pass.

    In fp64: Gemma 4's gradients in fp32 are up to 1.2e-5 from its own in fp64.
    """
    dtype = torch.float32 if family in EXPERTS else torch.float64
    plain, packed = tiny(family).to(dtype), PolicyModel(tiny(family).to(dtype))
    expected = alone(plain)
    sum(w * row.sum() for w, row in zip(WEIGHTS, expected, strict=True)).backward()
    packed.train()
    if kept == "products":
        packed.keep_products_only()
    elif kept == "nothing":
        packed.activation_checkpointing_enable()
    logps = packed(collate_groups(PROMPTS, RESPONSES))
    for row, own in zip(logps, expected, strict=True):
        torch.testing.assert_close(row[: len(own)], own, rtol=1e-4, atol=1e-5)
        assert (row[len(own) :] == 0).all()
    (logps.sum(1) * WEIGHTS).sum().backward()
    gradients = {name: p.grad for name, p in packed.pretrained.named_parameters()}
    least = 1e-2 * max(p.grad.norm() for p in plain.parameters())  # some biases have no gradient but rounding
    for name, parameter in plain.named_parameters():
        assert (gradients[name] - parameter.grad).norm() <= 1e-5 * max(parameter.grad.norm(), least), name


@pytest.mark.parametrize("family", [*FAMILIES, *PADDED])
def test_every_family_scores_and_its_scorer_is_a_token_classifier(family: str, tmp_path: Path) -> None:
    """A fresh scorer has the base's trunk, Q read at the separators of each response, and comes back from disk."""
    base = tiny(family)
    scorer = ScorerModel.new(options(saved(family, tmp_path / "base")))
    for name, weight in trunk_of(base).state_dict().items():
        assert torch.equal(weight, scorer.trunk.state_dict()[name]), name
    batch = collate_steps(PROMPTS[:1], [RESPONSES[0]], [[1, 3], [1]])
    q_values = scorer.eval()(batch)
    head = scorer.pretrained.get_submodule("score" if hasattr(scorer.pretrained, "score") else "classifier")
    states = [
        trunk_of(base)(torch.tensor([PROMPTS[0] + ids]), use_cache=False).last_hidden_state[0, len(PROMPTS[0]) :]
        for ids in RESPONSES[0]
    ]
    own = [head(states[0][1]), head(states[0][3]), head(states[1][1]), torch.zeros(1)]
    torch.testing.assert_close(q_values, torch.stack(own).view(2, 2), rtol=1e-4, atol=1e-5)
    with_contract(scorer).save(tmp_path / "scorer")
    loaded = ScorerModel.load(tmp_path / "scorer").eval()
    for name, weight in scorer.state_dict().items():
        assert torch.equal(weight, loaded.state_dict()[name]), name
    # Equal weights at other addresses: a product of experts may differ in the last bit.
    torch.testing.assert_close(loaded(batch), q_values, rtol=1e-6, atol=1e-7)


def test_logits_that_are_bent_in_an_unknown_way_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    original = model.forward

    def bent(*args: object, **kwargs: object) -> object:
        output = original(*args, **kwargs)
        output.logits = torch.tanh(output.logits)
        return output

    monkeypatch.setattr(model, "forward", bent)
    model.lm_head.weight.data.mul_(30)
    with pytest.raises(ValueError, match="not those of its output embedding"):
        PolicyModel(model)


def test_logps_in_slices_are_the_same_with_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = PolicyModel(tiny("llama")), collate_groups(PROMPTS, RESPONSES)
    whole = model(batch)
    whole.sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    monkeypatch.setattr(logps_module, "_LOGITS_AT_ONCE", 3 * 18)  # three tokens at a time
    rows: list[int] = []
    model.pretrained.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    sliced = model(batch)
    sliced.sum().backward()
    torch.testing.assert_close(sliced, whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert max(rows) == 3  # never tokens x vocabulary
    assert sum(rows) == 2 * 17  # each token once forward, once again for the backward pass


def test_padding_content_changes_nothing() -> None:
    model, batch = PolicyModel(tiny("llama")), collate_groups(PROMPTS, RESPONSES)
    before = model(batch)
    batch["response_ids"][batch["response_mask"] == 0] = 9
    assert torch.equal(model(batch), before)


def test_the_trunk_computes_just_the_tokens_there_are() -> None:
    """10 prompt and 17 response tokens, each once: no padding, and no prompt for every response."""
    model, seen = PolicyModel(tiny("llama")), []
    model.pretrained.model.layers[0].mlp.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].shape[:2])
    )
    model(collate_groups(PROMPTS, RESPONSES))
    assert seen == [(1, 27)]


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt 1 of the batch has no tokens"):
        collate_groups([[1], []], [[[2]], [[3]]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_reaches_the_linear_layers_and_leaves_the_outputs_in_fp32(dtype: torch.dtype) -> None:
    model, batch, seen = PolicyWithValue(tiny("qwen3"), None), collate_groups(PROMPTS, RESPONSES), set()
    exact, _ = model(batch)
    for module in model.pretrained.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    with torch.autocast("cpu", dtype):
        logps, values = model(batch)
    assert seen == {dtype}
    assert logps.dtype == values.dtype == torch.float32
    torch.testing.assert_close(logps, exact, rtol=0.05, atol=0.05)


def test_weights_in_bf16_compute_close_to_fp32(tmp_path: Path) -> None:
    folder, batch = saved("qwen3", tmp_path / "base"), collate_groups(PROMPTS, RESPONSES)
    model = PolicyModel.new(options(folder, dtype="bfloat16"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(model(batch), PolicyModel.new(options(folder))(batch), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("value", ["separate", "head"])
def test_value_network_starts_constant_and_survives_saving(value: str, tmp_path: Path) -> None:
    folder, batch = saved("llama", tmp_path / "base"), collate_groups(PROMPTS, RESPONSES)
    model = PolicyWithValue.new_with_value(options(folder), value)
    model.start_value(0.25)
    _, values = model(batch)
    mask = batch["response_mask"].bool()
    assert torch.allclose(values[mask], torch.tensor(0.25)) and (values[~mask] == 0).all()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    outputs = model(batch)
    model.save(tmp_path / "saved")
    other = PolicyWithValue.new_with_value(options(folder), value)
    other.restore(tmp_path / "saved")
    for restored in (other, PolicyWithValue.load(tmp_path / "saved")):
        for got, expected in zip(restored(batch), outputs, strict=True):
            assert torch.equal(got, expected)


def test_value_gradient_reaches_the_policy_only_through_a_shared_trunk(tmp_path: Path) -> None:
    folder, batch = saved("llama", tmp_path / "base"), collate_groups(PROMPTS, RESPONSES)
    for value, expected in (("separate", False), ("head", True)):
        model = PolicyWithValue.new_with_value(options(folder), value)
        torch.nn.init.normal_(model.value_head.weight)
        _, values = model(batch)
        values.sum().backward()
        reached = any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.pretrained.parameters())
        assert reached is expected


def test_a_scorers_fp32_head_on_bf16_weights_comes_back_to_the_bit(tmp_path: Path) -> None:
    folder = saved("qwen3", tmp_path / "base")
    scorer = ScorerModel.new(options(folder, dtype="bfloat16")).eval()
    head = scorer.pretrained.score.weight
    assert head.dtype == torch.float32 and scorer.pretrained.model.norm.weight.dtype == torch.bfloat16
    torch.nn.init.normal_(head)
    with_contract(scorer).save(tmp_path / "scorer")
    again = ScorerModel.new(options(folder, dtype="bfloat16")).eval()
    again.restore(tmp_path / "scorer")
    for other in (again, ScorerModel.load(tmp_path / "scorer", "bfloat16")):
        assert torch.equal(other.pretrained.score.weight, head)
        assert other.pretrained.model.norm.weight.dtype == torch.bfloat16
    assert '"Qwen3ForTokenClassification"' in (tmp_path / "scorer" / "config.json").read_text()


def test_beyond_learned_positions_a_sentence_says_so(tmp_path: Path) -> None:
    policy = PolicyModel(tiny("gpt2"))
    with pytest.raises(ValueError, match="130 tokens are longer than its positions"):
        policy(collate_groups([[1] * 100], [[[2] * 30]]))


def test_states_of_another_size_are_refused(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTForCausalLM

    shape = dict(vocab_size=18, hidden_size=32, ffn_dim=64, num_hidden_layers=1, num_attention_heads=4)
    with pytest.raises(ValueError, match="its last states have 16 entries, not 32"):
        PolicyModel(OPTForCausalLM(OPTConfig(**shape, word_embed_proj_dim=16, dropout=0.0)))


def by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What `varlen_attn`, which only a GPU has, is documented to do: the last query sees the last key."""
    assert (longest_query, longest_key) == (int(query_starts.diff().max()), int(key_starts.diff().max()))
    outputs = []
    for at in range(len(query_starts) - 1):
        q = query[query_starts[at] : query_starts[at + 1]].transpose(0, 1)
        k, v = (states[key_starts[at] : key_starts[at + 1]].transpose(0, 1) for states in (key, value))
        queries, keys = q.shape[1], k.shape[1]
        position, seen = torch.arange(keys - queries, keys)[:, None], torch.arange(keys)
        mask = seen <= position + window_size[1]
        if window_size[0] >= 0:
            mask &= seen >= position - window_size[0]
        outputs.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa))
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.mark.parametrize("window", [None, 3, 5])
def test_a_gpus_kernel_is_given_what_each_segment_sees(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped keys, an empty response; the segments one by one, as on the CPU, give the same."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_segment)
    packed = Packing.of(collate_groups(PROMPTS, [*RESPONSES[:2], [[5], []]]))
    query, key, value = (torch.randn(1, heads, sum(packed.lengths), 8) for heads in (4, 2, 2))
    at_once = attention._one_kernel(query, key, value, packed, 0.3, window)
    expected, _ = attention.packed_attention(
        nn.Module(), query, key, value, None, scaling=0.3, sliding_window=window, packing=packed
    )
    torch.testing.assert_close(at_once, expected, rtol=1e-5, atol=1e-6)

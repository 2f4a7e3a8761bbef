"""Which models are packed and which are padded, and what decides it."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from model_families import FAMILIES, LLAMA, PADDED, tiny
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.models import PolicyModel, collate_groups, packable
from qstep.models.packing import Packing, is_packed
from qstep.models.sharding import call_once
from qstep.tasks import miniature

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3], [2, 2]]
RESPONSES = [[[1, 2, 3, 4] * 5, [5, 6]], [[7], [8, 9, 10], [2] * 6], [[5]], []]


def made(family: str, **options: object) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **LLAMA, bos_token_id=None, eos_token_id=16, pad_token_id=17, **options)
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def agrees(model: PreTrainedModel, plain: PreTrainedModel) -> None:
    logps = PolicyModel(model)(collate_groups(PROMPTS, RESPONSES))
    rows = [(prompt, ids) for prompt, group in zip(PROMPTS, RESPONSES, strict=True) for ids in group]
    for row, (prompt, ids) in zip(logps, rows, strict=True):
        logits = plain(torch.tensor([prompt + ids]), use_cache=False).logits[0].log_softmax(-1)
        own = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(row[: len(ids)], own, rtol=1e-4, atol=1e-5)


def shapes(model: PolicyModel) -> list[tuple[int, ...]]:
    """The rows and tokens of each call of the model, as they are made."""
    found: list[tuple[int, ...]] = []
    model.trunk.register_forward_pre_hook(
        lambda module, args, kwargs: found.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return found


@pytest.mark.parametrize("family", [*FAMILIES, *PADDED])
def test_a_family_that_cannot_be_packed_is_padded_and_one_sentence_says_so(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "qstep"):
        policy = PolicyModel(tiny(family))
        PolicyModel(policy.pretrained)
    assert is_packed(policy.trunk) == (family in FAMILIES)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("qstep")]
    assert len(lines) == (family in PADDED)
    assert all(line.startswith(f"{family} is computed in padded batches") for line in lines)


def test_a_prompt_without_responses_has_its_states_and_rows_go_by_length() -> None:
    model = PolicyModel(tiny("mamba"))
    calls = shapes(model)
    agrees(model.pretrained, tiny("mamba"))
    assert calls == [(1, 23), (2, 12), (1, 7), (1, 5), (2, 2)]


@pytest.mark.parametrize("family", ["mamba", "bloom"])
def test_sharded_weights_are_called_once(family: str) -> None:
    model = PolicyModel(tiny(family))
    call_once(model)
    calls = shapes(model)
    agrees(model.pretrained, tiny(family))
    assert calls == [(7, 23)]


@pytest.mark.parametrize("family", ["stablelm", "bloom"])
def test_a_prompt_is_computed_once_where_the_cache_has_all_of_it(family: str) -> None:
    """Its gradient is that of a copy before each response. With too little to save, copies go with all other rows."""
    prompt, responses = [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6, 7, 8], [5, 6], [7]]
    batch = collate_groups([prompt, [8]], [responses, [[9, 10]]])
    gradients = []
    for shares in (True, False):
        model = PolicyModel(tiny(family)).train()
        assert model.trunk.shares_prompts
        model.trunk.shares_prompts = shares
        calls = shapes(model)
        logps = model(batch)
        logps.sum().backward()
        gradients.append([logps.detach(), *(parameter.grad for parameter in model.parameters())])
        assert calls == ([(1, 6), (1, 8), (1, 2), (1, 1), (1, 3)] if shares else [(1, 14), (2, 8), (1, 3)])
    for shared, copied in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, copied, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["stablelm", "bloom"])
def test_responses_without_tokens_continue_no_cache(family: str) -> None:
    model = PolicyModel(tiny(family)).eval()
    for responses in ([[], [7, 8], [7]], [[], []]):
        found = model(collate_groups([[1, 2, 3, 4, 5, 6]], [responses]))
        model.trunk.shares_prompts = False
        torch.testing.assert_close(found, model(collate_groups([[1, 2, 3, 4, 5, 6]], [responses])))
        model.trunk.shares_prompts = True


def test_recomputed_activations_keep_no_cache() -> None:
    model = PolicyModel(tiny("stablelm")).train()
    model.activation_checkpointing_enable()
    calls = shapes(model)
    model(collate_groups([[1, 2, 3, 4]], [[[5, 6], [7, 8], [9, 10]]]))
    assert calls == [(3, 6)]


@pytest.mark.parametrize("family", [*PADDED])
def test_states_and_windows_are_not_shared(family: str) -> None:
    assert PolicyModel(tiny(family)).trunk.shares_prompts == (family in ("stablelm", "bloom"))


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
def test_layers_whose_kernels_keep_texts_apart_are_packed(
    family: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As causal-conv1d and flash-linear-attention do on a GPU, here by their functions for CPUs. Without them a message
    says what to install."""
    plain, padded = tiny(family), PolicyModel(tiny(family))
    assert not is_packed(padded.trunk)
    assert "Install `causal_conv1d` to train on packed sequences" in caplog.text
    module = sys.modules[type(plain).__module__]
    convolution, rule = module.causal_conv1d_fn.__wrapped__, module.torch_chunk_gated_delta_rule.__wrapped__

    def convolution_of_texts(states: Any, *weights: Any, seq_idx: Any = None, **options: Any) -> Any:
        lengths = (
            [states.shape[-1]] if seq_idx is None else seq_idx[0].unique_consecutive(return_counts=True)[1].tolist()
        )
        return torch.cat([convolution(part, *weights, **options) for part in states.split(lengths, -1)], -1)

    def rule_of_texts(
        query: Any, key: Any, value: Any, g: Any, beta: Any, cu_seqlens: Any = None, **options: Any
    ) -> Any:
        lengths = [query.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
        parts = zip(*(tensor.split(lengths, 1) for tensor in (query, key, value, g, beta)), strict=True)
        return torch.cat([rule(*part, **options)[0] for part in parts], 1), None

    monkeypatch.setattr(module, "causal_conv1d_fn", convolution_of_texts)
    monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", rule_of_texts)
    packed = PolicyModel(tiny(family))
    assert is_packed(packed.trunk) and packed.trunk.copies_prompts
    calls = shapes(packed)
    agrees(packed.pretrained, plain)
    assert calls == [(1, 3 + 20 + 3 + 2 + (6 + 1) + (6 + 3) + (6 + 6) + (1 + 1) + 2)]
    gradients = []
    for model in (packed, padded):
        model(collate_groups(PROMPTS, RESPONSES)).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["lfm2", "falcon_h1", "qwen3_5_text", "mamba2"])
def test_fresh_weights_whose_state_hardly_shows_are_not_taken_for_packable(family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny(family).config).eval()
    assert not is_packed(PolicyModel(model).trunk)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2_moe", dict(use_sliding_window=True, num_experts=4, moe_intermediate_size=16, max_window_layers=0)),
        ("phimoe", dict(num_local_experts=4)),
    ],
)
@pytest.mark.parametrize("window", [5, 60])
def test_a_window_that_only_the_mask_knows_is_kept(family: str, options: dict[str, object], window: int) -> None:
    """60 tokens are more than these responses have: what decides is not their length."""
    model, plain = (made(family, sliding_window=window, **options) for _ in range(2))
    agrees(model, plain)
    assert is_packed(model) == (family == "qwen2_moe")  # which gives its layers the window too


LONGROPE = dict(rope_type="longrope", rope_theta=1e4, original_max_position_embeddings=16, factor=8.0)
SCALED = {
    "longrope": {**LONGROPE, "short_factor": [1.0] * 4, "long_factor": [8.0] * 4},
    "dynamic": dict(rope_type="dynamic", rope_theta=1e4, factor=4.0),
}


@pytest.mark.parametrize("kind", SCALED)
def test_positions_that_depend_on_the_longest_row_are_refused_where_they_begin_to(kind: str) -> None:
    options: dict[str, object] = {"rope_parameters": SCALED[kind]}
    options |= {"original_max_position_embeddings" if kind == "longrope" else "max_position_embeddings": 16}
    torch.manual_seed(0)
    config = AutoConfig.for_model("phi3" if kind == "longrope" else "llama", **{**LLAMA, **options}, pad_token_id=17)
    model = AutoModelForCausalLM.from_config(config).eval()
    policy = PolicyModel(model)
    short, long = [1, 2, 3], [4] * 13
    with torch.no_grad():
        alone = policy(collate_groups([[5, 6, 7]], [[short]]))
        beside = policy(collate_groups([[5, 6, 7]], [[short, long]]))
    torch.testing.assert_close(alone[0, :3], beside[0, :3])
    with pytest.raises(ValueError, match=r"of 17 tokens: beyond 16 tokens .*Set --max_length 16, or less"):
        policy(collate_groups([[5, 6, 7]], [[short, [*long, 4]]]))
    with packable.unpacked(model):
        engine = HFEngine(model, miniature.tokenizer())
        assert engine.positions == 16
        with pytest.raises(ValueError, match="exceed the 16 positions"):
            list(engine.sample([Request("a", [5, 6, 7], [0])], SamplingSettings(14)))


def test_states_of_later_tokens_are_refused() -> None:
    model = made("llama")
    model.model.forward = _bidirectional(model)
    with pytest.raises(ValueError, match="its states depend on later tokens"):
        PolicyModel(model)


def _bidirectional(model: PreTrainedModel) -> object:
    original = model.model.forward

    def forward(input_ids: torch.Tensor, **options: object) -> object:
        length = input_ids.shape[1]
        return original(input_ids, **options | {"attention_mask": torch.ones(1, 1, length, length, dtype=torch.bool)})

    return forward


def test_layers_that_fail_on_packed_batches_are_padded_and_their_error_is_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(trunk: object, batch: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(packable, "hidden_states", fails)
    error: Exception = RuntimeError("sizes differ\nat line 2")
    with caplog.at_level(logging.WARNING, "qstep"):
        assert not is_packed(packable.pack(tiny("llama")))
    assert caplog.messages[-1].endswith("its layers fail on packed batches (RuntimeError: sizes differ)")
    error = torch.OutOfMemoryError("no room")
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        packable.pack(tiny("llama"))


def test_one_mask_serves_the_responses_of_a_prompt() -> None:
    """Not one for each length: 32 responses of about 2,000 tokens took 529 MiB."""
    lengths = range(1, 33)
    packing = Packing.of(collate_groups([[1, 2, 3], [4, 5, 6]], [[[7] * n for n in lengths], [[8] * 40]]))
    for n in (*lengths, 40):
        mask = packing.mask(3, None, torch.zeros(1, 1, n, 4))
        position = torch.arange(3, 3 + n)[:, None]
        assert torch.equal(mask == 0, torch.arange(3 + n) <= position)
    assert len(packing.masks) == 1

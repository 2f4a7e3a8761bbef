"""A simulated step takes what a real one takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qstep.models import ModelOptions, PolicyModel, PolicyWithValue, collate_groups, collate_steps
from qstep.models.loading import EmptyModel
from qstep.models.packing import Packing
from qstep.models.scorer import ScorerModel
from qstep.models.sharding import call_once
from qstep.models.simulated import FLOPS, Simulated, _Memory, simulate

PROMPTS = [[2, 3, 4], [5, 6]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7, 8, 9]]]
BATCH = collate_groups(PROMPTS, RESPONSES)
TOKENS, READ = 3 + 4 + 2 + 2 + 3, 9


def adam(parameters: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters)


def simulated(
    options: ModelOptions, kind: str = "policy", value: Any = None, read: int = READ, **more: Any
) -> Simulated:
    return simulate(module_of(empty(options), kind, value), Packing.of(BATCH), read, optimizer=adam, **more)


def empty(options: ModelOptions) -> EmptyModel:
    return EmptyModel(**asdict(options))


def module_of(options: ModelOptions, kind: str = "policy", value: Any = None) -> Any:
    if kind == "scorer":
        return ScorerModel.new(options)
    return PolicyModel.new(options) if value is None else PolicyWithValue.new_with_value(options, value)


def real(module: Any, batch: Any, *, recomputes: bool = False) -> tuple[int, int, int]:
    """The work of a forward pass and of both, and the greatest memory without what waits for garbage collection."""
    flops = FlopCounterMode(display=False, custom_mapping=FLOPS)
    module.train()
    with _Memory(module, recomputes=recomputes) as memory, flops:
        found = module(batch)
        forward = flops.get_total_flops()
        sum(values.sum() for values in (found if isinstance(found, tuple) else (found,))).backward()
    return forward, flops.get_total_flops(), memory.peak


@pytest.mark.parametrize("value", [None, "head", "separate"])
@pytest.mark.parametrize("adapter", [False, True])
def test_a_policy_s_step(value: Any, adapter: bool, base: Path) -> None:
    options = ModelOptions(model_name_or_path=str(base), use_peft=adapter)
    found = simulated(options, value=value)
    module = module_of(options, value=value)
    module.watches_entropy = True
    forward, flops, peak = real(module, BATCH)
    trained = [p for p in module.parameters() if p.requires_grad]
    assert (found.forward, found.flops, found.tokens, found.packed) == (forward, flops, TOKENS, True)
    assert found.parameters == sum(p.numel() for p in module.parameters())
    assert found.trained == sum(p.numel() for p in trained)
    assert found.weights == 4 * found.parameters
    assert found.gradients == 4 * found.trained
    assert found.states == 8 * found.trained + 4 * len(trained)  # two moments, and a count of steps for each
    assert found.peak == pytest.approx(peak, rel=0.05)


def test_a_scorer_s_step(base: Path) -> None:
    batch = collate_steps(PROMPTS, RESPONSES, [[1, 3], [1], [2]])
    options = ModelOptions(model_name_or_path=str(base))
    found = simulated(options, kind="scorer", read=4)
    forward, flops, peak = real(ScorerModel.new(options), batch)
    assert (found.forward, found.tokens) == (pytest.approx(forward, rel=1e-3), TOKENS)
    assert found.flops == pytest.approx(flops, rel=1e-3)
    assert found.peak == pytest.approx(peak, rel=0.05)


def test_a_view_of_a_weight_takes_no_memory() -> None:
    layer = torch.nn.Linear(64, 32)
    with _Memory(layer) as memory:
        assert layer.weight.t().shape == (64, 32)
        assert memory.peak == 0
        layer(torch.ones(4, 64))
    assert memory.peak == 4 * 64 * 4 + 4 * 32 * 4


def test_what_saves_memory_saves_it(base: Path) -> None:
    options = ModelOptions(model_name_or_path=str(base))
    plain = simulated(options)
    half = simulated(ModelOptions(model_name_or_path=str(base), dtype="bfloat16"))
    assert (half.weights, half.gradients) == (plain.weights // 2, plain.gradients // 2)
    sharded = simulated(options, sharded=True)
    assert sharded.peak < plain.peak <= sharded.peak + plain.gradients
    adapter = ModelOptions(model_name_or_path=str(base), use_peft=True)
    frozen = simulated(adapter)
    assert simulated(adapter, in_4_bits=True).weights < 0.7 * frozen.weights


def test_activations_are_recomputed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qstep.models.simulated._COLLECTED_EVERY", 1)  # a real step's peak would have garbage too
    options = ModelOptions(model_name_or_path=str(base))
    batch = collate_groups([[2] * 50] * 4, [[[1] * 100]] * 4)
    peaks = []
    for recomputes in (False, True):
        module, alike = PolicyModel.new(empty(options)), PolicyModel.new(options)
        alike.watches_entropy = True
        if recomputes:
            module.activation_checkpointing_enable()
            alike.activation_checkpointing_enable()
        found = simulate(module, Packing.of(batch), 400, optimizer=adam)
        forward, flops, peak = real(alike, batch, recomputes=recomputes)
        assert (found.forward, found.flops) == (forward, flops)
        assert found.peak == pytest.approx(peak, rel=0.05)
        peaks.append(peak)
    assert peaks[1] < peaks[0]


def test_one_kernel_takes_as_much_work_and_about_as_much_memory(base: Path) -> None:
    options = ModelOptions(model_name_or_path=str(base))
    one, many = simulated(options, one_kernel=True), simulated(options)
    assert (one.forward, one.flops, one.tokens) == (many.forward, many.flops, many.tokens)
    assert one.peak == pytest.approx(many.peak, rel=0.1)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_experts(family: str, tmp_path: Path) -> None:
    from model_families import saved

    saved(family, tmp_path)
    options = ModelOptions(model_name_or_path=str(tmp_path))
    found = simulated(options)
    module = PolicyModel.new(options)
    module.watches_entropy = True
    forward, flops, peak = real(module, BATCH)
    assert (found.forward, found.flops) == (pytest.approx(forward, rel=0.01), pytest.approx(flops, rel=0.01))
    assert found.peak == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize("family", ["mamba", "stablelm"])
def test_a_padded_family_is_simulated_in_padded_rows(family: str, tmp_path: Path) -> None:
    from model_families import saved

    saved(family, tmp_path)
    options = ModelOptions(model_name_or_path=str(tmp_path))
    found = simulated(options, value="separate")
    module = PolicyWithValue.new_with_value(options, "separate")
    module.watches_entropy = True
    forward, flops, _ = real(module, BATCH)
    assert (found.packed, found.forward, found.flops) == (False, forward, flops)
    sharded = PolicyWithValue.new_with_value(options, "separate")
    sharded.watches_entropy = True
    call_once(sharded)
    forward, flops, _ = real(sharded, BATCH)
    found = simulated(options, value="separate", sharded=True)
    assert (found.forward, found.flops) == (forward, flops)

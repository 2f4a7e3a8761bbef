"""Whether a model sampled given responses: the statistic by hand, its rate of false alarms, and what it finds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2, gamma, norm

from byte_tokenizer import TEMPLATE, byte_tokenizer
from own_samples import drawn, samples, tiny_policy
from qstep.evals.own_samples import OwnSamples, explanation, finding, judge
from qstep.evals.sampled_by import chosen_rows, compare_with_own
from qstep.models import PolicyModel
from qstep.models.logps import token_surprises
from qstep.types import Row

TOKENIZER = byte_tokenizer()


def compare(policy: PolicyModel, rows: list[Row], **options: Any) -> OwnSamples:
    return compare_with_own(
        policy, options.pop("tokenizer", TOKENIZER), [("row", row) for row in rows], max_length=256, **options
    )


@pytest.fixture(scope="module")
def policy() -> PolicyModel:
    return PolicyModel(tiny_policy(0))


def test_moments_by_hand() -> None:
    """Of probabilities 1/2, 1/4, 1/4 (log2: -1, -2, -2), entropy is 1.5 bits, and excesses are 1/2, -1/2, -1/2 bits.

    The variance is 1/4 and the third moment 0. At temperature 1/2, probabilities are 2/3, 1/6, 1/6. Without the first
    token, both others have probability 1/2, and nothing is left to chance.
    """
    head = torch.nn.Linear(3, 3, bias=False)
    head.weight.data = torch.eye(3)
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    model: Any = SimpleNamespace(get_output_embeddings=lambda: head, config=config)
    states = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(3, 3)
    bit = math.log(2)
    found = token_surprises(model, states, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(found.excess, torch.tensor([0.5, -0.5, -0.5]) * bit)
    torch.testing.assert_close(found.variance, torch.full((3,), 0.25 * bit**2))
    torch.testing.assert_close(found.third, torch.zeros(3), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.entropy, torch.full((3,), 1.5 * bit))
    colder = token_surprises(model, states, torch.tensor([0, 1, 2]), temperature=0.5)
    entropy = -(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 6))
    torch.testing.assert_close(colder.entropy, torch.full((3,), entropy))
    torch.testing.assert_close(colder.excess[0], torch.tensor(math.log(2 / 3) + entropy))
    # E (log p + H)^3: log p is a or b with probabilities 2/3 and 1/3, so (a - b)^3 * 2/3 * 1/3 * (1/3 - 2/3).
    third = math.log(4) ** 3 * 2 / 9 * (1 / 3 - 2 / 3)
    torch.testing.assert_close(colder.third, torch.full((3,), third))
    without = token_surprises(model, states, torch.tensor([0, 1, 2]), ends=[0])
    torch.testing.assert_close(without.entropy, torch.tensor([0.0, bit, bit]))
    torch.testing.assert_close(without.excess, torch.zeros(3), atol=1e-6, rtol=0)


def test_the_statistic_by_hand() -> None:
    """Two tokens of a sure state and four of an unsure one: z is 2 / sqrt(4) = 1 and -6 / sqrt(9) = -2."""
    sure, unsure = [1.0, 2.0, 0.0, 0.1], [-1.5, 2.25, 0.0, 3.0]
    found = judge(np.array([sure] * 2 + [unsure] * 4).T, rows=3, encoded=1, temperature=1.0)
    assert [(part.tokens, part.excess, part.z) for part in found.states] == [(2, 1.0, 1.0), (4, -1.5, -2.0)]
    assert found.p_value == pytest.approx(chi2.sf(1 + 4, 2)) and found.excess == pytest.approx(-4 / 6)
    assert found.own is None, "six tokens are too few to tell"
    assert (
        finding(found)
        == "3 rows have only 6 tokens, too few to tell samples of this model at temperature 1 from others"
    )


def test_skewed_sums_are_corrected_and_joined() -> None:
    """A gamma variable of skewness 1/2 is nearly normal once its skewness is removed. A sum of skewness 2 is joined."""
    for level in (0.001, 0.01, 0.1, 0.9, 0.99, 0.999):
        draw = np.array([[gamma(16).ppf(level) - 16, 16.0, 32.0, 3.0]]).T
        z = judge(draw, rows=1, encoded=0, temperature=1.0).states[0].z
        assert z == pytest.approx(norm.ppf(level), abs=0.02)
    joined = judge(np.array([[-1.0, 1.0, -2.0, 0.1], [1.0, 3.0, 0.0, 1.0]]).T, rows=1, encoded=0, temperature=1.0)
    assert [part.tokens for part in joined.states] == [2]


def test_a_model_that_is_nearly_certain_is_not_contradicted_by_what_it_expects() -> None:
    """The sum of 1,000 such tokens has the skewness -100. Its most probable value was corrected to z = -17."""
    certain = np.array([[1e-6, 1e-5, -1e-4, 0.01]] * 1000).T
    found = judge(certain, rows=48, encoded=0, temperature=1.0)
    assert found.own is None and found.p_value == 1.0
    assert finding(found).endswith("from others, because the model is nearly certain of each token")
    certain[0, :2] = -2.5  # by hand: -5 / sqrt(.01) is -50, and 1 / 50^2 is 4e-4
    found = judge(certain, rows=48, encoded=0, temperature=1.0)
    assert found.own is False and found.p_value == pytest.approx(4e-4, rel=1e-2)
    for entropy in (0.001, 3.0):  # the other tokens come before or after these
        unsure = np.array([[0.1, 1.0, 0.0, entropy]] * 20).T
        certain[3] = 1.0
        found = judge(np.concatenate([unsure, certain[:, 2:]], axis=1), rows=48, encoded=0, temperature=1.0)
        assert found.own is True and [part.tokens for part in found.states] == [1018]


@torch.no_grad()
def test_a_sharp_model_knows_its_own_samples() -> None:
    model = tiny_policy(0)
    model.lm_head.weight.mul_(40)
    files = [samples(model, TOKENIZER, 24, seed=seed) for seed in range(3)]
    policy = PolicyModel(model)
    for rows in files:
        found = compare(policy, rows)
        assert found.own is not False and abs(found.states[-1].skewness) > 1


@torch.no_grad()
def test_own_samples_fail_at_the_nominal_rate() -> None:
    """Of 150 files of 8 rows, about 7.5 have p < .05: 18 or more, or fewer than 2, have a probability below 1e-2."""
    model = tiny_policy(0)
    prompts = torch.arange(5, 13).expand(1200, 8)
    tokens = drawn(model, prompts, 1.0, torch.Generator().manual_seed(0))
    states = model.model(torch.cat([prompts, tokens], dim=1)).last_hidden_state[:, 7:-1]
    found = token_surprises(model, states.flatten(0, 1), tokens.flatten())
    files = torch.stack([*found]).double().view(4, 150, -1).numpy()
    judged = [judge(files[:, number], rows=8, encoded=0, temperature=1.0) for number in range(150)]
    assert len(judged[0].states) >= 2, "the model is sure of some tokens"
    p_values = np.array([one.p_value for one in judged])
    assert 2 <= (p_values < 0.05).sum() < 18
    assert (p_values < 0.01).sum() < 8
    assert abs(np.median(p_values) - 0.5) < 0.13, "the median of 150 has a standard deviation of .04"


@pytest.mark.parametrize(("temperature", "likely"), [(0.7, "more likely"), (1.4, "less likely")])
def test_another_temperature_fails_and_passes_if_it_is_named(
    policy: PolicyModel, temperature: float, likely: str
) -> None:
    rows = samples(tiny_policy(0), TOKENIZER, 32, temperature=temperature)
    found = compare(policy, rows)
    assert found.own is False and found.p_value < 1e-6
    assert f"32 rows are {likely} than samples of this model at temperature 1" in finding(found)
    assert f"a {'lower' if temperature < 1 else 'higher'} temperature" in explanation(found)
    assert compare(policy, rows, temperature=temperature).own is True


def test_another_model_and_another_template_fail(policy: PolicyModel) -> None:
    foreign = samples(tiny_policy(1), TOKENIZER, 32)
    assert compare(policy, foreign).p_value < 1e-6
    other = byte_tokenizer()
    other.chat_template = TEMPLATE.replace("<|assistant|>\n", "<|answer|>\n\n")
    rows = samples(tiny_policy(0), TOKENIZER, 32)
    assert compare(policy, rows).own is True
    found = compare(policy, rows, tokenizer=other)
    assert found.p_value < 1e-6 and "another template" in explanation(found)


def test_rows_of_two_authors_that_cancel_one_another_fail() -> None:
    """The sum over all tokens is near 0, but it is far from 0 where the model is sure, and where it is unsure."""
    sure, unsure = [-0.5, 0.25, 0.0, 0.1], [0.5, 0.25, 0.0, 3.0]
    found = judge(np.array([sure, unsure] * 100).T, rows=10, encoded=0, temperature=1.0)
    assert found.excess == 0 and found.own is False
    assert "partly less likely, partly more likely than" in finding(found) and "another model" in explanation(found)


def test_what_ends_a_response_does_not_matter(policy: PolicyModel) -> None:
    """The end of text, and a limit, may come anywhere. The tokens before have the same surprise."""
    rows = samples(tiny_policy(0), TOKENIZER, 32)
    cut = [{**row, "completion_ids": row["completion_ids"][:9]} for row in rows]
    for row in cut:
        row["completion"] = TOKENIZER.decode(row["completion_ids"], skip_special_tokens=True)
    ended = [
        {**row, "completion_ids": [*(i for i in row["completion_ids"] if i), 0], "finish_reason": "stop"} for row in cut
    ]
    first, second = compare(policy, cut), compare(policy, ended)
    assert first.own is True and second.p_value == pytest.approx(first.p_value) and second.tokens == first.tokens


def test_rows_are_read_as_far_as_max_length(policy: PolicyModel) -> None:
    rows = [("row", row) for row in samples(tiny_policy(0), TOKENIZER, 8)]
    prompt = len(TOKENIZER.apply_chat_template(rows[0][1]["prompt"], return_dict=False))
    assert compare_with_own(policy, TOKENIZER, rows, max_length=prompt + 3).tokens <= 8 * 4
    nothing = compare_with_own(policy, TOKENIZER, rows, max_length=1)
    assert (nothing.tokens, nothing.own, nothing.p_value) == (0, None, 1.0)


def test_rows_are_chosen_evenly() -> None:
    assert chosen_rows(10, 4).tolist() == [0, 3, 6, 9]
    assert chosen_rows(3, 48).tolist() == [0, 1, 2]

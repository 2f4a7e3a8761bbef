"""What the losses claim, shown on trees small enough to solve exactly.

DQO: its fixed point is the soft-optimal policy and value, from off-policy data, for every lambda and
weighting. PQM: exact step Q-values are ordered as Theorem 3.5 says, and the ranking losses find that order.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from optima import BETA, DQO, behavior_of, group_value, steps, train_dro
from qstep.losses import (
    additive_rewards,
    bce_loss,
    dqo_losses,
    dro_loss,
    importance_weights,
    lambda_return,
    min_form_rewards,
    mse_loss,
    potential_based_rewards,
    pqm_loss,
    pqm_theoretical_loss,
    reinforce_loss,
)
from qstep.losses.importance import ImportanceMode
from qstep.mdp import TokenTree, state_count
from qstep.types import ABSENT

LAMBDAS = [0.0, 0.5, 0.9, 0.95, 1.0]
MODES: list[ImportanceMode] = ["none", "trajectory", "prefix", "token"]
PLAIN = TokenTree.random(3, 4, seed=0)
WITH_EOS = TokenTree.random(3, 4, seed=0, eos=2, step_rewards=True)
TREES = {"plain": PLAIN, "eos and step rewards": WITH_EOS}


# --- DQO ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("name", TREES)
def test_dqo_finds_the_optimum_off_policy(name: str, lam: float, mode: ImportanceMode) -> None:
    tree = TREES[name]
    solution, behavior = tree.solve(BETA), behavior_of(tree)
    assert tree.kl(behavior, tree.reference_logps) > 0.1 and tree.kl(behavior, solution.log_policy) > 0.1
    log_policy, values = DQO(tree, behavior, lam=lam, mode=mode).train()
    assert tree.kl(log_policy, solution.log_policy) < 1e-4
    assert tree.state_kl(log_policy, solution.log_policy).max() < 1e-4
    torch.testing.assert_close(values[tree.reachable], solution.v[tree.reachable], rtol=0, atol=0.02)


@pytest.mark.parametrize("lam", [0.0, 1.0])
def test_dqo_finds_the_optimum_without_a_reference(lam: float) -> None:
    """The log-ratio of maximum entropy is log pi: the tree's reference is the counting measure."""
    tree = TokenTree(WITH_EOS.depth, torch.zeros_like(WITH_EOS.rewards), WITH_EOS.rewards, WITH_EOS.eos)
    log_policy, values = DQO(tree, behavior_of(tree), lam=lam, mode="trajectory", reference="uniform").train()
    solution = tree.solve(BETA)
    assert tree.state_kl(log_policy, solution.log_policy).max() < 1e-4
    torch.testing.assert_close(values[tree.reachable], solution.v[tree.reachable], rtol=0, atol=0.02)


def test_dqo_finds_the_optimum_with_adam() -> None:
    """The same end by the optimiser people use, with its learning rate decayed."""
    tree = WITH_EOS
    dqo = DQO(tree, behavior_of(tree), mode="trajectory")
    parameters = [torch.zeros_like(tree.rewards), torch.zeros_like(tree.rewards[:, 0])]
    optimizer = torch.optim.Adam(parameters, lr=0.1, betas=(0.9, 0.99), eps=1e-12)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        parameters[0].grad, parameters[1].grad, _ = dqo.gradients(*parameters)
        optimizer.step()
        schedule.step()
    assert tree.kl(parameters[0].log_softmax(dim=1), tree.solve(BETA).log_policy) < 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("name", TREES)
def test_nothing_is_left_to_learn_at_the_optimum(name: str, lam: float, mode: ImportanceMode) -> None:
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    logps, reference = rows.of_tokens(solution.log_policy), rows.of_tokens(tree.reference_logps)
    losses = dqo_losses(logps, reference, rows.of_states(solution.v), rows.rewards, rows.mask, beta=BETA, lam=lam)
    assert losses.value.max() < 1e-10 and losses.q.max() < 1e-10
    dqo = DQO(tree, behavior_of(tree), lam=lam, mode=mode)
    by_logits, by_values, _ = dqo.gradients(solution.log_policy, solution.v)
    assert by_logits.abs().max() < 1e-10 and by_values.abs().max() < 1e-10


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("name", TREES)
def test_nothing_is_left_to_learn_at_the_optimum_from_trajectories_that_were_cut_off(name: str, lam: float) -> None:
    """Those cut off after three of four tokens, as wrong ones with reward 0; counted as wrong they do teach."""
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    long = rows.mask.all(dim=1)
    mask, rewards = rows.mask.clone(), rows.rewards.clone()
    mask[long, 3], rewards[long, 3] = False, 0.0
    rewards[long, 2] = 0.0
    logps, reference = rows.of_tokens(solution.log_policy), rows.of_tokens(tree.reference_logps)
    arguments = logps, reference, rows.of_states(solution.v), rewards, mask
    losses = dqo_losses(*arguments, beta=BETA, lam=lam, cut_off=long)
    assert losses.value.max() < 1e-10 and losses.q.max() < 1e-10
    assert dqo_losses(*arguments, beta=BETA, lam=lam).q[long].max() > 1e-2
    elsewhere = dqo_losses(
        logps, reference, rows.of_states(solution.v + 0.1), rows.rewards, rows.mask, beta=BETA, lam=lam
    )
    assert elsewhere.value.min() > 1e-3


def shaped_rewards(tree: TokenTree, initial: float) -> tuple[Tensor, Tensor]:
    """Trajectory rewards with shaping [B, T], by random potentials of the states after the 1st and 3rd token.

    Also the potential [N] of every state, which is that of its latest step end.
    """
    rows = tree.trajectories
    phi = torch.full((tree.states,), initial, dtype=torch.float64)
    drawn = torch.randn(tree.states, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for length, (level, below) in enumerate(zip(tree.levels, tree.levels[1:], strict=False), start=1):
        inherited = phi[level].repeat_interleave(tree.vocabulary)
        phi[below] = drawn[below] if length in (1, 3) else inherited
    length = rows.mask.sum(dim=1)
    step_ends = torch.stack([torch.where(length > end, end, -1) for end in (0, 2)], dim=1)
    # The potential after token h is that of the next state; a trajectory's end has none, any number will do.
    following_state = (tree.vocabulary * rows.states + rows.tokens + 1).clamp(max=tree.states - 1)
    potentials = phi[following_state[:, [0, 2]]]
    shaping = potential_based_rewards(potentials, step_ends, rows.mask, torch.full((len(length),), initial))
    return rows.rewards + shaping, phi


@pytest.mark.parametrize("initial", [0.0, 0.8])
@pytest.mark.parametrize("name", TREES)
def test_potential_based_rewards_keep_the_optimum(name: str, initial: float) -> None:
    """In the solution: the same pi*, and values lower by the potential. Nothing depends on the trajectory."""
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    rewards, phi = shaped_rewards(tree, initial)
    table = tree.rewards.clone()
    table[rows.states[rows.mask], rows.tokens[rows.mask]] = rewards[rows.mask]
    shaped = TokenTree(tree.depth, tree.reference_logps, table, tree.eos)
    torch.testing.assert_close(shaped.trajectories.rewards, rewards)  # a function of state and token
    assert (table - tree.rewards).abs().max() > 0.5
    shaped_solution = shaped.solve(BETA)
    assert tree.state_kl(shaped_solution.log_policy, solution.log_policy).max() < 1e-12
    expected = (solution.v - phi)[tree.reachable]
    torch.testing.assert_close(shaped_solution.v[tree.reachable], expected)


@pytest.mark.parametrize("mode", ["none", "trajectory"])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_dqo_finds_the_optimum_from_shaped_rewards(lam: float, mode: ImportanceMode) -> None:
    tree = PLAIN
    rewards, phi = shaped_rewards(tree, 0.0)
    log_policy, values = DQO(tree, behavior_of(tree), lam=lam, mode=mode, rewards=rewards).train()
    solution = tree.solve(BETA)
    assert tree.kl(log_policy, solution.log_policy) < 1e-4
    expected = (solution.v - phi)[tree.reachable]
    torch.testing.assert_close(values[tree.reachable], expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("lam", LAMBDAS)
@pytest.mark.parametrize("name", TREES)
def test_dqo_finds_the_optimum_by_alternating_updates(name: str, lam: float) -> None:
    tree = TREES[name]
    solution = tree.solve(BETA)
    log_policy, values = DQO(tree, behavior_of(tree), lam=lam, alternating=True).train()
    assert tree.state_kl(log_policy, solution.log_policy).max() < 1e-4
    torch.testing.assert_close(values[tree.reachable], solution.v[tree.reachable], rtol=0, atol=0.02)


@pytest.mark.parametrize("lam", [0.5, 1.0])
def test_the_weight_of_a_response_does_not_move_the_optimum(lam: float) -> None:
    """Token normalisation divides by the tokens of a step; with one response a step, by its own."""
    tree = WITH_EOS
    scale = 1 / tree.trajectories.mask.sum(dim=1)
    log_policy, _ = DQO(tree, behavior_of(tree), lam=lam, scale=scale).train()
    assert tree.state_kl(log_policy, tree.solve(BETA).log_policy).max() < 1e-4


def test_additive_rewards_have_an_optimum_of_their_own() -> None:
    """DQO finds this other one. Min-form rewards depend on later steps, so no table of rewards holds them."""
    tree = PLAIN
    rows, solution = tree.trajectories, tree.solve(BETA)
    scores, ends = steps(tree)
    groups = torch.zeros(len(scores), dtype=torch.long)

    def as_table(rewards: Tensor) -> Tensor:
        table = tree.rewards.clone()
        table[rows.states[rows.mask], rows.tokens[rows.mask]] = rewards[rows.mask]
        return table

    added = rows.rewards + additive_rewards(scores, ends, rows.mask, groups)
    own = TokenTree(tree.depth, tree.reference_logps, as_table(added))
    torch.testing.assert_close(own.trajectories.rewards, added)
    log_policy, _ = DQO(tree, behavior_of(tree), rewards=added).train()
    assert own.kl(log_policy, own.solve(BETA).log_policy) < 1e-4
    assert tree.kl(log_policy, solution.log_policy) > 1e-2
    least = rows.rewards + min_form_rewards(scores, ends, rows.mask, 0.1)
    repeated = TokenTree(tree.depth, tree.reference_logps, as_table(least)).trajectories.rewards
    assert (repeated - least).abs().max() > 0.1


def test_plain_returns_end_at_the_value_of_the_data_policy() -> None:
    """Without the KL term V is the expected reward of who sampled, so neither V nor the policy is the optimum's."""
    tree, behavior = WITH_EOS, behavior_of(WITH_EOS)
    log_policy, values = DQO(tree, behavior, soft_return=False).train()
    plain = tree.evaluate(behavior).v
    torch.testing.assert_close(values[tree.reachable], plain[tree.reachable], rtol=0, atol=1e-3)
    assert tree.kl(log_policy, tree.solve(BETA).log_policy) > 1e-2


@pytest.mark.parametrize("data", ["reference", "other"])
def test_dro_finds_the_optimum_with_a_learned_value(data: str) -> None:
    """From any policy's data. (A network and a head are one number here, that of the prompt.)"""
    tree = WITH_EOS
    behavior = tree.reference_logps if data == "reference" else behavior_of(tree)
    assert tree.kl(train_dro(tree, behavior), tree.solve(BETA).log_policy) < 1e-4


def test_dro_finds_the_optimum_with_the_groups_value() -> None:
    """V of all responses that the reference may draw is V*. Few responses, or another policy's, give another V."""
    tree = WITH_EOS
    solution, rows = tree.solve(BETA), tree.trajectories
    chances, rewards = rows.probabilities(tree.reference_logps), rows.rewards.sum(dim=1)
    exact = BETA * (chances @ (rewards / BETA).exp()).log().item()
    assert exact == pytest.approx(solution.v[0].item(), abs=1e-12)
    assert tree.kl(train_dro(tree, tree.reference_logps, exact), solution.log_policy) < 1e-4
    assert group_value(tree, tree.reference_logps, 10**6, seed=0) == pytest.approx(exact, abs=0.02)
    assert abs(group_value(tree, behavior_of(tree), 10**6, seed=0) - exact) > 0.1
    low, high = (train_dro(tree, tree.reference_logps, exact + error) for error in (-0.2, 0.2))
    assert 1e-3 < tree.kl(low, solution.log_policy) < 0.1 < tree.kl(high, solution.log_policy)
    raised = rows.probabilities(high) / rows.probabilities(solution.log_policy)
    assert raised.argmax() == chances.argmin() and raised.max() > 100, "a V too high is paid for by what is unlikely"


@pytest.mark.parametrize("name", TREES)
def test_dro_shares_the_optimum(name: str) -> None:
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    log_ratios = rows.of_tokens(solution.log_policy - tree.reference_logps).sum(dim=1).requires_grad_()
    value = solution.v[0].expand(len(log_ratios)).clone().requires_grad_()
    loss = dro_loss(log_ratios, value, rows.rewards.sum(dim=1), BETA)
    assert loss.max() < 1e-10
    assert all(g.abs().max() < 1e-10 for g in torch.autograd.grad(loss.sum(), [log_ratios, value]))
    assert dro_loss(log_ratios, value, rows.rewards.sum(dim=1) + 0.1, BETA).min() > 1e-3


@pytest.mark.parametrize("name", TREES)
def test_importance_weights_are_unbiased(name: str) -> None:
    """Exact means: data of mu, weighted and unclipped, give the return of pi; without weights they do not."""
    tree = TREES[name]
    rows, policy, behavior = tree.trajectories, tree.solve(BETA).log_policy, behavior_of(tree)
    logps, behavior_logps = rows.of_tokens(policy), rows.of_tokens(behavior)
    returns = lambda_return(rows.rewards, torch.zeros_like(rows.rewards), rows.mask, 1.0)[:, 0]
    truth = tree.evaluate(policy).v[0]

    def estimate(mode: ImportanceMode, clip: float) -> Tensor:
        weights = importance_weights(logps, behavior_logps, rows.mask, mode, clip).weights
        if mode == "prefix":  # a reward needs the weight of its prefix alone
            return rows.expectation(behavior, (weights * rows.rewards).sum(dim=1))
        return rows.expectation(behavior, weights * returns)

    torch.testing.assert_close(estimate("trajectory", math.inf), truth)
    torch.testing.assert_close(estimate("prefix", math.inf), truth)
    assert (estimate("none", math.inf) - truth).abs() > 0.05
    assert (estimate("trajectory", 1.0) - truth).abs() > 0.05


# --- PQM ---------------------------------------------------------------------------------------------------

VOCABULARY, DEPTH, SOUND_TOKENS = 4, 5, 2


def reasoning_tree() -> tuple[TokenTree, Tensor]:
    """Every token is a step, sound if one of the first two; the answer is right if its last step is sound."""
    shape = (state_count(VOCABULARY, DEPTH), VOCABULARY)
    sound = torch.arange(VOCABULARY) < SOUND_TOKENS
    rewards = torch.zeros(shape, dtype=torch.float64)
    rewards[state_count(VOCABULARY, DEPTH - 1) :] = sound.double()
    return TokenTree(DEPTH, torch.zeros_like(rewards), rewards), sound


def reasoner(tree: TokenTree, sound: Tensor, keeps: float, recovers: float) -> Tensor:
    """A policy that satisfies the theorem's assumption when `keeps > recovers`.

    After a sound step (or the question) the next is sound with probability `keeps`, after an unsound one
    with `recovers`. Which sound or unsound token it is, is random in every state.
    """
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(tree.rewards.shape, generator=generator, dtype=torch.float64)
    after_sound = sound[(torch.arange(tree.states) - 1) % VOCABULARY]
    after_sound[0] = True
    chance = recovers + (keeps - recovers) * after_sound.double()[:, None]
    of_sound = logits.masked_fill(~sound, -math.inf).log_softmax(dim=1)
    of_unsound = logits.masked_fill(sound, -math.inf).log_softmax(dim=1)
    return torch.where(sound, chance.log() + of_sound, (1 - chance).log() + of_unsound)


def theorem_rows(tree: TokenTree, sound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States, tokens and labels of the trajectories c_1..c_m w_1..w_k, wrong from the first error on."""
    rows = tree.trajectories
    labels = sound[rows.tokens].long()
    as_in_theorem = (labels[:, 1:] <= labels[:, :-1]).all(dim=1)
    return rows.states[as_in_theorem], rows.tokens[as_in_theorem], labels[as_in_theorem]


def assert_in_order(q_values: Tensor, labels: Tensor, question: Tensor | float, wrong_too: bool) -> None:
    """Theorem 3.5 on every row: Q(w_k) < ... < Q(w_1) < Q(question) < Q(c_1) < ... < Q(c_m)."""
    before = torch.cat([torch.full_like(q_values[:, :1], float(question)), q_values[:, :-1]], dim=1)
    assert (q_values > before)[labels == 1].all()
    assert (q_values < question)[labels == 0].all()
    if wrong_too:
        assert (q_values < before)[labels == 0].all()


def test_exact_step_values_obey_the_ranking_theorem() -> None:
    tree, sound = reasoning_tree()
    states, tokens, labels = theorem_rows(tree, sound)
    assert len(states) == (DEPTH + 1) * 2**DEPTH  # a first error at every place, or none
    exact = tree.evaluate(reasoner(tree, sound, keeps=0.9, recovers=0.3))
    assert_in_order(exact.q[states, tokens], labels, exact.v[0], wrong_too=True)
    # Where the assumption fails, so does the theorem.
    exact = tree.evaluate(reasoner(tree, sound, keeps=0.3, recovers=0.9))
    with pytest.raises(AssertionError):
        assert_in_order(exact.q[states, tokens], labels, exact.v[0], wrong_too=False)


@pytest.mark.parametrize("margin", [0.0, 2.0, 4.0])
@pytest.mark.parametrize("loss", [pqm_loss, pqm_theoretical_loss])
def test_tabular_pqm_reproduces_the_order(loss: Callable[..., Tensor], margin: float) -> None:
    """Trained on trajectories as often as the policy draws them; only Eq. 9 orders the wrong steps."""
    tree, sound = reasoning_tree()
    policy = reasoner(tree, sound, keeps=0.9, recovers=0.3)
    states, tokens, labels = theorem_rows(tree, sound)
    often = policy[states, tokens].sum(dim=1).exp()
    table = torch.zeros_like(tree.rewards, requires_grad=True)
    optimizer = torch.optim.Adam([table], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (often @ loss(table[states, tokens], labels, margin)).backward()
        optimizer.step()
    learned = table.detach()[states, tokens]
    assert_in_order(learned, labels, 0.0, wrong_too=loss is pqm_theoretical_loss)
    if loss is pqm_theoretical_loss:  # so each row is sorted as its exact Q-values are
        exact = tree.evaluate(policy).q[states, tokens]
        assert torch.equal(learned.argsort(dim=1), exact.argsort(dim=1))


@pytest.mark.parametrize("loss", [bce_loss, mse_loss])
def test_classification_at_its_optimum_is_the_step_value(loss: Callable[..., Tensor]) -> None:
    """sigmoid(Q) = P(right answer | prefix) is where the mean gradient over outcome labels vanishes.

    So a classifier of Monte-Carlo labels that has converged ranks steps as PQM does, by the step's Q-value.
    """
    tree, sound = reasoning_tree()
    policy, rows = reasoner(tree, sound, keeps=0.9, recovers=0.3), tree.trajectories
    inside = tree.levels[-1].start  # the last step's value is 0 or 1, beyond any logit
    table = tree.evaluate(policy).q[:inside].logit().requires_grad_()
    states, tokens = rows.states[:, :-1], rows.tokens[:, :-1]
    outcome = rows.rewards.sum(dim=1, keepdim=True).expand(states.shape)
    mean = rows.expectation(policy, loss(table[states, tokens], outcome))
    assert torch.autograd.grad(mean, table)[0].abs().max() < 1e-12
    moved = (table.detach() + 0.1).requires_grad_()
    mean = rows.expectation(policy, loss(moved[states, tokens], outcome))
    assert (torch.autograd.grad(mean, moved)[0] > 0).all()


def test_classification_is_the_special_case_of_a_converged_policy() -> None:
    """Lemma 3.6. A policy that keeps to what is right and never recovers has Q = 1 for correct, 0 for wrong.

    That is the classifier's label, exactly in the limit. A Q that has converged to it (logits +-c)
    satisfies all of PQM's order but the ranks within a class, which are tied: with m correct steps each
    costs ln t, t = 1..m, and the question nothing.
    """
    tree, sound = reasoning_tree()
    states, tokens, labels = theorem_rows(tree, sound)
    for slip in (1e-2, 1e-4, 1e-6):
        exact = tree.evaluate(reasoner(tree, sound, keeps=1 - slip, recovers=slip)).q[states, tokens]
        assert (exact - labels).abs().max() <= DEPTH * slip
        assert bce_loss(exact.logit(eps=1e-12), labels).max() <= 2 * DEPTH * slip
    converged = 100.0 * (2 * labels.double() - 1)
    assert bce_loss(converged, labels).max() < 1e-10 and mse_loss(converged, labels).max() < 1e-10
    correct = labels.sum(dim=1)
    ranked = correct + (correct < DEPTH)
    tied = torch.lgamma(correct.double() + 1) / ranked  # ln m!
    torch.testing.assert_close(pqm_loss(converged, labels, 4.0), tied)
    one_correct = labels.masked_fill((labels == 1) & (labels.cumsum(dim=1) > 1), ABSENT)
    assert pqm_loss(converged, one_correct, 4.0).max() < 1e-10


@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_reinforce_follows_the_expected_reward(shift: float) -> None:
    """From another policy's responses, whatever the baseline: with weights pi/mu of complete responses, unclipped."""
    tree, mu = WITH_EOS, behavior_of(WITH_EOS)
    rows = tree.trajectories
    logits = behavior_of(tree, seed=2).requires_grad_()
    log_policy = logits.log_softmax(dim=1)
    rewards = rows.rewards.sum(dim=1)
    (exact,) = torch.autograd.grad(-rows.expectation(log_policy, rewards), logits, retain_graph=True)
    logps = rows.of_tokens(log_policy)
    weights = importance_weights(logps, rows.of_tokens(mu), rows.mask, "trajectory", math.inf).weights
    losses = reinforce_loss(logps, rewards - 0.3 - shift, rows.mask, weights)
    (ours,) = torch.autograd.grad(rows.probabilities(mu) @ losses, logits)
    torch.testing.assert_close(ours, exact)

from __future__ import annotations

import itertools
import math

import pytest
import torch

from qstep.mdp import TokenTree, state_count

TREES = {
    "plain": TokenTree.random(3, 4, seed=0),
    "eos": TokenTree.random(3, 4, seed=1, eos=2, step_rewards=True),
    "eos is token 0": TokenTree.random(4, 3, seed=2, eos=0),
    "deep": TokenTree.random(3, 6, seed=3, eos=1, step_rewards=True),
    "wide": TokenTree.random(5, 4, seed=4),
}
BETA = 0.7


def sequences(tree: TokenTree) -> list[tuple[int, ...]]:
    """All trajectories by the definition: stop at the end-of-sequence token or at the length limit."""
    found = set()
    for tokens in itertools.product(range(tree.vocabulary), repeat=tree.depth):
        stop = tokens.index(tree.eos) + 1 if tree.eos in tokens else tree.depth
        found.add(tokens[:stop])
    return sorted(found)


def state_of(tree: TokenTree, prefix: tuple[int, ...]) -> int:
    state = 0
    for token in prefix:
        state = tree.vocabulary * state + token + 1
    return state


def test_by_hand() -> None:
    """Two tokens, two levels, beta = 1, uniform reference; rewards ln 1, ln 3 after a, ln 5, ln 7 after b.

    V(a) = ln((1+3)/2) = ln 2, V(b) = ln((5+7)/2) = ln 6, V(root) = ln((2+6)/2) = ln 4
    pi*(b) = 6/2 / 4 = 3/4, pi*(second | a) = 3/2 / 2 = 3/4, pi*(second | b) = 7/2 / 6 = 7/12
    """
    reference = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    rewards = torch.tensor([[1.0, 1.0], [1.0, 3.0], [5.0, 7.0]], dtype=torch.float64).log()
    solution = TokenTree(2, reference, rewards).solve(beta=1.0)
    torch.testing.assert_close(solution.v.exp(), torch.tensor([4.0, 2.0, 6.0], dtype=torch.float64))
    expected = torch.tensor([3 / 4, 3 / 4, 7 / 12], dtype=torch.float64)
    torch.testing.assert_close(solution.log_policy.exp()[:, 1], expected)
    torch.testing.assert_close(solution.q.exp()[0], torch.tensor([2.0, 6.0], dtype=torch.float64))


@pytest.mark.parametrize("name", TREES)
def test_enumerates_every_trajectory_once(name: str) -> None:
    tree = TREES[name]
    rows = tree.trajectories
    listed = [tuple(tokens[: int(mask.sum())].tolist()) for tokens, mask in zip(rows.tokens, rows.mask, strict=True)]
    assert len(listed) == len(set(listed)) and sorted(listed) == sequences(tree)
    for row, tokens in enumerate(listed):
        for step, token in enumerate(tokens):
            state = state_of(tree, tokens[:step])
            assert rows.states[row, step] == state
            assert rows.rewards[row, step] == tree.rewards[state, token]
    prefixes = {state_of(tree, tokens[:step]) for tokens in listed for step in range(len(tokens))}
    assert set(tree.reachable.nonzero()[:, 0].tolist()) == prefixes
    assert (rows.rewards[~rows.mask] == 0).all()


@pytest.mark.parametrize("name", TREES)
def test_solution_is_the_tilted_reference(name: str) -> None:
    """Independent of the recursion: pi*(y) is pi_ref(y) e^{r(y) / beta}, normalised over trajectories."""
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    tilted = rows.of_tokens(tree.reference_logps).sum(dim=1) + rows.rewards.sum(dim=1) / BETA
    torch.testing.assert_close(solution.v[0], BETA * tilted.logsumexp(dim=0))
    torch.testing.assert_close(rows.probabilities(solution.log_policy), tilted.softmax(dim=0))
    torch.testing.assert_close(solution.log_policy.exp().sum(dim=1), torch.ones_like(solution.v))


@pytest.mark.parametrize("name", TREES)
def test_no_policy_does_better(name: str) -> None:
    """The objective at pi* is V*(root), and lower by beta KL(pi, pi*) at any other pi."""
    tree = TREES[name]
    rows, solution = tree.trajectories, tree.solve(BETA)
    other = torch.randn(tree.rewards.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    for policy in (solution.log_policy, tree.reference_logps, other.log_softmax(dim=1)):
        soft = rows.rewards - BETA * rows.of_tokens(policy - tree.reference_logps)
        objective = rows.expectation(policy, soft.sum(dim=1))
        expected = solution.v[0] - BETA * tree.kl(policy, solution.log_policy)
        torch.testing.assert_close(objective, expected)


@pytest.mark.parametrize("name", TREES)
def test_evaluation_is_the_mean_over_trajectories(name: str) -> None:
    tree = TREES[name]
    rows, evaluation = tree.trajectories, tree.evaluate(tree.reference_logps)
    assert rows.probabilities(tree.reference_logps).sum().item() == pytest.approx(1.0)
    mean = rows.expectation(tree.reference_logps, rows.rewards.sum(dim=1))
    torch.testing.assert_close(evaluation.v[0], mean)
    begins = rows.tokens[:, 0] == 1
    probabilities = rows.probabilities(tree.reference_logps)[begins]
    conditional = probabilities @ rows.rewards[begins].sum(dim=1) / probabilities.sum()
    torch.testing.assert_close(evaluation.q[0, 1], conditional)


@pytest.mark.parametrize("name", TREES)
def test_kl_is_the_visited_sum_of_state_kls(name: str) -> None:
    tree = TREES[name]
    rows, p, q = tree.trajectories, tree.solve(BETA).log_policy, tree.reference_logps
    per_state = tree.state_kl(p, q)
    torch.testing.assert_close(tree.kl(p, q), rows.expectation(p, rows.of_states(per_state).sum(dim=1)))
    assert (per_state[tree.reachable] > 0).all() and (per_state[~tree.reachable] == 0).all()
    assert tree.kl(p, p) == 0


def test_rewards_of_a_random_tree() -> None:
    """Without step rewards only tokens that end the trajectory are paid."""
    sparse, dense = TokenTree.random(3, 4, seed=5, eos=1), TREES["eos"]
    assert (sparse.rewards != 0).equal(sparse.terminal)
    assert (dense.rewards != 0).all()


def test_refuses_tables_of_another_shape() -> None:
    assert [state_count(3, depth) for depth in range(5)] == [0, 1, 4, 13, 40]
    table = torch.zeros(40, 3)
    with pytest.raises(ValueError, match=r"rewards has shape \(39, 3\), but a tree of depth 4 needs \(40, 3\)"):
        TokenTree(4, table, table[1:])


def test_beta_spans_reference_and_greed() -> None:
    tree = TREES["plain"]
    assert tree.kl(tree.solve(1e6).log_policy, tree.reference_logps) < 1e-9
    assert tree.solve(1e-3).v[0].item() == pytest.approx(tree.rewards.max().item(), abs=0.02)
    assert math.isfinite(tree.solve(1e-3).v[0].item())

"""A token tree that is small enough to enumerate, with its exact soft-optimal solution.

It is the truth that the proofs of the losses compare with (`tests/test_mdp_proofs.py`). No other module imports it.

A state is a prefix of tokens, and an action is the next token. A prefix ends at `depth` tokens or at the
end-of-sequence token. States are numbered as in an A-ary heap: the root is 0, and the child of state s by token a is
`A s + a + 1`. So levels are contiguous, and every table (policy, Q, rewards) is a tensor [N, A] over the N prefixes
shorter than `depth`. The tables also contain prefixes after an end-of-sequence token, which are never reached. All
values are float64.

The equations are those of DQO (arXiv 2410.09302), without discount:

    Q*(s, a) = r(s, a) + V*(s'),    V*(s) = beta log sum_a pi_ref(a|s) e^{Q*(s, a) / beta},
    pi*(a|s) = pi_ref(a|s) e^{(Q*(s, a) - V*(s)) / beta},    V(terminal) = 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of backward induction: Q [N, A], V [N], and the policy's log-probabilities [N, A]."""

    q: Float[Tensor, "N A"]
    v: Float[Tensor, " N"]
    log_policy: Float[Tensor, "N A"]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """All trajectories of a tree, each once, in tensors [B, T] with T = depth. They are 0 outside the mask."""

    states: Int[Tensor, "B T"]
    tokens: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    rewards: Float[Tensor, "B T"]

    def of_tokens(self, table: Float[Tensor, "N A"]) -> Float[Tensor, "B T"]:
        """A table's entry for each token, 0 outside the mask. For a log-policy, these are the logps."""
        return table[self.states, self.tokens].masked_fill(~self.mask, 0)

    def of_states(self, table: Float[Tensor, " N"]) -> Float[Tensor, "B T"]:
        """A table's entry for the state before each token, 0 outside the mask."""
        return table[self.states].masked_fill(~self.mask, 0)

    def probabilities(self, log_policy: Float[Tensor, "N A"]) -> Float[Tensor, " B"]:
        """The exact distribution over trajectories under a policy."""
        return self.of_tokens(log_policy).sum(dim=1).exp()

    def expectation(self, log_policy: Float[Tensor, "N A"], x: Float[Tensor, " B"]) -> Float[Tensor, ""]:
        """The exact mean under a policy of a quantity that each trajectory has."""
        return self.probabilities(log_policy) @ x


@dataclass(frozen=True)
class TokenTree:
    """A token MDP with `reference_logps[s, a]`, `rewards[s, a]` [N, A], and optionally a token that ends a prefix.

    The reference need not be normalised. Zeros are the counting measure of maximum-entropy learning.
    """

    depth: int
    reference_logps: Float[Tensor, "N A"]
    rewards: Float[Tensor, "N A"]
    eos: int | None = None

    def __post_init__(self) -> None:
        expected = (state_count(self.vocabulary, self.depth), self.vocabulary)
        for name in ("reference_logps", "rewards"):
            shape = tuple(getattr(self, name).shape)
            if shape != expected:
                raise ValueError(f"{name} has shape {shape}, but a tree of depth {self.depth} needs {expected}")

    @classmethod
    def random(
        cls, vocabulary: int, depth: int, *, seed: int, eos: int | None = None, step_rewards: bool = False
    ) -> TokenTree:
        """A random reference, and normal rewards: on last tokens, or on every token with `step_rewards`."""
        generator = torch.Generator().manual_seed(seed)
        shape = (state_count(vocabulary, depth), vocabulary)
        logits, rewards = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        tree = cls(depth, logits.log_softmax(dim=1), rewards, eos)
        return tree if step_rewards else cls(depth, tree.reference_logps, rewards * tree.terminal, eos)

    @property
    def vocabulary(self) -> int:
        return self.rewards.shape[1]

    @property
    def states(self) -> int:
        """The number of states in the tables, N."""
        return self.rewards.shape[0]

    @cached_property
    def levels(self) -> list[slice]:
        """The states of each length. The empty prefix comes first."""
        starts = [state_count(self.vocabulary, level) for level in range(self.depth + 1)]
        return [slice(start, stop) for start, stop in pairwise(starts)]

    @cached_property
    def terminal(self) -> Bool[Tensor, "N A"]:
        """Which tokens end the trajectory."""
        terminal = torch.zeros(self.states, self.vocabulary, dtype=torch.bool)
        terminal[self.levels[-1]] = True
        if self.eos is not None:
            terminal[:, self.eos] = True
        return terminal

    @cached_property
    def reachable(self) -> Bool[Tensor, " N"]:
        """Which states do not come after an end-of-sequence token."""
        reachable = torch.ones(self.states, dtype=torch.bool)
        for level, below in pairwise(self.levels):
            reachable[below] = (reachable[level, None] & ~self.terminal[level]).flatten()
        return reachable

    @cached_property
    def trajectories(self) -> Trajectories:
        """All trajectories, in the order of their tokens."""
        choices = [torch.arange(self.vocabulary)] * self.depth
        tokens = torch.cartesian_prod(*choices).reshape(-1, self.depth)
        ends = (tokens == self.eos) if self.eos is not None else torch.zeros_like(tokens, dtype=torch.bool)
        mask = ends.cumsum(dim=1) - ends.long() == 0
        # Several sequences may agree up to their end. Keep the one padded with 0.
        once = (mask | (tokens == 0)).all(dim=1)
        tokens, mask = tokens[once], mask[once]
        states = torch.zeros_like(tokens)
        for step in range(1, self.depth):
            states[:, step] = self.vocabulary * states[:, step - 1] + tokens[:, step - 1] + 1
        states, tokens = states.masked_fill(~mask, 0), tokens.masked_fill(~mask, 0)
        return Trajectories(states, tokens, mask, self.rewards[states, tokens].masked_fill(~mask, 0))

    def solve(self, beta: float) -> Solution:
        """The optimum of `E[sum_h r_h - beta log(pi / pi_ref)(a_h | s_h)]`: Q*, V* and pi*."""

        def soft_maximum(q: Tensor, level: slice) -> Tensor:
            return beta * torch.logsumexp(self.reference_logps[level] + q / beta, dim=1)

        q, v = self._backward(soft_maximum)
        return Solution(q, v, self.reference_logps + (q - v[:, None]) / beta)

    def evaluate(self, log_policy: Float[Tensor, "N A"]) -> Solution:
        """Q and V of a policy: the expected remaining rewards, without an entropy or KL term.

        If the reward is 1 for a right answer and 0 otherwise, Q[s, a] is the probability of a right answer from the
        prefix (s, a). This is the Q-value of a step in PQM (arXiv 2410.11287).
        """

        def mean(q: Tensor, level: slice) -> Tensor:
            return (log_policy[level].exp() * q).sum(dim=1)

        return Solution(*self._backward(mean), log_policy)

    def kl(self, log_p: Float[Tensor, "N A"], log_q: Float[Tensor, "N A"]) -> Float[Tensor, ""]:
        """KL(p, q) of the distributions over complete trajectories.

        By the chain rule it is the sum over states of KL(p(.|s), q(.|s)), weighted by how often p visits s.
        """
        rows = self.trajectories
        return rows.expectation(log_p, rows.of_tokens(log_p - log_q).sum(dim=1))

    def state_kl(self, log_p: Float[Tensor, "N A"], log_q: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
        """KL(p(.|s), q(.|s)) of every state without weights, and 0 for unreachable states."""
        return (log_p.exp() * (log_p - log_q)).sum(dim=1).masked_fill(~self.reachable, 0)

    def _backward(self, backup: Callable[[Tensor, slice], Tensor]) -> tuple[Tensor, Tensor]:
        """Backward induction, level by level: Q from V of the next level, then V from Q by `backup`."""
        q = self.rewards.clone()
        v = self.rewards.new_zeros(
            state_count(self.vocabulary, self.depth + 1)
        )  # the leaves after the last level are 0
        for level in reversed(self.levels):
            below = slice(self.vocabulary * level.start + 1, self.vocabulary * level.stop + 1)
            q[level] += v[below].view(-1, self.vocabulary).masked_fill(self.terminal[level], 0)
            v[level] = backup(q[level], level)
        return q, v[: self.states]


def state_count(vocabulary: int, depth: int) -> int:
    """The number of prefixes shorter than `depth`."""
    return sum(vocabulary**length for length in range(depth))

"""Which settings of DQO, DRO and reinforce keep the optimum: the shipped losses on an exactly solved token tree.

    python benchmarks/optima.py    # the two tables of docs/dqo.md

A table of logits and a table of values are trained until nothing changes, on all trajectories as often as the data
policy draws them. The first table shows how far the result is from the exact pi*, as KL over complete responses. It
is 0 if a setting keeps the optimum. The second shows the cosine between reinforce's mean gradient and the gradient of
the expected reward.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from qstep.losses import (
    additive_rewards,
    dqo_losses,
    dro_loss,
    group_values,
    importance_weights,
    min_form_rewards,
    potential_based_rewards,
    reinforce_loss,
)
from qstep.losses.importance import ImportanceMode
from qstep.mdp import TokenTree

BETA = 1.0
TREE = TokenTree.random(3, 4, seed=0, eos=2)
"""Responses of one to four tokens, with a reward at the end."""
EXACT = 1e-4
"""A result with a smaller KL from pi* has found it."""


def behavior_of(tree: TokenTree, seed: int = 1, scale: float = 0.5) -> Tensor:
    """A random policy: neither the reference nor the optimum."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(tree.rewards.shape, generator=generator, dtype=torch.float64)).log_softmax(1)


@dataclass(frozen=True)
class DQO:
    """Settings of DQO on the trajectories of a tree.

    behavior: the policy that draws the data. rewards: those of the trajectories `[B, T]`, if not the tree's.
    reference: `model` is the tree's. scale: what normalisation multiplies each response's loss by.
    """

    tree: TokenTree
    behavior: Tensor
    lam: float = 1.0
    mode: ImportanceMode = "none"
    rewards: Tensor | None = None
    reference: str = "model"
    soft_return: bool = True
    alternating: bool = False
    scale: Tensor | float = 1.0

    def gradients(self, logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the shipped losses over all trajectories, and the weight of each token `[B, T]`."""
        rows = self.tree.trajectories
        logits, values = logits.detach().requires_grad_(), values.detach().requires_grad_()
        logps, often = rows.of_tokens(logits.log_softmax(dim=1)), rows.probabilities(self.behavior) * self.scale
        weights = importance_weights(logps, rows.of_tokens(self.behavior), rows.mask, self.mode).weights
        losses = dqo_losses(
            logps,
            rows.of_tokens(self.tree.reference_logps) if self.reference == "model" else None,
            rows.of_states(values),
            rows.rewards if self.rewards is None else self.rewards,
            rows.mask,
            beta=BETA,
            lam=self.lam,
            weights=weights,
            soft_return=self.soft_return,
        )
        by_logits, by_values = torch.autograd.grad(often @ (losses.value + losses.q), [logits, values])
        by_token = weights[:, None] if weights.ndim == 1 else weights
        return by_logits, by_values, often[:, None] * by_token * rows.mask

    def train(self, steps: int = 80) -> tuple[Tensor, Tensor]:
        """The log-policy and values after Gauss-Newton steps along the gradients of the shipped losses.

        The curvature is taken state by state, so rarely visited states learn as fast as others. It scales steps, and
        cannot move the point at which the gradients vanish.
        """
        rows, rewards = self.tree.trajectories, self.tree.rewards
        logits, values = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        for step in range(2 * steps if self.alternating else steps):
            by_logits, by_values, weights = self.gradients(logits, values)
            visits = torch.full_like(logits, 1e-12)  # unreachable states have none, and no gradient
            visits.index_put_((rows.states, rows.tokens), weights, accumulate=True)
            slope = torch.eye(self.tree.vocabulary, dtype=logits.dtype) - logits.softmax(dim=1)[:, None, :]
            curvature = 2 * BETA**2 * slope.mT @ (visits[:, :, None] * slope)
            # Adding a constant to a state's logits changes no probability, so that direction needs a curvature.
            curvature = curvature + visits.sum(dim=1)[:, None, None]
            if not self.alternating or step % 2:
                logits = logits - torch.linalg.solve(curvature, by_logits)
            if not self.alternating or step % 2 == 0:
                values = values - by_values / (2 * visits.sum(dim=1))
        return logits.log_softmax(dim=1), values


def train_dro(tree: TokenTree, behavior: Tensor, value: float | None = None) -> Tensor:
    """The log-policy that minimises DRO's loss exactly, with a given V of the prompt or with a learned one."""
    rows = tree.trajectories
    logits = torch.zeros_like(tree.rewards, requires_grad=True)
    learned = torch.zeros((), dtype=torch.float64, requires_grad=value is None)
    if value is not None:
        learned.fill_(value)
    optimizer = torch.optim.LBFGS(
        [logits, *([learned] if value is None else [])],
        max_iter=300,
        tolerance_grad=1e-10,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        ratios = rows.of_tokens(logits.log_softmax(dim=1) - tree.reference_logps).sum(dim=1)
        mean = rows.probabilities(behavior) @ dro_loss(
            ratios, learned.expand(len(ratios)), rows.rewards.sum(dim=1), BETA
        )
        mean.backward()
        return mean

    optimizer.step(loss)
    return logits.detach().log_softmax(dim=1)


def group_value(tree: TokenTree, behavior: Tensor, size: int, seed: int) -> float:
    """V of the prompt from the rewards of `size` responses that the policy draws."""
    rows, generator = tree.trajectories, torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(rows.probabilities(behavior), size, replacement=True, generator=generator)
    rewards = rows.rewards.sum(dim=1)[drawn]
    return group_values(rewards, torch.zeros(size, dtype=torch.long), BETA)[0].item()


def steps(tree: TokenTree) -> tuple[Tensor, Tensor]:
    """Scores `[B, S]` of two steps, which end at the first and third token, and the tokens at which they end.

    Equal prefixes have equal scores.
    """
    rows = tree.trajectories
    length = rows.mask.sum(dim=1)
    ends = torch.stack([torch.where(length > end, end, -1) for end in (0, 2)], dim=1)
    drawn = torch.randn(tree.rewards.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return drawn[rows.states[:, [0, 2]], rows.tokens[:, [0, 2]]], ends


def results(tree: TokenTree = TREE) -> Iterator[tuple[str, str, float]]:
    """Method, setting and KL from pi*."""
    optimum, rows = tree.solve(BETA).log_policy, tree.trajectories
    reference, other = tree.reference_logps, behavior_of(tree)

    def kl(log_policy: Tensor) -> float:
        return max(tree.kl(log_policy, optimum).item(), 0.0)

    def dqo(**options: Any) -> float:
        return kl(DQO(tree, other, **options).train()[0])

    scores, ends = steps(tree)
    rewards, groups = rows.rewards, torch.zeros(len(rows.rewards), dtype=torch.long)
    modes: tuple[ImportanceMode, ...] = ("none", "trajectory", "prefix", "token")
    for lam in (0.0, 0.5, 0.9, 0.95, 1.0):
        yield "dqo", f"`--lam {lam:g}`", dqo(lam=lam)
    for mode in modes:
        yield "dqo", f"`--importance {mode}`", max(dqo(lam=lam, mode=mode) for lam in (0.9, 1.0))
    yield "dqo", "`--updates alternating`", max(dqo(lam=lam, alternating=True) for lam in (0.9, 1.0))
    yield "dqo", "`--normalize token`, one response in each optimizer step", dqo(scale=1 / rows.mask.sum(dim=1))
    yield (
        "dqo",
        "`--process_rewards potential`",
        dqo(rewards=rewards + potential_based_rewards(scores, ends, rows.mask)),
    )
    yield (
        "dqo",
        "`--process_rewards additive`",
        dqo(rewards=rewards + additive_rewards(scores, ends, rows.mask, groups)),
    )
    yield "dqo", "`--process_rewards min`", dqo(rewards=rewards + min_form_rewards(scores, ends, rows.mask, 0.1))
    yield "dqo", "`--reference uniform`", dqo(reference="uniform")
    yield "dqo", "`--soft_return false`", dqo(soft_return=False)
    yield "dro", "learned V, data of the reference", kl(train_dro(tree, reference))
    yield "dro", "learned V, data of another policy", kl(train_dro(tree, other))
    for size in (4, 16, 64, 10**6):
        draws = range(1 if size > 64 else 8)
        found = [kl(train_dro(tree, reference, group_value(tree, reference, size, seed))) for seed in draws]
        yield "dro", f"`--value group`, {size:,} responses a problem", sum(found) / len(found)
    found = [kl(train_dro(tree, other, group_value(tree, other, 10**6, 0)))]
    yield "dro", "`--value group`, data of another policy", found[0]


def directions(tree: TokenTree = TREE) -> Iterator[tuple[str, float]]:
    """Settings of reinforce, and the cosine between its mean gradient and that of the expected reward."""
    rows, mu = tree.trajectories, behavior_of(tree)
    logits = behavior_of(tree, seed=2, scale=1.0).requires_grad_()
    log_policy = logits.log_softmax(dim=1)
    rewards, logps = rows.rewards.sum(dim=1), rows.of_tokens(log_policy)
    (exact,) = torch.autograd.grad(-rows.expectation(log_policy, rewards), logits, retain_graph=True)

    def cosine(mode: ImportanceMode, clip: float, *, taper: bool = False) -> float:
        weights = importance_weights(logps, rows.of_tokens(mu), rows.mask, mode, clip).weights
        if taper:
            weights = weights.masked_fill(rewards > 0, 1.0)
        losses = reinforce_loss(logps, rewards, rows.mask, weights)
        (ours,) = torch.autograd.grad(rows.probabilities(mu) @ losses, logits, retain_graph=True)
        return torch.nn.functional.cosine_similarity(ours.flatten(), exact.flatten(), dim=0).item()

    yield "`--importance trajectory`, no clip", cosine("trajectory", math.inf)
    yield "`--importance trajectory`, clip 1", cosine("trajectory", 1.0)
    yield "`--importance prefix`, no clip", cosine("prefix", math.inf)
    yield "`--importance token`, no clip", cosine("token", math.inf)
    yield "`--importance none`", cosine("none", 1.0)
    yield "`--taper true`, no clip", cosine("trajectory", math.inf, taper=True)


@cache
def tables() -> str:
    """Both tables in Markdown."""
    lines = ["| method | setting | KL from pi* | keeps the optimum |", "|---|---|---|---|"]
    for method, setting, kl in results():
        said = "0" if kl < EXACT else f"{kl:.1g}"
        lines.append(f"| `{method}` | {setting} | {said} | {'yes' if kl < EXACT else 'no'} |")
    lines += ["", "| `reinforce` | cosine with the exact gradient | follows the expected reward |", "|---|---|---|"]
    for setting, cosine in directions():
        lines.append(f"| {setting} | {cosine:.3f} | {'yes' if cosine > 1 - EXACT else 'no'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())

"""Q of token sequences, as a server receives them: read at every separator. A shared beginning is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise

import torch

from qstep.models import collate_groups, moved
from qstep.scoring.formats import ContractFormat
from qstep.scoring.step_scorer import StepScorer

_LEAST_SHARED = 16
"""Sharing fewer tokens than this saves less than the attention mask costs."""

_WIDEST = 64
"""At most this many sequences share a beginning, which bounds the search for them."""


@torch.inference_mode()
def score_sequences(scorer: StepScorer, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
    """The Q read at each separator token of each sequence, in one forward pass. Equal sequences are computed once.

    Separator tokens within the prompt are read too, since a sequence does not show where its prompt ends.
    """
    different = sorted({tuple(ids) for ids in sequences})
    groups = [(different[first:end], shared) for first, end, shared in shared_beginnings(different)]
    batch = collate_groups(
        [members[0][:shared] for members, shared in groups],
        [[ids[shared:] for ids in members] for members, shared in groups],
    )
    q_values = scorer.model.q_of_tokens(moved(batch, scorer.model.device))
    read = iter(q_values.cpu().tolist())
    assert isinstance(scorer.format, ContractFormat), "a step contract names the separator"
    separator = scorer.format.contract.separator_token_id

    def at_separators(ids: Sequence[int]) -> list[float]:
        return [q for token, q in zip(ids, islice(read, len(ids)), strict=True) if token == separator]

    found = {}
    for members, shared in groups:
        common = at_separators(members[0][:shared])
        for ids in members:
            found[ids] = common + at_separators(ids[shared:])
    return [found[tuple(ids)] for ids in sequences]


def shared_beginnings(sequences: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """Groups neighbours among sorted sequences by a shared beginning, so that the fewest tokens are computed.

    Returns `(first, end, shared)` for each group: `sequences[first:end]` begin with the same `shared` tokens. A
    sequence that is alone shares all its tokens.
    """
    common = [_common(a, b) for a, b in pairwise(sequences)]
    saved = [0]  # the tokens saved among the first `end` sequences, at most
    cuts: list[tuple[int, int, int]] = []
    for end in range(1, len(sequences) + 1):
        shared = len(sequences[end - 1])
        best, cut = saved[end - 1], (end - 1, end, shared)
        for first in range(end - 2, max(-1, end - 1 - _WIDEST), -1):
            shared = min(shared, common[first])
            if shared < _LEAST_SHARED:
                break
            if (gain := saved[first] + (end - 1 - first) * shared) > best:
                best, cut = gain, (first, end, shared)
        saved.append(best)
        cuts.append(cut)
    groups = []
    end = len(sequences)
    while end:
        groups.append(cuts[end - 1])
        end = groups[-1][0]
    return groups[::-1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

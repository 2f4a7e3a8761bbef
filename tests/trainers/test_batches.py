"""Which items a step learns from, and what each process gets of them."""

from __future__ import annotations

import math
import random
from itertools import chain

import numpy as np
import pytest
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from qstep.trainers.batches import StepSampler, deal


def test_items_are_dealt_longest_first_to_the_shortest_list() -> None:
    """9 and 5 begin a list each; 4 joins 5, 3 joins 9, 2 goes to 5 + 4: [9, 3] and [5, 4, 2], in their own order."""
    assert deal("abcde", [3, 9, 2, 5, 4], 2) == [["a", "b"], ["c", "d", "e"]]
    assert deal("ab", [1, 1], 3) == [["a"], ["b"], []]
    assert deal("abc", [0, 0, 0], 3) == [["a"], ["b"], ["c"]], "none is empty where there are items enough"


def test_lists_are_of_about_equal_length() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(64)]
    shares = deal(range(64), lengths, 4)
    totals = [sum(lengths[i] for i in share) for share in shares]
    assert max(totals) - min(totals) <= 8 and sorted(chain(*shares)) == list(range(64))


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_every_process_count_learns_from_the_same_items_at_each_step(processes: int, accumulation: int) -> None:
    """21 items, 8 a step: steps of 8, 8 and 5, the last with fewer items than eight lists would be."""
    lengths = np.arange(21) % 7 + 1
    whole = StepSampler(lengths, 8, seed=3)
    parts = [
        list(StepSampler(lengths, 8, accumulation=accumulation, process=p, processes=processes, seed=3))
        for p in range(processes)
    ]
    assert {len(part) for part in parts} == {3 * accumulation}
    for step, (expected,) in enumerate(whole):
        batches = [batch for part in parts for batch in part[step * accumulation : (step + 1) * accumulation]]
        assert all(len(batch) == 1 and batch[0] for batch in batches)
        assert sorted(i for (batch,) in batches for i in batch if i >= 0) == sorted(expected)


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_parts_hold_at_most_so_many_tokens_and_are_as_many_everywhere(processes: int, accumulation: int) -> None:
    """Items of 1 to 9 tokens, and one of 40, which is a part by itself as none may have more than 20."""
    lengths = np.array([*np.arange(60) % 9 + 1, 40])
    samplers = [
        StepSampler(lengths, 24, accumulation=accumulation, max_tokens=20, process=process, processes=processes, seed=3)
        for process in range(processes)
    ]
    whole = list(StepSampler(lengths, 24, seed=3))
    shares = list(zip(*samplers, strict=True))
    assert len(shares) == 3 * accumulation
    for step, (expected,) in enumerate(whole):
        batches = [batch for share in shares[step * accumulation : (step + 1) * accumulation] for batch in share]
        assert len({len(batch) for batch in batches}) == 1, "processes wait for each other in each part"
        parts = [*chain(*batches)]
        assert all(lengths[part].sum() <= 20 or part == [60] for part in parts if part[0] >= 0)
        assert sorted(i for part in parts for i in part if i >= 0) == sorted(expected)
        if 60 not in expected:
            tokens, lists = lengths[expected].sum(), accumulation * processes
            assert len(parts) <= lists * (math.ceil(tokens / (20 * lists)) + 1), "as few as fit"


def test_an_empty_list_is_filled_by_the_shortest_item_to_be_counted_as_nothing() -> None:
    samplers = [StepSampler(np.array([5, 2, 9]), 4, process=p, processes=4, shuffle=False) for p in range(4)]
    assert [list(sampler) for sampler in samplers] == [[[[2]]], [[[0]]], [[[1]]], [[[~1]]]]


def test_an_epoch_has_an_order_of_its_own_and_resuming_skips_into_it() -> None:
    sampler = StepSampler(np.ones(20, int), 4, seed=0)
    first = list(sampler)
    assert sorted(chain(*chain(*first))) == list(range(20)) and first == list(sampler)

    class Parts(dict[int, int]):
        def __getitems__(self, parts: list[list[int]]) -> list[list[int]]:
            return parts

    loader = DataLoader(Parts(), batch_sampler=sampler, collate_fn=list)
    sampler.set_epoch(1)
    second = list(loader)
    assert sorted(chain(*chain(*second))) == list(range(20)) and first != second
    sampler.set_epoch(0)
    skipped = skip_first_batches(loader, 3)
    skipped.batch_sampler.batch_sampler.set_epoch(1)  # what Trainer does
    assert list(skipped) == second[3:]
    assert len(skipped) == 2


def test_the_items_that_a_number_of_steps_reaches() -> None:
    sampler = StepSampler(np.ones(10, int), 4, seed=0)
    order = sampler.order(0).tolist()
    assert sampler.reached(1) == sorted(order[:4]) and sampler.reached(2) == sorted(order[:8])
    assert sampler.reached(3) == sampler.reached(7) == list(range(10))
    dropping = StepSampler(np.ones(10, int), 4, seed=0, drop_last=True)
    assert len(dropping) == 2 and dropping.reached(2) == sorted(order[:8])
    assert dropping.reached(4) == sorted({*order[:8], *sampler.order(1).tolist()[:8]})
    with pytest.raises(ValueError, match="3 items do not fill a step of 4"):
        StepSampler(np.ones(3, int), 4, drop_last=True)

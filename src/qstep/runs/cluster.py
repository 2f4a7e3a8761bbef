"""Blocks of work on the processes of a cluster, through Ray Data, and the options for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from qstep.extras import missing
from qstep.runs.options import CHANGES_NOTHING, AtLeast1, Bounds, Options, ReadIf
from qstep.types import Row

Work = Callable[[list[Row]], list[Row]]
"""The function that a worker applies to a block."""


@dataclass(kw_only=True)
class ClusterOptions(Options):
    """Where engines run.

    Args:
        executor: where engines run: in this process (`local`), or in several processes through Ray Data (`ray`). Ray
            uses the cluster in the environment variable RAY_ADDRESS, or else this machine.
        workers: number of processes.
        worker_gpus: GPUs of each process.
    """

    GROUP = "cluster options"
    READ_IF = ReadIf(executor="ray")

    executor: Annotated[Literal["local", "ray"], CHANGES_NOTHING, ReadIf()] = "local"
    workers: Annotated[AtLeast1, CHANGES_NOTHING] = 2
    worker_gpus: Annotated[float, Bounds(least=0), CHANGES_NOTHING] = 0.0

    def spread(self, make: Callable[[], Work], blocks: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Yields the blocks that the cluster's workers computed; see `map_blocks`."""
        return map_blocks(make, blocks, workers=self.workers, gpus=self.worker_gpus)


def map_blocks(
    make: Callable[[], Work], blocks: Iterable[list[Row]], *, workers: int, gpus: float
) -> Iterator[list[Row]]:
    """Yields `make()(block)` for each block once, in the order in which blocks finish.

    Each worker calls `make` once and keeps the result. If a worker dies, Ray starts another and gives it the block
    again. Only complete blocks are yielded. All blocks are held in Ray's object store, which spills to disk.

    Raises:
        ValueError: ray is not installed, the cluster has too few CPUs or GPUs, or the work raised a ValueError.
        RuntimeError: Ray ended before some blocks were finished.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise missing("--executor ray", "ray", "ray") from None
    _connect(ray, workers, gpus)
    items = [{"number": number, "block": json.dumps(block)} for number, block in enumerate(blocks)]
    if not items:
        return
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        fn_constructor_args=(make,),
        num_cpus=1,
        num_gpus=gpus,
    )
    data.context.enable_progress_bars = False
    waiting = {item["number"] for item in items}
    for done in data.iter_rows():
        answer = json.loads(done["answer"])
        if isinstance(answer, str):
            raise ValueError(answer)
        if done["number"] in waiting:
            waiting.remove(done["number"])
            yield answer
    if waiting:
        raise RuntimeError(
            f"Ray ended before {len(waiting)} of {len(items)} blocks were finished: run the same command again"
        )


def _connect(ray: Any, workers: int, gpus: float) -> None:
    """Connects to the cluster of RAY_ADDRESS, or starts one on this machine."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # ray would send usage statistics
        ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    there = ray.cluster_resources()
    for kind, option, needed in ("CPU", "workers", float(workers)), ("GPU", "worker_gpus", workers * gpus):
        if needed > there.get(kind, 0.0):
            raise ValueError(
                f"the cluster has {there.get(kind, 0.0):g} {kind}s, but {needed:g} are needed: lower --{option}"
            )


class _Worker:
    """An actor in Ray Data's pool. The message of a ValueError is returned as the answer."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: list[Row] | str = self.work(json.loads(batch["block"][0]))
        except ValueError as error:
            answer = str(error)
        return {"number": batch["number"], "answer": [json.dumps(answer)]}

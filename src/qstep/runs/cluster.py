"""Blocks of work over the processes of a cluster, by Ray Data, and the options that say which."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from qstep.extras import missing
from qstep.runs.options import CHANGES_NOTHING, GIVEN, Bounds, Options, ReadIf
from qstep.types import Row

Work = Callable[[list[Row]], list[Row]]
"""What a worker does with a block."""


@dataclass(kw_only=True)
class ClusterOptions(Options):
    """Where engines are at work.

    Args:
        executor: local, or ray: several processes with an engine each, through Ray Data, on the cluster that the
            environment variable RAY_ADDRESS names, else on this machine.
        workers: how many processes (ray).
        worker_gpus: GPUs of each process (ray).
    """

    GROUP = "cluster options"
    READ_IF = ReadIf(executor="ray")

    executor: Annotated[
        Literal["local", "ray"], CHANGES_NOTHING, ReadIf(model_name_or_path=GIVEN), ReadIf(engine=("hf", "vllm"))
    ] = "local"
    workers: Annotated[int, Bounds(least=1), CHANGES_NOTHING] = 2
    worker_gpus: Annotated[float, Bounds(least=0), CHANGES_NOTHING] = 0.0

    def spread(self, make: Callable[[], Work], blocks: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """What workers of the cluster make of blocks; see `map_blocks`."""
        return map_blocks(make, blocks, workers=self.workers, gpus=self.worker_gpus)


def map_blocks(
    make: Callable[[], Work], blocks: Iterable[list[Row]], *, workers: int, gpus: float
) -> Iterator[list[Row]]:
    """Yields what `make()(block)` gives of each block, once, as they finish.

    `make` is called in each worker, which holds on to what it makes. Ray starts a worker that dies anew and gives it
    its block again; nothing of a block comes here before the whole of it. All blocks lie in Ray's object store, which
    spills to disk.

    Raises:
        ValueError: ray is not installed, the cluster has too few CPUs or GPUs, or the work raised one.
        RuntimeError: Ray ended without some block.
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
        raise RuntimeError(f"Ray ended without {len(waiting)} of {len(items)} blocks")


def _connect(ray: Any, workers: int, gpus: float) -> None:
    """To the cluster of RAY_ADDRESS, or to one made here."""
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send them
        ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    there = ray.cluster_resources()
    for kind, option, needed in ("CPU", "workers", float(workers)), ("GPU", "worker_gpus", workers * gpus):
        if needed > there.get(kind, 0.0):
            raise ValueError(
                f"the cluster has {there.get(kind, 0.0):g} {kind}s, and {needed:g} are needed: lower --{option}"
            )


class _Worker:
    """Of Ray Data's pool of actors. A ValueError's words come back as the answer."""

    def __init__(self, make: Callable[[], Work]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            answer: list[Row] | str = self.work(json.loads(batch["block"][0]))
        except ValueError as error:
            answer = str(error)
        return {"number": batch["number"], "answer": [json.dumps(answer)]}

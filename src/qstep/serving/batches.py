"""Sequences of many requests in shared forward passes: a bounded queue, and one thread that runs the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

Compute = Callable[[Sequence[Sequence[int]]], list[list[float]]]


class QueueFull(Exception):
    """The queue has no room for the request."""


@dataclass(eq=False)
class _Waiting:
    ids: list[int]
    answer: asyncio.Future[list[float]]


class Batcher:
    """Answers sequences of tokens. Those that wait at the same time are computed together.

    Args:
        compute: gives the answers to a list of sequences. It runs in a separate thread, one call at a time.
        batch_tokens: tokens computed together; a single longer sequence is computed alone.
        queue_tokens: tokens that may wait.
    """

    def __init__(self, compute: Compute, *, batch_tokens: int, queue_tokens: int) -> None:
        self.compute, self.batch_tokens, self.queue_tokens = compute, batch_tokens, queue_tokens
        self.tokens = 0
        self._queue: dict[_Waiting, None] = {}
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def answer(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """The answer to each sequence. One that is cancelled while it waits is not computed.

        Raises QueueFull if the queue has no room for all of them.
        """
        if self.tokens + sum(map(len, sequences)) > self.queue_tokens:
            raise QueueFull
        loop = asyncio.get_running_loop()
        entries = [_Waiting(ids, loop.create_future()) for ids in sequences]
        for entry in entries:
            self._queue[entry] = None
            self.tokens += len(entry.ids)
        self._more.set()
        try:
            return await asyncio.gather(*(entry.answer for entry in entries))
        finally:
            for entry in entries:
                self._remove(entry)

    async def run(self) -> None:
        """Computes the waiting sequences, oldest first, until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._more.wait()
                batch = self._take()
                if not batch:
                    self._more.clear()
                    continue
                try:
                    answers = await loop.run_in_executor(self._thread, self.compute, [entry.ids for entry in batch])
                    for entry, answer in zip(batch, answers, strict=True):
                        if not entry.answer.done():
                            entry.answer.set_result(answer)
                except Exception as error:  # the requests of this batch get the error; the next batch may succeed
                    for entry in batch:
                        if not entry.answer.done():
                            entry.answer.set_exception(error)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _take(self) -> list[_Waiting]:
        """The oldest entries, as many as fit into one batch."""
        batch: list[_Waiting] = []
        tokens = 0
        for entry in self._queue:
            if batch and tokens + len(entry.ids) > self.batch_tokens:
                break
            batch.append(entry)
            tokens += len(entry.ids)
        for entry in batch:
            self._remove(entry)
        return batch

    def _remove(self, entry: _Waiting) -> None:
        if entry in self._queue:
            del self._queue[entry]
            self.tokens -= len(entry.ids)

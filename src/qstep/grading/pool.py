"""Grading processes that can be killed, because no signal stops the algebra.

Each worker is a separate program (`qstep.grading.worker`), not a `multiprocessing` child, and imports nothing of the
calling program. So it works with scripts without a main guard, notebooks, threads, event loops and a loaded torch.
Workers start when they are first needed, and end with this process. The deadline begins when a ready worker takes the
request, so starting and waiting do not count.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from qstep.cores import cores

_MOST_WORKERS = 32
"""Maximum number of workers without a request for more. Each takes seconds to start and needs 70 MiB."""
_START_SECONDS = 120.0
_GRACE_SECONDS = 0.1
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from qstep.grading.worker import main; main()"


class _Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr
        self.buffer = b""
        if self.receive(_START_SECONDS) is None:
            ended = self._status()
            self._end()
            output = self.stderr.read().decode(errors="replace").strip()[-1000:]
            self.close()
            why = f"was not ready within {_START_SECONDS:g} s" if ended is None else f"ended with status {ended}"
            raise RuntimeError(
                f"a grading process {why} at its start. Check that this works: {sys.executable} -c 'import "
                f"math_verify'. Its output: {output or 'nothing'}"
            )

    def _status(self) -> int | None:
        """The exit status of the process, even if it is about to end; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(_GRACE_SECONDS)
        return None

    def ask(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any] | None:
        self.stdin.write(json.dumps(request).encode() + b"\n")
        return self.receive(deadline_s + _GRACE_SECONDS)

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next reply, or None if the worker is late or has ended."""
        until = time.monotonic() + seconds
        waiting = select.poll()
        waiting.register(self.stdout, select.POLLIN)
        while not self.buffer.endswith(b"\n"):
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                return None
            piece = self.stdout.read(65536)
            if not piece:
                return None
            self.buffer += piece
        reply, self.buffer = json.loads(self.buffer), b""
        return reply

    def kill(self) -> None:
        """Kills the worker and its child."""
        self._end()
        self.close()

    def _end(self) -> None:
        if self.process.returncode is None:  # not reaped, so the process group is still ours
            with suppress(PermissionError):  # macOS, if only the dead leader of the group is left
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def close(self) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


class Pool:
    """At most `size` workers. Each answers one request at a time."""

    def __init__(self) -> None:
        self.size = min(cores(), _MOST_WORKERS)
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._starting = 0
        self._changed = threading.Condition()

    def judge(self, request: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """A worker's reply to a request: `equal` and `answer`, or `failed`.

        If a worker died before the request, another one replaces it.
        """
        while True:
            worker = self._take()
            reply, asked = None, True
            try:
                reply = worker.ask(request | {"deadline_s": deadline_s}, deadline_s)
            except BrokenPipeError:
                asked = False
            finally:  # also after an interrupt: a worker with an open request must not get another
                self._give_back(worker, alive=reply is not None)
            if asked:
                return reply or {"failed": f"no verdict within {deadline_s:g} s"}

    def start(self, count: int) -> None:
        """Starts workers until there are `count`. It does not wait for those that other threads are starting."""
        with self._changed:
            self.size = max(self.size, count)
            missing = max(0, count - len(self._all) - self._starting)
            self._starting += missing
        if missing:
            with ThreadPoolExecutor(missing, thread_name_prefix="start") as threads:
                list(threads.map(lambda _: self._give_back(self._started(), alive=True), range(missing)))

    def grow(self, size: int) -> None:
        with self._changed:
            self.size = max(self.size, size)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            for worker in self._all:
                worker.kill()
            self._all.clear()
            self._idle.clear()

    def forget(self) -> None:
        """Forgets the workers of the parent after a fork."""
        for worker in self._all:
            worker.process.returncode = 0
            worker.close()

    def _take(self) -> _Worker:
        with self._changed:
            while not self._idle and len(self._all) + self._starting >= self.size:
                self._changed.wait()
            if self._idle:
                return self._idle.pop()
            self._starting += 1
        return self._started()

    def _started(self) -> _Worker:
        """A new worker, which `_starting` already counts."""
        worker = None
        try:
            worker = _Worker()
        finally:
            with self._changed:
                self._starting -= 1
                if worker is not None:
                    self._all.add(worker)
                self._changed.notify()
        return worker

    def _give_back(self, worker: _Worker, alive: bool) -> None:
        if not alive:
            worker.kill()
        with self._changed:
            if alive:
                self._idle.append(worker)
            else:
                self._all.discard(worker)
            self._changed.notify()


_pool = Pool()


def pool() -> Pool:
    """The workers of this process."""
    return _pool


def _close() -> None:
    _pool.close()


def _after_fork() -> None:
    global _pool
    _pool.forget()
    _pool = Pool()


atexit.register(_close)
os.register_at_fork(after_in_child=_after_fork)

"""qstep commands side by side, each in a process of its own that is started once."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from qstep.cores import cores
from qstep.runs.progress import bars, console


@dataclass(frozen=True)
class Job:
    """A qstep command, run once the jobs named `after` are done, where those are among the jobs it runs with.

    Args:
        argv: the command line, without `qstep`.
        log: the file for what the command prints.
        output: the file or folder that it writes; progress is read from it.
        after: names of jobs to wait for.
        rows: how many rows it will write, where that is known.
    """

    argv: list[str]
    log: Path
    output: Path
    after: frozenset[str] = frozenset()
    rows: int | None = None


class JobFailed(RuntimeError):
    """A job ended with an error, or its process died; the message shows the end of its log."""


class Follower:
    """How far a job is, from the files it writes. Of a file of rows it reads only what has been added."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.offset = self.rows = 0

    def progress(self) -> tuple[int, int | None]:
        """How much is done, and of how much, if that is known by now."""
        if self.job.output.suffix != ".jsonl":
            last = _last_line(self.job.output / "train_log.jsonl")
            return last.get("step", 0), last.get("max_steps")
        if self.job.output.exists():
            with self.job.output.open("rb") as file:
                file.seek(self.offset)
                added = file.read()
            self.rows += added.count(b"\n")
            self.offset += added.rfind(b"\n") + 1
        return self.rows, self.job.rows


class Workers:
    """Processes that run qstep commands, one at a time each. They end with the process that started them.

    Args:
        processes: how many.
        threads: of each for its computations; by default an equal share of the cores that this process may use.
    """

    def __init__(self, processes: int, threads: int | None = None) -> None:
        self._threads = threads or max(1, cores() // processes)
        self._started = [_Worker() for _ in range(processes)]

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for worker in self._started:
            worker.process.terminate()
            worker.process.wait()

    def run(self, jobs: Mapping[str, Job], done: Callable[[str, float], None] = lambda name, seconds: None) -> None:
        """Runs the named jobs, as many at a time as there are processes, earlier ones first.

        Calls `done(name, seconds)` after each. When a job fails, those that run are waited for and no other starts.

        Raises:
            JobFailed: with the end of the log of the job that failed.
        """
        waiting, busy, failure = dict(jobs), dict[_Worker, _Running](), ""
        with bars() as progress, selectors.DefaultSelector() as selector:
            for worker in self._started:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            while busy or (waiting and not failure):
                for worker in self._started if not failure else ():
                    unfinished = {*waiting, *(running.name for running in busy.values())}
                    name = next((name for name, job in waiting.items() if not job.after & unfinished), None)
                    if name is not None and worker not in busy:
                        job = waiting.pop(name)
                        worker.run(job, self._threads)
                        busy[worker] = _Running(name, Follower(job), progress.add_task(name, total=None))
                for running in busy.values():
                    completed, total = running.follower.progress()
                    progress.update(running.task, completed=completed, total=total)
                for key, _ in selector.select(timeout=0.2):
                    worker = key.data
                    status, ended = worker.status(), busy.pop(worker, None)
                    if status == 0 and ended is not None:
                        seconds = time.monotonic() - ended.start
                        progress.remove_task(ended.task)
                        console.print(f"{ended.name:40} {seconds:7.1f} s")
                        done(ended.name, seconds)
                        continue
                    if worker.process.poll() is not None:
                        selector.unregister(worker.answers)
                    failure = failure or _failure(ended, status)
                    if busy:
                        console.print(f"{failure}\nwaiting for what still runs; Ctrl-C stops it")
        if failure:
            raise JobFailed(failure)


@dataclass
class _Running:
    name: str
    follower: Follower
    task: TaskID
    start: float = field(default_factory=time.monotonic)


class _Worker:
    """A process that runs one command at a time; see `qstep.recipes.worker`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qstep.recipes.worker", *sys.argv[1:]],  # what provenance names as the command
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout

    def run(self, job: Job, threads: int) -> None:
        self.jobs.write(json.dumps({"argv": job.argv, "log": str(job.log), "threads": threads}) + "\n")
        self.jobs.flush()

    def status(self) -> int:
        """The status of the job at hand, once `answers` can be read; of the process, if it has died."""
        answer = self.answers.readline()
        return json.loads(answer)["status"] if answer else self.process.wait() or 1


def _failure(running: _Running | None, status: int) -> str:
    if running is None:
        return f"an idle worker process ended with status {status}"
    log = running.follower.job.log
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else "(no log)"
    return f"{running.name} failed with status {status}; its log {log} ends:\n{tail}"


def _last_line(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_bytes().splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):  # not there yet, or being written
        return {}

"""Runs qstep commands side by side, in processes that are started once."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from qstep.cores import cores
from qstep.recipes.forecast import Forecast, duration
from qstep.runs.progress import bars, console
from qstep.runs.training_log import TRAINING_LOG


@dataclass(frozen=True)
class Job:
    """A qstep command.

    Args:
        argv: the command line, without `qstep`.
        log: the file for what the command prints.
        output: the file or folder that it writes; progress is read from it.
        after: names of the jobs that it waits for. Names of jobs that are not run are ignored.
        rows: how many rows it will write, if known.
        seconds: how long it takes on the recipe's hardware.
        devices: processes of a training, one for each GPU. torchrun starts them.
    """

    argv: list[str]
    log: Path
    output: Path
    after: frozenset[str] = frozenset()
    rows: int | None = None
    seconds: float = 1.0
    devices: int = 1


class JobFailed(RuntimeError):
    """A job ended with an error, or its process died. The message shows the end of its log."""


class Follower:
    """The progress of a job, read from the files it writes. It reads only the rows that were added since."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.offset = self.rows = 0

    def progress(self) -> tuple[int, int | None]:
        """How much is done, and the total if it is known yet."""
        if self.job.output.suffix != ".jsonl":
            last = _last_line(self.job.output / TRAINING_LOG)
            return last.get("step", 0), last.get("max_steps")
        if self.job.output.exists():
            with self.job.output.open("rb") as file:
                file.seek(self.offset)
                added = file.read()
            self.rows += added.count(b"\n")
            self.offset += added.rfind(b"\n") + 1
        return self.rows, self.job.rows


class Workers:
    """Processes that each run one qstep command at a time. They end with the process that started them.

    Args:
        processes: how many.
        threads: threads of each process; by default an equal share of the cores that this process may use.
    """

    def __init__(self, processes: int, threads: int | None = None) -> None:
        self._threads = threads or max(1, cores() // processes)
        self._started = [_Worker() for _ in range(processes)]

    def close(self) -> None:
        """Ends the processes at once."""
        for worker in self._started:
            with suppress(BrokenPipeError):
                worker.jobs.close()  # at which it ends
            worker.process.wait()

    def run(
        self,
        jobs: Mapping[str, Job],
        done: Callable[[str, float], None] = lambda name, seconds: None,
        *,
        already: int = 0,
    ) -> None:
        """Runs the named jobs, as many at a time as there are processes, earlier ones first.

        After each job it calls `done(name, seconds)` and prints what the job wrote. After a job has failed, no other
        job starts; running jobs are finished.

        Args:
            already: how many jobs were done before. The printed count includes them.

        Raises:
            JobFailed: a job failed. The message has the end of its log.
        """
        waiting, busy, failure = dict(jobs), dict[_Worker, _Running](), ""
        hints = {name: job.seconds for name, job in jobs.items()}
        forecast = Forecast(hints, {name: job.after for name, job in jobs.items()}, len(self._started))
        total = already + len(jobs)
        with bars() as progress, selectors.DefaultSelector() as selector:
            all_jobs = progress.add_task("jobs", total=total, completed=already)
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
                    completed, rows = running.follower.progress()
                    progress.update(running.task, completed=completed, total=rows)
                left = forecast.seconds_left({running.name: running.seconds for running in busy.values()})
                progress.update(all_jobs, completed=already + len(forecast.measured), remaining=left)
                for key, _ in selector.select(timeout=0.2):
                    worker = key.data
                    status, ended = worker.status(), busy.pop(worker, None)
                    if status == 0 and ended is not None:
                        forecast.measured[ended.name] = seconds = ended.seconds
                        progress.remove_task(ended.task)
                        done(ended.name, seconds)
                        left = forecast.seconds_left({running.name: running.seconds for running in busy.values()})
                        _print_done(ended, seconds, f"{already + len(forecast.measured)} of {total}", left)
                        continue
                    if worker.process.poll() is not None:
                        selector.unregister(worker.answers)
                    failure = failure or _failure(ended, status)
                    if busy:
                        console.print(
                            f"{failure}\nWaiting for the jobs that still run. Ctrl-C stops them.", markup=False
                        )
        if failure:
            raise JobFailed(failure)


@dataclass
class _Running:
    name: str
    follower: Follower
    task: TaskID
    start: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """The time since the job began."""
        return time.monotonic() - self.start


class _Worker:
    """A process that runs one command at a time; see `qstep.recipes.worker`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qstep.recipes.worker", *sys.argv[1:]],  # provenance records these arguments
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout

    def run(self, job: Job, threads: int) -> None:
        message = {"argv": job.argv, "log": str(job.log), "threads": threads, "devices": job.devices}
        self.jobs.write(json.dumps(message) + "\n")
        self.jobs.flush()

    def status(self) -> int:
        """The status of the job that has ended, or of the process if it has died, once `answers` can be read."""
        answer = self.answers.readline()
        return json.loads(answer)["status"] if answer else self.process.wait() or 1


def _print_done(ended: _Running, seconds: float, count: str, left: float | None) -> None:
    """Prints the job's number, its time, the time that is left, and what it wrote."""
    remaining = f", about {duration(left)} left" if left else ""
    text = f"{count}: {ended.name}, {seconds:.1f} s{remaining}\n    wrote {ended.follower.job.output}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


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

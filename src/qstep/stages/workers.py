"""qstep commands side by side, each in a process of its own that is started once."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qstep.stages.progress import bars


@dataclass(frozen=True)
class Job:
    """A qstep command, run once the job named `after` is done, if that is among the jobs it runs with.

    Its output goes to `<folder>.log`. The bar follows `<folder>/train_log.jsonl`, or the file `<folder>.jsonl` of a
    job that writes `rows` rows.
    """

    command: list[str]
    folder: Path
    after: str | None = None
    rows: int | None = None

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")


class Follower:
    """How far a job is, from the files it writes. Of a file of rows it reads only what has been added."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.offset = self.rows = 0

    def progress(self) -> tuple[int, int | None]:
        """How much is done, and of how much, if that is known by now."""
        if self.job.rows is None:
            last = _last_line(self.job.folder / "train_log.jsonl")
            return last.get("step", 0), last.get("max_steps")
        path = self.job.folder.with_name(f"{self.job.folder.name}.jsonl")
        if path.exists():
            with path.open("rb") as file:
                file.seek(self.offset)
                added = file.read()
            self.rows += added.count(b"\n")
            self.offset += added.rfind(b"\n") + 1
        return self.rows, self.job.rows


class Workers:
    """Processes that run qstep commands, one at a time each. They end with the process that started them.

    Args:
        processes: how many.
        threads: of each for its computations; by default an equal share of the cores.
    """

    def __init__(self, processes: int, threads: int | None = None) -> None:
        self._processes, self._threads = processes, threads
        self._started: list[_Worker] = []

    def start(self) -> None:
        """Starts the processes, if they are not running; it takes them some seconds to be ready."""
        if not self._started:
            self._started = [_Worker() for _ in range(self._processes)]

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for worker in self._started:
            worker.process.terminate()

    def run(self, jobs: Mapping[str, Job]) -> None:
        """Runs the named jobs, as many at a time as there are processes, in the order given.

        Raises RuntimeError, with the end of its log, when a job fails.
        """
        self.start()
        threads = self._threads or max(1, (os.cpu_count() or 1) // min(len(self._started), len(jobs)))
        waiting, busy = dict(jobs), dict[_Worker, str]()
        with bars() as progress, selectors.DefaultSelector() as selector:
            tasks = {name: progress.add_task(name, total=None, start=False) for name in jobs}
            followers = {name: Follower(job) for name, job in jobs.items()}
            for worker in self._started:
                selector.register(worker.answers, selectors.EVENT_READ, worker)
            while waiting or busy:
                unfinished = {*waiting, *busy.values()}
                for worker in self._started:
                    name = next((name for name, job in waiting.items() if job.after not in unfinished), None)
                    if name is not None and worker not in busy:
                        worker.run(waiting.pop(name), threads)
                        busy[worker] = name
                        progress.start_task(tasks[name])
                for name in busy.values():
                    completed, total = followers[name].progress()
                    progress.update(tasks[name], completed=completed, total=total)
                for key, _ in selector.select(timeout=0.2):
                    status, name = key.data.status(), busy.pop(key.data, None)
                    if status != 0:
                        raise RuntimeError(_failure(name, jobs[name].log if name else None, status))
                    if name is not None:
                        total = followers[name].progress()[1] or 1
                        progress.update(tasks[name], completed=total, total=total)


class _Worker:
    """A process that runs one command at a time; see `qstep.cli.worker`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qstep.cli.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout

    def run(self, job: Job, threads: int) -> None:
        self.jobs.write(json.dumps({"argv": job.command, "log": str(job.log), "threads": threads}) + "\n")
        self.jobs.flush()

    def status(self) -> int:
        """The status of the job at hand, once `answers` can be read; of the process, if it has died."""
        answer = self.answers.readline()
        return json.loads(answer)["status"] if answer else self.process.wait() or 1


def _failure(name: str | None, log: Path | None, status: int) -> str:
    if log is None or not log.exists():
        return f"{name or 'an idle worker process'} ended with status {status}"
    tail = "\n".join(log.read_text().splitlines()[-15:])
    return f"{name} failed with status {status}; its log {log} ends:\n{tail}"


def _last_line(path: Path) -> dict[str, Any]:
    try:
        lines = path.read_bytes().splitlines()
        return json.loads(lines[-1]) if lines else {}
    except (OSError, ValueError):  # not there yet, or being written
        return {}

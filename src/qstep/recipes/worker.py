"""A process that runs qstep commands one after another, so that libraries are imported once.

Each line of its input is a job, `{"argv": [...], "log": path, "threads": n, "devices": n}`. The command's output goes
to the log; the answer is `{"status": n}`. When its input ends, because the process that started it has ended, it stops
at once. A job on several devices runs in processes of torchrun, which stop with it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import traceback

from qstep.stages.commands import COMMANDS, command_name


def serve() -> None:
    """Runs the jobs from standard input and answers each on the original standard output."""
    answers = os.fdopen(os.dup(1), "w")
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    import torch

    import qstep.stages.train  # noqa: F401

    while True:
        job = json.loads(jobs.get())
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        torch.set_num_threads(job["threads"])
        try:
            if job["devices"] > 1:
                status = _torchrun(job["argv"], job["devices"], job["threads"])
            else:
                name, arguments = command_name(job["argv"])
                status = COMMANDS[name].execute(arguments)
        except SystemExit as stop:  # how the argument parser refuses
            status = 2 if stop.code else 0
        except Exception:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(json.dumps({"status": status}) + "\n")
        answers.flush()


def _torchrun(argv: list[str], devices: int, threads: int) -> int:
    """Runs a training in a process for each device. Its status."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(devices)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // devices))}
    with subprocess.Popen([*command, "-m", "qstep.cli", *argv], stdin=subprocess.DEVNULL, env=environment) as launched:
        _launched.append(launched)
        status = launched.wait()
    _launched.clear()
    return status


_launched: list[subprocess.Popen[bytes]] = []


def _read(jobs: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        jobs.put(line)
    for launched in _launched:
        launched.terminate()  # torchrun ends its processes
        launched.wait()
    os._exit(1)


if __name__ == "__main__":
    serve()

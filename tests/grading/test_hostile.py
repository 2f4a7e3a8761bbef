"""Answers made to hang, exhaust or crash a grader, and every place a grader is called from."""

# ruff: noqa: RUF001  (characters that look like others are under test)

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from qstep.grading import Grade, grade, grade_many, warm_up
from qstep.grading import pool as pool_module

DEADLINE = 1.0
COUNT = 500
ALGEBRA = [("x^2+2x+1", r"\boxed{(x+1)^2}"), (r"2\sqrt{3}", r"\boxed{\sqrt{12}}")]


def _cheap(draw: random.Random) -> str:
    """An answer that bounds must refuse or decide without any algebra."""
    n, m = draw.randint(2, 9), draw.randint(3, 9)
    return draw.choice(
        [
            rf"\boxed{{{n}^{{{m}^{{{n}^{m}}}}}}}",
            rf"\boxed{{{n}**{m}**{n}**{m}}}",
            rf"\boxed{{{'(' * m}{n + 5}{'!)' * m}}}",
            rf"\boxed{{{n}{'!' * (20 * m)}}}",
            rf"\boxed{{{n}000000000!}}",
            rf"\boxed{{1.{n}^{{10^{{{10 + m}}}}}}}",
            rf"\boxed{{x+{n}^{{{m}^{{{n}^{m}}}}}}}",
            rf"\boxed{{\sum_{{k=1}}^{{{n}00000000}} k^k}}",
            rf"\boxed{{\binom{{{n}0000000}}{{{m}000000}}x}}",
            rf"\boxed{{\log_2({n}^{{{m}^{{{n}^{{{m}}}}}}})}}",
            rf"\boxed{{{'9' * (20_000 * m)}}}",
            rf"\boxed{{x+{'9' * (1500 * m)}}}",
            "(" * (900 * m) + "1" + ")" * (900 * m),
            "{" * (10_000 * n),
            r"\boxed{" * (1000 * n),
            r"\frac{" * (300 * n) + "1",
            r"\sqrt{" * 200 + "x" + "}" * 200,
            "$ " * (10_000 * n),
            r"\[ \boxed{a " * (500 * n),
            "a" * 1_000_000,
            "The answer is " + " " * 200_000 + "x",
            "answer is not " * (4_000 + n),
            "1 " + "a " * 40_000,
            rf"\boxed{{{','.join(str(draw.random()) for _ in range(300))}}}",
            rf"\boxed{{{'+'.join([f'{n}/3^{{20000}}'] * 150)}}}",
            r"$\begin{pmatrix}" + r"\\".join(["&".join("x" * 40)] * 40) + r"\end{pmatrix}$",
            "\u202e" * 10_000 + str(n),
            "𝟙𝟚" * (1000 * n),
            "\ud800" * n,
            "\0" * n,
            r"\boxed{NaN}",
            rf"\boxed{{\frac{{{n}}}{{0}}}}",
            rf"\boxed{{{'-' * 5000}{n}}}",
            rf"\boxed{{{'x=1,' * 1000}}}",
        ]
    )


def _algebraic(draw: random.Random) -> str:
    """An answer that does reach algebra."""
    n = draw.randint(2, 9)
    return draw.choice(
        [
            rf"\boxed{{(x+{n})^{{9{n}}}}}",
            rf"\boxed{{x^{{9{n}0}}+y^{{9{n}0}}=z}}",
            rf"\boxed{{e^{{e^{{{n}x}}}}}}",
            rf"\boxed{{\sqrt{{x+\sqrt{{x+\sqrt{{x+{n}}}}}}}}}",
            rf"\boxed{{\begin{{pmatrix}}1&{n}\\3}}",
            rf"\boxed{{\sin({n}^{{900}}x)}}",
        ]
    )


ENDLESS = [
    r"\boxed{\sum_{n=1}^{999}\sum_{m=1}^{999}\cos(nm)}",
    r"\boxed{\sum_{a=1}^{99}\sum_{b=1}^{99}\sum_{c=1}^{99}\frac{1}{a+b+c}}",
    r"\boxed{\sum_{n=1}^{999}\sum_{m=1}^{999}\sin(nm)}",
    r"\boxed{\sum_{a=1}^{99}\sum_{b=1}^{99}\sum_{c=1}^{99}\frac{1}{a+2b+3c}}",
]


@contextmanager
def scheduling_noise() -> Iterator[list[float]]:
    """The largest delay, in seconds, that this machine gave a thread that only sleeps."""
    worst, done = [0.0], threading.Event()

    def measure() -> None:
        while not done.is_set():
            start = time.monotonic()
            time.sleep(0.01)
            worst[0] = max(worst[0], time.monotonic() - start - 0.01)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        yield worst
    finally:
        done.set()
        thread.join()


@pytest.mark.timeout(900)
def test_500_hostile_answers_end_in_time_and_memory() -> None:
    draw = random.Random(20241)
    answers = [_cheap(draw) for _ in range(COUNT - 40 - len(ENDLESS))] + [_algebraic(draw) for _ in range(40)] + ENDLESS
    draw.shuffle(answers)
    grade_many(ALGEBRA * 2, workers=2, deadline_s=30)  # workers started: starting is not grading
    me = psutil.Process()
    before = me.memory_info().rss

    def timed(answer: str) -> tuple[Grade, float]:
        start = time.monotonic()
        return grade("x+1", answer, deadline_s=DEADLINE), time.monotonic() - start

    with scheduling_noise() as noise, ThreadPoolExecutor(2) as threads:
        results = list(threads.map(timed, answers))
    grades, seconds = zip(*results, strict=True)
    assert len(grades) == COUNT
    assert {g.verdict for g in grades} == {"wrong", "ungradable"}
    assert max(seconds) <= DEADLINE + 0.2 + 2 * noise[0]
    assert me.memory_info().rss - before <= 10 << 20
    endless = [g for g, answer in zip(grades, answers, strict=True) if answer in ENDLESS]
    assert {(g.verdict, g.reason) for g in endless} == {("ungradable", "no verdict within 1 s")}


def test_time_in_the_queue_is_not_grading_time() -> None:
    """Six answers, one worker at a time, 1 s each when endless: the last still has its own whole deadline."""
    asked = [("x+1", ENDLESS[0]), ("x+1", ENDLESS[1]), ("x+1", ENDLESS[2]), *ALGEBRA, ("x+1", r"\boxed{1+x}")]
    verdicts = [g.verdict for g in grade_many(asked, deadline_s=1.0, workers=1)]
    assert verdicts == ["ungradable"] * 3 + ["right"] * 3


def _descendants() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


def test_the_process_that_computes_is_capped_and_its_death_is_no_verdict() -> None:
    grade_many(ALGEBRA, deadline_s=30)
    capped = [p for p in _descendants() if p.rlimit(psutil.RLIMIT_AS) == (1 << 30, 1 << 30)]
    assert capped
    with ThreadPoolExecutor(1) as threads:
        pending = threads.submit(grade, "x+1", ENDLESS[0], deadline_s=20.0)
        victims: list[psutil.Process] = []
        until = time.monotonic() + 15
        while not victims and time.monotonic() < until:
            time.sleep(0.05)
            victims = [
                p
                for p in _descendants()
                if p.rlimit(psutil.RLIMIT_AS)[0] == 1 << 30 and p.status() == psutil.STATUS_RUNNING
            ]
        for victim in victims:
            victim.kill()
        assert pending.result() == Grade(
            "ungradable",
            "the grading process died, most likely out of memory",
            ENDLESS[0].removeprefix(r"\boxed{").removesuffix("}"),
        )
    assert [g.verdict for g in grade_many(ALGEBRA, deadline_s=30)] == ["right", "right"]


def test_the_loss_of_every_worker_is_survived() -> None:
    grade_many(ALGEBRA, deadline_s=30)
    for process in _descendants():
        os.kill(process.pid, signal.SIGKILL)
    verdicts = [g.verdict for g in grade_many(ALGEBRA * 8, deadline_s=30, workers=2)]
    assert "wrong" not in verdicts
    assert verdicts[-2:] == ["right", "right"]


def test_called_from_threads_and_an_event_loop() -> None:
    with ThreadPoolExecutor(4) as threads:
        assert {g.verdict for g in threads.map(lambda pair: grade(*pair, deadline_s=30), ALGEBRA * 8)} == {"right"}

    async def in_a_loop() -> list[Grade]:
        inside = grade(*ALGEBRA[0], deadline_s=30)
        beside = await asyncio.gather(*(asyncio.to_thread(grade, *pair, deadline_s=30) for pair in ALGEBRA * 4))
        return [inside, *beside]

    assert {g.verdict for g in asyncio.run(in_a_loop())} == {"right"}


def test_a_forked_child_grades_with_workers_of_its_own() -> None:
    assert grade(*ALGEBRA[0], deadline_s=30).verdict == "right"
    pid = os.fork()
    if pid == 0:
        from qstep.grading.pool import pool

        verdict = grade(*ALGEBRA[1], deadline_s=30).verdict
        pool().close()
        os._exit(0 if verdict == "right" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert grade(*ALGEBRA[1], deadline_s=30).verdict == "right"


@pytest.mark.parametrize("end", ["", "\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_script_without_a_main_guard_leaves_no_noise_and_no_process(tmp_path, end: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "print('start', flush=True)\n"
        "from qstep.grading import grade_many\n"
        f"print([g.verdict for g in grade_many({ALGEBRA!r} * 2, deadline_s=30)], flush=True)\n"
        "import psutil\n"
        "print([p.pid for p in psutil.Process().children(recursive=True)], flush=True)" + end
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, env=environment)
    start, verdicts, pids = ran.stdout.splitlines()
    assert (start, verdicts, ran.stderr) == ("start", str(["right"] * 4), "")
    until = time.monotonic() + 10
    left = [int(pid) for pid in pids.strip("[]").split(",")]
    assert left
    while any(map(psutil.pid_exists, left)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in left if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


BROKEN = {
    "raise ImportError('broken on purpose')": "ended with status 1 .*import math_verify'.* broken on purpose",
    "import sys, time; print('so far', file=sys.stderr); time.sleep(60)": "was not ready within 5 s .* so far",
}


@pytest.mark.parametrize("code", BROKEN)
def test_a_grader_that_does_not_start_says_why(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latex2sympy2_extended.py").write_text(code)  # which math-verify imports
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(pool_module, "_START_SECONDS", 120.0 if "raise" in code else 5.0)
    pool = pool_module.Pool()
    for start in (lambda: pool.judge({}, 1.0), lambda: pool.start(2)):
        with pytest.raises(RuntimeError, match=f"(?s)a grading process {BROKEN[code]}"):
            start()
    assert not pool._all and not pool._starting, "the next one may start another"


def test_warm_up_starts_graders_once() -> None:
    warm_up(2)
    started = set(pool_module.pool()._all)
    assert len(started) >= 2
    warm_up(2)
    assert set(pool_module.pool()._all) == started
    assert grade(*ALGEBRA[0]).verdict == "right"
    assert set(pool_module.pool()._all) == started


def test_a_system_that_refuses_to_limit_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS does: the child computes all the same."""
    refuse = (
        "import sys, resource; sys.path[:] = sys.argv[1:]; from qstep.grading import worker; sys.platform = 'darwin'\n"
        "limit = resource.setrlimit\n"
        "def refusing(which, limits):\n"
        "    if which == resource.RLIMIT_AS: raise ValueError('current limit exceeds maximum limit')\n"
        "    limit(which, limits)\n"
        "resource.setrlimit = refusing\n"
        "worker.main()"
    )
    monkeypatch.setattr(pool_module, "_BOOT", refuse)
    pool = pool_module.Pool()
    request = {"gold": "x^2+2x+1", "text": "(x+1)^2", "is_value": True, "exact": True}
    assert pool.judge(request, 20.0) == {"equal": True, "answer": "(x+1)^2"}
    pool.close()

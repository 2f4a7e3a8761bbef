"""`qstep serve` beside vLLM: requests a second, from 1 client and from 16.

    python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
    python benchmarks/serving.py --model runs/smollm2-135m-instruct --vllm_python .venv-vllm/bin/python \
        --output benchmarks/results/serving.json

Both serve the same fresh scorer (a new head on the model) in fp32, each in a process of its own, and answer the same
requests: real responses of 12 models to GSM8K problems, one a request, as token ids, those to a problem one after
another, as choosing the best of n sends them. A round has problems of its own, so that no cache holds its prompts. In
each round both are asked by 1 client and by 16, in turns; the one that goes first changes. Who is not asked is stopped
(SIGSTOP), so that it takes nothing of the processor. That both give the same Qs is checked. The figure is the median of
the rounds. The clients are in a process of their own and cost both sides the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import psutil

from qstep.calls import Server
from qstep.data import split_steps, write_json
from qstep.models import encode_steps
from qstep.runs.provenance import provenance
from qstep.scoring import StepScorer
from qstep.scoring.endpoint import served_model
from scoring import fresh_scorer
from vllm_server import free_port, step_pooling, vllm_serving

CLIENTS = (1, 16)
WARM_UP = 4


def requests_of(data: Path, scorer: StepScorer, count: int) -> list[list[int]]:
    """The token ids of `count` real responses behind their prompts."""
    found: list[list[int]] = []
    with (data / "gsm8k_responses.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            problem = json.loads(line)
            for response in problem["responses"]:
                if len(found) == count:
                    return found
                steps = split_steps(response["text"])
                prompt, ids, _ = encode_steps(
                    scorer.format.tokenizer, scorer.format.contract, f"{problem['question']}\n", steps
                )
                found.append([*prompt, *ids])
    raise ValueError(f"{data} has {len(found)} responses, not {count}: ask for fewer --requests or --rounds")


def drive(url: str, requests: Sequence[list[int]], clients: int) -> tuple[float, list[list[float]]]:
    """Seconds for all requests from so many clients, each of which waits for an answer before it asks again."""
    model = served_model(Server(url), "").name
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx2.Client(timeout=600, limits=limits) as client, ThreadPoolExecutor(clients) as pool:

        def ask(ids: list[int]) -> list[float]:
            body = {"model": model, "input": ids, "task": "token_classify", "use_activation": False}
            answer = client.post(f"{url}/pooling", json=body)
            answer.raise_for_status()
            return [q for [q] in answer.json()["data"][0]["data"]]

        start = time.perf_counter()
        answers = list(pool.map(ask, requests))
        return time.perf_counter() - start, answers


@contextmanager
def qstep_serving(scorer: Path, log: Path) -> Iterator[str]:
    """Runs `qstep serve` in fp32 on the CPU and yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "qstep.cli", "serve", "--scorer", str(scorer), "--device", "cpu"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=output)
    try:
        while " at http://" not in log.read_text():
            if process.poll() is not None:
                raise RuntimeError(log.read_text())
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def awake(names: Sequence[str], processes: dict[str, list[psutil.Process]]) -> Iterator[None]:
    """Only these sides' processes run within."""
    asleep = [process for name, of in processes.items() if name not in names for process in of]
    for process in asleep:
        process.suspend()
    try:
        yield
    finally:
        for process in asleep:
            process.resume()


def listening_at(url: str) -> list[psutil.Process]:
    """The process of this one's children that listens at a URL, and its own children."""
    port = int(url.rpartition(":")[2])
    for child in psutil.Process().children():
        if any(c.laddr and c.laddr.port == port for c in child.net_connections("tcp")):
            return [child, *child.children(recursive=True)]
    raise RuntimeError(f"nobody listens at {url}")


def measure(urls: dict[str, str], requests: Sequence[list[int]], rounds: int) -> dict[str, Any]:
    """Rounds of both sides with 1 and with 16 clients, in turns."""
    processes = {name: listening_at(url) for name, url in urls.items()}
    for url in urls.values():
        drive(url, requests[:WARM_UP], 1)
    each = (len(requests) - WARM_UP) // (rounds * len(CLIENTS))
    edges = range(WARM_UP, len(requests) + 1, each)
    runs: list[dict[str, Any]] = []
    for number, (first, end) in enumerate(pairwise(edges)):
        clients, asked = CLIENTS[number % len(CLIENTS)], requests[first:end]
        run: dict[str, Any] = {"clients": clients, "requests": len(asked), "tokens": sum(map(len, asked))}
        answers = {}
        for name in sorted(urls, reverse=bool(number // len(CLIENTS) % 2)):
            with awake([name], processes):
                run[name], answers[name] = drive(urls[name], asked, clients)
        if len(answers) > 1:
            pairs = zip(*answers.values(), strict=True)
            run["largest_difference"] = max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))
            if run["largest_difference"] > 1e-3:
                raise RuntimeError(f"the Qs of the two differ by {run['largest_difference']}")
        runs.append(run)
    figures = {}
    for clients in CLIENTS:
        of = [run for run in runs if run["clients"] == clients]
        figures[f"clients_{clients}"] = {
            f"requests_per_second_{name}": statistics.median(run["requests"] / run[name] for run in of) for name in urls
        }
        if len(urls) > 1:
            figures[f"clients_{clients}"]["ratio"] = statistics.median(run["vllm"] / run["qstep"] for run in of)
    return {**figures, "runs": runs}


def vllm_version(python: Path) -> str:
    """The version of vLLM in another environment."""
    code = (
        "from importlib.metadata import packages_distributions as p, version; n = p()['vllm'][0]; print(n, version(n))"
    )
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a policy to put the scorer's head on, such as SmolLM2-135M")
    parser.add_argument("--vllm_python", type=Path, required=True, help="the python of an environment with vLLM")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QSTEP_DATA", "../shared/data")))
    parser.add_argument("--requests", type=int, default=96, help="of a round, for each number of clients")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scorer = StepScorer.load(fresh_scorer(args.model, folder / "scorer"), device="cpu")
        requests = requests_of(args.data, scorer, WARM_UP + args.requests * args.rounds * len(CLIENTS))
        pooling, longest = step_pooling(scorer.format.contract), ("--max-model-len", str(scorer.max_length))
        with (
            vllm_serving(args.vllm_python, folder / "scorer", folder / "vllm.log", pooling, *longest) as vllm,
            qstep_serving(folder / "scorer", folder / "qstep.log") as ours,
        ):
            result = measure({"qstep": ours, "vllm": vllm}, requests, args.rounds)
    versions = {"vllm": vllm_version(args.vllm_python)} | {name: version(name) for name in ("starlette", "uvicorn")}
    result |= {"servers": versions, "provenance": provenance(vars(args)) | {"command": f"python {' '.join(sys.argv)}"}}
    for clients in CLIENTS:
        print(
            f"{clients} clients: "
            "{requests_per_second_qstep:.2f} requests/s, vLLM {requests_per_second_vllm:.2f}, "
            "ratio {ratio:.2f}".format(**result[f"clients_{clients}"])
        )
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()

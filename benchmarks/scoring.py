"""qstep's scoring beside a padded batch loop, and its cost from 1,000 to 50,000 responses.

    python examples/data/make_smollm2.py --output runs/smollm2-135m-instruct
    python benchmarks/scoring.py --model runs/smollm2-135m-instruct --output benchmarks/results/scoring.json

Two parts:

    ratio   One problem's prompt with 64 responses, real ones of 12 models to GSM8K problems (a file has 12 to each, so
            those of neighbouring problems stand under one prompt: what they cost is a matter of their lengths). Both
            sides hold the same fresh scorer, tokenise the same steps and read the same positions; that their Qs are
            equal is checked. The loop is what anybody would write: batches of `--batch_size` in the rows' order,
            padded on the right to the longest. They take turns, `--pairs` times on different problems, and the figure
            is the median of the pairs' ratios. Beside it: the rate of a matrix product, and what share of it each
            reaches with the operations that are needed (each prompt and each response once).
    growth  `qstep score` on files of 1,000, 10,000 and 50,000 responses of the miniature, 64 to a problem, with a
            scorer of its size, each in a process of its own, the sizes in turns, three times; the figure is the median.
            The start (loading) is measured on one row and taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, PretrainedConfig, Qwen3ForCausalLM

from qstep.data import split_steps, write_json, write_jsonl
from qstep.models import ModelOptions, ScorerModel, StepContract, encode_steps
from qstep.runs.memory import keep_freed_memory
from qstep.runs.provenance import provenance
from qstep.scoring import StepScorer
from qstep.stages.score import ScoreConfig, score
from qstep.tasks import miniature

Row = dict[str, Any]
RESPONSES = 64
SIZES = (1_000, 10_000, 50_000)
ROUNDS = 3


def fresh_scorer(policy: str | Path, folder: Path) -> Path:
    """A scorer with a new head on a policy's trunk, as `qstep train pqm` would begin with, saved."""
    tokenizer = AutoTokenizer.from_pretrained(policy)
    torch.manual_seed(0)
    model = ScorerModel.new(ModelOptions(model_name_or_path=str(policy)))
    separator = {"step_separator": "\n", "separator_token": "\n"}
    contract = StepContract.create(tokenizer, **separator, max_length=4096, aggregation="min", objective="pqm")
    contract.attach(model.config)
    model.save(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problems_of(data: Path, count: int) -> list[list[Row]]:
    """`count` prompts with 64 real responses each."""
    with (data / "gsm8k_responses.jsonl").open(encoding="utf-8") as lines:
        read = [json.loads(line) for line in lines]
    wide = -(-RESPONSES // len(read[0]["responses"]))
    groups = [read[i * wide : (i + 1) * wide] for i in range(count)]
    return [
        [
            {"id": f"{g}#{i}", "prompt": f"{group[0]['question']}\n", "completions": split_steps(response["text"])}
            for i, response in enumerate([r for problem in group for r in problem["responses"]][:RESPONSES])
        ]
        for g, group in enumerate(groups)
    ]


class PaddedLoop:
    """Scoring in batches padded on the right, with transformers alone."""

    def __init__(self, scorer: StepScorer, folder: Path, batch_size: int, dtype: str) -> None:
        self.tokenizer, self.contract, self.batch_size = scorer.format.tokenizer, scorer.format.contract, batch_size
        model = AutoModelForTokenClassification.from_pretrained(folder, dtype=getattr(torch, dtype))
        self.model = model.to(scorer.model.device).eval()
        self.positions = 0

    @torch.inference_mode()
    def score_rows(self, rows: list[Row]) -> Iterator[list[float]]:
        """The Q of each step of each row, in order."""
        for start in range(0, len(rows), self.batch_size):
            encoded = [
                encode_steps(self.tokenizer, self.contract, row["prompt"], row["completions"])
                for row in rows[start : start + self.batch_size]
            ]
            texts = [torch.tensor(prompt + response) for prompt, response, _ in encoded]
            ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
            mask = torch.arange(ids.shape[1]) < torch.tensor([len(text) for text in texts])[:, None]
            device = self.model.device
            logits = self.model(ids.to(device), attention_mask=mask.long().to(device)).logits
            self.positions += ids.numel()
            for (prompt, _, ends), of_row in zip(encoded, logits.squeeze(-1).float().cpu(), strict=True):
                yield of_row[[len(prompt) + end for end in ends]].tolist()


def needed_flops(scorer: StepScorer, rows: list[Row]) -> float:
    """Floating-point operations of one forward pass over the prompt and each response once, attention counted."""
    config: PretrainedConfig = scorer.model.config
    weights = sum(p.numel() for n, p in scorer.model.named_parameters() if "embed" not in n)
    tokens = keys = 0
    for number, row in enumerate(rows):
        prompt, response, _ = encode_steps(
            scorer.format.tokenizer, scorer.format.contract, row["prompt"], row["completions"]
        )
        if number == 0:
            tokens, keys = len(prompt), len(prompt) * (len(prompt) + 1) // 2
        tokens += len(response)
        keys += len(response) * len(prompt) + len(response) * (len(response) + 1) // 2
    return 2.0 * weights * tokens + 4.0 * config.num_hidden_layers * config.hidden_size * keys


def matrix_rate(device: str, dtype: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the product of two 2048 x 2048 matrices."""
    a = torch.randn(2048, 2048, device=device, dtype=getattr(torch, dtype))
    a @ a  # warm-up
    products, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        (a @ a).sum().item()
        products += 1
    return products * 2 * 2048**3 / (time.perf_counter() - start)


def ratio(args: argparse.Namespace, folder: Path) -> Row:
    """Pairs of both on different problems, in turns; the one that goes first changes."""
    scorer = StepScorer.load(folder, device=args.device, dtype=args.dtype)
    loop = PaddedLoop(scorer, folder, args.batch_size, args.dtype)
    warm_up, *problems = problems_of(args.data, args.pairs + 1)
    runs: list[Row] = []
    list(scorer.score_rows(warm_up[:4]))
    list(loop.score_rows(warm_up[:4]))
    for number, rows in enumerate(problems):
        run: Row = {"needed_flops": needed_flops(scorer, rows)}
        q_values: dict[str, list[list[float]]] = {}
        sides = {
            "qstep": lambda rows=rows: [q for scored in scorer.score_rows(rows) for _, q in scored],
            "padded_loop": lambda rows=rows: list(loop.score_rows(rows)),
        }
        for name in sorted(sides, reverse=bool(number % 2)):
            run[f"matrix_rate_before_{name}"] = matrix_rate(args.device, args.dtype)
            start = time.perf_counter()
            q_values[name] = sides[name]()
            run[name] = time.perf_counter() - start
            run[f"share_{name}"] = run["needed_flops"] / run[name] / run[f"matrix_rate_before_{name}"]
        pairs = zip(*q_values.values(), strict=True)
        run["largest_difference"] = max(abs(a - b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))
        if args.dtype == "float32" and run["largest_difference"] > 1e-3:
            raise RuntimeError(f"the Qs of the two differ by {run['largest_difference']}")
        runs.append(run)
    return {
        "responses": RESPONSES,
        "batch_size": args.batch_size,
        "ratio": statistics.median(run["padded_loop"] / run["qstep"] for run in runs),
        **{f"responses_per_second_{s}": RESPONSES / statistics.median(run[s] for run in runs) for s in sides},
        **{f"share_of_matrix_rate_{s}": statistics.median(run[f"share_{s}"] for run in runs) for s in sides},
        "runs": runs,
    }


def growth(folder: Path) -> Row:
    """Milliseconds a response, and the most memory held, at each size."""
    torch.manual_seed(0)
    Qwen3ForCausalLM(miniature.base_config()).save_pretrained(folder / "policy")
    miniature.tokenizer().save_pretrained(folder / "policy")
    scorer = fresh_scorer(folder / "policy", folder / "scorer")
    runs: dict[int, list[Row]] = {size: [] for size in SIZES}
    for size in SIZES:
        write_jsonl(folder / f"{size}.jsonl", miniature_rows(size))
    for size in SIZES * ROUNDS:
        command = [sys.executable, __file__, "--growth_of", str(folder / f"{size}.jsonl"), "--model", str(scorer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        runs[size].append(json.loads(done.stdout.splitlines()[-1]))
    measured = {
        str(size): {
            "milliseconds_per_response": statistics.median(1000 * (r["seconds"] - r["start"]) / size for r in of),
            "peak_bytes": max(run["peak_bytes"] for run in of),
            "runs": of,
        }
        for size, of in runs.items()
    }
    first, *others = measured.values()
    return {
        "sizes": measured,
        **{
            f"{measure}_ratio": max(of[measure] / first[measure] for of in others)
            for measure in ("milliseconds_per_response", "peak_bytes")
        },
    }


def miniature_rows(size: int) -> Iterator[Row]:
    """Responses of random digits, 64 to a problem; hardly two are the same."""
    draw = random.Random(0)
    for g, problem in enumerate(miniature.problems("train", -(-size // RESPONSES), 0)):
        for i in range(min(RESPONSES, size - g * RESPONSES)):
            steps = [f"{draw.randrange(10)}+{draw.randrange(10)}={draw.randrange(10)}" for _ in range(8)]
            steps.append(f"#{draw.randrange(10)}")
            row = {"id": f"{problem.id}#{i}", "problem_id": problem.id, "prompt": problem.prompt}
            yield row | {"completion": "\n".join(steps), "completions": steps, "step_separator": "\n"}


def score_once(rows: Path, scorer: str) -> None:
    """Runs `qstep score` on a file, and before on its first row; prints seconds and the most memory held."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "first.jsonl").write_text(rows.open(encoding="utf-8").readline())
        seconds = []
        for run, file in enumerate((folder / "first.jsonl", folder / "first.jsonl", rows)):
            start = time.perf_counter()
            score(ScoreConfig(file, folder / f"{run}.out.jsonl", scorer=scorer, device="cpu"))
            seconds.append(time.perf_counter() - start)
        status = Path("/proc/self/status").read_text().splitlines()
        peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024
        print(json.dumps({"start": seconds[1], "seconds": seconds[2], "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a policy to put the scorer's head on, such as SmolLM2-135M")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("QSTEP_DATA", "../shared/data")))
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--growth_of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    keep_freed_memory()  # as `qstep score` does; the loop beside it gains too
    if args.growth_of:
        score_once(args.growth_of, args.model)
        return
    with tempfile.TemporaryDirectory() as name:
        result = {
            "ratio": ratio(args, fresh_scorer(args.model, Path(name) / "smollm2")),
            "growth": growth(Path(name)),
            "provenance": provenance(vars(args)) | {"command": f"python {' '.join(sys.argv)}"},
        }
    beside, grown = result["ratio"], result["growth"]
    print(
        "{responses_per_second_qstep:.2f} responses/s, {ratio:.2f} times the padded loop; share of the matrix rate "
        "{share_of_matrix_rate_qstep:.2f} and {share_of_matrix_rate_padded_loop:.2f}".format(**beside)
    )
    for size, of in grown["sizes"].items():
        print(f"{size} responses: {of['milliseconds_per_response']:.3f} ms each, {of['peak_bytes'] / 2**20:.0f} MiB")
    if args.output:
        write_json(args.output, result)


if __name__ == "__main__":
    main()

"""qstep's trainers beside what a user has otherwise: TRL 1.13.0 and a padded loop, in one sitting on one machine.

    make bench-trl-env
    python benchmarks/training.py --model runs/smollm2-135m-instruct --trl_python .venv-trl/bin/python \
        --output benchmarks/results/training.json

The rows are real: the first 60 GSM8K problems with the responses of 12 models each (`gsm8k_responses.jsonl`), the
same tokens for every contender, 12 trajectories a step, AdamW and clipping. Each contender makes its own 60 batches
of all 720 trajectories. Of these `--steps` are run, evenly over the batches by their size, and the time for all is
that of the ones run, by the positions they compute (with `--steps 60` all are run). Contenders take turns for
`--rounds` rounds, each in a process of its own whose first step is a warm-up that does not count, and between them
the rate of a matrix product is measured. A step is labelled right if its response is (what a label says does not
change its cost).

Five parts, each with contenders of its own:

    verifier    qstep's PQM; TRL's PRMTrainer; a loop with the same loss on padded batches, drawn at random or sorted
                by length over all 720 trajectories
    few-shot    qstep's PQM and the length-sorted loop behind a prompt of eight worked examples (1,000 tokens); the
                loop takes four trajectories at once and accumulates their gradients
    policy      qstep's DQO with a separate value network, with one on the policy's trunk, and that with LoRA; qstep's
                REINFORCE; TRL's DPO with its reference log-probs computed beforehand, and that with LoRA (both: r = 16,
                all linear layers)
    dpo         qstep's DPO and TRL's on the same pairs: each right response of a problem against each wrong one; both
                also with LoRA. Trajectories are counted once, so their rates compare the times for all pairs.

    full        qstep's PQM and DQO with a value head, with 12 trajectories of each of `--problems` problems a step: how
                much of a device they can use. Not among the parts by default

Reported for each: trajectories a second, the process's peak memory (resident; on a GPU what torch allocated), and
the share of the matrix rate: floating-point operations that are needed (each prompt and each response once, attention
counted, the recomputation of logits not) a second, over the rate of a product of two 2048 x 2048 matrices.

`--family stablelm` takes a model of that family with random weights and the shape of `--model`: one that qstep cannot
pack, and computes in padded batches.

`--shape 1b` takes random weights in the shape of Llama 3.2 1B. On a GPU, what a device can do is measured by

    python benchmarks/training.py --model runs/smollm2-135m-instruct --parts full --problems 16 --device cuda \
        --dtypes bfloat16 --output benchmarks/results/training_full_gpu.json

and once more with `--shape 1b --problems 8`.

`--profile 3` prints where the time of three of qstep's PQM steps goes, instead.

A processor without bf16 instructions makes bf16 products at a hundredth of its fp32 rate or less: `--dtypes bfloat16`
is for a GPU (`--device cuda`) or a processor that has them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from qstep.cores import cores
from qstep.data import encode_prompt, encode_texts, split_steps

PEERS = Path(__file__).parent / "peers"
PROBLEMS = ("1", "2", "8", "16", "24")
RESPONSES = 12
FIRST_PROBLEMS = 60
SHOTS, SHOT_CHARACTERS = 8, 380

Row = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """One way to train.

    `order` is that of its batches, `micro_batch` how many trajectories one forward pass takes, `backward` what the
    backward pass costs in forward passes.
    """

    name: str
    script: str
    options: tuple[str, ...] = ()
    order: str = "problems"  # problems | random | pairs | all_pairs | length
    micro_batch: int = RESPONSES
    logits: bool = False
    trunks: int = 1
    backward: int = 2


PQM = Contender("qstep PQM", "qstep_trainer.py", ("--method", "pqm"))
SORTED_LOOP = Contender("padded loop, sorted by length", "padded_loop.py", order="length")
# Twelve sequences of 1,100 tokens at once would need 24 GiB.
SORTED_LOOP_BY_FOUR = replace(SORTED_LOOP, options=("--micro_batch", "4"), micro_batch=4)
DQO = Contender("qstep DQO, value head", "qstep_trainer.py", ("--method", "dqo_head"), logits=True)
OWN_DPO = Contender("qstep DPO", "qstep_trainer.py", ("--method", "dpo"), logits=True)
DPO = Contender("TRL DPO", "trl_dpo.py", order="pairs", logits=True)
PARTS: dict[str, tuple[Contender, ...]] = {
    "verifier": (
        PQM,
        Contender("TRL PRMTrainer", "trl_prm.py", order="random"),
        Contender("padded loop, random batches", "padded_loop.py", order="random"),
        SORTED_LOOP,
    ),
    "few-shot": (PQM, SORTED_LOOP_BY_FOUR),
    # The backward pass of frozen weights costs half.
    "policy": (
        replace(DQO, name="qstep DQO, separate value", options=("--method", "dqo_separate"), trunks=2),
        DQO,
        replace(DQO, name="qstep DQO, value head, LoRA", options=(*DQO.options, "--adapter", "lora"), backward=1),
        replace(DQO, name="qstep REINFORCE", options=("--method", "reinforce")),
        DPO,
        replace(DPO, name="TRL DPO, LoRA", options=("--adapter", "lora"), backward=1),
    ),
    "dpo": (
        OWN_DPO,
        replace(OWN_DPO, name="qstep DPO, LoRA", options=(*OWN_DPO.options, "--adapter", "lora"), backward=1),
        replace(DPO, order="all_pairs"),
        replace(DPO, name="TRL DPO, LoRA", options=("--adapter", "lora"), order="all_pairs", backward=1),
    ),
    "full": (PQM, DQO),
}
COMPARED = [part for part in PARTS if part != "full"]


def encode(tokenizer: PreTrainedTokenizerBase, problem: Row, shots: str) -> list[Row]:
    """One row a response, with every column any contender reads."""
    separator = tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert len(separator) == 1, "the contenders put one separator token after each step"
    prompt = f"{shots}{problem['question']}\n"
    rows = []
    for number, response in enumerate(problem["responses"]):
        steps = split_steps(response["text"])
        response_ids: list[int] = []
        step_ends: list[int] = []
        for ids in encode_texts(tokenizer, steps):
            response_ids += [*ids, *separator]
            step_ends.append(len(response_ids) - 1)
        rows.append(
            {
                "id": f"{problem['problem_id']}#{number}",
                "problem_id": problem["problem_id"],
                "prompt": prompt,
                "completions": steps,
                "labels": [response["correct"]] * len(steps),
                "completion": response["text"],
                "reward": float(response["correct"]),
                "prompt_ids": encode_prompt(tokenizer, prompt),
                "response_ids": response_ids,
                "step_ends": step_ends,
            }
        )
    return rows


def read_problems(data: Path, tokenizer: PreTrainedTokenizerBase, shots: str) -> list[list[Row]]:
    """The rows of the first problems, a list a problem."""
    with (data / "gsm8k_responses.jsonl").open(encoding="utf-8") as file:
        return [encode(tokenizer, json.loads(next(file)), shots) for _ in range(FIRST_PROBLEMS)]


def worked_examples(data: Path) -> str:
    """Eight worked problems of GSM8K's training split, of the shorter ones."""
    with (data / "gsm8k_train.jsonl").open(encoding="utf-8") as file:
        texts = (f"{row['question']}\n{row['answer']}\n\n" for row in map(json.loads, file))
        short = (text for text in texts if len(text) <= SHOT_CHARACTERS)
        return "".join(next(short) for _ in range(SHOTS))


def spread(batches: list[list[Row]], contender: Contender, count: int) -> list[list[Row]]:
    """`count` of the batches, evenly over all of them in the order of their size, then shuffled."""
    by_size = sorted(batches, key=lambda batch: positions([batch], contender))
    chosen = [by_size[(2 * i + 1) * len(by_size) // (2 * count)] for i in range(count)]
    random.Random(0).shuffle(chosen)
    return chosen


def batches_of(problems: list[list[Row]], order: str) -> list[list[Row]]:
    """All batches of one contender over the whole run.

    `pairs` are of the same problem, and drawn at random like single trajectories; `all_pairs` are a right and a wrong
    response of a problem, every such pair once; `length` sorts all trajectories, so that as little as possible is
    padded.
    """
    if order == "problems":
        return problems
    if order == "all_pairs":
        problems = [[row for pair in right_and_wrong(rows) for row in pair] for rows in problems]
    rows = [row for problem in problems for row in problem]
    size = 2 if order in ("pairs", "all_pairs") else 1
    units = [rows[start : start + size] for start in range(0, len(rows), size)]
    random.Random(1).shuffle(units)
    rows = [row for unit in units for row in unit]
    if order == "length":
        rows.sort(key=length)
    return [rows[start : start + RESPONSES] for start in range(0, len(rows) - len(rows) % RESPONSES, RESPONSES)]


def right_and_wrong(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Each right response of a problem with each wrong one."""
    return [(better, worse) for better in rows for worse in rows if better["reward"] > worse["reward"]]


def length(row: Row) -> int:
    return len(row["prompt_ids"]) + len(row["response_ids"])


def positions(batches: list[list[Row]], contender: Contender) -> int:
    """The positions a contender computes: each problem's prompt once and no padding, or whole padded micro-batches."""
    if contender.order == "problems":
        return sum(len(b[0]["prompt_ids"]) + sum(len(row["response_ids"]) for row in b) for b in batches)
    size = contender.micro_batch
    parts = [batch[start : start + size] for batch in batches for start in range(0, len(batch), size)]
    return sum(len(part) * max(map(length, part)) for part in parts)


def layer_weights(config: Any) -> int:
    """The weights of one layer's linear maps."""
    heads = config.num_attention_heads + config.num_key_value_heads
    return 2 * config.hidden_size * head_size(config) * heads + 3 * config.hidden_size * config.intermediate_size


def head_size(config: Any) -> int:
    """The size of a head of attention, which some families do not name."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def needed_flops(problems: list[list[Row]], config: Any, contender: Contender) -> float:
    """Floating-point operations that training on the problems needs: nothing repeated, padded or recomputed."""
    tokens = positions(problems, PQM)
    seen = 0  # by each token: those before it, and itself
    for rows in problems:
        prompt = len(rows[0]["prompt_ids"])
        lengths = [len(row["response_ids"]) for row in rows]
        seen += prompt * (prompt + 1) // 2 + sum(n * prompt + n * (n + 1) // 2 for n in lengths)
    forward = (
        contender.trunks
        * config.num_hidden_layers
        * (2 * layer_weights(config) * tokens + 4 * config.num_attention_heads * head_size(config) * seen)
    )
    if contender.logits:
        responses = sum(len(row["response_ids"]) for rows in problems for row in rows)
        forward += 2 * config.hidden_size * config.vocab_size * responses
    return forward * (1 + contender.backward)


def matrix_rate(args: argparse.Namespace, dtype: str, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the product of two 2048 x 2048 matrices."""
    a = torch.randn(2048, 2048, device=args.device, dtype=getattr(torch, dtype))
    products, start = 0, 0.0
    while products == 0 or time.perf_counter() - start < seconds:
        if products == 0:
            a @ a  # warm-up
            start = time.perf_counter()
        a @ a
        if args.device == "cuda":
            torch.cuda.synchronize()
        products += 1
    return products * 2 * 2048**3 / (time.perf_counter() - start)


def run(args: argparse.Namespace, contender: Contender, dtype: str, batches: list[list[Row]], *extra: str) -> Row:
    """What a contender's process prints last, having trained on the batches; the first of them is the warm-up."""
    python = args.trl_python if contender.script.startswith("trl") else sys.executable
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        rows.write_text("".join(json.dumps(row) + "\n" for batch in batches for row in batch), encoding="utf-8")
        command = [python, PEERS / contender.script, *contender.options, *extra]
        command += ["--model", args.model, "--rows", rows, "--output_dir", folder, "--batch_size", RESPONSES]
        command += ["--dtype", dtype, "--device", args.device, "--threads", args.threads]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(
            f"{contender.name} failed ({done.returncode}; -9: killed, perhaps for its memory):\n{done.stderr[-4000:]}"
        )
    result: Row = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(args: argparse.Namespace, part: str, dtype: str) -> Row:
    """All contenders of a part, taking turns."""
    tokenizer, config = AutoTokenizer.from_pretrained(args.model), AutoConfig.from_pretrained(args.model)
    everything = read_problems(args.data, tokenizer, worked_examples(args.data) if part == "few-shot" else "")
    if part == "dpo":
        everything = [rows for rows in everything if right_and_wrong(rows)]
    rounds = args.rounds
    steps = {"verifier": args.steps, "few-shot": args.few_shot_steps}.get(part, args.policy_steps)
    at_once = int(args.problems) if part == "full" else 1
    by_size = sorted(everything, key=lambda rows: positions([rows], PQM))
    warm_up, more = by_size[:at_once], () if at_once == 1 else ("--problems", args.problems)
    if at_once > 1:
        everything, rounds = by_size[at_once:], 1
        steps = len(everything) // at_once * at_once
    contenders = PARTS[part]
    plans = {c.name: batches_of(everything, c.order) for c in contenders}
    chosen = {c.name: spread(plans[c.name], c, steps) for c in contenders}
    runs: dict[str, list[Row]] = {contender.name: [] for contender in contenders}
    rates = [matrix_rate(args, dtype)]
    for turn in range(rounds):
        for contender in contenders:
            batches = chosen[contender.name][turn::rounds]
            result = run(args, contender, dtype, [*warm_up, *batches], *more)
            rates.append(matrix_rate(args, dtype))
            result["matrix_rate"] = (rates[-2] + rates[-1]) / 2
            runs[contender.name].append(result)
            print(
                f"{part}, {dtype}, round {turn + 1}: {contender.name} {result['seconds']:.1f} s for "
                f"{result['trajectories']} trajectories, {result['peak_bytes'] / 2**30:.2f} GiB, "
                f"matrix rate {result['matrix_rate'] / 1e9:.0f} GFLOP/s",
                flush=True,
            )
    figures = {c.name: summary(c, everything, plans[c.name], chosen[c.name], config, runs[c.name]) for c in contenders}
    return {
        "trajectories": steps * RESPONSES,
        "rounds": rounds,
        "prompt_tokens": statistics.fmean(len(rows[0]["prompt_ids"]) for rows in everything),
        "response_tokens": statistics.fmean(len(row["response_ids"]) for rows in everything for row in rows),
        "matrix_gflops_per_second": statistics.median(rates) / 1e9,
        "contenders": figures,
        "ratios": ratios(figures),
    }


def summary(
    contender: Contender,
    problems: list[list[Row]],
    plan: list[list[Row]],
    chosen: list[list[Row]],
    config: Any,
    runs: list[Row],
) -> Row:
    """One contender's figures over all its rounds."""
    all_over_run = positions(plan, contender) / positions(chosen, contender)
    seconds = sum(run["seconds"] for run in runs) * all_over_run
    possible = sum(run["seconds"] * run["matrix_rate"] for run in runs) * all_over_run
    return {
        "trajectories_per_second": sum(map(len, problems)) / seconds,
        "peak_gib": max(run["peak_bytes"] for run in runs) / 2**30,
        "share_of_matrix_rate": needed_flops(problems, config, contender) / possible,
        "positions_over_needed": positions(plan, contender) / positions(problems, PQM),
        "positions_run": positions(chosen, contender),
        "positions_of_all": positions(plan, contender),
        "seconds_run": [run["seconds"] for run in runs],
    }


def ratios(figures: dict[str, Row]) -> Row:
    """Each of qstep's contenders over each of the others: speed (more is better) and peak memory (less is better)."""
    return {
        f"{ours} / {other}": {
            "speed": figures[ours]["trajectories_per_second"] / figures[other]["trajectories_per_second"],
            "memory": figures[ours]["peak_gib"] / figures[other]["peak_gib"],
        }
        for ours in figures
        if ours.startswith("qstep")
        for other in figures
        if not other.startswith("qstep")
    }


def show_profile(args: argparse.Namespace) -> Row:
    """Profiles qstep's PQM on a few problems of middling size."""
    tokenizer, config = AutoTokenizer.from_pretrained(args.model), AutoConfig.from_pretrained(args.model)
    chosen = spread(read_problems(args.data, tokenizer, ""), PQM, args.profile + 1)
    rate = matrix_rate(args, args.dtypes[0]) / 1e9
    table = run(args, PQM, args.dtypes[0], chosen, "--profile", "yes")
    rate = (rate + matrix_rate(args, args.dtypes[0]) / 1e9) / 2
    products = 6 * config.num_hidden_layers * layer_weights(config) * positions(chosen[1:], PQM) / args.profile
    table["matrix_gflops_per_second"] = products / table["seconds_a_step"] / table["share"]["matrix products"] / 1e9
    print(
        f"{table['seconds_a_step']:.2f} s of operations a step of {RESPONSES} trajectories, {table['threads']} threads"
    )
    for kind, share in table["share"].items():
        print(f"{share:7.1%}  {kind}")
    print(f"matrix products run at {table['matrix_gflops_per_second']:.0f} GFLOP/s; one of 2048 x 2048 at {rate:.0f}")
    for operation in table["operations"]:
        print(f"{operation['seconds']:8.3f} s {operation['calls']:7.0f} calls  {operation['name']}")
    return {**table, "matrix_2048_gflops_per_second": rate}


def provenance(args: argparse.Namespace) -> Row:
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "src", "benchmarks"], capture_output=True, text=True)
    cpu = Path("/proc/cpuinfo")
    models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")] if cpu.exists() else []
    return {
        "command": "python benchmarks/training.py " + " ".join(sys.argv[1:]),
        "commit": head,
        "uncommitted_changes": bool(changed.stdout.strip()),
        "hardware": {
            "processor": models[0].split(":", 1)[1].strip() if models else platform.processor(),
            "cores": cores(),
            "threads": args.threads,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        },
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        **{"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64},
    }
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint; examples/data/make_smollm2.py writes SmolLM2-135M")
    data = os.environ.get("QSTEP_DATA", Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(data), help="folder with gsm8k_{responses,train}.jsonl")
    parser.add_argument("--trl_python", help="python of an environment with trl 1.13.0 (make bench-trl-env)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=COMPARED)
    parser.add_argument("--problems", choices=PROBLEMS[1:], default="16", help="problems a step of the part `full`")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--steps", type=int, default=12, help="optimizer steps of the verifier part, at most 60")
    parser.add_argument("--few_shot_steps", type=int, default=3)
    parser.add_argument("--policy_steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--family", help="a family of transformers, for a random model of the shape of --model")
    parser.add_argument("--shape", choices=SHAPES, help="a shape, for a random model")
    parser.add_argument("--profile", type=int, default=0, help="profile this many steps of qstep's PQM instead")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    args = parser.parse_args()
    if not args.profile and args.trl_python is None and not set(args.parts) <= {"few-shot", "full"}:
        parser.error("--trl_python is needed: `make bench-trl-env` makes .venv-trl/bin/python")
    torch.set_num_threads(args.threads)
    return args


def show(name: str, part: Row) -> None:
    print(f"\n{name}: {part['trajectories']} trajectories, {part['matrix_gflops_per_second']:.0f} GFLOP/s")
    for contender, of in part["contenders"].items():
        print(
            f"  {contender}: {of['trajectories_per_second']:.3f} trajectories/s, {of['peak_gib']:.2f} GiB, "
            f"{of['share_of_matrix_rate']:.0%} of the matrix rate, "
            f"{of['positions_over_needed']:.2f} times the positions that are needed"
        )
    for pair, of in part["ratios"].items():
        print(f"  {pair}: {of['speed']:.2f} x the speed, {of['memory']:.2f} x the memory", flush=True)


SHAPE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("vocab_size", "max_position_embeddings", "tie_word_embeddings", "bos_token_id", "eos_token_id"),
)


def random_model(family: str, shape: str | None, like: str, folder: str) -> str:
    """Writes a model of a family with random weights, the tokenizer of another, and its shape or one of `SHAPES`."""
    other = AutoConfig.from_pretrained(like)
    torch.manual_seed(0)
    own = {} if shape is None else SHAPES[shape]
    config = AutoConfig.for_model(family, **{**{name: getattr(other, name) for name in SHAPE}, **own})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(like).save_pretrained(folder)
    return folder


def main() -> None:
    args = parse()
    result = provenance(args)
    if args.family or args.shape:
        args.model = random_model(args.family or "llama", args.shape, args.model, tempfile.mkdtemp())

    def write() -> None:
        if args.output:
            args.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")

    if args.profile:
        result["profile"] = show_profile(args)
        write()
        return
    result["parts"] = {}
    for dtype in args.dtypes:
        for part in args.parts:
            name = f"{part}, {dtype}"
            result["parts"][name] = measure(args, part, dtype)
            show(name, result["parts"][name])
            write()  # what is measured is kept if a later part runs out of memory


if __name__ == "__main__":
    main()

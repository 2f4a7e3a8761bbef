"""qstep's in-process engine beside `model.generate` of transformers, in one run on one machine.

    python benchmarks/generation.py [--model PATH] [--output results.json]

Both draw 16 responses for each of the same problems of the miniature task, from the same model, at
temperature 1 and with the same limit, and the repeats alternate. Tokens per second count the tokens
sampled, the end of the sequence included; padding after it does not count. Both times include decoding
to text. Without `--model`, a base policy of the miniature task is trained first, briefly, so that
responses have the lengths of real ones. The engine makes its own batches of all problems; `generate` is
given one problem a call, as a loop over a data set does, and, in its best form, 16 problems (256 rows) a
call, sorted by prompt length.

The engine computes a sequence of tokens once, however many responses begin with it. How much that saves
depends on how sure of itself the model is, and a policy of the miniature is.

Tokens per CPU second are the same count over the processor time of the process, which other work on the machine
disturbs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase, Qwen3ForCausalLM

from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.runs.provenance import provenance
from qstep.tasks import miniature

SAMPLES = 16
PROBLEMS_A_CALL = (1, 16)


def train_base(steps: int, seed: int) -> Qwen3ForCausalLM:
    """A miniature policy after `steps` batches of 32 pages of the textbook."""
    torch.manual_seed(seed)
    tokenizer = miniature.tokenizer()
    model = Qwen3ForCausalLM(miniature.base_config())
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    rows = miniature.textbook(32 * steps, seed)
    for step in range(steps):
        texts = [row["prompt"] + row["completion"] + tokenizer.eos_token for row in rows[32 * step : 32 * step + 32]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 4e-3 * min((step + 1) / 50, 1 - step / steps)
        optimizer.step()
    return model.eval()


def sample_qstep(engine: HFEngine, prompts: list[list[int]], limit: int, seed: int) -> list[int]:
    """Lengths of the responses of qstep's engine."""
    requests = [Request(str(index), ids, range(SAMPLES)) for index, ids in enumerate(prompts)]
    settings = SamplingSettings(limit, temperature=1.0, seed=seed)
    return [len(response.token_ids) for _, responses in engine.sample(requests, settings) for response in responses]


def sample_transformers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    limit: int,
    seed: int,
    problems_a_call: int,
) -> list[int]:
    """Lengths of the responses of `model.generate`."""
    torch.manual_seed(seed)
    lengths: list[int] = []
    ordered = sorted(prompts, key=len)
    for start in range(0, len(ordered), problems_a_call):
        inputs = {"input_ids": ordered[start : start + problems_a_call]}
        batch = tokenizer.pad(inputs, padding_side="left", return_tensors="pt")
        output = model.generate(
            **batch.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=SAMPLES,
            max_new_tokens=limit,
            pad_token_id=tokenizer.pad_token_id,
        )
        responses = output[:, batch["input_ids"].shape[1] :]
        tokenizer.batch_decode(responses, skip_special_tokens=True)
        lengths.extend((responses != tokenizer.pad_token_id).sum(dim=1).tolist())
    return lengths


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """Alternating repeats of both samplers, with the medians."""
    tokenizer = miniature.tokenizer()
    if args.model:
        model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    else:
        model = train_base(args.train_steps, args.seed)
    model.to(args.device)
    prompts = [
        tokenizer(problem.prompt)["input_ids"] for problem in miniature.problems("validation", args.problems, args.seed)
    ]
    engine = HFEngine(model, tokenizer)
    samplers = {
        "qstep": lambda ids, seed: sample_qstep(engine, ids, args.max_new_tokens, seed),
        **{
            f"generate, {n} problems a call": partial(
                lambda n, ids, seed: sample_transformers(model, tokenizer, ids, args.max_new_tokens, seed, n), n
            )
            for n in PROBLEMS_A_CALL
        },
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in samplers}
    for sampler in samplers.values():
        sampler(prompts[:16], args.seed)  # warm-up
    for repeat in range(args.repeats):
        for name, sampler in samplers.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            lengths = sampler(prompts, args.seed + repeat)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
            runs[name].append(
                {
                    "tokens_per_second": sum(lengths) / seconds,
                    "tokens_per_cpu_second": sum(lengths) / cpu_seconds,
                    "seconds": seconds,
                    "tokens": sum(lengths),
                    "mean_length": statistics.fmean(lengths),
                }
            )
    medians = {
        measure: {name: statistics.median(run[measure] for run in runs[name]) for name in runs}
        for measure in ("tokens_per_second", "tokens_per_cpu_second")
    }
    return {
        "problems": args.problems,
        "samples": SAMPLES,
        "max_new_tokens": args.max_new_tokens,
        "prompt_lengths": [min(map(len, prompts)), max(map(len, prompts))],
        "medians": medians,
        "ratios": {
            measure: {name: of["qstep"] / rate for name, rate in of.items() if name != "qstep"}
            for measure, of in medians.items()
        },
        "runs": runs,
        "provenance": provenance({**vars(args), "threads": torch.get_num_threads()})
        | {"command": f"python {' '.join(sys.argv)}"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a miniature policy; trained here if absent")
    parser.add_argument("--output", type=Path, help="where to write the result as JSON")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = compare(args)
    print(result["provenance"])
    for name, runs in result["runs"].items():
        mean_length = statistics.fmean(run["mean_length"] for run in runs)
        print(f"{name}: responses of {mean_length:.1f} tokens on average")
    for measure, medians in result["medians"].items():
        rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in medians.items())
        ratios = ", ".join(f"{ratio:.2f} times {name}" for name, ratio in result["ratios"][measure].items())
        print(f"{measure}: {rates}; qstep is {ratios} (medians of {args.repeats})")
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

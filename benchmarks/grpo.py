"""TRL's GRPO on the miniature, with rewards of `qstep.rewards`: does the reward rise, and the accuracy with it?

    qstep run src/qstep/recipes/miniature.yaml --only pqm     # the policy runs/demo/base, the scorer runs/demo/pqm
    make .venv-trl16/.ready
    .venv-trl16/bin/python benchmarks/grpo.py --output benchmarks/results/grpo_miniature.json

Each run starts from the same policy and draws the same problems. Only the reward differs:

    outcome   1 for a right final answer (`OutcomeReward`)
    min       the lowest step by PQM (`StepReward`, min-form)
    sum       the sum of all steps by PQM (`StepReward`)
    sum_cut   the same sum without the policy's tokenizer: responses that were cut off are not recognised
    steps     a control that reads nothing: the number of steps, in tens

`outcome+min` trains by the sum of both.

Before the first step and after every `--eval_steps`, each problem of `--split` gets `--samples` responses of the
policy. They are graded exactly. In addition, all rewards of these responses are reported, whatever the run is trained
on, and what a policy changes that exploits its reward: tokens, steps, steps beyond those that the problem needs,
repeated steps, blank lines, responses without an answer or with one step. `auc` says how well PQM's min-form orders
right and wrong responses to the same problem. `reward_with_steps` is the rank correlation of the trained reward with
the number of steps, within problems.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

import qstep
from qstep.data import split_steps, write_json
from qstep.evals import as_json
from qstep.evals.auc import within_problem_auc
from qstep.evals.intervals import mean_estimate, numbered
from qstep.evals.length import within_problem_correlation
from qstep.generation import HFEngine, Request, SamplingSettings
from qstep.runs.provenance import provenance
from qstep.tasks import miniature
from qstep.types import Problem

MAX_TOKENS = 64


def steps_reward(completions: list[str], **_: Any) -> list[float]:
    """The control: it rewards steps, whatever they say."""
    return [len(split_steps(completion)) / 10 for completion in completions]


def rewards_of(pqm: str, tokenizer: Any) -> dict[str, Any]:
    scorer = qstep.load_scorer(pqm)
    return {
        "outcome": qstep.OutcomeReward("miniature", gold="gold"),
        "min": qstep.StepReward(scorer, "min", tokenizer=tokenizer),
        "sum": qstep.StepReward(scorer, "sum", tokenizer=tokenizer),
        "sum_cut": qstep.StepReward(scorer, "sum"),
        "steps": steps_reward,
    }


def diagnostics(completion: str, prompt: str, tokens: int, finish_reason: str) -> dict[str, float]:
    """What a policy that exploits a reward changes, of one response."""
    steps = split_steps(completion)
    needed = (len(prompt.strip()) - 1) // 2 + 1  # a line for each operation, and the answer
    return {
        "tokens": tokens,
        "steps": len(steps),
        "steps_beyond_needed": len(steps) - needed,
        "repeated_steps": len(steps) - len({*steps}),
        "blank_lines": sum(not line.strip() for line in completion.split("\n")),
        "single_step": float(len(steps) == 1),
        "no_answer": float(miniature.grade("0", completion).answer is None),
        "cut_off": float(finish_reason == "length"),
        "right_steps": fmean(miniature.check_steps(prompt, steps)) if steps else 0.0,
    }


def evaluate(
    policy: Any, tokenizer: Any, problems: list[Problem], samples: int, rewards: dict[str, Any], trained: str
) -> dict[str, Any]:
    """The accuracy on problems with its interval, the mean of every reward, and the diagnostics."""
    requests = [Request(problem.id, tokenizer.encode(problem.prompt), range(samples)) for problem in problems]
    by_id = {problem.id: problem for problem in problems}
    drawn = HFEngine(policy, tokenizer).sample(requests, SamplingSettings(MAX_TOKENS, seed=1))
    pairs = [(by_id[request.key], response) for request, responses in drawn for response in responses]
    prompts, completions = [of.prompt for of, _ in pairs], [response.text for _, response in pairs]
    of_trl = {"completion_ids": [r.token_ids for _, r in pairs], "gold": [of.gold for of, _ in pairs]}
    found = {name: reward(prompts=prompts, completions=completions, **of_trl) for name, reward in rewards.items()}
    paid = list(map(sum, zip(*(found[name] for name in trained.split("+")), strict=True)))
    names, right = [of.id for of, _ in pairs], [value == 1 for value in found["outcome"]]
    rates = [fmean(r for r, name in zip(right, names, strict=True) if name == problem.id) for problem in problems]
    of_each = [diagnostics(r.text, of.prompt, len(r.token_ids), r.finish_reason) for of, r in pairs]
    lengths = [facts["steps"] for facts in of_each]
    return {
        "accuracy": as_json(mean_estimate(rates)),
        "rewards": {name: fmean(values) for name, values in found.items()},
        "diagnostics": {name: fmean(facts[name] for facts in of_each) for name in of_each[0]},
        "auc": as_json(within_problem_auc(found["min"], right, names)),
        "reward_with_steps": as_json(within_problem_correlation(paid, lengths, numbered(names))),
        "examples": [f"{prompt}{text}" for prompt, text in zip(prompts[:2], completions[:2], strict=True)],
    }


class Evaluations(TrainerCallback):
    """Evaluates the policy before the first step and after every `eval_steps`."""

    def __init__(self, every: int, judge: Any) -> None:
        self.every, self.judge = every, judge
        self.found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._add(0, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step % self.every == 0:
            self._add(state.global_step, model)

    def _add(self, step: int, model: Any) -> None:
        was_training = model.training
        self.found.append({"step": step, **self.judge(model.eval())})
        model.train(was_training)
        shown = {name: round(value, 3) for name, value in self.found[-1]["rewards"].items()}
        print(step, round(self.found[-1]["accuracy"]["mean"], 3), shown, flush=True)


def run(args: argparse.Namespace, name: str, rewards: dict[str, Any], tested: list[Problem]) -> dict[str, Any]:
    """One training by one reward: the evaluations, and what TRL logged."""
    from trl import GRPOConfig, GRPOTrainer  # from an environment of its own; the other functions need none

    tokenizer = AutoTokenizer.from_pretrained(args.base)
    wanted = args.steps * args.batch // args.generations
    learned = miniature.problems("train", wanted, args.seed)
    rows = [{"prompt": problem.prompt, "gold": problem.gold} for problem in learned]
    config = GRPOConfig(
        output_dir=str(Path(args.work) / name),
        max_steps=args.steps,
        per_device_train_batch_size=args.batch,
        num_generations=args.generations,
        max_completion_length=MAX_TOKENS,
        learning_rate=args.learning_rate,
        lr_scheduler_type="constant",
        beta=args.kl,
        temperature=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=args.seed,
    )
    judged = Evaluations(
        args.eval_steps, lambda policy: evaluate(policy, tokenizer, tested, args.samples, rewards, name)
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32),
        reward_funcs=[rewards[one] for one in name.split("+")],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[judged],
    )
    began = time.perf_counter()
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    kept = (
        "step",
        "reward",
        "reward_std",
        "entropy",
        "grad_norm",
        "completions/mean_length",
        "completions/clipped_ratio",
    )
    logged = [
        {key: value for key, value in entry.items() if key in kept or key.startswith("pqm_")} | {"step": place}
        for place, entry in zip(range(5, args.steps + 1, 5), log, strict=True)
    ]
    return {"seconds": time.perf_counter() - began, "evaluations": judged.found, "log": logged}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="runs/demo/base", help="the policy to start from")
    parser.add_argument("--pqm", default="runs/demo/pqm", help="the scorer")
    parser.add_argument("--output", required=True, help="the JSON file to write")
    parser.add_argument("--work", default="runs/grpo", help="the folder that TRL asks for")
    parser.add_argument(
        "--rewards",
        default="outcome,min,outcome+min,sum,sum_cut,steps",
        help="the rewards to train by, one after another",
    )
    parser.add_argument("--split", default="test", help="the problems to judge by")
    parser.add_argument("--seed", type=int, default=0, help="seed of the problems and of the training")
    parser.add_argument("--steps", type=int, default=30, help="number of updates")
    parser.add_argument("--batch", type=int, default=64, help="completions of an update")
    parser.add_argument("--generations", type=int, default=8, help="completions of a problem")
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--kl", type=float, default=0.0, help="GRPO's beta: the weight of the KL to the first policy")
    parser.add_argument("--problems", type=int, default=200, help="number of problems to judge by")
    parser.add_argument("--samples", type=int, default=4, help="responses to each of them")
    parser.add_argument("--eval_steps", type=int, default=15)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rewards = rewards_of(args.pqm, AutoTokenizer.from_pretrained(args.base))
    tested = list(miniature.problems(args.split, args.problems, args.seed))
    runs = {}
    for name in args.rewards.split(","):
        print(name, flush=True)
        runs[name] = run(args, name, rewards, tested)
        result = {
            "runs": runs,
            "provenance": provenance({**vars(args), "threads": torch.get_num_threads()})
            | {"command": f"python {' '.join(sys.argv)}"},
        }
        write_json(Path(args.output), result)
    print(json.dumps({name: found["evaluations"][-1]["accuracy"] for name, found in runs.items()}, indent=1))


if __name__ == "__main__":
    main()

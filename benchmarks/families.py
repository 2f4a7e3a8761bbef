"""Runs every family of decoders at tiny size through the commands, and writes the table of docs/models.md.

    python benchmarks/families.py                        # all families, into docs/models.md
    python benchmarks/families.py --families llama mamba2 --output table.md

Each family is a random model of two layers. It is trained by every method, with a LoRA adapter that is merged, scored,
sampled, killed and resumed. Its log-probabilities and gradients are compared with those of each response alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.models.auto import tokenization_auto

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from labelled import labelled_rows
from model_families import FAMILIES, PADDED, saved, tiny
from qstep.cli import main
from qstep.data import write_jsonl
from qstep.models import PolicyModel, collate_groups
from qstep.models.packing import is_packed
from qstep.objectives import METHODS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9], [3]]
RESPONSES = [[[1, 2, 3, 4], [5, 6]], [[7], [8, 9, 10], [2] * 6], [[5]]]

# transformers would read the miniature's tokenizer as one of the family's.
_OWN_TOKENIZER = (
    "from transformers.models.auto import tokenization_auto; "
    "tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.clear()"
)
_TINY = "--max_steps 4 --max_length 128 --per_device_train_batch_size 4 --learning_rate 1e-2"
_QUIET = "--logging_steps 1 --use_cpu true --report_to none --disable_tqdm true"


@dataclass(frozen=True)
class Found:
    """What was found of a family.

    batches: how it is computed. reason: why it is padded. difference: the greatest, of log-probs and gradients.
    """

    family: str
    batches: str
    reason: str
    difference: float


def differences(family: str) -> Found:
    """Compares a batch of groups with each of its responses alone."""
    messages: list[str] = []
    logger, handler = logging.getLogger("qstep.models.packable"), logging.StreamHandler(io.StringIO())
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    plain, policy = tiny(family), PolicyModel(tiny(family))
    logger.removeHandler(handler)
    expected = [
        plain(torch.tensor([prompt + ids]), use_cache=False)
        .logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        .gather(1, torch.tensor(ids)[:, None])[:, 0]
        for prompt, group in zip(PROMPTS, RESPONSES, strict=True)
        for ids in group
    ]
    logps = policy(collate_groups(PROMPTS, RESPONSES))
    found = [float((row[: len(own)] - own).detach().abs().max()) for row, own in zip(logps, expected, strict=True)]
    torch.cat(expected).sum().backward()
    logps.sum().backward()
    largest = max(float(p.grad.norm()) for p in plain.parameters() if p.grad is not None)
    for own, other in zip(plain.parameters(), policy.pretrained.parameters(), strict=True):
        if own.grad is not None and other.grad is not None:
            found.append(float((own.grad - other.grad).norm()) / largest)
    reason = messages[0].partition(": ")[2].partition(". ")[0] if messages else ""
    padded = "padded, prompts once" if policy.trunk.shares_prompts else "padded"
    packed = "packed, prompts copied" if policy.trunk.copies_prompts else "packed"
    return Found(family, packed if is_packed(policy.trunk) else padded, reason, max(found))


def call(command: str) -> None:
    """Runs a command of qstep in this process. Raises RuntimeError, with what it said, if it fails."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(command.split())
    if status != 0:
        raise RuntimeError(f"qstep {command}\n{said.getvalue()}")


def use(family: str, folder: Path, methods: Iterable[str] = METHODS) -> None:
    """Training by the methods, score, sample, an adapter that is merged, and a kill. Raises if something fails."""
    base, data = saved(family, folder / "base"), folder / "rows.jsonl"
    write_jsonl(data, labelled_rows(8))
    training = f"--model_name_or_path {base} --train_file {data} {_TINY} {_QUIET}"
    for method in methods:
        values = [" --value separate", " --value head"] if method == "dqo" else [""]
        for number, value in enumerate(values):
            call(f"train {method} {training}{value} --save_strategy no --output_dir {folder}/{method}{number}")
    call(f"score --input {data} --scorer {folder}/pqm0 --output {folder}/scored.jsonl")
    sampling = "--dataset_name miniature --num_problems 4 --num_samples 4 --max_new_tokens 12 --seed 1"
    call(f"sample --model_name_or_path {folder}/dqo0 {sampling} --output {folder}/samples.jsonl")
    call(f"train rs {training} --use_peft true --save_strategy no --output_dir {folder}/adapter")
    call(f"merge --model_name_or_path {folder}/adapter --output_dir {folder}/merged")
    call(f"sample --model_name_or_path {folder}/merged {sampling} --output {folder}/of_merged.jsonl")
    resume(f"train rs {training} --save_steps 1 --output_dir {folder}/killed", folder / "killed")
    killed, whole = (folder / name / "model.safetensors" for name in ("killed", "rs0"))
    if killed.read_bytes() != whole.read_bytes():
        raise RuntimeError(f"{family}: a killed run ends with other weights")


def resume(command: str, output: Path) -> None:
    """Kills a training after its second checkpoint, and runs it again."""
    code = f"{_OWN_TOKENIZER}; import sys; from qstep.cli import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    arguments = [sys.executable, "-c", code, *command.split()]
    with subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not (output / "checkpoint-2").exists():
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    call(command)


def table(families: Iterable[str]) -> str:
    tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS.clear()
    lines = ["| family | batches | greatest difference | why padded |", "|---|---|---|---|"]
    for family in families:
        found = differences(family)
        with tempfile.TemporaryDirectory() as folder:
            use(family, Path(folder))
        lines.append(f"| `{family}` | {found.batches} | {found.difference:.0e} | {found.reason} |")
        print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def write(text: str, page: Path) -> None:
    """Puts the table on the page, in the place of the former one."""
    if not page.exists() or BEGIN not in page.read_text(encoding="utf-8"):
        page.write_text(BEGIN + text + END, encoding="utf-8")
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    page.write_text(before + BEGIN + text + END + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", default=[*FAMILIES, *PADDED], help="names of model types")
    parser.add_argument("--output", type=Path, default=PAGE, help="the page that has the table")
    args = parser.parse_args()
    write(table(args.families), args.output)

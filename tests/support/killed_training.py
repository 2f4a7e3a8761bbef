"""Trainings that processes of their own run, to be killed: in the middle of anything, or at a named point.

The processes are forked from a server that has imported what they need, so each costs a second rather than ten.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Qwen3Config, Qwen3ForCausalLM

from forked import CONTEXT
from labelled import labelled_rows
from qstep.data import write_jsonl
from qstep.objectives import METHODS as TABLE
from qstep.stages.train import TrainInputs, train
from qstep.tasks import miniature
from tiny_trainers import VARIANTS, variant

METHODS = ("rs", "pqm", "dpo", "kto", "dqo", *VARIANTS)

OPTIONS: dict[str, Any] = dict(
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    per_device_train_batch_size=4,
    responses_per_prompt=2,
    learning_rate=1e-2,
    max_steps=6,
    logging_steps=1,
    save_strategy="steps",
    save_steps=1,
    save_total_limit=2,
)


def write_inputs(folder: Path) -> TrainInputs:
    """A tiny model, and 16 problems of 4 responses."""
    torch.manual_seed(0)
    shape = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
    base = miniature.base_config().to_dict() | shape | {"intermediate_size": 32, "layer_types": None}
    Qwen3ForCausalLM(Qwen3Config(**base)).save_pretrained(folder / "base")
    miniature.tokenizer().save_pretrained(folder / "base")
    write_jsonl(folder / "rows.jsonl", labelled_rows(16))
    return TrainInputs(model_name_or_path=str(folder / "base"), train_file=folder / "rows.jsonl")


def run(method: str, inputs: TrainInputs, output: Path, **options: Any) -> Path:
    """One training of a method or variant, in this process."""
    name, own = variant(method)
    groups = {"responses_per_prompt": None} if name == "dpo" else {}
    config = TABLE[name].config(output_dir=str(output), **{**OPTIONS, **groups, **own, **options})
    return train(name, inputs, config)


def start(
    method: str,
    inputs: TrainInputs,
    output: Path,
    log: Path,
    *,
    at: str = "",
    limit: int = 0,
    environment: dict[str, str] | None = None,
    **options: Any,
) -> BaseProcess:
    """A training in a process of its own, its output in `log`.

    at: where it kills itself, `module:function:n` for the n-th call (`:after` for its end).
    limit: the largest file it may write, in bytes, as on a full disk.
    """
    child = CONTEXT.Process(target=_child, args=(method, inputs, output, log, at, limit, environment or {}, options))
    child.start()
    return child


def start_two(
    method: str, inputs: TrainInputs, output: Path, log: Path, *, at: str = "", **options: Any
) -> list[BaseProcess]:
    """Both processes of a training, as torchrun would start them; the first is the one to kill itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        start(
            method,
            inputs,
            output,
            log.with_suffix(f".{rank}"),
            at="" if rank else at,
            environment=place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            ddp_backend="gloo",
            **options,
        )
        for rank in range(2)
    ]


def _child(
    method: str,
    inputs: TrainInputs,
    output: Path,
    log: Path,
    at: str,
    limit: int,
    environment: dict[str, str],
    options: dict[str, Any],
) -> None:
    os.environ |= environment
    with log.open("a") as stream, redirect_stdout(stream), redirect_stderr(stream):
        from qstep.stages import train as stage

        stage.console.file = stream
        torch.set_num_threads(1)
        if at:
            _kill_at(*at.split(":"))
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            run(method, inputs, output, **options)
        except Exception:
            traceback.print_exc(file=stream)
            sys.exit(1)


def _kill_at(owner: str, function: str, call: str, when: str = "before") -> None:
    module, _, cls = owner.partition("/")
    found = import_module(module)
    place = getattr(found, cls) if cls else found
    original: Callable[..., Any] = getattr(place, function)
    calls = 0

    def counted(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(call) and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(place, function, counted)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model's folder."""
    return {
        f"{file.name}/{name}": value
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def same_weights(folder: Path, other: Path) -> bool:
    """Whether the tensors are equal, bit for bit."""
    ours, theirs = weights(folder), weights(other)
    return bool(ours) and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

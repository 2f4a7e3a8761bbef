"""`qstep miniature`: writes the built-in task's unreliable textbook and its untrained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import AtLeast1, Options, OutputFolder
from qstep.runs.progress import say_written


@dataclass
class MiniatureConfig(Options):
    """Writes `textbook.jsonl` for `qstep train rs`, and the folder `model` with an untrained model and its tokenizer.

    Args:
        output_dir: the folder to write. Existing files are overwritten.
        textbook_rows: number of worked problems in the textbook.
        seed: seed of the task variant (which facts are hard), of the textbook, and of the model's weights.
    """

    output_dir: OutputFolder
    textbook_rows: AtLeast1 = 16_000
    seed: int = 0


def miniature(config: MiniatureConfig) -> Path:
    """Runs the stage and returns its folder."""
    stop_dry_run(config.output_dir)
    import torch
    from transformers import Qwen3ForCausalLM

    from qstep.data import write_jsonl
    from qstep.models.inference import hide_loading_bars
    from qstep.tasks import miniature

    hide_loading_bars()
    model = config.output_dir / "model"
    model.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    Qwen3ForCausalLM(miniature.base_config()).save_pretrained(model)
    miniature.tokenizer().save_pretrained(model)
    write_jsonl(config.output_dir / "textbook.jsonl", miniature.textbook(config.textbook_rows, config.seed))
    say_written(config.output_dir)
    return config.output_dir

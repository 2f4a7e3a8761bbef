"""`qstep miniature`: writes the built-in task's unreliable textbook and its untrained model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from qstep.runs.fingerprints import model_files
from qstep.runs.folders import written_whole
from qstep.runs.options import AtLeast1, Check, NotInSettings, Options, OutputFolder, Seed, settings_of
from qstep.tasks.miniature import HIDDEN_SIZE, NUM_HIDDEN_LAYERS


def _width(option: str, value: int) -> None:
    if value < 48 or value % 48:
        raise ValueError(f"--{option} is {value}: give a multiple of 48")


def _sized(config: MiniatureConfig) -> bool:
    return (config.hidden_size, config.num_hidden_layers) != (HIDDEN_SIZE, NUM_HIDDEN_LAYERS)


@dataclass
class MiniatureConfig(Options):
    """Writes `textbook.jsonl` for `qstep train rs`, and the folder `model` with an untrained model and its tokenizer.

    Args:
        output_dir: the folder to write. It appears only once it is complete.
        textbook_rows: number of worked problems in the textbook.
        seed: seed of the task variant (which facts are hard), of the textbook, and of the model's weights.
        hidden_size: width of the model, a multiple of 48.
        num_hidden_layers: number of its layers.
    """

    output_dir: OutputFolder
    textbook_rows: AtLeast1 = 16_000
    seed: Seed = 0
    hidden_size: Annotated[int, Check(_width), NotInSettings(unless=_sized)] = 96
    num_hidden_layers: Annotated[AtLeast1, NotInSettings(unless=_sized)] = 3


def miniature(config: MiniatureConfig) -> Path:
    """Runs the stage and returns its folder. An existing output with the same settings is left as it is.

    Raises:
        ValueError: the output folder has other content or was changed.
    """
    settings = {"miniature": settings_of(config)}
    return written_whole(config.output_dir, settings, "miniature", partial(_write, config), _files)


def _files(folder: Path) -> list[Path]:
    return [*model_files(folder / "model"), folder / "textbook.jsonl"]


def _write(config: MiniatureConfig, folder: Path) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    from qstep.data import write_jsonl
    from qstep.models.inference import hide_loading_bars
    from qstep.tasks import miniature

    hide_loading_bars()
    model = folder / "model"
    model.mkdir()
    torch.manual_seed(config.seed)
    shape = miniature.base_config(config.hidden_size, config.num_hidden_layers)
    Qwen3ForCausalLM(shape).save_pretrained(model)
    miniature.tokenizer().save_pretrained(model)
    write_jsonl(folder / "textbook.jsonl", miniature.textbook(config.textbook_rows, config.seed))

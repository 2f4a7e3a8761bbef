"""Loading a model to be asked, not trained: its device, its tokenizer, an adapter merged into its base."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from qstep.types import Dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


def hide_loading_bars() -> None:
    """Silences the bars of reading and writing weights: a stage shows its own progress."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def load_for_sampling(
    model_name_or_path: str, *, device: str, dtype: Dtype, revision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer for sampling; an adapter is merged into the base model that it names."""
    import torch
    from transformers import AutoModelForCausalLM

    from qstep.models.adapters import load_adapter, merged
    from qstep.models.loading import ADAPTER_CONFIG

    hide_loading_bars()
    tokenizer = load_text_tokenizer(model_name_or_path, revision)
    if (Path(model_name_or_path) / ADAPTER_CONFIG).exists():

        def base(name: str, revision: str | None) -> PreTrainedModel:
            return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, revision=revision)

        model = merged(load_adapter(model_name_or_path, base))
    else:
        model = AutoModelForCausalLM.from_pretrained(model_name_or_path, dtype=dtype, revision=revision)
    torch.nn.Module.to(model, choose_device(device))
    warn_of_slow_bf16(model.device, model.dtype, "Give float32 as the dtype")
    return model.eval(), tokenizer


def warn_of_slow_bf16(device: torch.device, dtype: torch.dtype, remedy: str) -> None:
    """Warns if an x86 CPU is to compute in bf16 and has no instructions for it. Other CPUs are not checked."""
    import torch

    if device.type == "cpu" and dtype == torch.bfloat16:
        able = torch.cpu.get_capabilities()
        if able["architecture"] == "x86_64" and not (able["avx512_bf16"] or able["amx_bf16"]):
            _log.warning(
                "This processor has no instructions for bf16, so bf16 is much slower here than float32. %s", remedy
            )


def load_text_tokenizer(model_name_or_path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is to write text; its weights are not read. Raises ValueError for a step scorer."""
    from transformers import AutoConfig

    from qstep.models import loading

    has_config = (Path(model_name_or_path) / "config.json").is_file()  # a foreign adapter may have none
    if has_config and loading.is_scorer(AutoConfig.from_pretrained(model_name_or_path)):
        raise ValueError(f"{model_name_or_path} is a step scorer and writes no text; give a causal language model")
    return loading.load_tokenizer(model_name_or_path, revision=revision)


def choose_device(device: str | torch.device) -> torch.device:
    """`auto` is the GPU if there is one, else the CPU. Raises ValueError for a device that is not there.

    A process of torchrun or accelerate has the GPU of its LOCAL_RANK, also before they choose it.
    """
    import torch

    if device == "auto":
        rank = os.environ.get("LOCAL_RANK", "")
        of_rank = f"cuda:{rank}" if rank.isdecimal() and 0 < int(rank) < torch.cuda.device_count() else "cuda"
        device = of_rank if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).cpu()  # meta holds nothing that could be brought back
    except (RuntimeError, AssertionError, ImportError) as error:  # no such device; a torch without CUDA; without hpu
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {device} cannot be used here: {reason}. Give cpu, cuda or auto") from None
    return chosen

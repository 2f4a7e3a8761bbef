"""The base class of trained modules, which wrap a model of transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import PretrainedConfig, PreTrainedModel

from qstep.models.adapters import restore_pretrained, save_pretrained
from qstep.models.loading import bare
from qstep.models.packable import pack
from qstep.models.packing import trunk_of

if TYPE_CHECKING:
    from peft import PeftModel

_PRODUCTS = [
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
]


class PretrainedModule(nn.Module):
    """A module around `pretrained`, a model of transformers or a peft model around one."""

    def __init__(self, pretrained: PreTrainedModel | PeftModel) -> None:
        super().__init__()
        pack(bare(pretrained))
        self.pretrained = pretrained

    @property
    def config(self) -> PretrainedConfig:
        return bare(self.pretrained).config

    @property
    def trunk(self) -> nn.Module:
        """The model without its head."""
        return trunk_of(bare(self.pretrained))

    @property
    def learned_positions(self) -> int | None:
        """The number of learned positions; None if the model computes positions (rotary, ALiBi)."""
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        words = bare(self.pretrained).get_input_embeddings()
        others = (m for m in self.pretrained.modules() if isinstance(m, nn.Embedding) and m is not words)
        learned = any(limit in (table.num_embeddings, table.num_embeddings - 2) for table in others)  # 2 more: OPT
        return limit if learned else None

    @property
    def device(self) -> torch.device:
        return self.pretrained.device

    def networks(self) -> list[PreTrainedModel]:
        """The models of transformers that a forward pass runs through."""
        return [bare(self.pretrained)]

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, Any] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Recomputes layers in the backward pass instead of keeping activations. Arguments as in transformers."""
        arguments = {"use_reentrant": False} | (activation_checkpointing_kwargs or {})
        for network in self.networks():
            network.activation_checkpointing_enable(arguments, every_n_layers, offload)

    def activation_checkpointing_disable(self) -> None:
        for network in self.networks():
            network.activation_checkpointing_disable()

    def keep_products_only(self) -> None:
        """Keeps only the results of matrix products and attention for the backward pass.

        Cheap results (norms, activations, rotations) are computed again. On a CPU this saves about half the memory for
        5 to 15 % more time.
        """
        contexts = partial(create_selective_checkpoint_contexts, _PRODUCTS)
        self.activation_checkpointing_enable({"context_fn": contexts})

    def save(self, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes a checkpoint of transformers or of peft. A step contract is in the `config.json` of both.

        `state_dict` is the complete state of this module, needed if its own parameters are sharded.
        """
        save_pretrained(self.pretrained, folder, state_dict, "pretrained.")

    def restore(self, folder: str | Path) -> None:
        """Loads exactly the weights that `save` wrote."""
        restore_pretrained(self.pretrained, folder)

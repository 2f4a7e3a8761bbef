"""A model of transformers with its cache, after a check that the cache changes nothing."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from qstep.models.packable import alike, eval_mode, short_windows, tolerance_of

_PROMPTS = ([11, 12, 13, 14, 15, 16], [17, 11, 13])
_CONTINUED = [12, 15]


class CachedModel:
    """Calls a model with its cache.

    takes_padding: whether prompts of several lengths can be padded on the left, as usual. A state along the sequence
    would take the padding in, so such a model is given prompts of one length at a time.

    Raises ValueError if the cache cannot be reordered, or gives other logits than the model without a cache.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        accepted = signature(model.forward).parameters
        self._cache_name = "cache_params" if "cache_params" in accepted else "past_key_values"
        self._takes_positions = "position_ids" in accepted
        self.takes_padding = self._agrees(_PROMPTS)
        if not self.takes_padding and not self._agrees((_PROMPTS[0], _PROMPTS[0][::-1])):
            raise ValueError(
                f"{type(model).__name__} ({model.config.model_type}) cannot be sampled in this process: its cache "
                "cannot be reordered, or gives other logits than the model alone. Sample with --engine vllm or http"
            )

    def __call__(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: Any = None) -> tuple[Any, Tensor]:
        """The cache after the tokens `[S, T]`, and the logits after the last of them, `[S, V]`."""
        where: dict[str, Any] = {} if mask is None else {"attention_mask": mask}
        if self._takes_positions:
            where["position_ids"] = positions
        if cache is not None:
            where[self._cache_name] = cache
        output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **where)
        return output.get(self._cache_name), output.logits[:, -1]

    @torch.inference_mode()
    def _agrees(self, prompts: tuple[list[int], list[int]]) -> bool:
        """Whether two prompts, exchanged after their first tokens, continue as they do without a cache."""
        with eval_mode(self.model), short_windows(self.model):
            return self._continues(prompts)

    def _continues(self, prompts: tuple[list[int], list[int]]) -> bool:
        vocabulary, device = self.model.config.get_text_config(decoder=True).vocab_size, self.model.device
        width = max(map(len, prompts))
        pads = torch.tensor([width - len(prompt) for prompt in prompts], device=device)
        rows = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
        ids = torch.tensor(rows, device=device) % vocabulary
        places = torch.arange(width + len(_CONTINUED), device=device) - pads[:, None]
        padded = bool(pads.any())
        cache, _ = self(ids, places[:, :width].clamp(min=0), places[:, :width] >= 0 if padded else None)
        if not hasattr(cache, "reorder_cache"):  # another name, or a cache of the family's own
            return False
        order = torch.tensor([1, 0], device=device)
        cache.reorder_cache(order)
        places = places[order]
        texts = [prompts[1], prompts[0]]
        for number, token in enumerate(_CONTINUED):
            at = width + number
            step = torch.full((2, 1), token % vocabulary, device=device)
            cache, logits = self(step, places[:, at : at + 1], places[:, : at + 1] >= 0 if padded else None, cache)
            for row, text in enumerate(texts):
                alone = torch.tensor([text + _CONTINUED[: number + 1]], device=device) % vocabulary
                expected = self.model(input_ids=alone, use_cache=False).logits[0, -1]
                if not alike(expected, logits[row], tolerance_of(self.model)):
                    return False
        return True

"""The kinds of scorers, one line each. Nothing is imported here but names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

FORMATS = {
    "qwen_prm": "qstep.scoring.published.qwen:QwenPRM",
    "math_shepherd": "qstep.scoring.published.math_shepherd:MathShepherd",
    "rlhflow": "qstep.scoring.published.rlhflow:RLHFlow",
    "trl": "qstep.scoring.published.trl:TRLClassifier",
    "skywork": "qstep.scoring.published.skywork:Skywork",
    "implicit": "qstep.scoring.policies:Implicit",
    "generative": "qstep.scoring.published.generative:Generative",
    "policy": "qstep.scoring.policies:Policy",
}
"""The class of each format. They are asked in this order whether they recognise a checkpoint."""

if TYPE_CHECKING:
    ScorerKind = str
else:
    ScorerKind = Literal["auto", "qstep", *FORMATS, "ensemble"]
    """The kind of a scorer: `qstep` for our own checkpoints; `auto` recognises the kind."""

"""The kinds of scorers. Nothing is imported here but names."""

from __future__ import annotations

from typing import Literal, get_args

ScorerKind = Literal[
    "auto",
    "qstep",
    "qwen_prm",
    "math_shepherd",
    "rlhflow",
    "trl",
    "skywork",
    "implicit",
    "generative",
    "policy",
    "ensemble",
]
"""The kind of a scorer: `qstep` for our own checkpoints; `auto` recognises the kind.

A published format of this name is in `qstep.scoring.published.<kind>`.
"""

FORMATS = {
    kind: "qstep.scoring.policies" if kind in ("implicit", "policy") else f"qstep.scoring.published.{kind}"
    for kind in get_args(ScorerKind)
    if kind not in ("auto", "qstep", "ensemble")
}
"""The module of each format. They are asked in this order whether they recognise a checkpoint."""

"""Where processes that are to be killed are forked from: a process that has imported what they need."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(  # one list, because a process of tests has one such server
    [
        "fake_engine",
        "qstep.stages.annotate",
        "qstep.stages.grade",
        "qstep.stages.sample",
        "qstep.stages.train",
        "transformers.models.qwen3.modeling_qwen3",
        "transformers.trainer",
    ]
)

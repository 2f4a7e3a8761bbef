"""Rows and problems: what lies on disk, who may write it, and how text becomes steps and tokens."""

from __future__ import annotations

from qstep.data.index import Index, cache_folders, cached_array, index_rows
from qstep.data.options import refuse_unread
from qstep.data.placed import Placed, Turn, beginning, encode_chat, encode_joined, one_token
from qstep.data.readers import count_responses, read_problems, read_responses
from qstep.data.rows import Format, check_row, group_key, is_right, outcome, prompt_id, read_groups
from qstep.data.shards import (
    RowError,
    SettingsChanged,
    StageBusy,
    StageFile,
    canonical_json,
    count_rows,
    file_fingerprint,
    is_finished,
    numbered_rows,
    read_rows,
    sync,
    write_json,
    write_jsonl,
    write_whole,
)
from qstep.data.steps import check_separator, split_steps, step_token_ends, steps_of
from qstep.data.tokens import (
    bytes_growth,
    check_completion_ids,
    encode_completion,
    encode_prompt,
    encode_text,
    encode_texts,
    most_text_tokens,
    tokenizer_fingerprint,
)

__all__ = [
    "Format",
    "Index",
    "Placed",
    "RowError",
    "SettingsChanged",
    "StageBusy",
    "StageFile",
    "Turn",
    "beginning",
    "bytes_growth",
    "cache_folders",
    "cached_array",
    "canonical_json",
    "check_completion_ids",
    "check_row",
    "check_separator",
    "count_responses",
    "count_rows",
    "encode_chat",
    "encode_completion",
    "encode_joined",
    "encode_prompt",
    "encode_text",
    "encode_texts",
    "file_fingerprint",
    "group_key",
    "index_rows",
    "is_finished",
    "is_right",
    "most_text_tokens",
    "numbered_rows",
    "one_token",
    "outcome",
    "prompt_id",
    "read_groups",
    "read_problems",
    "read_responses",
    "read_rows",
    "refuse_unread",
    "split_steps",
    "step_token_ends",
    "steps_of",
    "sync",
    "tokenizer_fingerprint",
    "write_json",
    "write_jsonl",
    "write_whole",
]

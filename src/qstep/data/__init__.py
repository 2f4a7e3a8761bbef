"""Rows and problems: what lies on disk, who may write it, and how text becomes steps and tokens."""

from __future__ import annotations

from qstep.data.index import Index, cache_folders, cached_array, index_rows
from qstep.data.options import refuse_unread
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
from qstep.data.splitters import is_users_splitter, splitter_version, use_splitter
from qstep.data.step_tokens import StepTokens, map_steps, row_step_ends, spread_scores, step_token_ends
from qstep.data.steps import check_separator, locate_steps, split_steps, step_regions, step_spans, steps_of
from qstep.data.tokens import (
    bytes_growth,
    check_completion_ids,
    encode_completion,
    encode_prompt,
    encode_text,
    encode_texts,
    most_text_tokens,
    text_offsets,
    tokenizer_fingerprint,
)
from qstep.data.user_code import USER_CODE, code_version, load_code

__all__ = [
    "USER_CODE",
    "Format",
    "Index",
    "RowError",
    "SettingsChanged",
    "StageBusy",
    "StageFile",
    "StepTokens",
    "bytes_growth",
    "cache_folders",
    "cached_array",
    "canonical_json",
    "check_completion_ids",
    "check_row",
    "check_separator",
    "code_version",
    "count_responses",
    "count_rows",
    "encode_completion",
    "encode_prompt",
    "encode_text",
    "encode_texts",
    "file_fingerprint",
    "group_key",
    "index_rows",
    "is_finished",
    "is_right",
    "is_users_splitter",
    "load_code",
    "locate_steps",
    "map_steps",
    "most_text_tokens",
    "numbered_rows",
    "outcome",
    "prompt_id",
    "read_groups",
    "read_problems",
    "read_responses",
    "read_rows",
    "refuse_unread",
    "row_step_ends",
    "split_steps",
    "splitter_version",
    "spread_scores",
    "step_regions",
    "step_spans",
    "step_token_ends",
    "steps_of",
    "sync",
    "text_offsets",
    "tokenizer_fingerprint",
    "use_splitter",
    "write_json",
    "write_jsonl",
    "write_whole",
]

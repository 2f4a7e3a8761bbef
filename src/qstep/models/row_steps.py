"""The tokens in which a step scorer reads a row, of one turn or of several."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from qstep.data import TURNS, encode_prompt, encode_turn_steps, has_turns
from qstep.models.scorer import StepContract, encode_steps
from qstep.types import Row


def encode_row_steps(
    tokenizer: PreTrainedTokenizerBase, contract: StepContract, row: Row, steps: int | None = None
) -> tuple[list[int], list[int], list[int]]:
    """`encode_steps` of a row, or of its first `steps` steps. In a response of several turns, the steps are turns.

    Raises ValueError, naming the row, if its steps are turns and those of the contract are not.
    """
    steps = len(row["completions"]) if steps is None else steps
    if not has_turns(row.get("completion")):
        return encode_steps(tokenizer, contract, row["prompt"], row["completions"][:steps])
    where = f"row {row.get('id')!r}, field 'completion'"
    if contract.step_separator != TURNS:
        raise ValueError(
            f"{where}: has several turns, and the scorer's steps are cut at {contract.step_separator!r}. Use a scorer "
            f"that was trained with --step_separator {TURNS}"
        )
    try:
        ids, ends = encode_turn_steps(tokenizer, row, contract.separator_token_id, steps)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return encode_prompt(tokenizer, row["prompt"]), ids, ends

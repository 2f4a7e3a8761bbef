"""Settings that a user gives to a tokenizer's chat template: another template, its arguments, and the end of a turn.

Arguments are written into the template as variables, `{% set enable_thinking = false %}`. So they are saved with the
weights, and every later command follows them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.data.model_names import check_model_name

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE, _NAMED = "chat_template.jinja", "additional_chat_templates"
"""Where a model's folder has its template, and further ones by name."""

END_OF_TURN = "qstep_end_of_turn"
"""The template's variable that names the token with which an assistant's turn ends."""


def read_template(file_or_model: str) -> str | dict[str, str]:
    """The chat template in a file of Jinja, or that of a model: a folder or a Hub id. Some have several, by name.

    Raises ValueError if there is no such file or model, if the file is no template, or if the model has none.
    """
    from jinja2 import TemplateSyntaxError

    found = _template_of(Path(file_or_model).expanduser(), file_or_model)
    if found is None or (isinstance(found, dict) and "default" not in found):
        raise ValueError(f"--chat_template_path {file_or_model}: this model has no chat template for conversations")
    try:
        names = _names_read(_joined(found))
    except TemplateSyntaxError as error:
        raise ValueError(
            f"--chat_template_path {file_or_model}:{error.lineno}: this is no chat template: {error.message}. Correct "
            "it, or give another"
        ) from None
    if "messages" not in names:
        raise ValueError(
            f"--chat_template_path {file_or_model}: this is no chat template, because it does not read `messages`. "
            "Give a file in Jinja, or a model that has a template"
        )
    return found


def _template_of(path: Path, file_or_model: str) -> Any:
    if path.is_dir() and (path / _FILE).is_file() and not (path / _NAMED).exists():
        path = path / _FILE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"--chat_template_path {path}: this file is no text in UTF-8") from None
    from transformers import AutoTokenizer

    try:
        check_model_name(path if path.is_dir() else file_or_model)
        return AutoTokenizer.from_pretrained(path if path.is_dir() else file_or_model).chat_template
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"--chat_template_path {file_or_model} is no file, and no model with a tokenizer was found there: {reason}"
        ) from None


def with_chat(
    tokenizer: PreTrainedTokenizerBase,
    template_kwargs: Mapping[str, Any] | None,
    end_of_turn: str | None,
    template: str | dict[str, str] | None = None,
) -> PreTrainedTokenizerBase:
    """A tokenizer whose chat template has these arguments, and names the token that ends an assistant's turn.

    Args:
        template: the chat template, in place of the tokenizer's own.

    Raises ValueError if there is no template, if it does not read an argument, or if the token is not in the
    vocabulary.
    """
    if template is not None:
        tokenizer = copy(tokenizer)
        tokenizer.chat_template = template
    if not template_kwargs and end_of_turn is None:
        return tokenizer
    option = "--chat_template_kwargs" if template_kwargs else "--end_of_turn"
    if tokenizer.chat_template is None:
        raise ValueError(
            f"{option} is given, but the tokenizer has no chat template. Remove it, or give a --chat_template_path"
        )
    held: Any = tokenizer.chat_template
    read = _names_read(_joined(held))
    for name in template_kwargs or {}:
        if name not in read - {*_GIVEN, *tokenizer.special_tokens_map}:
            raise ValueError(f"--chat_template_kwargs.{name}: this model's chat template does not read it. Remove it")
    if end_of_turn is not None and end_of_turn not in tokenizer.get_vocab():
        raise ValueError(f"--end_of_turn {end_of_turn!r} is not a token of this model's vocabulary")
    settings = "" if end_of_turn is None else f"{{% set {END_OF_TURN} = {_literal(end_of_turn)} %}}"
    for name, value in (template_kwargs or {}).items():  # the first of several settings counts, and it is the newest
        settings += f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}"
    changed = copy(tokenizer)
    changed.chat_template = (
        {name: settings + one for name, one in held.items()} if isinstance(held, dict) else settings + held
    )
    return changed


_GIVEN = (
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("strftime_now", "raise_exception"),
)
"""The names that every template is given."""


def _joined(template: str | dict[str, str]) -> str:
    """All templates of a tokenizer as one text."""
    return "".join(template.values()) if isinstance(template, dict) else template


def _names_read(template: str) -> set[str]:
    """The names that a template takes from its caller."""
    from jinja2 import Environment, meta

    plain = re.sub(r"{%[-+]?\s*(?:end)?generation\s*[-+]?%}", "", template)  # a tag of transformers alone
    return meta.find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain))


def _literal(value: Any) -> str:
    """A value as Jinja writes it. Its literals are JSON's, but for null and for what looks like Jinja in a string."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("{", r"\u007b").replace("}", r"\u007d")
    if isinstance(value, bool | int | float) and value == value and abs(value) != float("inf"):
        return json.dumps(value)
    raise ValueError(f"--chat_template_kwargs takes texts, numbers, true and false, not {value!r}")

"""Messages as `datasets` and servers write them, in one form; and responses of several turns.

A message is `{"role", "content"}`, with `tool_calls`, `tool_call_id` or `name` if it has them. The first message of a
prompt may also have `tools`, which the chat template receives.

A response of several turns is a list of messages. It begins and ends with an assistant's message. Its steps are the
assistant's turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from qstep.grading.thinking import answer_span, opened_first
from qstep.types import Message, Row

TURNS = "split:turn"
"""The `step_separator` of steps that are the assistant's turns."""

_EXTRAS = ("tool_calls", "tool_call_id", "name", "tools")
_THINKING = ("reasoning_content", "reasoning", "thinking")
_SPEAKERS = ("assistant", "tool", "user")
_TEXT_PARTS = ("text", "input_text", "output_text")
_WRITTEN_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](role|content)["']\s*:.*\}\s*\]\s*""", re.DOTALL)


def is_message(value: Any) -> bool:
    """Whether a value is a message in the form of this package."""
    return (
        isinstance(value, dict)
        and {"role", "content"} <= value.keys() <= {"role", "content", *_EXTRAS}
        and isinstance(value["role"], str)
        and isinstance(value["content"], str)
    )


def plain_prompt(prompt: Any, tools: Any = None) -> Any:
    """A prompt with its messages in one form. What is no list of messages, nor the JSON text of one, is returned
    unchanged.

    `tools`, a list or its JSON text, becomes a key of the first message.

    Raises ValueError for a message that cannot be brought into this form, a prompt that ends with an assistant's
    message, or `tools` of a prompt that is a string.
    """
    prompt, listed = read_messages(prompt), _as_tools(tools)
    if not _are_messages(prompt):
        if listed and isinstance(prompt, str):
            raise ValueError("is a string, and the row has tools, which only a chat template reads. Give messages")
        return prompt
    messages = [_plain(message, number) for number, message in enumerate(prompt)]
    if not all(map(is_message, messages)):
        return prompt
    if messages[-1].get("role") == "assistant":
        raise ValueError(
            "ends with an assistant's message, which a chat template would close. Move that text to the beginning of "
            "the completion, or give the prompt as a string"
        )
    late = next((number for number, message in enumerate(messages) if number and "tools" in message), None)
    if late is not None:
        raise ValueError(f"has tools in messages[{late}]; only the first message may have them. Move them there")
    if listed:
        messages[0] = {**messages[0], "tools": listed}
    return messages


def plain_completion(completion: Any, may_stop: bool = False) -> Any:
    """A response with its messages in one form: the text of a single assistant message, or several turns.

    What is no list of messages is returned unchanged. With `may_stop`, a response may end after a tool's message or
    with a blank turn, as one does that was cut off; it then ends with a blank turn.

    Raises ValueError for messages that are no response.
    """
    if not _are_messages(completion):
        return completion
    messages = [_plain(message, number) for number, message in enumerate(completion)]
    if not all(map(is_message, messages)):
        return completion
    if may_stop and messages[-1]["role"] == "tool":
        messages.append({"role": "assistant", "content": ""})
    for number, message in enumerate(messages):
        role = message.get("role")
        if role not in _SPEAKERS:
            raise ValueError(f"has messages[{number}] of {role!r}; the roles of a response are {', '.join(_SPEAKERS)}")
        is_blank = role == "assistant" and not (message["content"].strip() or "tool_calls" in message)
        if is_blank and len(messages) > 1 and not (may_stop and number == len(messages) - 1):
            raise ValueError(f"has messages[{number}] without content and tool_calls. Leave such a turn out")
    ends = {"begins": messages[0]["role"], "ends": messages[-1]["role"]}
    for end, role in ends.items():
        if role != "assistant":
            raise ValueError(f"{end} with a message of {role!r}. A response begins and ends with an assistant's")
    return messages[0]["content"] if len(messages) == 1 and "tool_calls" not in messages[0] else messages


def split_conversation(messages: Any) -> tuple[Any, Any]:
    """A conversation as the messages before the assistant's last one, and that message.

    Raises ValueError if it does not end with an assistant's message, or has nothing before it.
    """
    messages = read_messages(messages)
    if not _are_messages(messages):
        raise ValueError('is not a conversation; give a list of messages with "role" and "content"')
    if messages[-1].get("role") != "assistant":
        raise ValueError(f"ends with a message of {messages[-1].get('role')!r}, so it has no response")
    if len(messages) == 1:
        raise ValueError("has no message before the response; give the question too")
    return messages[:-1], messages[-1:]


def read_messages(value: Any) -> Any:
    """The messages in a text of JSON, as a cell of a CSV file has them. Any other value is returned unchanged.

    Raises ValueError for messages as Python prints them.
    """
    if not (isinstance(value, str) and value.lstrip().startswith("[") and _WRITTEN_MESSAGES.fullmatch(value)):
        return value
    try:
        messages = json.loads(value)
    except ValueError:
        raise ValueError(
            f"looks like messages, but is not JSON: {value[:40]}... Write them with json.dumps, or give JSON lines"
        ) from None
    return messages if _are_messages(messages) else value


def users_turn(text: Any) -> list[Message]:
    """A text as a conversation with one message, the user's. Raises ValueError for anything else."""
    if _are_messages(read_messages(text)):
        raise ValueError("has messages already. Choose it as the prompt, not as the user's turn")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"is {text!r}; give the text of the user's turn")
    return [{"role": "user", "content": text}]


def has_turns(completion: Any) -> TypeGuard[list[Message]]:
    """Whether a response is a list of messages instead of a text."""
    return isinstance(completion, list)


def final_text(completion: str | list[Message]) -> str:
    """The text that is graded: the response, or the content of its last message."""
    return completion[-1]["content"] if has_turns(completion) else str(completion)


def turn_texts(completion: list[Message]) -> list[str]:
    """The assistant's turns as text, which are the steps of the response. A tool call is shown as JSON."""
    return [_turn_text(message) for message in completion if message["role"] == "assistant"]


def conversation_text(messages: list[Message]) -> str:
    """A conversation for people to read, with the name of each speaker."""
    return "\n".join(f"{message['role']}: {_turn_text(message)}" for message in messages)


def all_text(messages: list[Message]) -> str:
    """All that messages say, for measuring their size."""
    return "".join(
        message["content"] + "".join(json.dumps(message[name]) for name in _EXTRAS if name in message)
        for message in messages
    )


def identity(message: Message) -> tuple[str, ...]:
    """What distinguishes a message from others. Servers give each tool call an id of its own, which does not count."""
    extras = (
        f"{name}={json.dumps(_without_ids(name, message[name]), sort_keys=True)}" for name in _EXTRAS if name in message
    )
    return (message["role"], message["content"], *extras)


def _without_ids(name: str, value: Any) -> Any:
    if name == "tool_calls":
        return [{key: part for key, part in call.items() if key not in ("id", "index")} for call in value]
    return None if name == "tool_call_id" else value


def refuse_turns(row: Row, what: str) -> None:
    """Raises ValueError, naming the row, if its response has several turns and `what` reads one text."""
    if has_turns(row.get("completion")):
        raise ValueError(f"row {row.get('id')!r} has a response of several turns, and {what}")


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _turn_text(message: Message) -> str:
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([*([message["content"]] if message["content"].strip() else []), *calls])


def _plain(message: Mapping[str, Any], number: int) -> Message:
    if message.keys() == {"role", "content"} and is_message(message):
        return dict(message)
    if "role" not in message or not {"content", "tool_calls", *_THINKING} & message.keys():
        return dict(message)  # not a message: the column's rule says what it should be
    where = f"has messages[{number}]"
    held = {name: value for name, value in without_nulls(message).items() if value != []}
    thinking = {name: _text(held.pop(name), where) for name in _THINKING if name in held}
    if not all(isinstance(text, str) for text in thinking.values()):
        raise ValueError(f"{where} with reasoning {next(iter(thinking.values()))!r}; give a string")
    plain = {"role": held.pop("role", None), "content": _text(held.pop("content", ""), where)}
    if thinking:
        if plain["role"] != "assistant":
            raise ValueError(
                f"{where} of {plain['role']!r} with reasoning, which only an assistant's message may have. Remove it"
            )
        written = {name: text for name, text in thinking.items() if text.strip()}
        if len({text.strip() for text in written.values()}) > 1:
            raise ValueError(f"{where} with {' and '.join(map(repr, written))}, which differ. Remove all but one")
        plain["content"] = _with_thinking(
            next(iter(written.values()), ""), plain["content"], ends=bool(held.get("tool_calls"))
        )
    if "tool_calls" in held:
        if plain["role"] != "assistant":
            raise ValueError(
                f"{where} of {plain['role']!r} with tool_calls, which only an assistant's message may have. Remove them"
            )
        plain["tool_calls"] = _calls(held.pop("tool_calls"), where)
    for name in _EXTRAS[1:]:
        if name in held:
            plain[name] = held.pop(name)
    if held:
        raise ValueError(f"{where} with {', '.join(map(repr, held))}, which qstep does not read. Remove it")
    return plain


def _text(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        kept = without_nulls(part) if isinstance(part, dict) else part
        if isinstance(kept, dict) and kept.get("type") in _TEXT_PARTS and isinstance(kept.get("text", ""), str):
            texts.append(kept.get("text", ""))
        elif isinstance(kept, str):
            texts.append(kept)
        else:
            kind = kept.get("type") if isinstance(kept, dict) else type(kept).__name__
            raise ValueError(f"{where} with a part of type {kind!r}. qstep reads text only: leave the row out")
    return "".join(texts)


def _with_thinking(thinking: str, content: str, ends: bool) -> str:
    """A message's text with its thinking, unless the text begins with it.

    The thinking is left open if nothing follows it: no text, nor a tool call.
    """
    stripped = thinking.strip("\n")
    if not (stripped and isinstance(content, str)):
        return content
    if opened_first(content) or stripped in content[: answer_span(content)[0]]:
        return content
    if not (ends or content.strip()):
        return f"<think>\n{stripped}"
    return f"<think>\n{stripped}\n</think>\n\n{content.lstrip(chr(10))}"


def _calls(calls: Any, where: str) -> list[Any]:
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"{where} with tool_calls {calls!r}; give a list of objects")
    return [_call(call, where) for call in calls]


def _call(call: dict[str, Any], where: str) -> dict[str, Any]:
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where} with a tool call without a name: {call!r}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):  # servers write JSON text, and templates want the object
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            raise ValueError(f"{where} with a tool call whose arguments are not JSON: {arguments!r}") from None
        function = {**function, "arguments": arguments}
    return {**call, "function": function} if "function" in call else function


def _as_tools(tools: Any) -> list[Any]:
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            raise ValueError("has tools that are not JSON") from None
    if tools is None or tools == []:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("has tools that are no list of objects")
    return [without_nulls(tool) for tool in tools]


def without_nulls(value: Any, calls: bool = False) -> Any:
    """A value whose objects have no null keys. `datasets` adds such keys. A null argument of a tool call is kept."""
    if isinstance(value, Mapping):
        return {
            name: item if calls and name == "arguments" else without_nulls(item, calls or name == "tool_calls")
            for name, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [without_nulls(item, calls) for item in value]
    return value

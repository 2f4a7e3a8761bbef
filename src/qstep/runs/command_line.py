"""Command lines: reading one, and its errors in plain words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qstep.runs.near import did_you_mean

if TYPE_CHECKING:
    import jsonargparse
    import yaml

FLAGS = ("dry_run", "quiet", "debug")
GENERAL = (*FLAGS, "log_level", "config", "print_config", "help")
"""The options that every command takes. `qstep env` takes none of them."""

SECRETS = ("hub_token", "push_to_hub_token")
"""The options whose values are never shown."""


def new_parser(**options: Any) -> jsonargparse.ArgumentParser:
    """A parser whose `--print_config` leaves access tokens out. `options` are those of ArgumentParser."""
    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        def dump(self, cfg: jsonargparse.Namespace, **options: Any) -> str:
            shown = cfg.clone()
            for name in SECRETS:
                if name in shown:
                    shown[name] = None
            return super().dump(shown, **options)

    return Parser(**options)


def refuse_repeated(arguments: list[str]) -> None:
    """Raises ArgumentError for a repeated option, since the parser would silently keep the last value."""
    import jsonargparse

    counts = Counter(argument.partition("=")[0] for argument in arguments if argument.startswith("--"))
    for name, times in counts.items():
        if times > 1 and not name.endswith("+"):  # with a plus, the parser appends to a list
            raise jsonargparse.ArgumentError(None, f"{name} is given {times} times: give it once")


def refuse_repeated_keys(file: str) -> None:
    """Raises ArgumentError for a repeated key in a YAML file, since the parser would silently keep the last value.

    The parser itself reports a file that is missing or is not YAML.
    """
    import jsonargparse
    import yaml

    try:
        tree = yaml.compose(Path(file).read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return
    for name, times in Counter(_keys(tree)).items():
        if times > 1:
            raise jsonargparse.ArgumentError(None, f"{name} is given {times} times in {file}: give it once")


def _keys(node: yaml.Node | None, prefix: str = "") -> Iterator[str]:
    """The keys of a mapping and of those in it, as `outer.inner`."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name
            yield from _keys(value, f"{name}.")


def split_config(arguments: list[str]) -> tuple[list[str], list[str]]:
    """`--config FILE`, and the other arguments. The file comes first, so that flags always override it."""
    for i, argument in enumerate(arguments):
        if argument == "--config" and i + 1 < len(arguments):
            return [argument, arguments[i + 1]], [*arguments[:i], *arguments[i + 2 :]]
        if argument.startswith("--config="):
            return ["--config", argument.partition("=")[2]], [*arguments[:i], *arguments[i + 1 :]]
    return [], arguments


def with_infinity(arguments: Sequence[str], numbers: Collection[str]) -> list[str]:
    """The arguments with `inf` as YAML writes it, `.inf`, where it is the value of one of these options."""
    written = list(arguments)
    for place, (before, argument) in enumerate(zip(["", *arguments], arguments, strict=False)):
        name, equals, value = argument.partition("=")
        option = name if equals else before
        if (value if equals else argument) == "inf" and option.removeprefix("--") in numbers:
            written[place] = argument.removesuffix("inf") + ".inf"
    return written


def plainly(message: str, known: Iterable[str], near: Callable[[str], str]) -> str:
    """The parser's message in plain words, with a suggestion for a misspelt name.

    Args:
        known: the names of the command's options.
        near: returns the suggestion for a word that no option precedes.
    """
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.IGNORECASE)
    if unknown:
        return _unknown(unknown[1].split(), known, near) + message[unknown.end() :]
    in_file = re.match(r"Option '([\w.]+)' is not accepted", message)
    if in_file:
        return f"no option {in_file[1]!r}{did_you_mean(in_file[1], known)}{message[in_file.end() :]}"
    required = re.match(r"the following arguments are required: ([\w, ]+)", message)
    if required:
        return f"missing: {', '.join(f'--{name}' for name in required[1].split(', '))}{message[required.end() :]}"
    missing = re.match(r'Parser key "config": File does not exist: (\S+)', message)
    if missing:
        return f"--config {missing[1]} is not there{_rest(message)}"
    if message.startswith("Problems parsing config"):
        return f"the file of --config is not YAML{_rest(message)}"
    if re.match(r"Unexpected config: *(?:\n|$)", message):
        return f"the file of --config is empty{_rest(message)}"
    return _wrong_value(message)


def _rest(message: str) -> str:
    """The last line, which says where the options come from; "" if there is only one."""
    first, line, last = message.rpartition("\n")
    return f"{line}{last}" if first else ""


def _unknown(arguments: Sequence[str], known: Iterable[str], near: Callable[[str], str]) -> str:
    """The message about arguments that the parser does not know: misspelt options, or words without an option."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    if not options:
        return f"{arguments[0]!r} has no option before it{near(arguments[0])}"
    found = (f"{option}{did_you_mean(option.lstrip('-').partition('.')[0], known, '--{}')}" for option in options)
    return f"no option {', '.join(found)}"


_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "dict": "named: --{name}.NAME VALUE",
    "list": "a list",
}
_WORDS = {"False": "no", "True": "yes"}
"""What a value of YAML may have been before it was read."""


def _wrong_value(message: str) -> str:
    """The parser's message about an invalid value, in plain words."""
    found = re.match(r'Parser key "([\w.]+)":\s', message)
    value = re.search(r"G(?:iven|ot) value: (.*)", message)
    if not found or not value:
        return message
    if value[1] in _WORDS and re.search("Expected a (<class 'str'>|member of <enum)", message):
        read, meant = value[1].lower(), _WORDS[value[1]]
        return f"--{found[1]} is {read}. YAML reads {meant} as {read}: quote it, '{meant}'{message[value.end() :]}"
    choices = re.search(r"Literal\[(.*?)\]", message)
    if choices:
        known = re.findall(r"'([^']*)'", choices[1])
        wanted = f"one of {', '.join(known)}{did_you_mean(value[1], known)}"
    else:
        types = re.findall(r"Expected a <class '(\w+)'>", message)
        kinds = [_EXPECTED.get(kind) for kind in types if kind != "NoneType"]
        if not kinds or None in kinds:
            return message
        wanted = " or ".join(kind.format(name=found[1]) for kind in kinds if kind)
    return f"--{found[1]} is {value[1]!r}; it must be {wanted}{message[value.end() :]}"


def words(error: Exception) -> str:
    """An error's message. For a system error, the file and the reason."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename2 or error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error)


def explains_itself(error: Exception) -> bool:
    """Whether the user can act on an error's message alone. Other errors keep their traceback."""
    return isinstance(error, ValueError | OSError) or type(error).__module__.partition(".")[0] == "qstep"

"""What an option says of itself, as `Annotated` metadata at its field, and the one check that reads it.

`rows_at_once: Annotated[int, Bounds(least=1), CHANGES_NOTHING] = 128` has a least value and is no part of the settings.
A recipe's key, the settings of a stage file, the help and the refusal of options without effect all read the fields.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from functools import reduce
from inspect import get_annotations
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

M = TypeVar("M")


@dataclass(frozen=True)
class Bounds:
    """The values that a number may have; None and what is no number are not compared."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def admit(self, value: float) -> bool:
        """Whether the value is within the bounds. NaN is within none."""
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        named = {"at least": self.least, "at most": self.most, "above": self.above, "below": self.below}
        return " and ".join(f"{words} {bound}" for words, bound in named.items() if bound is not None)


@dataclass(frozen=True)
class Check:
    """A check of a value that is not None: called with the option's name and the value, raises ValueError."""

    check: Callable[[str, Any], None]


@dataclass(frozen=True)
class ChangesNothing:
    """The option cannot change what is written: it is no part of the settings, nor of a recipe's key.

    `unless` says for which configs it can.
    """

    unless: Callable[[Any], bool] | None = None


CHANGES_NOTHING = ChangesNothing()


@dataclass(frozen=True)
class Output:
    """The option is a file to write: it cannot change what is written, and may not be a file to read."""


OutputFile = Annotated[Path, Output()]
"""The type of an option that is a file to write."""


@dataclass(frozen=True)
class InSettings:
    """How a value that is not None stands in the settings."""

    write: Callable[[Any], Any]


ONLY_WHETHER_GIVEN = InSettings(lambda value: True)
"""An address: what is there counts, and not where."""


@dataclass(frozen=True)
class Reads:
    """The option may name a file, a folder or code.

    `inputs` is called with the option's name and a value, and yields what of it lies on this machine, each with its
    fingerprint. It raises ValueError for a path where nothing is. An option of type Path needs no such mark.
    """

    inputs: Callable[[str, str], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Such:
    """The values that a test holds of, among those of a `ReadIf`; `words` say what has to be given."""

    test: Callable[[Any], bool]
    words: str = "--{name}"


GIVEN = Such(bool)
"""Any value but None, 0, False and what is empty."""


_WITHOUT = "without "


class ReadIf:
    """The option is read only if one of these other options has one of its values: `ReadIf(engine=("hf", "vllm"))`.

    A command that has none of the other options always reads it. Of several `ReadIf` at a field all have to hold.
    At a class, as `READ_IF`, it holds for each field of the class that has none of its own.
    """

    def __init__(self, **options: Any) -> None:
        self.options = {name: of if isinstance(of, tuple) else (of,) for name, of in options.items()}

    def why_not(self, config: Any, *, deep: bool) -> str | None:
        """What would have to be given, or left out; None if the option is read.

        With `deep`, an option that is not read itself makes nothing be read, whatever its value.
        """
        reasons: dict[str, None] = {}
        for name, values in self.options.items():
            if not hasattr(config, name):
                continue
            reason = why_unread(config, name)
            if (reason is None or not deep) and _matches(getattr(config, name), values):
                return None
            reasons[reason or _needed(name, values)] = None
        without = " or ".join(reason.removeprefix(_WITHOUT) for reason in reasons if reason.startswith(_WITHOUT))
        others = [reason for reason in reasons if not reason.startswith(_WITHOUT)]
        return " and ".join([*([_WITHOUT + without] if without else []), *others]) or None


def _matches(given: Any, values: tuple[Any, ...]) -> bool:
    return any(value.test(given) if isinstance(value, Such) else value == given for value in values)


def _needed(name: str, values: tuple[Any, ...]) -> str:
    if values[0] is None:
        return f"with --{name}"
    if isinstance(values[0], Such):
        return _WITHOUT + values[0].words.format(name=name)
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return f"{_WITHOUT}--{name} " + " or ".join(", ".join(texts).rsplit(", ", 1))


@dataclass(frozen=True)
class About:
    """What a field says of itself."""

    hint: Any
    marks: tuple[Any, ...]

    def of(self, kind: type[M]) -> list[M]:
        """Its marks of one kind."""
        return [mark for mark in self.marks if isinstance(mark, kind)]

    def in_settings(self, value: Any) -> Any:
        """The value as it stands in the settings."""
        for mark in self.of(InSettings) if value is not None else ():
            value = mark.write(value)
        return value

    @property
    def is_path(self) -> bool:
        """Whether its values are paths, or hold some."""
        return self.hint is Path or any(About(part, ()).is_path for part in get_args(self.hint))


_found: dict[type, dict[str, About]] = {}


def options_of(config: type) -> Mapping[str, About]:
    """What each option of a dataclass says of itself: at its field, at the field's class, or in `FOREIGN` for the
    fields of a class that is not ours.
    """
    if config not in _found:
        _found[config] = _options_of(config)
    return _found[config]


def _options_of(config: type) -> dict[str, About]:
    hints = get_type_hints(config, include_extras=True)
    names = {field.name for field in fields(config)}
    found = {name: _about(hint) for name, hint in hints.items() if name in names}
    for base in config.__mro__:
        condition = base.__dict__.get("READ_IF")
        own = [name for name in get_annotations(base) if name in names]
        for name in own if condition is not None else ():
            if not found[name].of(ReadIf):
                found[name] = About(found[name].hint, (*found[name].marks, condition))
        for name, marks in base.__dict__.get("FOREIGN", {}).items():
            found[name] = About(found[name].hint, (*found[name].marks, *marks))
    return found


def _about(hint: Any) -> About:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        about = _about(inner)
        return About(about.hint, (*about.marks, *marks))
    if get_origin(hint) in (Union, UnionType):  # `StepSeparator | None`: the marks are those of its parts
        parts = [_about(part) for part in get_args(hint)]
        whole = reduce(or_, (part.hint for part in parts))
        return About(whole, tuple(mark for part in parts for mark in part.marks))
    return About(hint, ())


def why_unread(config: Any, name: str) -> str | None:
    """What would have to be given, or left out, for an option to be read; None if it is read.

    An option that changes nothing may be given with others that are not read, as a recipe gives it to every stage.
    """
    about = options_of(type(config))[name]
    deep = not about.of(ChangesNothing)
    reasons = (condition.why_not(config, deep=deep) for condition in about.of(ReadIf))
    return next((reason for reason in reasons if reason is not None), None)


def is_read(config: Any, name: str) -> bool:
    """Whether an option has an effect, as the other options are."""
    return why_unread(config, name) is None


def changes_nothing(config: Any, name: str) -> bool:
    """Whether an option cannot change what is written, as the other options are."""
    about = options_of(type(config))[name]
    marks = about.of(ChangesNothing)
    return bool(about.of(Output)) or any(mark.unless is None or not mark.unless(config) for mark in marks)


def check_options(config: Any) -> None:
    """Checks every option of a dataclass by what its field says.

    Raises ValueError, naming the option, for a value out of bounds, one that a check refuses, or one that is not the
    default though nothing reads it.
    """
    options = options_of(type(config))
    given = {name: value for name in options if (value := getattr(config, name)) is not None}
    for name, value in given.items():
        for bounds in options[name].of(Bounds):
            if not bounds.admit(value):
                raise ValueError(f"--{name} is {value}; it must be {bounds}")
    for name, value in given.items():
        for check in options[name].of(Check):
            check.check(name, value)
    for field in (field for field in fields(config) if options[field.name].of(ReadIf)):
        value = getattr(config, field.name)
        if value != _default(field) and (reason := why_unread(config, field.name)):
            raise ValueError(f"--{field.name} is {value!r}, and nothing reads it {reason}")


def check_found(config: Any, where: str, **found: Any) -> None:
    """Checks the options as if what was found in a file had been given; `where` begins the message.

    Raises ValueError as `check_options` does.
    """
    try:
        replace(config, **found)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@dataclass(kw_only=True)
class Options:
    """Options that are checked by what their fields say as soon as they are given.

    GROUP names the options of a class that several commands share, for the help. READ_IF: see `ReadIf`.
    """

    GROUP: ClassVar[str] = ""
    READ_IF: ClassVar[ReadIf | None] = None

    def __post_init__(self) -> None:
        check_options(self)


def settings_of(config: Any, *ignored: str, **inputs: Any) -> dict[str, Any]:
    """The settings that determine a command's rows: its options but those that change nothing, and its inputs.

    `ignored` are the options that `inputs` say more of.
    """
    about = options_of(type(config))
    kept = {name: value for name, value in asdict(config).items() if name not in ignored}
    return {n: about[n].in_settings(v) for n, v in kept.items() if not changes_nothing(config, n)} | inputs

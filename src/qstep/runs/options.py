"""The marks of an option, as `Annotated` metadata at its field, and the one check of them.

`rows_at_once: Annotated[int, Bounds(least=1), CHANGES_NOTHING] = 128` has a least value and is not in the settings.
A recipe's key, a stage file's settings, and the refusal of options without effect all use these marks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from functools import reduce
from inspect import get_annotations
from operator import or_
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from qstep.runs.outputs import refuse_overwriting

M = TypeVar("M")


@dataclass(frozen=True)
class Bounds:
    """The limits of a number. None and values that are not numbers are not compared."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def admit(self, value: float) -> bool:
        """Whether the value is within the bounds. NaN never is."""
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


AtLeast1 = Annotated[int, Bounds(least=1)]
"""The type of an option that counts something."""

Seed = Annotated[int, Bounds(least=0)]
"""The type of a seed. numpy takes no negative ones."""

Threshold = Annotated[float, Bounds(least=0, below=1)]
"""The type of a threshold: a success probability, or a soft label, above which a step is right."""


@dataclass(frozen=True)
class Check:
    """A check of a value that is not None. It is called with the option's name and the value, and raises ValueError."""

    check: Callable[[str, Any], object]


@dataclass(frozen=True)
class ChangesNothing:
    """The option cannot change what is written, so it is not part of the settings or of a recipe's key.

    `unless` returns whether it can for a config.
    """

    unless: Callable[[Any], bool] | None = None


CHANGES_NOTHING = ChangesNothing()


@dataclass(frozen=True)
class NotInSettings:
    """The settings have no entry for the option. The command writes another in its place, or checks it itself.

    A recipe's key has the option. `unless` returns whether the settings have it for a config.
    """

    unless: Callable[[Any], bool] | None = None


NOT_IN_SETTINGS = NotInSettings()


@dataclass(frozen=True)
class Output:
    """The option is a file or folder to write. It cannot change the content, and it must not be one of the inputs.

    `name` is what a recipe calls it, in the folder of the stage.
    """

    name: str = "{stage}.jsonl"


OutputFile = Annotated[Path, Output()]
"""The type of an option that is a file of rows to write."""

OutputFolder = Annotated[Path, Output("{stage}")]
"""The type of an option that is a folder to write."""


@dataclass(frozen=True)
class InSettings:
    """How the settings represent a value that is not None."""

    write: Callable[[Any], Any]


ONLY_WHETHER_GIVEN = InSettings(lambda value: True)
"""For addresses: the settings record only that there is one."""


@dataclass(frozen=True)
class Reads:
    """The option may name a file, a folder or code.

    `inputs` is called with the option's name and a value. It yields those inputs that are on this machine, each with
    its fingerprint. It raises ValueError for a path that does not exist. An option of type Path needs no such mark.
    """

    inputs: Callable[[str, str], Iterator[tuple[str, str]]]


@dataclass(frozen=True)
class Written:
    """The option may also be written as a value of the type `hint`. `form` makes the option's own value of it."""

    hint: Any
    form: Callable[[Any], Any]


@dataclass(frozen=True)
class Such:
    """A condition on a value in a `ReadIf`, instead of the value itself. `words` describe it for messages."""

    test: Callable[[Any], bool]
    words: str = "--{name}"


GIVEN = Such(bool)
"""Any value except None, 0, False and empty ones."""


@dataclass(frozen=True)
class Unread:
    """Why an option is not read: one of `missing` is needed, and each of `present` must be left out."""

    missing: tuple[str, ...] = ()
    present: tuple[str, ...] = ()

    def __str__(self) -> str:
        without = [f"without {' or '.join(self.missing)}"] if self.missing else []
        return " and ".join([*without, *(f"with {option}" for option in self.present)])


class ReadIf:
    """The option is read only if one of these other options has one of its values: `ReadIf(engine=("hf", "vllm"))`.

    A command that has none of the other options always reads it. If a field has several `ReadIf`, all must hold.
    `READ_IF` of a class holds for each field of the class that has none of its own. `anyway` are values of the option
    itself that are read under all conditions.
    """

    def __init__(self, *anyway: Any, **options: Any) -> None:
        self.anyway = anyway
        self.options = {name: value if isinstance(value, tuple) else (value,) for name, value in options.items()}

    def why_not(self, config: Any, *, deep: bool) -> Unread | None:
        """Why the option is not read, or None if it is.

        With `deep`, a condition counts only if its own option is read.
        """
        reasons: list[Unread] = []
        for name, values in self.options.items():
            if not hasattr(config, name):
                continue
            reason = why_unread(config, name)
            if (reason is None or not deep) and _matches(getattr(config, name), values):
                return None
            reasons.append(reason or _lack(name, values))
        return _joined(reasons) if reasons else None

    def words(self, options: Mapping[str, bool]) -> str:
        """The condition for the help of a command: `with --engine hf or vllm`. It is empty if it always holds.

        `options` are those of the command, and whether each must be given.
        """
        known = {name: values for name, values in self.options.items() if name in options}
        if any(options[name] and GIVEN in values for name, values in known.items()):
            return ""
        lack = _joined([_lack(name, values) for name, values in known.items()])
        needed = [f"with {' or '.join(lack.missing)}"] if lack.missing else []
        return " or ".join([*needed, *(f"without {option}" for option in lack.present)])


def either(conditions: Iterable[ReadIf]) -> ReadIf:
    """The condition that holds if one of these does."""
    options: dict[str, tuple[Any, ...]] = {}
    for condition in conditions:
        options |= {name: options.get(name, ()) + values for name, values in condition.options.items()}
    return ReadIf(**options)


def _joined(reasons: list[Unread]) -> Unread:
    """The reasons as one, each option once."""
    missing = dict.fromkeys(option for reason in reasons for option in reason.missing)
    present = dict.fromkeys(option for reason in reasons for option in reason.present)
    return Unread((*missing,), (*present,))


def _matches(actual: Any, values: tuple[Any, ...]) -> bool:
    return any(value.test(actual) if isinstance(value, Such) else value == actual for value in values)


def _lack(name: str, values: tuple[Any, ...]) -> Unread:
    """What is wrong if an option has none of the values."""
    if values[0] is None:
        return Unread(present=(f"--{name}",))
    if isinstance(values[0], Such):
        return Unread((values[0].words.format(name=name),))
    texts = [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
    return Unread((f"--{name} " + " or ".join(", ".join(texts).rsplit(", ", 1)),))


@dataclass(frozen=True)
class About:
    """The type and the marks of a field."""

    hint: Any
    marks: tuple[Any, ...]

    def of(self, kind: type[M]) -> list[M]:
        """The marks of one kind."""
        return [mark for mark in self.marks if isinstance(mark, kind)]

    def in_settings(self, value: Any) -> Any:
        """The value as the settings represent it."""
        for mark in self.of(InSettings) if value is not None else ():
            value = mark.write(value)
        return value

    @property
    def written(self) -> Any:
        """The type of the values that the command line and files of options may have."""
        return reduce(or_, (mark.hint for mark in self.of(Written)), self.hint)

    @property
    def is_path(self) -> bool:
        """Whether the values are paths, or contain paths."""
        return self.hint is Path or any(About(part, ()).is_path for part in get_args(self.hint))


_found: dict[type, dict[str, About]] = {}


def options_of(config: type) -> Mapping[str, About]:
    """The type and the marks of each option of a dataclass.

    Marks stand at the field or at its class. `MARKS` of another class adds marks. `USES` of several classes says when
    each reads an option that they share. It has an effect if one of them reads it.
    """
    if config not in _found:
        _found[config] = _options_of(config)
    return _found[config]


def _options_of(config: type) -> dict[str, About]:
    hints = get_type_hints(config, include_extras=True)
    names = {field.name for field in fields(config)}
    found = {name: _about(hint) for name, hint in hints.items() if name in names}
    used: dict[str, list[ReadIf]] = {}
    for base in config.__mro__:
        condition = base.__dict__.get("READ_IF")
        own = [name for name in get_annotations(base) if name in names]
        for name in own if condition is not None else ():
            if not found[name].of(ReadIf):
                found[name] = About(found[name].hint, (*found[name].marks, condition))
        for name, marks in base.__dict__.get("MARKS", {}).items():
            if name in names:
                found[name] = About(found[name].hint, (*found[name].marks, *marks))
        for name, condition in base.__dict__.get("USES", {}).items():
            used.setdefault(name, []).append(condition)
    for name, conditions in used.items():
        if name in names:
            found[name] = About(found[name].hint, (*found[name].marks, either(conditions)))
    return found


def _about(hint: Any) -> About:
    if get_origin(hint) is Annotated:
        inner, *marks = get_args(hint)
        about = _about(inner)
        return About(about.hint, (*about.marks, *marks))
    if get_origin(hint) in (Union, UnionType):  # `StepSeparator | None` has the marks of its parts
        parts = [_about(part) for part in get_args(hint)]
        union = reduce(or_, (part.hint for part in parts))
        return About(union, tuple(mark for part in parts for mark in part.marks))
    return About(dict[str, Any] if hint is dict else hint, ())  # a plain dict would keep numbers as strings


def why_unread(config: Any, name: str) -> Unread | None:
    """Why an option is not read, or None if it is.

    An option that changes nothing may depend on options that are not read, because a recipe gives it to every stage.
    """
    about = options_of(type(config))[name]
    deep = not about.of(ChangesNothing)
    conditions = (condition for condition in about.of(ReadIf) if getattr(config, name) not in condition.anyway)
    reasons = (condition.why_not(config, deep=deep) for condition in conditions)
    return next((reason for reason in reasons if reason is not None), None)


def is_read(config: Any, name: str) -> bool:
    """Whether an option has an effect with the current values of the others."""
    return why_unread(config, name) is None


def changes_nothing(config: Any, name: str) -> bool:
    """Whether an option cannot change what is written with the current values of the others."""
    about = options_of(type(config))[name]
    return bool(about.of(Output)) or _holds(about.of(ChangesNothing), config)


def _holds(marks: list[ChangesNothing] | list[NotInSettings], config: Any) -> bool:
    return any(mark.unless is None or not mark.unless(config) for mark in marks)


def outputs_of(config: type) -> dict[str, Output]:
    """The options of a dataclass that are files or folders to write."""
    return {name: mark for name, about in options_of(config).items() for mark in about.of(Output)}


def check_options(config: Any) -> None:
    """Checks every option of a dataclass by the marks of its field.

    Raises ValueError, which names the option, for a value that is out of bounds or that a check refuses. Also raises it
    for a value that differs from the default but has no effect, and for an output that is also an input.
    """
    options = options_of(type(config))
    form = getattr(config, "FORM", Options.FORM)
    for name, about in options.items():
        check_value(form.format(name), about, getattr(config, name))
    for field in (field for field in fields(config) if options[field.name].of(ReadIf)):
        value = getattr(config, field.name)
        if value != _default(field) and (reason := why_unread(config, field.name)):
            needs_options = reason.missing and all(option.startswith("--") for option in reason.missing)
            then = "give that too, or remove it" if needs_options else "remove it"
            raise ValueError(f"{form.format(field.name)} is {value!r}, but it has no effect {reason}: {then}")
    refuse_overwriting({name: getattr(config, name) for name in options}, outputs_of(type(config)))


def check_value(name: str, about: About, value: Any) -> None:
    """Raises ValueError, which names the option, if a value is out of bounds or a check refuses it."""
    if value is None:
        return
    for bounds in about.of(Bounds):
        if not bounds.admit(value):
            raise ValueError(f"{name} is {value}; it must be {bounds}")
    for check in about.of(Check):
        check.check(name.removeprefix("--"), value)


def check_found(config: Any, where: str, **found: Any) -> None:
    """Checks the options together with values that were found in a file. `where` begins the message.

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
    """Base of options that are checked by their marks when they are created.

    GROUP is the name of options that several commands share, for the help. FORM is how messages name an option.
    READ_IF: see `ReadIf`. MARKS and USES: see `options_of`.
    """

    GROUP: ClassVar[str] = ""
    FORM: ClassVar[str] = "--{}"
    READ_IF: ClassVar[ReadIf | None] = None
    MARKS: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    USES: ClassVar[Mapping[str, ReadIf]] = {}

    def __post_init__(self) -> None:
        for name, about in options_of(type(self)).items():
            for mark in about.of(Written) if getattr(self, name) is not None else ():
                setattr(self, name, mark.form(getattr(self, name)))
        check_options(self)


def settings_of(config: Any, part: type | None = None, /, **inputs: Any) -> dict[str, Any]:
    """The settings that determine a command's rows: its inputs, and its options except those that change nothing.

    With `part`, a base of the config, only the options of that base.
    """
    about = options_of(type(config))
    kept = [name for name in options_of(part or type(config)) if not _holds(about[name].of(NotInSettings), config)]
    options = {name: value for name, value in asdict(config).items() if name in kept}
    return {n: about[n].in_settings(v) for n, v in options.items() if not changes_nothing(config, n)} | inputs

"""Options that know themselves: what a field says is what is checked, written to the settings, and part of a key."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import pytest
from transformers import TrainingArguments

import qstep
from qstep.models.loading import ModelOptions
from qstep.runs.options import (
    CHANGES_NOTHING,
    GIVEN,
    NOT_IN_SETTINGS,
    ONLY_WHETHER_GIVEN,
    About,
    Bounds,
    ChangesNothing,
    Check,
    NotInSettings,
    Options,
    ReadIf,
    Such,
    changes_nothing,
    is_read,
    options_of,
    outputs_of,
    settings_of,
    why_unread,
)
from qstep.stages.commands import COMMANDS

REQUIRED = {
    **dict.fromkeys(("input", "train_file"), Path("in.jsonl")),
    **{name: {"a": Path("a.json")} for name in ("inputs", "results")},
    **dict.fromkeys(("output", "output_dir", "model"), Path("out.jsonl")),
    **dict.fromkeys(("model_name_or_path", "scorer", "dataset_name"), "name"),
}
CONFIGS = {config for command in COMMANDS.values() for config in command.classes()}


def made(config: type, **options: Any) -> Any:
    """A config of a command: what it requires, and some options."""
    needed = {f.name: REQUIRED[f.name] for f in fields(config) if f.default is f.default_factory is MISSING}
    if issubclass(config, TrainingArguments):
        needed = {"output_dir": "out", "report_to": "none", "use_cpu": True}
    if config.__name__ == "EvaluateStepsConfig":
        needed["inputs"] = Path("in.jsonl")
    return config(**needed | options)


def marked(kind: type) -> Iterator[tuple[type, str, Any]]:
    """Every option of every command, with its marks of a kind."""
    for config in sorted(CONFIGS, key=lambda config: config.__name__):
        for name, about in options_of(config).items():
            yield from ((config, name, mark) for mark in about.of(kind))


@dataclass(kw_only=True)
class Toy(Options):
    count: Annotated[int | None, Bounds(least=1)] = None
    share: Annotated[float, Bounds(above=0, below=1)] = 0.5
    way: Literal["a", "b", "c"] = "a"
    depth: Annotated[int, ReadIf(way=("b", "c"))] = 3
    level: Annotated[float, ReadIf(depth=GIVEN)] = 0.9
    rows: Annotated[int, CHANGES_NOTHING, ReadIf(depth=GIVEN)] = 8
    url: Annotated[str | None, ONLY_WHETHER_GIVEN, ReadIf(absent=1)] = None
    pace: Annotated[int, ChangesNothing(unless=lambda config: config.way == "c")] = 1
    source: Annotated[str, NOT_IN_SETTINGS] = "a"
    scale: Annotated[int, NotInSettings(unless=lambda config: config.way == "c")] = 2
    mood: Annotated[str, ReadIf("calm", way="b")] = "none"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "--count is 0; it must be at least 1"),
        ({"share": 1.0}, "--share is 1.0; it must be above 0 and below 1"),
        ({"share": math.nan}, "--share is nan; it must be above 0 and below 1"),
        ({"depth": 4}, "--depth is 4, but it has no effect without --way b or c: give that too, or remove it"),
        ({"level": 0.5}, "--level is 0.5, but it has no effect without --way b or c: give that too, or remove it"),
        ({"mood": "wild"}, "--mood is 'wild', but it has no effect without --way b: give that too, or remove it"),
        (
            {"level": 0.5, "way": "b", "depth": 0},
            "--level is 0.5, but it has no effect without --depth: give that too, or remove it",
        ),
    ],
)
def test_an_option_is_checked_by_what_its_field_says(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        Toy(**options)


def test_what_can_be_meant_is_taken() -> None:
    Toy(count=1, way="b", depth=4, level=0.5, url="http://a")
    assert Toy(rows=9).rows == 9, "it changes nothing, so it may be given although way is a"
    assert is_read(Toy(mood="calm"), "mood") and is_read(Toy(mood="wild", way="b"), "mood")
    assert why_unread(Toy(way="b"), "level") is None and not is_read(Toy(), "depth")


def test_the_settings_are_the_options_that_change_something() -> None:
    assert settings_of(Toy(url="http://a"), extra=1) == {
        **{"count": None, "share": 0.5, "way": "a", "depth": 3, "level": 0.9},
        **{"url": True, "mood": "none", "extra": 1},
    }
    assert settings_of(Toy(way="c")).items() >= {"pace": 1, "scale": 2}.items() and settings_of(Toy())["url"] is None
    assert not changes_nothing(Toy(), "source"), "a recipe's key has it"


def test_the_settings_have_the_content_of_a_chat_template(tmp_path: Path) -> None:
    """Without the option they have no entry, so that files of earlier versions are resumed."""
    file = tmp_path / "chat.jinja"
    found = []
    for text in ("{{ messages }}", "{{ messages }}.", "{{ messages }}"):
        file.write_text(text, encoding="utf-8")
        found.append(settings_of(ModelOptions(model_name_or_path="model", chat_template_path=str(file))))
    assert found[0] == found[2] != found[1]
    assert found[0].keys() - settings_of(ModelOptions(model_name_or_path="model")).keys() == {"chat_template_path"}


def test_the_settings_of_a_part_are_those_of_its_fields() -> None:
    @dataclass(kw_only=True)
    class More(Toy):
        own: int = 1

    assert settings_of(More())["own"] == 1
    assert settings_of(More(), Toy) == settings_of(Toy())


def test_bounds_are_named() -> None:
    assert str(Bounds(least=0, most=1)) == "from 0 to 1"
    assert str(Bounds(least=0, below=1)) == "at least 0 and below 1" and str(Bounds(above=0)) == "above 0"


def test_every_bound_of_every_command_is_kept() -> None:
    """A value just outside is refused with the option's name; there are commands with bounds at all."""
    found = 0
    for config, name, bounds in marked(Bounds):
        for bound, step in ((bounds.least, -1), (bounds.most, 1), (bounds.above, 0), (bounds.below, 0)):
            if bound is not None:
                found += 1
                with pytest.raises(ValueError, match=rf"^--{name} is {bound + step}; it must be {bounds}$"):
                    made(config, **{name: bound + step})
    assert found > 60


def test_every_number_has_bounds() -> None:
    """Those of transformers are checked there."""
    without = {
        name
        for config in CONFIGS
        for name, about in options_of(config).items()
        if {int, float} & {about.hint, *get_args(about.hint)} and not about.of(Bounds) and not about.of(Check)
        if not (issubclass(config, TrainingArguments) and name in TrainingArguments.__dataclass_fields__)
    }
    assert without == set()


def test_every_condition_names_options_and_values_that_exist() -> None:
    """A condition on an option that no command has, or on a value that it cannot have, would never hold."""
    known: dict[str, list[About]] = {}
    for config in CONFIGS:
        for name, about in options_of(config).items():
            known.setdefault(name, []).append(about)
    found = 0
    for config, name, condition in marked(ReadIf):
        for other, values in condition.options.items():
            found += 1
            assert other in known and other != name, f"{config.__name__}.{name} is read if {other}"
            choices = {choice for about in known[other] for choice in get_args(about.hint)}
            choices |= {True, False} if any(about.hint is bool for about in known[other]) else set()
            for value in values:
                if not isinstance(value, Such) and value is not None:
                    assert value in choices, f"{config.__name__}.{name} is read if {other} is {value!r}"
    assert found > 30


def test_a_file_to_write_is_no_setting() -> None:
    """Every command but the server writes something, and the mark says what a recipe calls it."""
    for command in COMMANDS.values():
        assert bool(command.outputs) == (command.name != "serve"), command.name
    for config in CONFIGS:
        assert {"output", "output_dir", "summary", "chosen"} & options_of(config).keys() == outputs_of(config).keys()
        for name in outputs_of(config):
            assert changes_nothing(made(config), name), f"{config.__name__}.{name}"
    assert COMMANDS["report"].outputs == {"output": "{stage}.html", "summary": "results.json"}
    assert COMMANDS["train dqo"].outputs == COMMANDS["merge"].outputs == {"output_dir": "{stage}"}


def test_a_lower_room_names_no_options_of_a_higher_one() -> None:
    """The options that several rooms share do not say who reads them: those who do say it in `USES` or `MARKS`."""
    shared = {base for config in CONFIGS for base in config.__mro__ if base.__module__.startswith("qstep.runs.")}
    assert len(shared) > 3
    for base in shared:
        own = options_of(base).keys()
        for name, about in options_of(base).items():
            assert all(condition.options.keys() <= own for condition in about.of(ReadIf)), f"{base.__name__}.{name}"


def test_an_option_that_two_classes_use_is_read_if_one_of_them_reads_it() -> None:
    @dataclass(kw_only=True)
    class Shared(Options):
        place: str = "here"
        pace: int = 1

    @dataclass(kw_only=True)
    class One(Shared):
        USES: ClassVar[Mapping[str, ReadIf]] = {"place": ReadIf(way="a")}
        way: str = "a"

    @dataclass(kw_only=True)
    class Other(Shared):
        USES: ClassVar[Mapping[str, ReadIf]] = {"place": ReadIf(url=None)}
        MARKS: ClassVar[Mapping[str, tuple[ReadIf, ...]]] = {"pace": (ReadIf(url=GIVEN),), "absent": (ReadIf(url=1),)}
        url: str | None = None

    @dataclass(kw_only=True)
    class Both(One, Other): ...

    Both(place="there"), Both(place="there", way="b"), Both(place="there", url="u", pace=2)
    with pytest.raises(ValueError, match="--place is 'there', but it has no effect without --way a and with --url: "):
        Both(place="there", way="b", url="u")
    with pytest.raises(ValueError, match="--pace is 2, but it has no effect without --url: "):
        Both(pace=2)
    assert (
        options_of(Both)["place"].of(ReadIf)[0].words({"way": False, "url": False}) == "with --way a or without --url"
    )
    assert options_of(Both)["pace"].of(ReadIf)[0].words({"url": True}) == "", "it is always given"


def test_no_command_checks_an_option_by_its_name() -> None:
    """No list of options and their bounds, and no refusal of an option without effect, stands outside the fields."""
    by_name = re.compile(r"refuse_unread|_NO_EFFECT|raise .*(?:it has no effect|it must be (?:at|from|above|below))")
    for room in ("stages", "objectives", "trainers", "annotate", "scoring", "tasks", "recipes"):
        for file in (Path(qstep.__file__).parent / room).rglob("*.py"):
            found = by_name.findall(file.read_text())
            assert not found or file.name == "arguments.py", f"{room}/{file.name}: {found}"  # what no trainer reads

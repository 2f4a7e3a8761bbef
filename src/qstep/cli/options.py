"""`--help` of a command, read from the source of its option dataclasses: nothing is imported, so it is quick."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import qstep
from qstep.stages.commands import Command


@dataclass(frozen=True)
class Option:
    """A field of an option dataclass; `default` is its source text, None where it must be given."""

    name: str
    type: str
    default: str | None
    about: str


def options_of(command: Command) -> tuple[list[Option], list[str], list[str]]:
    """The command's own options, its descriptions, and the classes outside qstep that it inherits options from."""
    options: dict[str, Option] = {}
    abouts, outside = [], []
    for config in command.configs:
        module, name = config.split(":")
        for about, own, foreign in _ancestry(module, name):
            abouts.append(about)
            outside += foreign
            options |= {option.name: option for option in own}
    return list(options.values()), abouts, outside


def short_help(command: Command) -> str:
    """The command's own options; those it inherits from outside qstep are named, and left to `--help-all`."""
    options, abouts, outside = options_of(command)
    first = f" {command.positional.upper()}" if command.positional else ""
    lines = [
        f"usage: qstep {command.name}{first} [--config FILE.yaml] [--option VALUE ...]",
        "",
        *_paragraphs(abouts[-1]),
    ]
    lines += ["", "options:", *_entry("--config FILE.yaml", "a YAML file of options; flags override it")]
    for option in sorted(options, key=lambda option: option.default is not None):
        default = "required" if option.default is None else f"default: {option.default}"
        lines += _entry(f"--{option.name} {_metavar(option.type)}", f"{option.about} ({default})")
    if outside:
        lines += _entry("--output_dir PATH", "the folder of the model, its checkpoints and its log. (required)")
        bases = ", ".join(dict.fromkeys(outside))
        lines += ["", f"qstep {command.name} --help-all adds those of transformers' {bases}, such as --learning_rate,"]
        lines += ["--per_device_train_batch_size, --num_train_epochs, --max_steps and --save_steps."]
        lines += ["--per_device_train_batch_size counts problems: each brings up to responses_per_prompt responses."]
    return "\n".join(lines)


def _ancestry(module: str, name: str) -> Iterator[tuple[str, list[Option], list[str]]]:
    """Docstring, options and foreign bases of a class and its bases within qstep, the farthest first."""
    tree = _tree(module)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    imported = {
        alias.asname or alias.name: (statement.module or "", alias.name)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    foreign = []
    for base in reversed(node.bases):
        origin, original = imported.get(ast.unparse(base), (module, ast.unparse(base)))
        if origin.partition(".")[0] == "qstep":
            yield from _ancestry(*_defined_in(origin, original))
        else:
            foreign.append(original)
    about, described = _documentation(ast.get_docstring(node) or "")
    options = [
        Option(
            field.target.id,
            _type(module, field.annotation, imported),
            _default(field.value),
            described.get(field.target.id, ""),
        )
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if not ast.unparse(field.annotation).startswith("ClassVar")
    ]
    yield about, options, foreign


def _type(module: str, annotation: ast.expr, imported: dict[str, tuple[str, str]]) -> str:
    """The text of a type; a name for choices is replaced by them."""
    text = ast.unparse(annotation)
    origin, name = imported.get(text, (module, text))
    if origin.partition(".")[0] == "qstep":
        origin, name = _defined_in(origin, name)
        for statement in _tree(origin).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
                return ast.unparse(statement.value)
    return text


def _defined_in(module: str, name: str) -> tuple[str, str]:
    """Where a class that a package re-exports is defined."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.ImportFrom) and any(alias.name == name for alias in statement.names):
            return _defined_in(statement.module or "", name)
    return module, name


@cache
def _tree(module: str) -> ast.Module:
    """The parsed source of a module of qstep, found without importing the packages that hold it."""
    path = Path(qstep.__file__).parent.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _default(value: ast.expr | None) -> str | None:
    """The text of a default; for `field(default=...)` and `field(default_factory=...)` of what is in it."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        factory = given.get("default_factory")
        return given.get("default", factory and {"list": "[]", "dict": "{}"}.get(factory, factory))
    return None if value is None else ast.unparse(value)


def _documentation(docstring: str) -> tuple[str, dict[str, str]]:
    """What stands before `Args:`, and the description of each argument."""
    about, _, arguments = inspect.cleandoc(docstring).partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments, re.MULTILINE)
    return about, {name: " ".join(text.split()) for name, text in entries}


def _metavar(annotation: str) -> str:
    choices = re.findall(r"'([^']*)'", annotation)
    return "{" + ",".join(choices) + "}" if choices else annotation.replace(" | None", "").upper()


def _entry(left: str, right: str) -> list[str]:
    wrapped = textwrap.wrap(right, 84) or [""]
    if len(left) < 30:
        return [f"  {left:30} {wrapped[0]}", *(f"{'':33}{line}" for line in wrapped[1:])]
    return [f"  {left}", *(f"{'':33}{line}" for line in wrapped)]


def _paragraphs(text: str) -> list[str]:
    return [line for part in text.split("\n\n") for line in [*textwrap.wrap(part, 116), ""]][:-1]

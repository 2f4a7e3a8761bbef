"""The options of a command, read from the source of its dataclasses. They are not imported, so this is fast."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import qstep
from qstep.runs.options import GIVEN, ReadIf, Such, either
from qstep.stages.commands import Command


@dataclass(frozen=True)
class Option:
    """A field of an option dataclass. `default` is its source text, or None if the option is required.

    `read_if` are the conditions under which it is read, and `only` says the same in words.
    """

    name: str
    type: str
    default: str | None
    about: str
    read_if: tuple[ReadIf, ...] = ()
    only: str = ""


@dataclass(frozen=True)
class CommandOptions:
    """The contents of a command's help.

    Args:
        about: the docstring of its dataclass, without `Args:`.
        own: its own options, and required options that it shares with other commands.
        shared: other options that it shares with other commands, by the title of their group.
        foreign: classes outside qstep whose options it also has.
    """

    about: str
    own: list[Option]
    shared: dict[str, list[Option]]
    foreign: list[str]


@dataclass(frozen=True)
class _Class:
    """One dataclass of options: its docstring, the title of its group, its fields, and its bases outside qstep.

    `uses` and `marks` are the conditions that it adds to options of other classes; see `qstep.runs.options.options_of`.
    """

    about: str
    title: str = ""
    options: list[Option] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    uses: dict[str, ReadIf] = field(default_factory=dict)
    marks: dict[str, tuple[ReadIf, ...]] = field(default_factory=dict)


_OUTPUT_DIR = Option("output_dir", "Path", None, "the folder of the model, its checkpoints and its log.")
"""The required option of transformers' TrainingArguments."""


def command_options(command: Command) -> CommandOptions:
    """The options of a command, with those of its own dataclass before those of its bases."""
    classes = [declared for config in command.configs for declared in _ancestry(*config.split(":"))]
    foreign = dict.fromkeys(name for declared in classes for name in declared.foreign)
    found: dict[str, tuple[str, Option]] = {}
    for declared in reversed(classes):  # the nearest first, because it overrides its bases
        for option in declared.options:
            found.setdefault(option.name, (declared.title, option))
    must = {name: option.default is None for name, (_, option) in found.items()}
    described = [(title, _described(option, classes, must)) for title, option in found.values()]
    own = [option for title, option in described if not title or option.default is None]
    shared: dict[str, list[Option]] = {}
    for title, option in described:
        if title and option.default is not None:
            shared.setdefault(title, []).append(option)
    return CommandOptions(classes[-1].about, [*own, *([_OUTPUT_DIR] if foreign else [])], shared, list(foreign))


def _described(option: Option, classes: list[_Class], must: dict[str, bool]) -> Option:
    """The option with the conditions that these classes add, in words. `must` says which options are required."""
    users = [declared.uses[option.name] for declared in reversed(classes) if option.name in declared.uses]
    added = [condition for declared in classes for condition in declared.marks.get(option.name, ())]
    words = [condition.words(must) for condition in (*option.read_if, *([either(users)] if users else []), *added)]
    return replace(option, only=", and ".join(dict.fromkeys(filter(None, words))))


def _ancestry(module: str, name: str) -> Iterator[_Class]:
    """A class and its bases in qstep, the most distant first."""
    tree = _tree(module)
    node = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    imported = _imported(module)
    foreign = []
    for base in reversed(node.bases):
        origin, original = imported.get(ast.unparse(base), (module, ast.unparse(base)))
        if origin.partition(".")[0] == "qstep" or origin == module:
            yield from _ancestry(*_defined_in(origin, original))
        else:
            foreign.append(original)
    about, described = _documentation(ast.get_docstring(node) or "")
    found = _Class(about, foreign=foreign)
    whole: tuple[ReadIf, ...] = ()
    for statement in node.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "GROUP":
            found = replace(found, title=ast.literal_eval(statement.value))
        elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "READ_IF":
            whole = (_value(module, statement.value),)
        elif isinstance(statement, ast.AnnAssign) and ast.unparse(statement.annotation).startswith("ClassVar"):
            table = statement.target.id if isinstance(statement.target, ast.Name) else ""
            values = {key: _value(module, value) for key, value in _entries(statement.value)}
            found.uses.update(values if table == "USES" else {})
            for key, marks in values.items() if table == "MARKS" else ():
                found.marks[key] = tuple(mark for mark in marks if isinstance(mark, ReadIf))
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            option = statement.target.id
            type_ = _type(module, statement.annotation)
            read_if = _conditions(module, statement.annotation) or whole
            default = _default(statement.value)
            found.options.append(Option(option, type_, default, described.get(option, ""), tuple(read_if)))
    yield found


def _entries(table: ast.expr | None) -> Iterator[tuple[str, ast.expr]]:
    """The entries of a dictionary that the source writes out."""
    if isinstance(table, ast.Dict):
        yield from ((ast.literal_eval(k), v) for k, v in zip(table.keys, table.values, strict=True) if k is not None)


def _conditions(module: str, annotation: ast.expr) -> list[ReadIf]:
    """The `ReadIf` among the marks of a field."""
    if not isinstance(annotation, ast.Subscript) or ast.unparse(annotation.value) != "Annotated":
        return []
    assert isinstance(annotation.slice, ast.Tuple)
    return [mark for mark in (_value(module, mark) for mark in annotation.slice.elts[1:]) if isinstance(mark, ReadIf)]


def _value(module: str, node: ast.expr) -> Any:
    """What an expression in a mark stands for, as far as the help needs it. Other expressions are None."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_value(module, part) for part in node.elts)
    if isinstance(node, ast.Name):
        origin, name = _defined_in(*_imported(module).get(node.id, (module, node.id)))
        if name == "GIVEN":
            return GIVEN
        value = _assigned(origin, name) if origin.partition(".")[0] == "qstep" else None
        return None if value is None else _value(origin, value)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "ReadIf":
        return ReadIf(**{keyword.arg: _wanted(module, keyword.value) for keyword in node.keywords if keyword.arg})
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "get_args":
        return ast.literal_eval(_type(module, node.args[0]).replace("Literal[", "(").replace("]", ",)"))
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Such":
        return Such(bool, *(_value(module, words) for words in node.args[1:]))
    return None


def _wanted(module: str, node: ast.expr) -> Any:
    """The values in a `ReadIf`. A function of qstep that makes them is called, so its module must import fast."""
    function = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    origin, name = _imported(module).get(function, ("", ""))
    if isinstance(node, ast.Call) and origin.startswith("qstep.") and name.islower():
        return getattr(import_module(origin), name)(*map(ast.literal_eval, node.args))
    return _value(module, node)


@cache
def _imported(module: str) -> dict[str, tuple[str, str]]:
    """The names that a module imports, with the module and the name of their origin."""
    return {
        alias.asname or alias.name: (statement.module or "", alias.name)
        for statement in _tree(module).body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def _type(module: str, annotation: ast.expr) -> str:
    """The source text of a type. `Annotated` is replaced by its first part, and a type alias by its type."""
    if isinstance(annotation, ast.BinOp):
        return f"{_type(module, annotation.left)} | {_type(module, annotation.right)}"
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Annotated":
        assert isinstance(annotation.slice, ast.Tuple)
        return _type(module, annotation.slice.elts[0])
    text = ast.unparse(annotation)
    if text.startswith("Literal[") and isinstance(listed := getattr(annotation, "slice", None), ast.Tuple):
        choices = (_type(module, choice) for choice in listed.elts)  # a name among them is another Literal
        text = f"Literal[{', '.join(choice.removeprefix('Literal[').removesuffix(']') for choice in choices)}]"
    origin, name = _imported(module).get(text, (module, text))
    if origin.partition(".")[0] == "qstep" or origin == module:
        origin, name = _defined_in(origin, name)
        if (value := _assigned(origin, name)) is not None:
            return _type(origin, value)
    if (names := re.fullmatch(r"Literal\[\(?\*(\w+),?\)?\]", text)) and isinstance(
        table := _assigned(module, names[1]), ast.Dict
    ):
        return f"Literal[{', '.join(ast.unparse(key) for key in table.keys if key)}]"
    return text


def _assigned(module: str, name: str) -> ast.expr | None:
    """The value that a module gives a name."""
    return _assignments(module).get(name)


@cache
def _assignments(module: str) -> dict[str, ast.expr]:
    """The values that a module gives names; of several, what it is when the program runs."""
    assigned = (node for node in _statements(_tree(module).body) if isinstance(node, ast.Assign))
    return {target.id: node.value for node in assigned if isinstance(target := node.targets[0], ast.Name)}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those under a condition, in their order. Functions and classes are not read."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If):
            yield from _statements([*statement.body, *statement.orelse])


def _defined_in(module: str, name: str) -> tuple[str, str]:
    """The module that defines a class which a package re-exports."""
    for statement in _tree(module).body:
        if isinstance(statement, ast.ImportFrom) and any(alias.name == name for alias in statement.names):
            return _defined_in(statement.module or "", name)
    return module, name


@cache
def _tree(module: str) -> ast.Module:
    """The parsed source of a module. Modules of qstep are found without importing their packages."""
    first, *rest = module.split(".")
    if first != "qstep":
        spec = importlib.util.find_spec(module)
        assert spec is not None and spec.origin is not None, f"{module} holds a command's options"
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    path = Path(qstep.__file__).parent.joinpath(*rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _default(value: ast.expr | None) -> str | None:
    """The source text of a default, also inside `field(default=...)` and `field(default_factory=...)`."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        factory = keywords.get("default_factory")
        return keywords.get("default", factory and {"list": "[]", "dict": "{}"}.get(factory, factory))
    return None if value is None else ast.unparse(value)


def _documentation(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before `Args:`, and the description of each argument."""
    about, _, arguments = inspect.cleandoc(docstring).partition("\nArgs:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", arguments, re.MULTILINE)
    return about, {name: " ".join(text.split()) for name, text in entries}

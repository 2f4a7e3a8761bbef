"""Model text is data: no payload has an effect, and no source of the package evaluates text."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qstep
from qstep.grading import equivalent, grade

FORBIDDEN = {"eval", "exec", "sympify", "parse_expr"}
CALLABLE = {"compile", "__import__"}
GOLD = "7031"  # a number that no temporary folder's name ends in by chance


def payloads(target: Path) -> list[str]:
    """Twenty-one answers that would create `target` in any grader that runs, evaluates or expands them."""
    write = f"open('{target}','w').write('1')"
    shell = f"touch {target}"
    return [
        write,
        f"{write} or {GOLD}",
        f"\\pi*0+len({write})",
        f"__import__('os').system('{shell}')",
        f"__import__('pathlib').Path('{target}').touch()",
        f"import os; os.system('{shell}')",
        f'eval("{write}")',
        f'exec("{write}")',
        f"(lambda: {write})()",
        f"[{write} for _ in range(1)]",
        f"().__class__.__base__.__subclasses__()[-1].__init__.__globals__['__builtins__']['open']('{target}','w')",
        f"Symbol('x').__class__.__mro__[-1].__subclasses__() and {write}",
        f'sympify("{write}")',
        f'Function("{write}")(x)',
        f"x.subs(x, {write})",
        f"{{{{ cycler.__init__.__globals__.os.popen('{shell}') }}}}",
        f"${{{shell}}}",
        f"$({shell})",
        f"`{shell}`; {shell}",
        f"\\immediate\\write18{{{shell}}}",
        f"\\input{{|{shell}}}\\openout1={target}",
    ]


@pytest.mark.parametrize("index", range(21))
def test_no_payload_has_an_effect(tmp_path: Path, index: int) -> None:
    target = tmp_path / "owned"
    text = payloads(target)[index]
    for response in (text, rf"The answer is \boxed{{{text}}}.", f"<answer>{text}</answer>", f"#### {text}"):
        verdict = grade(GOLD, response, deadline_s=30).verdict
        assert verdict != "right" or GOLD in text  # a number that is written there may be read
    grade(text, r"\boxed{x+1}", deadline_s=30)
    equivalent(text, "x+1", deadline_s=30)
    assert not target.exists()


def test_no_payload_has_an_effect_past_every_check(tmp_path: Path) -> None:
    """The same payloads straight to math-verify, as an answer and as prose."""
    from qstep.grading.pool import pool

    for index, text in enumerate(payloads(tmp_path / "owned")):
        for is_value in (True, False):
            request = {"gold": "x+1", "text": text, "is_value": is_value, "exact": False}
            assert not pool().judge(request, 30).get("equal"), index
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "effect",
    [
        "open(target, 'w')",
        "open(target, 'a')",
        "os.open(target, os.O_CREAT)",
        "os.system('touch ' + target)",
        "os.remove(__file__)",
        "os.rename(__file__, target)",
        "os.mkdir(target)",
        "subprocess.run(['touch', target])",
        "os.posix_spawn('/bin/touch', ['touch', target], {})",
        "os.execv('/bin/touch', ['touch', target])",
        "os.fork()",
        "socket.create_connection(('127.0.0.1', 9))",
        "__import__('ctypes').CDLL(None)",
    ],
)
def test_the_computing_process_refuses_effects(tmp_path: Path, effect: str) -> None:
    """Should math-verify ever run what it reads: the child that computes may not act."""
    target = tmp_path / "owned"
    script = tmp_path / "script.py"
    script.write_text(
        "import os, socket, subprocess, sys\n"
        "from qstep.grading.worker import refuse_effects\n"
        "target = sys.argv[1]\n"
        "sys.addaudithook(refuse_effects)\n"
        f"try:\n    {effect}\nexcept PermissionError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run([sys.executable, script, target], capture_output=True, text=True, env=environment)
    assert "is not allowed while grading" in ran.stdout
    assert script.exists()
    assert not target.exists()


def _evaluating(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            method_of_a_model = isinstance(node, ast.Attribute) and name == "eval"  # torch's `model.eval()`
            if name in FORBIDDEN and not method_of_a_model:
                found.append(f"{name} in line {node.lineno}")
        elif isinstance(node, ast.alias) and node.name.rpartition(".")[2] in FORBIDDEN:
            found.append(f"import of {node.name} in line {node.lineno}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLABLE:
            found.append(f"{node.func.id} in line {node.lineno}")
    return found


def test_no_source_of_the_package_evaluates_text() -> None:
    sources = sorted(Path(qstep.__file__).parent.rglob("*.py"))
    assert len(sources) > 5
    offences = {s.name: _evaluating(ast.parse(s.read_text(encoding="utf-8"))) for s in sources}
    assert {name: found for name, found in offences.items() if found} == {}


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec('1')",
        "import sympy; sympy.sympify('1')",
        "from sympy import parse_expr",
        "f = eval",
        "compile('', '', 'eval')",
    ],
)
def test_the_lint_sees(code: str) -> None:
    assert _evaluating(ast.parse(code))


def test_the_lint_allows_evaluation_mode() -> None:
    assert not _evaluating(ast.parse("model.eval(); re.compile('x')"))

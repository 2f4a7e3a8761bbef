"""The package, built as a source distribution and from that as a wheel, installed and run outside the repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from qstep.extras import install_line, missing

ROOT = Path(__file__).parents[2]
RESOURCES = ("py.typed", "recipes/miniature.yaml", "report/page.css", "report/page.html", "report/card.md")

SMOKE = """
import json, sys
from importlib.resources import files
from pathlib import Path
import qstep
from qstep.cli import main

def run(line):
    assert main(line.split()) == 0, line

assert Path(qstep.__file__).is_relative_to(sys.argv[1]), qstep.__file__
run("--version")
run("demo --help")
run("demo --dry_run --output_dir demo")
row = {"question": "What is 1 + 1?", "answer": "2", "responses": ["It is \\\\boxed{2}", "\\\\boxed{3}"]}
Path("responses.jsonl").write_text(json.dumps(row) + "\\n")
run("grade --input responses.jsonl --output graded.jsonl")
run("best-of-n --inputs graded.jsonl --output best.json")
run("report --results.best best.json --output report.html")
assert "@media print" in Path("report.html").read_text()
assert "Step contract" in files("qstep.report").joinpath("card.md").read_text()
"""


def build(tree: Path, kind: str, into: Path) -> Path:
    """Builds a distribution with the tools that are installed here; nothing is downloaded."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True, timeout=300)
    (built,) = into.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def test_the_package_runs_outside_the_repository(tmp_path: Path) -> None:
    tree, made, site, work = (tmp_path / name for name in ("tree", "made", "site", "work"))
    for folder in (made, work):
        folder.mkdir()
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "constraints.txt"):
        shutil.copy(ROOT / name, tree)
    sdist = build(tree, "sdist", made)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for name in ("CHANGELOG.md", "LICENSE", *(f"src/qstep/{resource}" for resource in RESOURCES)):
        assert (unpacked / name).is_file(), f"the source distribution lacks {name}"
    assert not (unpacked / "tests").exists()
    wheel = build(unpacked, "wheel", made)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src" / "qstep").rglob("*.py")}
    assert sources | {f"qstep/{resource}" for resource in RESOURCES} <= names
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, timeout=300)
    assert (site / "bin" / "qstep").is_file()
    environment = os.environ | {"PYTHONPATH": str(site)}
    run = [sys.executable, "-c", SMOKE, str(site)]
    done = subprocess.run(run, cwd=work, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("extra", ["peft", "ray", "serve"])
def test_what_to_install_is_an_extra_of_this_package(extra: str) -> None:
    extras = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    assert re.search(rf"^{extra} = ", extras, re.MULTILINE) and f"'.[{extra}]'" in install_line(extra)
    assert str(missing("--option", "thing", extra)).startswith("--option needs the package thing, which is not")


def test_no_text_promises_a_release() -> None:
    """There is none on PyPI: no link to it, and no `pip install qstep`."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "pyproject.toml"]
    for file in [*pages, *(p for p in (ROOT / "src").rglob("*.*") if p.suffix in (".py", ".md", ".html"))]:
        text = file.read_text(encoding="utf-8")
        if file.name != "log.md":
            assert "pypi.org/project/qstep" not in text and "install 'qstep[" not in text, file
            assert "pip install qstep" not in text, file

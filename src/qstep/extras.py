"""Packages that are installed only on request: how to install them, said in one place."""

from __future__ import annotations


def install_line(extra: str) -> str:
    """The end of a sentence that says what to install, such as `pip install -e '.[serve]'`, and where."""
    return f"run `pip install -e '.[{extra}]'` in a clone of qstep's repository"


def missing(what: str, package: str, extra: str) -> ValueError:
    """The error of an option or command that needs a package which is not installed."""
    return ValueError(f"{what} needs the package {package}, which is not installed: {install_line(extra)}")

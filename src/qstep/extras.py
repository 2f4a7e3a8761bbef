"""Optional packages, and the messages on how to install them."""

from __future__ import annotations


def install_line(extra: str) -> str:
    """The end of a sentence on how to install an extra, such as `pip install -e '.[serve]'`."""
    return f"run `pip install -e '.[{extra}]'` in a clone of qstep's repository"


def missing(what: str, package: str, extra: str) -> ValueError:
    """The error for an option or a command that needs a package that is not installed."""
    return ValueError(f"{what} needs the package {package}, which is not installed: {install_line(extra)}")

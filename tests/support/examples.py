"""The files of `examples/`, imported as modules."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from pages import ROOT


def example(name: str) -> ModuleType:
    """The module of `examples/<name>.py`."""
    spec = spec_from_file_location(name.replace("/", "_"), ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

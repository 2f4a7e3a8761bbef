"""The packages that options of transformers' trainer need, and the error for one that is not installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

_REPORTERS = {
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""The values of `report_to`, and the package that each needs."""
_MODULES = {"azure_ml": "azureml", "flyte": "flytekit"}
"""The module of a package, if it differs from the name in `report_to`."""

_OPTIMIZERS = (
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("adamw_torch_4bit", "torchao", "torchao"),
    ("adamw_torch_8bit", "torchao", "torchao"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("xla", "torch_xla", "torch_xla"),
    ("npu", "torch_npu", "torch_npu"),
    *((part, "bitsandbytes", "bitsandbytes") for part in ("bnb", "8bit", "paged", "lion", "ademamix")),
)
"""A part of an optimizer's name, and the module and the package that it needs. The first part that fits counts."""


def check_reporter(name: str) -> None:
    """Raises ValueError if a value of `report_to` is unknown, or if its package is not installed."""
    if name == "kubeflow":  # transformers adds it within Kubeflow
        return
    if name not in _REPORTERS:
        raise ValueError(f"--report_to {name} is unknown: choose none, all, or some of {', '.join(_REPORTERS)}")
    modules = ("tensorboard", "tensorboardX") if name == "tensorboard" else (_MODULES.get(name, name),)
    _check_installed(f"--report_to {name}", modules, _REPORTERS[name])


def check_optimizer(option: str, value: Any) -> None:
    """Raises ValueError if the optimizer's package is not installed."""
    name = str(getattr(value, "value", value))
    for part, module, package in _OPTIMIZERS:
        if part in name:
            _check_installed(f"--{option} {name} needs the package {package}, which", (module,), package)
            return


def check_deepspeed(config: Any) -> None:
    """Raises ValueError if DeepSpeed is asked for and not installed."""
    if config.deepspeed:
        _check_installed("--deepspeed needs the package deepspeed, which", ("deepspeed",), "deepspeed")


def check_deepspeed_parts(max_tokens_per_batch: int | None) -> None:
    """Raises ValueError for parts of micro-batches, which a training with DeepSpeed cannot follow."""
    if max_tokens_per_batch is not None:
        raise ValueError("--max_tokens_per_batch does not work with DeepSpeed: give --gradient_accumulation_steps")


def _check_installed(what: str, modules: tuple[str, ...], package: str) -> None:
    if not any(map(find_spec, modules)):
        raise ValueError(f"{what} is not installed: pip install {package}")

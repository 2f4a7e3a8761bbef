"""Log-probabilities of training rows under the reference model. They are computed once and kept on disk.

They are stored next to the rows in `<name>.reference-<key>/`. The key stands for the rows, the reference's weights and
the tokenizer. Each process adds files of its own, and only complete ones. So a resumed run, a longer run, and a run on
another number of processes compute only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from qstep.data import cache_folders, tokenizer_fingerprint, write_whole
from qstep.models import Batch, moved
from qstep.models.sharding import full_tensor
from qstep.objectives.dataset import GroupDataset, Item
from qstep.objectives.objective import FurtherReference
from qstep.objectives.responses import collate_rows
from qstep.processes import gathered, here, together

if TYPE_CHECKING:
    from qstep.trainers.group_trainer import GroupTrainer

_TOKENS_AT_ONCE = 16384
"""Maximum number of packed tokens in a forward pass. A longer item is computed alone."""
_TOKENS_A_FILE = 1 << 20

_PLACES = np.dtype([("row", "<i8"), ("start", "<i8"), ("length", "<i8")])

_NAMES_ONLY = ("_name_or_path", "architectures", "dtype", "transformers_version")
"""Entries of a model's config that do not change what it computes. The dtype is that of the weights."""


class ReferenceStore:
    """Log-probabilities in fp32 by row number, in memory-mapped files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read()

    def __contains__(self, row: int) -> bool:
        return not self.lacks([row])

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        found = np.searchsorted(self.rows, row)
        if found == len(self.rows) or self.rows[found] != row:
            raise KeyError(row)
        _, start, length = self.places[found]
        return self.files[self.file_of[found]][start : start + length]

    def lacks(self, rows: Sequence[int]) -> bool:
        """Whether one of the rows is not in the store."""
        found = np.searchsorted(self.rows, rows)
        return bool((found == len(self.rows)).any() or (self.rows[found] != rows).any())

    def read(self) -> None:
        """Reads the files in the folder. If two have a row, the first one counts."""
        self.files: list[NDArray[np.float32]] = []
        each: list[NDArray[np.void]] = [np.empty(0, _PLACES)]
        for file in sorted(self.folder.glob("*.logps")):
            with file.open("rb") as stream:
                header = stream.readline()
                count = json.loads(header)["rows"]
                places = np.frombuffer(stream.read(count * _PLACES.itemsize), _PLACES)
            if file.stat().st_size != len(header) + places.nbytes + 4 * int(places["length"].sum()):
                raise ValueError(f"{file} is damaged: its size is not what it says. Delete it; it is computed again")
            self.files.append(np.memmap(file, np.dtype("<f4"), "r", len(header) + places.nbytes))
            each.append(places)
        places, file_of = np.concatenate(each), np.repeat(np.arange(len(each)) - 1, [len(places) for places in each])
        self.rows, first = np.unique(places["row"], return_index=True)
        self.places, self.file_of = places[first], file_of[first]

    def write(self, logps: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """Adds a file with the values of some rows."""
        lengths = np.array([len(values) for _, values in logps], np.int64)
        places = np.empty(len(logps), _PLACES)
        places["row"] = [row for row, _ in logps]
        places["start"], places["length"] = np.cumsum(lengths) - lengths, lengths
        header = json.dumps({"rows": len(logps)}).encode() + b"\n" + places.tobytes()
        values = np.concatenate([values for _, values in logps]).astype("<f4")
        write_whole(self.folder / f"{uuid.uuid4().hex}.logps", [header, values.data])


def add_reference(trainer: GroupTrainer) -> None:
    """Adds the reference's log-probabilities to the items that training reaches, if the losses need them."""
    args, model, tokenizer = trainer.args, trainer.bare_model, trainer.processing_class
    order = trainer.sampler(trainer.train_dataset, training=True)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * order.steps)
    wanted = [(trainer.train_dataset, order.reached(steps))]
    if trainer.eval_dataset is not None:
        wanted.append((trainer.eval_dataset, list(range(len(trainer.eval_dataset)))))
    if not any(trainer.objective.needs_reference(dataset) for dataset, _ in wanted):
        return
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    weights = weights_fingerprint(model, lambda name: not name.startswith("value_") and "lora_" not in name)
    computed = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES_ONLY}
    config = json.dumps(computed, sort_keys=True, default=str)
    key = f"{weights} {config} {tokenizer_fingerprint(tokenizer)} {args.mixed_precision}"

    def logps(batch: Batch) -> torch.Tensor:
        with trainer.accelerator.autocast(), model.reference():
            found: torch.Tensor = model.policy_logps(moved(batch, args.device))
            return found

    model.eval()
    for dataset, items in wanted:
        columns = {"reference_logps": FurtherReference("", lambda items: collate_rows(tokenizer, items))}
        for name, (further, collate) in {**columns, **trainer.objective.further_reference(dataset)}.items():
            dataset.columns[name] = reference_store(dataset, items, f"{key} {further}".rstrip(), collate, logps)
    model.train()


def reference_store(
    dataset: GroupDataset,
    items: Sequence[int],
    key: str,
    collate: Callable[[list[Item]], Batch],
    logps: Callable[[Batch], torch.Tensor],
) -> ReferenceStore:
    """The store of a reference model with all rows of `items`. Called by all processes.

    Equal responses in one item are computed once.

    Args:
        key: identifies the reference's weights and the tokenizer.
        logps: returns the reference's log-probabilities `[B, T]` of a batch from `collate`.
    """
    name = hashlib.sha256(f"{dataset.index.identity} {key}".encode()).hexdigest()[:16]
    first = gathered(_writable(dataset.index.cached_as, f"{dataset.index.cached_as.name}.reference-{name}"))[0]
    store = together(lambda: ReferenceStore(first))

    def lacks(batch: list[int]) -> bool:
        return store.lacks([row for item in batch for row in dataset.row_numbers(item)])

    # The other rows of a batch change a row's last bits, so a resumed run must use the same batches.
    batches = [batch for batch in _bounded(items, dataset.lengths) if lacks(batch)]
    position, processes = here()

    def compute() -> None:
        done: list[tuple[int, NDArray[np.float32]]] = []
        mine = batches[position::processes]
        more = math.ceil(len(batches) / processes) - len(mine)
        for batch in mine + batches[:1] * more:  # sharded weights need every process in each forward pass
            computed = _logps_of([dataset[item] for item in batch], collate, logps)
            done += [(row, values) for row, values in computed if row not in store]
            if sum(len(values) for _, values in done) > _TOKENS_A_FILE:
                store.write(done)
                done = []
        if done:
            store.write(done)

    together(compute)
    if batches:
        together(store.read)
    return store


def weights_fingerprint(model: nn.Module, kept: Callable[[str], bool]) -> str:
    """SHA-256 of the bits of the weights that `kept` selects by name."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if kept(name):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(full_tensor(value).detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _logps_of(
    items: list[Item],
    collate: Callable[[list[Item]], Batch],
    logps: Callable[[Batch], torch.Tensor],
) -> list[tuple[int, NDArray[np.float32]]]:
    distinct: list[Item] = []
    twins: list[list[int]] = []
    for item in items:
        places: dict[str, list[int]] = {}
        unique: Item = {**item, "rows": [], "row_index": [], "where": []}
        for row, number, where in zip(item["rows"], item["row_index"], item["where"], strict=True):
            same = places.setdefault(repr((row.get("completion_ids"), row["completion"], row.get("finish_reason"))), [])
            same.append(number)
            if len(same) == 1:
                unique["rows"].append(row)
                unique["row_index"].append(number)
                unique["where"].append(where)
        distinct.append(unique)
        twins += places.values()
    batch = collate(distinct)
    with torch.inference_mode():
        values = logps(batch).float().cpu().numpy()
    own = batch["response_mask"].bool().cpu().numpy()
    return [
        (number, row_logps[row_own])
        for numbers, row_logps, row_own in zip(twins, values, own, strict=True)
        for number in numbers
    ]


def _bounded(items: Sequence[int], lengths: NDArray[np.int64]) -> Iterator[list[int]]:
    """Divides items into lists of at most `_TOKENS_AT_ONCE` tokens, or of one item."""
    batch: list[int] = []
    size = 0
    for item in items:
        length = int(lengths[item])
        if batch and size + length > _TOKENS_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def _writable(path: Path, name: str) -> Path:
    for folder in cache_folders(path):
        with suppress(OSError):
            (folder / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / name):
                return folder / name
    return Path(tempfile.mkdtemp(prefix="qstep-"))

"""Runs a recipe: every variant with every seed as one graph of jobs, each output computed once.

A job's folder, `<output_dir>/jobs/<stage>-<key>/`, is named after the content of its settings and inputs. It holds
`options.yaml`, `log.txt`, the output, and `done.json` once the job has succeeded. So variants, seeds and runs share
jobs, a changed option recomputes only what depends on it, and a killed run resumes. `<output_dir>` has links to the
outputs, named after the stages. Where there are several variants or seeds, each has a folder of links.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from qstep.data import parts_of
from qstep.data.jsonl import canonical_json, file_fingerprint, write_json
from qstep.recipes.links import link_outputs, refuse_replacing
from qstep.recipes.reading import read_recipe
from qstep.recipes.recipe import Recipe, Stage
from qstep.recipes.references import fill, references
from qstep.recipes.workers import Job, Workers
from qstep.runs.options import About, Reads, Written, changes_nothing, options_of
from qstep.runs.progress import console
from qstep.runs.seals import why_changed
from qstep.runs.shared_options import path_inputs


@dataclass(frozen=True)
class Work:
    """A job of the graph: a stage with its references resolved."""

    key: str
    stage: Stage
    folder: Path
    outputs: Mapping[str, Path]
    options: Mapping[str, Any]
    after: frozenset[str]

    @property
    def output(self) -> Path:
        """The path that replaces `${stage}`."""
        return next(iter(self.outputs.values()))

    @property
    def done(self) -> bool:
        """Whether all files in `done.json` exist and are unchanged. Further files, such as an index, are allowed."""
        try:
            files = json.loads((self.folder / "done.json").read_text())["files"]
            return all(_is_unchanged(self.folder / name, was) for name, was in files.items())
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def finish(self, seconds: float) -> None:
        """Writes `done.json`."""
        found = [f for output in self.outputs.values() for f in ([output] if output.is_file() else output.rglob("*"))]
        files = {str(f.relative_to(self.folder)): _content(f) for f in sorted(found) if f.is_file()}
        write_json(self.folder / "done.json", {"seconds": round(seconds, 1), "files": files})

    def job(self) -> Job:
        """The job's command. Writes its options to `options.yaml`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "options.yaml"
        file.write_text(yaml.safe_dump(dict(self.options), sort_keys=False, allow_unicode=True))
        problems, samples = self.options.get("num_problems"), self.options.get("num_samples")
        rows = problems * samples if isinstance(problems, int) and isinstance(samples, int) else None
        argv = [*self.stage.command.name.split(), "--config", str(file)]
        log, stage = self.folder / "log.txt", self.stage
        return Job(argv, log, self.output, self.after, rows, stage.seconds, stage.devices)


@dataclass(frozen=True)
class Run:
    """One variant with one seed: the jobs of its stages, and the folder of its links."""

    variant: str | None
    seed: int
    folder: Path
    stages: Mapping[str, Work]


def plan(recipe: Recipe, output_dir: Path, seeds: Sequence[int], only: str | None = None) -> list[Run]:
    """Checks a recipe and returns its runs. Nothing is started or written.

    Raises:
        RecipeError: something in the recipe cannot be run, or an output would replace a file of the user.
    """
    runs = []
    known: set[str] = set()
    checked: dict[bytes, list[Any]] = {}
    for variant in recipe.variants or (None,):
        for seed in seeds:
            stages: dict[str, Work] = {}
            wanted = recipe.resolved(variant, seed)
            last = None if only is None else recipe.last(only, variant)
            known |= wanted.keys()
            if last is not None and last not in wanted:
                continue  # a variant may have fewer rounds
            for name in wanted if last is None else _upstream(wanted, last):
                stage = wanted[name]
                identity = canonical_json([name, stage.command.name, stage.options])
                if identity not in checked:
                    outputs = {name: str(stages[name].output) for name in references(stage.options)}
                    checked[identity] = recipe.check(replace(stage, options=fill(dict(stage.options), outputs)))
                stages[name] = _work(recipe, stage, checked[identity], stages, output_dir)
            folder = output_dir / (variant or "") / (f"seed-{seed}" if len(seeds) > 1 else "")
            runs.append(Run(variant, seed, folder, stages))
    if only is not None and not runs:
        raise recipe.error(f"no stage {only!r} to run", only, [*recipe.written, *sorted(known)])
    refuse_replacing(recipe, runs, output_dir)
    return runs


def run(
    recipe: Recipe | Path,
    output_dir: Path | None = None,
    *,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
    processes: int | None = None,
) -> list[Run]:
    """Runs the jobs of a recipe that have no output yet. The outputs are `stages[name].output` of the returned runs.

    Args:
        recipe: a recipe or its file.
        output_dir: the folder for all output; by default the recipe's.
        seeds: the seeds to run; by default the recipe's.
        only: run only this stage and the stages that it needs.
        processes: how many commands run side by side; by default the recipe's number.

    Raises:
        RecipeError: something in the recipe cannot be run. Nothing was started.
        JobFailed: a stage failed. The stages that were running have ended.
        OutputBusy: another run writes the same folder.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    output_dir = recipe.output_dir if output_dir is None else Path(output_dir)
    runs = plan(recipe, output_dir, list(recipe.seeds if seeds is None else seeds), only)
    works = _works(runs)
    with _alone(output_dir):
        waiting = {key: work for key, work in works.items() if not work.done}
        present = len(works) - len(waiting)
        if present:
            console.print(f"{present} of {len(works)} jobs are done and unchanged")
        if waiting:
            names = _names(runs, waiting)
            jobs = {}
            for key in _longest_first(waiting):
                job = waiting[key].job()
                jobs[names[key]] = replace(job, after=frozenset(names[k] for k in job.after if k in names))
            keys = {name: key for key, name in names.items()}
            with closing(Workers(min(processes or recipe.processes, len(jobs)), recipe.threads)) as workers:
                workers.run(jobs, lambda name, seconds: waiting[keys[name]].finish(seconds), already=present)
        for of_run in runs:
            link_outputs(of_run)
    return runs


def jobs_in_order(runs: Sequence[Run]) -> dict[str, Work]:
    """Each job of these runs by its name on the terminal, in the order in which jobs start."""
    works = _works(runs)
    names = _names(runs, works)
    return {names[key]: works[key] for key in _longest_first(works)}


def _works(runs: Sequence[Run]) -> dict[str, Work]:
    return {work.key: work for of_run in runs for work in of_run.stages.values()}


class OutputBusy(RuntimeError):
    """Another run writes the same folder."""


def _stamp(path: Path) -> list[int]:
    """A file's size, times and inode. The system changes one of them if the file is changed, copied or moved."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _content(path: Path) -> dict[str, Any]:
    return {"stamp": _stamp(path), "sha256": file_fingerprint(path)}


def _is_unchanged(path: Path, was: Mapping[str, Any]) -> bool:
    """Whether a file has the content that `_content` recorded. It is read only if its stamp differs."""
    return _stamp(path) == was["stamp"] or why_changed(path, was["stamp"][0], was["sha256"]) is None


def _upstream(stages: Mapping[str, Stage], name: str) -> list[str]:
    """A stage and all stages that it needs. The order of `stages`, which can be run, is kept."""
    needed = {name}
    for stage in reversed(list(stages)):  # each stage after those it needs
        if stage in needed:
            needed |= references(stages[stage].options)
    return [stage for stage in stages if stage in needed]


def _work(recipe: Recipe, stage: Stage, configs: Sequence[Any], done: Mapping[str, Work], output_dir: Path) -> Work:
    """The job of a stage. The jobs in `done` resolve its references; `configs` has its checked options."""
    used = references(stage.options)
    if stage.command.name.startswith("train "):
        for name in references(stage.options.get("model_name_or_path")):
            if done[name].stage.options.get("use_peft"):  # said before an hour of jobs, not after it
                raise recipe.error(
                    f"stage {stage.name!r} trains from {name!r}, which is an adapter: merge it by a stage with the "
                    "command merge, and name that stage"
                )
    content = fill(dict(stage.options), {name: f"${{{done[name].key}}}" for name in used})
    options = fill(dict(stage.options), {name: str(done[name].output) for name in used})
    kept: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    for option, value in content.items():
        config = next(config for config in configs if option in options_of(type(config)))
        about = options_of(type(config))[option]
        try:
            found = dict(_inputs(about, option, stage.options[option]))
        except ValueError as error:
            raise recipe.error(f"stage {stage.name!r}, option {option!r}: {error}") from None
        inputs |= {f"{option}: {os.path.normpath(name)}": fingerprint for name, fingerprint in found.items()}
        if not changes_nothing(config, option):
            kept[option] = about.in_settings(_renamed(value, {name: os.path.normpath(name) for name in found}))
    devices = {"devices": stage.devices} if stage.devices > 1 else {}
    identity = canonical_json({"command": stage.command.name, "options": kept, "inputs": inputs, **devices})
    key = f"{stage.name}-{hashlib.sha256(identity).hexdigest()[:12]}"
    folder = output_dir / "jobs" / key
    outputs = {option: folder / file.format(stage=stage.name) for option, file in stage.command.outputs.items()}
    options |= {option: str(path) for option, path in outputs.items()}
    return Work(key, stage, folder, outputs, options, frozenset(done[name].key for name in used))


def _inputs(about: About, option: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each file, model folder or object of the user's code that an option names, with its fingerprint.

    The outputs of stages are not included. Raises ValueError for a path that does not exist.
    """
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _inputs(about, option, item)
    elif isinstance(value, str) and about.of(Written) and len(parts := parts_of(Path(value))) > 1:
        yield from _inputs(about, option, [*map(str, parts)])
    elif isinstance(value, str) and not references(value):
        for mark in about.of(Reads):
            yield from mark.inputs(option, value)
        if about.is_path and not about.of(Reads):
            found = [*path_inputs(option, value)]
            if not found:
                raise ValueError(f"{value} is missing")
            yield from found


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The value with texts that are in `names` replaced."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _longest_first(works: Mapping[str, Work]) -> list[str]:
    """The keys, sorted by the seconds of the longest chain of jobs that begins with each, longest first."""
    remaining = {key: work.stage.seconds for key, work in works.items()}
    for key in reversed(list(works)):  # each after what it needs
        for needed in works[key].after & works.keys():
            remaining[needed] = max(remaining[needed], works[needed].stage.seconds + remaining[key])
    return sorted(works, key=lambda key: -remaining[key])


def _names(runs: Sequence[Run], works: Mapping[str, Work]) -> dict[str, str]:
    """The name of each job on the terminal: its stage, and the first variant and seed that need it."""
    names: dict[str, str] = {}
    for of_run in runs:
        where = [of_run.variant or "", f"seed {of_run.seed}" if len({r.seed for r in runs}) > 1 else ""]
        for name, work in of_run.stages.items():
            if work.key in works:
                names.setdefault(work.key, ", ".join(part for part in (name, *where) if part))
    return names


@contextmanager
def _alone(output_dir: Path) -> Iterator[None]:
    """Holds the folder's lock."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(f"another run is writing {output_dir}: wait for it, or stop it") from None
        yield

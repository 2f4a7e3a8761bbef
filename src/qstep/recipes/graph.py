"""Running a recipe: every variant with every seed as one graph of jobs, each output computed once.

A job's folder is named after the content of its settings and inputs: `<output_dir>/jobs/<stage>-<key>/` holds its
`options.yaml`, `log.txt` and output, and `done.json` once it has ended well. So what variants, seeds or runs share is
computed once, a changed option recomputes what depends on it, and a run that was killed goes on. Links named after
the stages lie in `<output_dir>`, below the variant's and the seed's name where there are several.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from qstep.data import code_version, is_users_splitter, splitter_version
from qstep.data.jsonl import canonical_json, file_fingerprint, write_json
from qstep.recipes.recipe import Recipe, Stage, fill, read_recipe, references
from qstep.recipes.workers import Job, Workers
from qstep.runs.fingerprints import model_fingerprint
from qstep.runs.options import NO_EFFECT
from qstep.runs.progress import console
from qstep.tasks import is_users

_NO_EFFECT = frozenset({*NO_EFFECT, "disable_tqdm"})
"""Options that change how fast an output comes, not what is in it."""

_CODE = ("grader", "task", "dataset_name", "step_separator")
"""Options that may name code of the user's own, `module:object` or `split:module:function`."""

_DATA_FILE = re.compile(r".*\.(jsonl|json|parquet)")


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
        """What `${stage}` stands for."""
        return next(iter(self.outputs.values()))

    @property
    def done(self) -> bool:
        """Whether the files that `done.json` names are there in their sizes; there may be more, such as an index."""
        try:
            files = json.loads((self.folder / "done.json").read_text())["files"]
            return all((self.folder / name).stat().st_size == size for name, size in files.items())
        except (OSError, ValueError, KeyError):
            return False

    def finish(self, seconds: float) -> None:
        """Writes `done.json`."""
        found = [f for output in self.outputs.values() for f in ([output] if output.is_file() else output.rglob("*"))]
        files = {str(f.relative_to(self.folder)): f.stat().st_size for f in sorted(found) if f.is_file()}
        write_json(self.folder / "done.json", {"seconds": round(seconds, 1), "files": files})

    def job(self) -> Job:
        """The command, its options written to `options.yaml`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / "options.yaml"
        file.write_text(yaml.safe_dump(dict(self.options), sort_keys=False, allow_unicode=True))
        problems, samples = self.options.get("num_problems"), self.options.get("num_samples")
        rows = problems * samples if isinstance(problems, int) and isinstance(samples, int) else None
        argv = [*self.stage.command.name.split(), "--config", str(file)]
        return Job(argv, self.folder / "log.txt", self.output, self.after, rows)


@dataclass(frozen=True)
class Run:
    """One variant with one seed: its stages' jobs, and the folder of its links."""

    variant: str | None
    seed: int
    folder: Path
    stages: Mapping[str, Work]


def plan(recipe: Recipe, output_dir: Path, seeds: Sequence[int], only: str | None = None) -> list[Run]:
    """The runs of a recipe, checked; nothing is started or written.

    Raises:
        RecipeError: something in the recipe cannot be run.
    """
    if only is not None and only not in recipe.stages:
        raise recipe.error(f"no stage {only!r} to run", only, recipe.stages)
    runs = []
    checked: set[bytes] = set()
    for variant in recipe.variants or (None,):
        for seed in seeds:
            stages: dict[str, Work] = {}
            wanted = recipe.resolved(variant, seed)
            for name in wanted if only is None else _upstream(wanted, only):
                stage = wanted[name]
                identity = canonical_json([name, stage.command.name, stage.options])
                if identity not in checked:
                    recipe.check(stage)
                    checked.add(identity)
                stages[name] = _work(recipe, stage, stages, output_dir)
            folder = output_dir / (variant or "") / (f"seed-{seed}" if len(seeds) > 1 else "")
            runs.append(Run(variant, seed, folder, stages))
    return runs


def run(
    recipe: Recipe | Path,
    output_dir: Path | None = None,
    *,
    seeds: Sequence[int] | None = None,
    only: str | None = None,
    processes: int | None = None,
) -> list[Run]:
    """Runs what is not yet there of a recipe and returns its runs, whose `stages[name].output` are the outputs.

    Args:
        recipe: a recipe or its file.
        output_dir: where everything goes; by default the recipe's.
        seeds: instead of the recipe's.
        only: run this stage and what it needs.
        processes: commands side by side, instead of the recipe's.

    Raises:
        RecipeError: something in the recipe cannot be run; found before anything is started.
        JobFailed: a stage failed; the others that were running have ended.
        OutputBusy: another run writes the same folder.
    """
    recipe = recipe if isinstance(recipe, Recipe) else read_recipe(recipe)
    output_dir = recipe.output_dir if output_dir is None else Path(output_dir)
    runs = plan(recipe, output_dir, list(recipe.seeds if seeds is None else seeds), only)
    works = {work.key: work for of_run in runs for work in of_run.stages.values()}
    with _alone(output_dir):
        waiting = {key: work for key, work in works.items() if not work.done}
        if present := len(works) - len(waiting):
            console.print(f"{present} of {len(works)} stages are done and unchanged")
        if waiting:
            names = _names(runs, waiting)
            jobs = {}
            for key in _longest_first(waiting):
                job = waiting[key].job()
                jobs[names[key]] = replace(job, after=frozenset(names[k] for k in job.after if k in names))
            keys = {name: key for key, name in names.items()}
            with closing(Workers(min(processes or recipe.processes, len(jobs)), recipe.threads)) as workers:
                workers.run(jobs, lambda name, seconds: waiting[keys[name]].finish(seconds))
        for of_run in runs:
            _link(of_run)
    return runs


class OutputBusy(RuntimeError):
    """Another run writes the same folder."""


def _upstream(stages: Mapping[str, Stage], name: str) -> list[str]:
    """A stage and all that it needs, of stages in an order that can be run, in that order."""
    needed = {name}
    for stage in reversed(list(stages)):  # each after what it needs
        if stage in needed:
            needed |= references(stages[stage].options)
    return [stage for stage in stages if stage in needed]


def _work(recipe: Recipe, stage: Stage, done: Mapping[str, Work], output_dir: Path) -> Work:
    """The job of a stage whose references are resolved by the jobs before it."""
    used = references(stage.options)
    content = fill(dict(stage.options), {name: f"${{{done[name].key}}}" for name in used})
    options = fill(dict(stage.options), {name: str(done[name].output) for name in used})
    inputs = {
        f"{option}: {path}": fingerprint
        for option, value in stage.options.items()
        for path, fingerprint in _inputs(recipe, stage, option, value)
    }
    kept = {option: value for option, value in content.items() if option not in _NO_EFFECT}
    identity = canonical_json({"command": stage.command.name, "options": kept, "inputs": inputs})
    key = f"{stage.name}-{hashlib.sha256(identity).hexdigest()[:12]}"
    folder = output_dir / "jobs" / key
    outputs = {option: folder / file.format(stage=stage.name) for option, file in stage.command.outputs.items()}
    options |= {option: str(path) for option, path in outputs.items()}
    return Work(key, stage, folder, outputs, options, frozenset(done[name].key for name in used))


def _inputs(recipe: Recipe, stage: Stage, option: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each file, model folder or object of the user's code that an option names, with its fingerprint; what stages
    write is not among them."""
    if isinstance(value, Mapping | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _inputs(recipe, stage, option, item)
    elif isinstance(value, str) and option in _CODE and (is_users(value) or is_users_splitter(value)):
        try:
            yield value, splitter_version(value) if is_users_splitter(value) else code_version(value, option)
        except ValueError as error:
            raise recipe.error(f"stage {stage.name!r}, option {option!r}: {error}") from None
    elif isinstance(value, str) and not references(value) and (kind := _kind(stage, option)):
        path = Path(value).expanduser()
        if path.is_file():
            yield value, file_fingerprint(path)
        elif path.is_dir():
            yield value, model_fingerprint(value)
        elif kind == "file" or _DATA_FILE.fullmatch(value) or value.startswith(("/", "./", "../", "~")):
            raise recipe.error(f"stage {stage.name!r}, option {option!r}: {value} is missing")


def _kind(stage: Stage, option: str) -> str | None:
    """`file` for an option that is a path, `name` for one that may be a path or a name, else None."""
    types = {f.name: f.type for config in stage.command.classes() for f in fields(config)}
    if "Path" in str(types.get(option, "")):
        return "file"
    return "name" if option.endswith(("_name_or_path", "dataset_name")) else None


def _longest_first(works: Mapping[str, Work]) -> list[str]:
    """The keys, those first from which the longest chain of seconds leads to the end."""
    remaining = {key: work.stage.seconds for key, work in works.items()}
    for key in reversed(list(works)):  # each after what it needs
        for needed in works[key].after & works.keys():
            remaining[needed] = max(remaining[needed], works[needed].stage.seconds + remaining[key])
    return sorted(works, key=lambda key: -remaining[key])


def _names(runs: Sequence[Run], works: Mapping[str, Work]) -> dict[str, str]:
    """What each job is called on the terminal: its stage, and the first variant and seed that wants it."""
    names: dict[str, str] = {}
    for of_run in runs:
        where = [of_run.variant or "", f"seed {of_run.seed}" if len({r.seed for r in runs}) > 1 else ""]
        for name, work in of_run.stages.items():
            if work.key in works:
                names.setdefault(work.key, ", ".join(part for part in (name, *where) if part))
    return names


def _link(of_run: Run) -> None:
    """Puts links to the outputs, named after their stages, into the run's folder."""
    of_run.folder.mkdir(parents=True, exist_ok=True)
    for work in of_run.stages.values():
        for output in work.outputs.values():
            link, new = of_run.folder / output.name, of_run.folder / f".{output.name}.new"
            new.unlink(missing_ok=True)
            new.symlink_to(os.path.relpath(output, of_run.folder))
            os.replace(new, link)


@contextmanager
def _alone(output_dir: Path) -> Iterator[None]:
    """Holds the folder's lock."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputBusy(f"{output_dir} is being written by another run; wait for it, or stop it") from None
        yield

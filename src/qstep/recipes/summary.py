"""The results of a recipe: the tables of its reports, and their comparisons over seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.rule import Rule

from qstep.data.jsonl import write_json, write_whole
from qstep.evals import pooled
from qstep.recipes.graph import Run
from qstep.recipes.recipe import Recipe
from qstep.recipes.study import answer, page
from qstep.runs.progress import accuracy_text, print_result, print_table

SUMMARY = "results.json"


def summarise(recipe: Recipe, runs: Sequence[Run], output_dir: Path) -> None:
    """Prints the accuracies and differences of each run. Those of several runs go to `<output_dir>/results.json`.

    The answer of a study is printed and written to `<output_dir>/<recipe's name>.json`, and as a page to `.md`.
    """
    if recipe.study is not None and all(recipe.study.get("results") in of_run.stages for of_run in runs):
        answered = answer(recipe, runs)
        write_json(output_dir / f"{recipe.file.stem}.json", answered)
        write_whole(output_dir / f"{recipe.file.stem}.md", [page(recipe, answered).encode()])
        print_result(page(recipe, answered), markup=False)
    results = {of_run.folder: _results(of_run) for of_run in runs}
    for of_run in runs:
        found = results[of_run.folder]
        if found is not None:
            name = ", ".join(filter(None, (of_run.variant, f"seed {of_run.seed}")))
            _print_accuracies(f"{recipe.title} ({name})", found)
    variants = {
        variant: {r.seed: found for r in runs if r.variant == variant if (found := results[r.folder]) is not None}
        for variant in recipe.variants or (None,)
    }
    for variant, of_seeds in variants.items():
        if of_seeds:
            _print_claims(variant, claims(of_seeds))
    if len(runs) > 1 and any(variants.values()):
        pooled_by = {variant or "all": _pooled_results(of_seeds) for variant, of_seeds in variants.items()}
        write_json(
            output_dir / SUMMARY, {"recipe": recipe.title, **(pooled_by if recipe.variants else pooled_by["all"])}
        )
    print_result(f"\nResults in {output_dir}: {', '.join(sorted(_links(recipe, output_dir, runs)))}")


def _pooled_results(of_seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The claims over seeds, and the report of each seed without its training curves."""
    seeds = {str(s): {k: v for k, v in found.items() if k != "training"} for s, found in of_seeds.items()}
    return {"claims": claims(of_seeds), "seeds": seeds}


def claims(of_seeds: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Each comparison, pooled over the seeds that have it and for each seed.

    The seeds are independent: each has its own model, problems and samples.
    """
    names = dict.fromkeys(name for results in of_seeds.values() for name in results.get("comparisons", {}))
    found = {}
    for name in names:
        by_seed = {str(s): r["comparisons"][name] for s, r in of_seeds.items() if name in r["comparisons"]}
        known = [estimate for estimate in by_seed.values() if estimate["mean"] is not None]  # else nothing was gradable
        above = len(known) == len(by_seed) and all(estimate["mean"] > 0 for estimate in known)
        over_all = asdict(pooled(known)) if known else {}
        found[name] = {
            **{part: over_all.get(part) for part in ("mean", "low", "high")},
            "seeds": len(known),
            "above_zero_on_every_seed": above,
            "by_seed": by_seed,
        }
    return found


def _results(of_run: Run) -> dict[str, Any] | None:
    """The numbers of the run's report, if it has one."""
    for work in of_run.stages.values():
        for output in work.outputs.values():
            if output.name == SUMMARY:
                return json.loads(output.read_text())
    return None


def _print_accuracies(title: str, results: Mapping[str, Any]) -> None:
    policies, verifiers = results.get("policies", {}), results.get("verifiers", {})
    columns = list(dict.fromkeys(mode for modes in policies.values() for mode in modes))
    if policies:
        rows = [[n, *(accuracy_text(of[m]) if m in of else "" for m in columns)] for n, of in policies.items()]
        print_table(f"{title}: accuracy, 95 % intervals over problems", ["policy", *columns], rows)
    if verifiers:
        largest = max((n for curve in verifiers.values() for n in curve), key=int)
        rows = [[name, accuracy_text(curve[largest])] for name, curve in verifiers.items() if largest in curve]
        print_table(f"{title}: accuracy, 95 % intervals over problems", ["choosing", f"among {largest}"], rows)


def _print_claims(variant: str | None, found: Mapping[str, Any]) -> None:
    if variant is not None:
        print_result(Rule(variant))
    for name, claim in found.items():
        if claim["mean"] is None:
            print_result(f"{name:28} nothing could be graded")
            continue
        verdict = "above 0" if claim["low"] > 0 else "below 0" if claim["high"] < 0 else "cannot tell"
        each = f", above 0 on each of {claim['seeds']} seeds" if claim["above_zero_on_every_seed"] else ""
        numbers = "{mean:+.3f} [{low:+.3f}, {high:+.3f}]".format(**claim)
        print_result(f"{name:28} {numbers}  {verdict}{each if claim['seeds'] > 1 else ''}")


def _links(recipe: Recipe, output_dir: Path, runs: Sequence[Run]) -> set[str]:
    """The links to the reports' pages or, where there are none, to the outputs of the last stages."""
    written_last = [(r, [name for name in recipe.stages if name in r.stages][-1]) for r in runs]
    last = [(r, output) for r, name in written_last for output in r.stages[name].outputs.values()]
    pages = [(r, o) for r in runs for w in r.stages.values() for o in w.outputs.values() if o.suffix == ".html"]
    return {str((r.folder / output.name).relative_to(output_dir)) for r, output in pages or last}

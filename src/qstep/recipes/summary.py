"""The results of a recipe: the tables of its reports, and their comparisons over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.rule import Rule

from qstep.data.jsonl import write_whole
from qstep.evals import Page, RecipeResult, pooled, read_result, write_result
from qstep.evals.measures import Accuracy, Difference, Measured
from qstep.evals.results import Claim, OfSeeds
from qstep.recipes.graph import Run
from qstep.recipes.links import SUMMARY
from qstep.recipes.recipe import Recipe
from qstep.recipes.study import Study, answer
from qstep.recipes.study_page import page
from qstep.report.findings import label
from qstep.report.tables import Table, accuracy_text
from qstep.runs.progress import print_result, print_table


def summarise(recipe: Recipe, runs: Sequence[Run], output_dir: Path) -> None:
    """Prints the accuracies and differences of each run. Those of several runs go to `<output_dir>/results.json`.

    The answer of a study is printed and written to `<output_dir>/<recipe's name>.json`, and as a page to `.md`.
    """
    if recipe.study is not None and Study.of(recipe).can_be_answered(recipe, runs):
        answered = answer(recipe, runs)
        write_result(output_dir / f"{recipe.file.stem}.json", answered)
        text = page(recipe, answered)
        write_whole(output_dir / f"{recipe.file.stem}.md", [text.encode()])
        print_result(text, markup=False)
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
    if recipe.variants:
        for table in across_variants(recipe.title, {name or "": pages for name, pages in variants.items()}):
            print_table(*table)
    for variant, of_seeds in variants.items():
        if of_seeds:
            _print_claims(variant, claims(of_seeds))
    if len(runs) > 1 and any(variants.values()):
        write_result(output_dir / SUMMARY, _pooled_results(recipe.title, variants))
    print_result(f"\nResults in {output_dir}: {', '.join(sorted(_links(recipe, output_dir, runs)))}")


def _pooled_results(title: str, variants: Mapping[str | None, Mapping[int, Page]]) -> RecipeResult:
    """The claims over seeds, and each seed's report without its training curves."""
    of_variants = {
        variant: OfSeeds(
            claims=claims(pages), seeds={str(seed): replace(page, training=None) for seed, page in pages.items()}
        )
        for variant, pages in variants.items()
    }
    if None in of_variants:
        return RecipeResult(recipe=title, claims=of_variants[None].claims, seeds=of_variants[None].seeds)
    return RecipeResult(recipe=title, variants={name: seeds for name, seeds in of_variants.items() if name is not None})


def across_variants(title: str, variants: Mapping[str, Mapping[int, Page]]) -> Iterator[Table]:
    """A table across variants for accuracies and one for comparisons: a row a variant, pooled over its seeds."""
    shared = {variant: _share_problems(pages.values()) for variant, pages in variants.items()}
    for what, parts in (("accuracy", _accuracies), ("difference of accuracies", _comparisons)):
        measured = {variant: [parts(page) for page in pages.values()] for variant, pages in variants.items() if pages}
        columns = list(dict.fromkeys(name for pages in measured.values() for page in pages for name in page))
        rows = [
            [
                variant,
                *(_pooled_text([page[name] for page in pages if name in page], shared[variant]) for name in columns),
            ]
            for variant, pages in measured.items()
        ]
        if columns and len(rows) > 1:
            yield (
                f"{title}: {what} by variant, mean over seeds, 95 % intervals over problems",
                ["variant", *columns],
                rows,
            )


def _accuracies(page: Page) -> dict[str, Accuracy]:
    """The accuracy of each policy and mode, and of each way to choose at the largest n."""
    found: dict[str, Accuracy] = {}
    for name, modes in (page.policies or {}).items():
        found |= {f"{label(name)} ({mode})": accuracy for mode, accuracy in modes.items()}
    for name, curve in (page.verifiers or {}).items():
        most = max(curve, key=int)
        found[label(name, most)] = curve[most]
    return found


def _comparisons(page: Page) -> dict[str, Difference]:
    return page.comparisons or {}


def _share_problems(pages: Iterable[Page]) -> bool:
    """Whether the pages of all seeds are about the same problems. Unknown problems are taken for different ones."""
    problems = {page.problems for page in pages}
    return len(problems) == 1 and None not in problems


def _pooled_text(measured: Sequence[Accuracy], shared: bool) -> str:
    known = [estimate for estimate in measured if estimate.mean is not None]
    if not known:
        return "unknown" if measured else ""
    if len(measured) == 1:
        return accuracy_text(measured[0])
    over_all = pooled(known, shared=shared)
    return accuracy_text(Measured(over_all.mean, over_all.low, over_all.high))


def claims(of_seeds: Mapping[int, Page]) -> dict[str, Claim]:
    """Each comparison that all seeds have, pooled over the seeds, with the comparison of each seed.

    The interval is over problems. Seeds with problems of their own are independent. If all seeds have the same
    problems, the interval is the mean of theirs. A comparison that only some seeds have was chosen by its result, so it
    is not a claim.
    """
    shared = _share_problems(of_seeds.values())
    pages = {str(seed): page.comparisons or {} for seed, page in of_seeds.items()}
    names = dict.fromkeys(name for comparisons in pages.values() for name in comparisons)
    found = {}
    for name in names:
        if not all(name in comparisons for comparisons in pages.values()):
            continue
        by_seed = {seed: comparisons[name] for seed, comparisons in pages.items()}
        known = [
            estimate for estimate in by_seed.values() if estimate.mean is not None
        ]  # the mean is None if nothing was gradable
        over_all = pooled(known, shared=shared) if known else None
        found[name] = Claim(
            mean=None if over_all is None else over_all.mean,
            low=None if over_all is None else over_all.low,
            high=None if over_all is None else over_all.high,
            seeds=len(known),
            above_zero_on_every_seed=len(known) == len(by_seed) and all((estimate.mean or 0) > 0 for estimate in known),
            by_seed=by_seed,
        )
    return found


def _results(of_run: Run) -> Page | None:
    """The numbers of the run's report, if it has one."""
    for work in of_run.stages.values():
        for output in work.outputs.values() if work.stage.command.name == "report" else ():
            if output.name == SUMMARY:
                return read_result(output, Page)
    return None


def _print_accuracies(title: str, results: Page) -> None:
    policies, verifiers = results.policies or {}, results.verifiers or {}
    columns = list(dict.fromkeys(mode for modes in policies.values() for mode in modes))
    if policies:
        rows = [
            [label(name), *(accuracy_text(modes[mode]) if mode in modes else "" for mode in columns)]
            for name, modes in policies.items()
        ]
        print_table(f"{title}: accuracy, 95 % intervals over problems", ["policy", *columns], rows)
    if verifiers:
        largest = max((n for curve in verifiers.values() for n in curve), key=int)
        rows = [[label(name), accuracy_text(curve[largest])] for name, curve in verifiers.items() if largest in curve]
        print_table(f"{title}: accuracy, 95 % intervals over problems", ["choosing", f"among {largest}"], rows)


def _print_claims(variant: str | None, found: Mapping[str, Claim]) -> None:
    if variant is not None:
        print_result(Rule(variant))
    for name, claim in found.items():
        if claim.mean is None or claim.low is None or claim.high is None:
            print_result(f"{name:28} nothing could be graded")
            continue
        verdict = "above 0" if claim.low > 0 else "below 0" if claim.high < 0 else "cannot tell"
        each = f", above 0 on each of {claim.seeds} seeds" if claim.above_zero_on_every_seed else ""
        numbers = f"{claim.mean:+.3f} [{claim.low:+.3f}, {claim.high:+.3f}]"
        print_result(f"{name:28} {numbers}  {verdict}{each if claim.seeds > 1 else ''}")


def _links(recipe: Recipe, output_dir: Path, runs: Sequence[Run]) -> set[str]:
    """The links to the reports' pages or, where there are none, to the outputs of the last stages."""
    pages, last = list[Path](), list[Path]()
    for run in runs:
        outputs = (output for work in run.stages.values() for output in work.outputs.values())
        pages += [run.folder / output.name for output in outputs if output.suffix == ".html"]
        written = [recipe.last(name, run.variant) for name in recipe.written]
        stages = [name for name in written if name in run.stages] or list(run.stages)
        last += [run.folder / output.name for output in run.stages[stages[-1]].outputs.values()]
    return {str(path.relative_to(output_dir)) for path in pages or last}

"""Results as tables and sentences for the terminal, in the same words as the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict

from qstep.evals.measures import Accuracy, Measured, NamedRows
from qstep.evals.own_samples import OwnSamples, explanation, finding
from qstep.evals.results import (
    ANSWERS,
    Audit,
    BestOfN,
    ClassReport,
    PolicyEvaluation,
    SearchComparison,
    StepJudgement,
    StepReport,
)
from qstep.report.findings import ANSWERS_SAID, label
from qstep.runs.progress import reasons_text
from qstep.words import counted, shortened

Table = tuple[str, list[str], list[list[str]]]
"""Title, columns and rows. The first column names the rows."""

_AUROC = ("step", "position", "step_at_equal_position")


def accuracy_text(measured: Measured | None) -> str:
    """An accuracy as `0.643 [0.610, 0.680]`. With ungradable responses, a second line has the bounds."""
    if measured is None or measured.mean is None:
        text = "unknown"
    else:
        text = f"{measured.mean:.3f} [{measured.low:.3f}, {measured.high:.3f}]"
    if not isinstance(measured, Accuracy) or not measured.ungradable_share:
        return text
    bounds = f"{measured.as_wrong:.3f} to {measured.as_right:.3f}"
    return f"{text}\n{bounds} with {measured.ungradable_share:.1%} ungradable"


def best_of_n_tables(found: BestOfN) -> Iterator[Table]:
    """Accuracies by n, for each way to choose and for each aggregation."""
    columns = ["", *(f"n = {n}" for n in found.ns)]
    rows = [[label(how), *(accuracy_text(curve[str(n)]) for n in found.ns)] for how, curve in found.curves.items()]
    yield "accuracy of choosing among n responses, 95 % intervals", columns, rows
    for name, scorer in (found.aggregations or {}).items():
        rows = [[how, *(accuracy_text(curve[str(n)]) for n in found.ns)] for how, curve in scorer.curves.items()]
        yield f"{label(name)}: one score from many steps, 95 % intervals", columns, rows
    kinds = [f"{kind}_within_problem" for kind in _AUROC]
    rows = [[label(name), *(accuracy_text(scorer.get(kind)) for kind in kinds)] for name, scorer in found.auc.items()]
    if any(scorer.get(kind) for scorer in found.auc.values() for kind in kinds):
        yield _auroc_table("within a problem", rows)


def best_of_n_notes(found: BestOfN) -> Iterator[str]:
    """Notes on choices that get worse with larger n, and on counts."""
    for name, falls in (found.over_optimisation or {}).items():
        if falls.drop is not None and falls.drop.low is not None and falls.drop.low > 0:
            numbers = "{:.1f} [{:.1f}, {:.1f}]".format(
                *(100 * (x or 0) for x in (falls.drop.mean, falls.drop.low, falls.drop.high))
            )
            yield f"{label(name)} is best at n = {falls.peak_n} and then loses {numbers} points"
    yield f"{found.problems} problems, {found.responses} responses, {found.ungradable_share:.1%} ungradable"
    if found.unfinished:
        yield f"{counted(found.unfinished, 'response')} cut off: chosen only if no response to the problem ended"
    if left_out := found.left_out["problems"]:
        yield f"{left_out} problems with fewer than {max(found.ns)} responses are left out"


def search_table(found: SearchComparison) -> Table:
    """Accuracies of searches, and the tokens they used."""
    columns = ["", "drawn", "scored", *(ANSWERS_SAID[how] for how in ANSWERS)]
    rows = [
        [name, f"{search.tokens_generated.mean:.0f}", f"{search.tokens_scored.mean:.0f}"]
        + [accuracy_text(search.answers.get(how)) for how in ANSWERS]
        for name, search in found.searches.items()
    ]
    return "accuracy of searches, 95 % intervals, and tokens a problem", columns, rows


def search_notes(found: SearchComparison) -> Iterator[str]:
    """Notes on candidates and choices that were cut off."""
    yield f"{found.problems} problems"
    for name, search in found.searches.items():
        if search.unfinished:
            chosen = f"{counted(round(search.cut_off * found.problems), 'choice')} among them"
            yield f"{label(name)}: {counted(search.unfinished, 'candidate')} cut off, {chosen}"


def evaluation_table(found: PolicyEvaluation, data: str) -> Table:
    """A policy's accuracies with the counts of verdicts."""
    columns = ["", "accuracy, 95 % interval", "problems", "responses", "right", "wrong", "ungradable"]
    rows = [
        [
            mode,
            accuracy_text(accuracy),
            *map(str, (accuracy.n, accuracy.samples, accuracy.right, accuracy.wrong, accuracy.ungradable)),
        ]
        for mode, accuracy in found.accuracies.items()
    ]
    return f"{found.name} on {data}", columns, rows


def judgement_tables(found: StepJudgement) -> Iterator[Table]:
    """First wrong steps by subset, and the AUROC of steps, compared with position alone."""
    chosen = found.threshold.chosen_on
    where = f", chosen on {chosen.source}" if chosen else ""
    rows = [
        [
            name,
            *map(accuracy_text, (subset.f1, subset.acc_error, subset.acc_correct, subset.calibration.ece)),
            str(subset.responses),
        ]
        for name, subset in found.steps.items()
    ]
    title = f"first wrong step, sigmoid(Q) below {found.threshold.value:.3g}{where}, 95 % intervals"
    yield title, ["", "F1", "with an error", "without one", "ECE", "responses"], rows
    for suffix, said in (("", "over all problems"), ("_within_problem", "within a problem")):
        measured = {name: [subset.auroc.get(kind + suffix) for kind in _AUROC] for name, subset in found.steps.items()}
        if any(estimate for of_subset in measured.values() for estimate in of_subset):
            yield _auroc_table(said, [[name, *map(accuracy_text, subset)] for name, subset in measured.items()])
    if classes := classes_of(found.steps):
        yield _class_table(classes)
        measured = {name: [of_class.auroc.get(kind) for kind in _AUROC] for name, of_class in classes.items()}
        if rows := [[name, *map(accuracy_text, cells)] for name, cells in measured.items() if any(cells)]:
            yield _auroc_table("by classification", rows)


def classes_of(steps: Mapping[str, StepReport]) -> dict[str, ClassReport]:
    """The reports of all classes. If there are several subsets, a class is named after its subset too."""
    return {
        f"{name}: {label}" if len(steps) > 1 else label: report
        for name, subset in steps.items()
        for label, report in (subset.classes or {}).items()
    }


def _class_table(classes: Mapping[str, ClassReport]) -> Table:
    rows = []
    for name, of_class in classes.items():
        found = of_class.found
        cells = (found.f1, found.acc_error, of_class.acc_error_of_position, found.acc_correct)
        rows.append([name, *map(accuracy_text, cells), str(of_class.responses)])
    columns = ["", "F1", "with an error", "one step named in all", "without one", "responses"]
    return "first wrong step by classification, 95 % intervals", columns, rows


def judgement_notes(found: StepJudgement, sources: Mapping[str, str]) -> Iterator[str]:
    """The mean of the subsets, and notes on rows that were left out or that differ from the training rows."""
    if len(found.steps) > 1:
        yield f"mean F1 of the subsets: {accuracy_text(found.mean.f1)}"
    chosen = found.threshold.chosen_on
    if chosen and chosen.problems_that_are_judged_too:
        yield (
            f"{chosen.problems_that_are_judged_too} evaluated problems also occur, with other responses, among the "
            "rows that the threshold was chosen on"
        )
    for name, subset in found.steps.items():
        source = sources[name]
        if subset.left_out:
            yield f"{source}: left out {reasons_text(subset.left_out)}"
        if windows := subset.scored.get("in_windows"):
            yield f"{source}: {windows} responses are longer than this scorer's max_length and were read in windows"
        if steps := subset.separators["steps_with_a_separator"]:
            yield (
                f"{source}: {steps} steps in {subset.separators['rows_with_a_separator_in_a_step']} rows contain this "
                "scorer's step separator. Each is still scored as one step"
            )
        if other := subset.separators["rows_split_at_another"]:
            yield f"{source}: {other} rows were split at another separator than this scorer's"


def audit_tables(found: Audit) -> Iterator[Table]:
    """Two tables: lengths and counts, and everything else."""
    title = f"audit {found.train_file}"
    spreads = {
        "responses per problem": found.responses_per_problem,
        "steps per response": found.steps_per_response,
        **{f"characters of a {part}": spread for part, spread in found.characters.items()},
        "tokens": found.tokens,
    }
    figures = ("mean", "least", "median", "p90", "p99", "most")
    rows = [
        [name, *(f"{getattr(spread, figure):.4g}" for figure in figures)]
        for name, spread in spreads.items()
        if spread is not None
    ]
    yield title, ["", *figures], rows
    yield title, ["", "found"], [*_audit_findings(found)]


_OWN = {True: "it may be", False: "no", None: "too few tokens to tell"}


def _audit_findings(found: Audit) -> Iterator[list[str]]:
    prompts = f" ({found.prompts} different prompts)" if found.prompts not in (None, found.problems) else ""
    yield ["rows", f"{found.rows} ({found.format}), of {found.problems} problems{prompts}"]
    if found.problems_with_two_rewards is not None and found.responses.right_share is not None:
        yield ["problems with two rewards", str(found.problems_with_two_rewards)]
    for name, kinds in (("labels", found.labels), ("responses", found.responses)):
        if kinds is not None and kinds.right_share is not None:
            counts = {field: count for field, count in asdict(kinds).items() if field != "right_share"}
            listed = ", ".join(f"{field} {count}" for field, count in counts.items())
            yield [name, f"{listed}; right {kinds.right_share:.1%}"]
    for name, count in (("without steps", found.without_steps), ("without labels", found.without_labels)):
        if count is not None:
            yield [f"rows {name}", str(count)]
    if found.rising is not None:
        yield ["rising", lines_text(found.rising)]
    yield ["duplicates", lines_text(found.duplicates)]
    yield ["contradictions", lines_text(found.contradictions)]
    yield ["other gold answers", lines_text(found.golds)]
    if found.tokens is not None:
        long = found.tokens.over_long
        yield ["too long", f"{lines_text(long)}, {long.labelled_steps} labels ({long.wrong_labels} wrong)"]
        yield ["merging tokens", lines_text(found.tokens.merging)]
    if found.own_samples is not None:
        yield ["sampled by the policy", _OWN[found.own_samples.own]]
    for name, shared in found.shared.items():
        text = f"{shared.problems} problems, {shared.responses} responses; {lines_text(shared)}"
        yield [f"also in {name}", text]
        for what, part in (("near copies", shared.near_copies), ("overlaps", shared.overlaps)):
            yield [f"{what} of {name}", f"{part.problems} problems; {lines_text(part)}"]


def audit_notes(found: Audit) -> Iterator[str]:
    """Examples of different gold answers and of problems that resemble a test problem, and advice on merging tokens."""
    for golds in found.golds.examples:
        yield f"gold answers: {golds.gold!r} on line {golds.line}, and {golds.other_gold!r} on line {golds.other_line}"
    for name, shared in found.shared.items():
        for what, part in (("near copy", shared.near_copies), ("overlap", shared.overlaps)):
            for example in part.examples:
                common = example.words or " ".join(example.problem.split())
                yield f"{what}: line {example.line}, and line {example.test_line} of {name}: {common}"
    if found.own_samples is not None:
        yield from _policy_notes(found.own_samples)
    if found.tokens is not None and found.tokens.merging.rows:
        yield (
            "Merging tokens: where a prompt ends and its response begins, the tokenizer would write one token, but "
            "training reads two. End prompts without a blank, or after a line break"
        )


def _policy_notes(found: OwnSamples) -> Iterator[str]:
    """What the comparison with the policy's own samples found, and what may have changed it."""
    yield f"policy: {finding(found)}{'' if found.own is not False else f'. Possible reasons: {explanation(found)}'}"
    if found.encoded:
        yield (
            f"policy: {found.encoded} of these rows have no completion_ids, so their text was tokenised. The sampled "
            "tokens may have been others"
        )


def lines_text(found: NamedRows) -> str:
    """Rows with their first lines, such as `2 rows (line 3, 8)`."""
    if not found.rows:
        return "none"
    return f"{counted(found.rows, 'row')} (line {shortened([*map(str, found.lines)], found.rows)})"


def _auroc_table(where: str, rows: list[list[str]]) -> Table:
    columns = ["", "of the scorer", "of position alone", "of the scorer, at equal positions"]
    return f"AUROC of steps, {where}, 95 % intervals", columns, rows

"""`qstep audit`: checks a file of rows before training on it, and reports statistics and problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from qstep.data import Format
from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import GIVEN, AtLeast1, Bounds, Options, Output, ReadIf, Such, check_found
from qstep.runs.outputs import is_json_with, refuse_foreign
from qstep.runs.progress import bar, print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.runs.shared_options import ModelName, StepSeparator
from qstep.runs.stage_file import finished
from qstep.types import Row

if TYPE_CHECKING:
    from qstep.data import Index

_SHARE = Bounds(least=0, most=1)
_COUNTED = ReadIf(model_name_or_path=GIVEN)  # its tokenizer counts tokens
_STEPWISE = ReadIf(
    format=Such(lambda format: format in ("auto", "stepwise"), "stepwise rows (prompt, completions, labels)")
)
_LABELLED = ReadIf(format=Such(lambda format: format != "prompt-completion", "labels"))


@dataclass(kw_only=True)
class AuditConfig(Options):
    """Checks a file of training rows: prints statistics, and fails with exit status 1 if a limit is exceeded.

    A file without right labels or without wrong labels always fails, because nothing can be learned from it. Files are
    read as `qstep train` reads them. Their index is stored next to them. A soft label above 0 counts as right.

    Args:
        train_file: the JSONL rows to check.
        test_files: test sets that must not share problems with train_file, each under a name that you choose:
            `--test_files.math500 math500.jsonl`. Prompts and responses are compared exactly. A benchmark's own file has
            a column `problem` or `question`, which is compared as a prompt without an instruction.
        output: the JSON file to write.
        format: the format of train_file. `auto` looks at the first row's columns: `completions` with `labels` means
            stepwise, `label` or `reward` means unpaired, and anything else means prompt-completion.
        model_name_or_path: the model whose tokenizer counts tokens: a folder or a Hub id.
        model_revision: branch, tag or commit of a Hub id.
        max_length: maximum length of a prompt with its response, in tokens, as in training.
        step_separator: the string that separates steps, as in training. Steps may not contain it.
        separator_token: the single token that follows each step, as in training.
        rising: whether rows with a right step after a wrong one are only counted (`keep`) or fail (`refuse`), as in
            training.
        min_right_share: minimum share of right among all labels. In unpaired rows, the labels are those of responses.
        max_right_share: maximum share of right among all labels.
        max_unlabelled_share: maximum share of rows without any labelled step. Training skips such rows.
        max_duplicate_share: maximum share of rows that repeat the response of an earlier row.
        max_contradictions: maximum number of rows that contradict another row with the same response.
        max_over_long_share: maximum share of rows longer than max_length. Training refuses or drops such rows.
        max_shared_problems: maximum number of problems that train_file may share with each of the test_files.
    """

    train_file: Path
    test_files: dict[str, Path] | None = None
    output: Annotated[Path, Output("{stage}.json")] | None = None
    format: Literal["auto", "stepwise", "unpaired", "prompt-completion"] = "auto"
    model_name_or_path: ModelName | None = None
    model_revision: Annotated[str | None, _COUNTED] = None
    max_length: Annotated[AtLeast1, _COUNTED] = 2048
    step_separator: Annotated[StepSeparator, _COUNTED, _STEPWISE] = "\n"
    separator_token: Annotated[str, _COUNTED, _STEPWISE] = "\n"
    rising: Annotated[Literal["keep", "refuse"], _STEPWISE] = "keep"
    min_right_share: Annotated[float | None, _SHARE, _LABELLED] = None
    max_right_share: Annotated[float | None, _SHARE, _LABELLED] = None
    max_unlabelled_share: Annotated[float | None, _SHARE, _STEPWISE] = None
    max_duplicate_share: Annotated[float | None, _SHARE] = None
    max_contradictions: Annotated[int, Bounds(least=0)] = 0
    max_over_long_share: Annotated[float, _SHARE, _COUNTED] = 0.0
    max_shared_problems: Annotated[int, Bounds(least=0), ReadIf(test_files=GIVEN)] = 0


def audit(config: AuditConfig) -> dict[str, Any]:
    """Runs the stage and returns what it writes to `output`.

    Raises:
        ValueError: a row is invalid, or a limit is exceeded. A limit is reported after the tables are printed and the
            output is written. The output's `failures` contain the same messages.
    """
    from qstep.data import RowError, audit_rows, index_rows, write_json

    if config.output is not None:
        refuse_foreign("output", config.output, is_json_with("failures", "provenance"))
        stop_dry_run(config.output)
    files = {"train_file": config.train_file} | {
        f"test_files.{n}": path for n, path in (config.test_files or {}).items()
    }
    fingerprints = {name: finished(path) for name, path in files.items()}
    format: Format = _format(config.train_file) if config.format == "auto" else config.format
    check_found(config, f"{config.train_file} is {format}", format=format)
    counted = config.model_name_or_path is not None
    forbidden = sorted({config.step_separator, config.separator_token}) if counted and format == "stepwise" else []
    try:
        index = index_rows(config.train_file, format, forbidden=forbidden)
    except RowError as error:
        raise ValueError(f"{error}{_hint(config.train_file)}") from None
    found = audit_rows(index)
    if counted:
        found["tokens"] = _lengths(index, config)
    found["shared"] = {name: _shared(index, path) for name, path in (config.test_files or {}).items()}
    failures = [*_failures(found, config)]
    results = {
        "train_file": config.train_file.name,
        **found,
        "failures": failures,
        "provenance": provenance(asdict(config)) | {"files": fingerprints},
    }
    if config.output is not None:
        write_json(config.output, results)
        say_written(config.output)
    _print(f"audit {config.train_file.name}", found)
    if failures:
        raise ValueError(f"{config.train_file} fails:\n" + "\n".join(f"- {failure}" for failure in failures))
    print_result(f"audit {config.train_file}: it passes")
    return results


def _hint(path: Path) -> str:
    """Advice for a published data set that is not converted yet."""
    from qstep.data import Source, recognise

    try:
        format = recognise(Source.of(str(path)))
    except ValueError:
        return ""
    return "" if format == "trl_stepwise" else f" (its columns are those of {format}: run `qstep convert` on it first)"


def _shared(index: Index, path: Path) -> dict[str, Any]:
    """What the rows of `index` share with a file, which holds rows or a benchmark's problems."""
    from qstep.data import RowError, Source, index_rows, shared_problems_of, shared_rows_of

    source = Source.of(str(path))
    _, first = next(source.rows(), (0, {}))
    question = next((column for column in ("problem", "question") if isinstance(first.get(column), str)), None)
    if "prompt" in first or question is None:
        return shared_rows_of(index, index_rows(path, _format(path)))

    def questions() -> Iterator[str]:
        for line, row in source.rows():
            if not isinstance(row.get(question), str):
                raise RowError(source.path, line, question, f"is {row.get(question)!r}; give the question as a string")
            yield row[question]

    return shared_problems_of(index, questions())


def _format(path: Path) -> Format:
    """The format of a file by its first row's columns: the most informative that fits."""
    from qstep.data import numbered_rows

    row = next((row for _, row in numbered_rows(path)), {})
    if row.get("completions") is not None and row.get("labels") is not None:
        return "stepwise"
    return "unpaired" if {"label", "reward"} & row.keys() else "prompt-completion"


def _lengths(index: Index, config: AuditConfig) -> dict[str, Any]:
    """Tokens of each prompt with its response, and the rows and labels lost to `max_length`."""
    import numpy as np

    from qstep.data import encode_completion, encode_prompt, named_rows, quantiles
    from qstep.models.loading import load_tokenizer

    assert config.model_name_or_path is not None, "asked before"
    tokenizer = load_tokenizer(config.model_name_or_path, revision=config.model_revision)
    count: Callable[[Row], int]
    if index.format == "stepwise":
        from qstep.models import StepContract, encode_steps

        contract = StepContract.create(
            tokenizer,
            step_separator=config.step_separator,
            separator_token=config.separator_token,
            max_length=config.max_length,
            aggregation="min",
            objective="audit",
        )

        def count(row: Row) -> int:
            prompt, response, _ = encode_steps(tokenizer, contract, row["prompt"], row["completions"])
            return len(prompt) + len(response)
    else:

        def count(row: Row) -> int:
            return len(encode_prompt(tokenizer, row["prompt"])) + len(encode_completion(tokenizer, row))

    tokens = np.zeros(len(index), np.int64)
    with bar(f"audit {config.train_file.stem}", len(index)) as advance:
        for number in range(len(index)):
            tokens[number] = count(index.row(number))
            advance(1)
    long = np.flatnonzero(tokens > config.max_length)
    table = index.table
    return {
        **quantiles(tokens),
        "over_long": {
            **named_rows(long),
            "labelled_steps": int(table["labelled"][long].sum()),
            "wrong_labels": int((table["labelled"][long] - table["above"][long]).sum()),
        },
    }


def _failures(found: dict[str, Any], config: AuditConfig) -> Iterator[str]:
    """A message for each limit that is exceeded: the value, the limit, and what to do."""
    rows = found["rows"]
    if found["format"] != "prompt-completion":
        labels, what = (found["labels"], "step") if "labels" in found else (found["responses"], "response")
        for name in ("right", "wrong"):
            if not labels[name]:
                yield f"no {what} is labelled {name}, so nothing can be learned. Add rows, or label them"
        share = labels["right_share"]
        if share is not None:
            if config.min_right_share is not None and share < config.min_right_share:
                yield f"the share of right labels is {share:.4f}, below --min_right_share {config.min_right_share}"
            if config.max_right_share is not None and share > config.max_right_share:
                yield f"the share of right labels is {share:.4f}, above --max_right_share {config.max_right_share}"
    if config.rising == "refuse" and found["rising"]["rows"]:
        yield (
            f"a right step follows a wrong one in {_where(found['rising'])}. Correct or drop these rows, or give "
            "--rising keep. Training reads each response only through its first wrong step, unless "
            "--stop_at_first_error is false"
        )
    shares: tuple[tuple[str, int, str], ...] = (
        ("max_unlabelled_share", found.get("without_labels", 0), "rows have no label: label them, or drop them"),
        ("max_duplicate_share", found["duplicates"]["rows"], "rows repeat an earlier response: drop them"),
        (
            "max_over_long_share",
            found["tokens"]["over_long"]["rows"] if "tokens" in found else 0,
            f"rows are longer than --max_length {config.max_length}: raise it, or allow them here and train with "
            "--over_long drop",
        ),
    )
    for name, count, words in shares:
        limit = getattr(config, name)
        if limit is not None and count / rows > limit:
            yield f"{count} of {rows} {words} (--{name} {limit})"
    if found["contradictions"]["rows"] > config.max_contradictions:
        yield (
            f"rows with the same response have contradicting labels: {_where(found['contradictions'])}. Keep one of "
            f"each, or raise --max_contradictions, which is {config.max_contradictions}"
        )
    for name, shared in found["shared"].items():
        if shared["problems"] > config.max_shared_problems:
            yield (
                f"{shared['problems']} problems are also in {name}: {_where(shared)}. Drop these rows here, or raise "
                f"--max_shared_problems, which is {config.max_shared_problems}"
            )


def _print(title: str, found: dict[str, Any]) -> None:
    """Prints two tables: lengths and counts, and everything else."""
    spread = {
        "responses per problem": found["responses_per_problem"],
        "steps per response": found.get("steps_per_response"),
        **{f"characters of a {part}": spread for part, spread in found["characters"].items()},
        "tokens": found.get("tokens"),
    }
    figures = ("mean", "least", "median", "p90", "p99", "most")
    rows = [[name, *(f"{row[figure]:.4g}" for figure in figures)] for name, row in spread.items() if row is not None]
    print_table(title, ["", *figures], rows)
    print_table(title, ["", "found"], [*_findings(found)])


def _findings(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "rows", f"{found['rows']} ({found['format']}), of {found['problems']} problems"
    for name in ("labels", "responses"):
        counts = {n: value for n, value in found.get(name, {}).items() if n != "right_share"}
        if found.get(name, {}).get("right_share") is not None:
            listed = ", ".join(f"{n} {count}" for n, count in counts.items())
            yield name, f"{listed}; right {found[name]['right_share']:.1%}"
    for name in ("without_steps", "without_labels"):
        if name in found:
            yield f"rows {name.replace('_', ' ')}", str(found[name])
    named = {name: found[name] for name in ("rising", "duplicates", "contradictions") if name in found}
    for name, lines in named.items():
        yield name, _where(lines)
    if "tokens" in found:
        long = found["tokens"]["over_long"]
        yield "over-long", f"{_where(long)}, {long['labelled_steps']} labels ({long['wrong_labels']} wrong)"
    for name, shared in found["shared"].items():
        yield f"also in {name}", f"{shared['problems']} problems, {shared['responses']} responses; {_where(shared)}"


def _where(found: dict[str, Any]) -> str:
    if not found["rows"]:
        return "none"
    lines = ", ".join(map(str, found["lines"]))
    rows = "row" if found["rows"] == 1 else "rows"
    return f"{found['rows']} {rows} (line {lines}{', ...' if found['rows'] > len(found['lines']) else ''})"

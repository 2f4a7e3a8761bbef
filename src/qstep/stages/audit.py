"""`qstep audit`: checks a file of rows before training on it, and reports statistics and problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from qstep.runs.dry_run import stop_dry_run
from qstep.runs.options import GIVEN, AtLeast1, Bounds, Output, ReadIf, Such, check_found
from qstep.runs.outputs import refuse_foreign
from qstep.runs.progress import bar, print_result, print_table, say_written
from qstep.runs.provenance import provenance
from qstep.runs.shared_options import ChatOptions, DeviceOptions, ModelName, RightAt, RowsInput, StepSeparator
from qstep.runs.stage_file import finished
from qstep.tasks.options import ColumnOptions, TaskOptions

if TYPE_CHECKING:
    from qstep.data import Index
    from qstep.evals import Audit
    from qstep.evals.measures import TokenSpread
    from qstep.evals.own_samples import OwnSamples

_SHARE = Bounds(least=0, most=1)
_COUNTED = ReadIf(model_name_or_path=GIVEN)  # its tokenizer counts tokens
_COMPARED = ReadIf(policy=GIVEN)
_WITH_MODEL = ReadIf(policy=GIVEN, model_name_or_path=GIVEN)
_STEPWISE = ReadIf(
    format=Such(lambda format: format in ("auto", "stepwise"), "stepwise rows (prompt, completions, labels)")
)
_LABELLED = ReadIf(format=Such(lambda format: format != "prompt-completion", "labels"))


@dataclass(kw_only=True)
class AuditConfig(TaskOptions, ColumnOptions, ChatOptions, DeviceOptions):
    """Checks a file of training rows: prints statistics, and fails with exit status 1 if a limit is exceeded.

    A file without right labels or without wrong labels always fails, because nothing can be learned from it. Files are
    read as `qstep train` reads them. Their index is stored next to them. A soft label above 0 counts as right.

    Args:
        train_file: the rows to check: a file, or several as `qstep train` takes them.
        test_files: test sets that must not share problems with train_file, each under a name that you choose:
            `--test_files.math500 math500.jsonl`. Rows are compared by their prompts. A benchmark's own file has a
            column `problem` or `question`.
        output: the JSON file to write.
        format: the format of train_file. `auto` looks at the first row's columns: `completions` with `labels` means
            stepwise, `label` or `reward` means unpaired, and anything else means prompt-completion.
        right_at: the reward from which a response without a label is right, as in training. The default is 1.
        model_name_or_path: the model whose tokenizer counts tokens: a folder or a Hub id.
        model_revision: branch, tag or commit of a Hub id.
        max_length: maximum length of a prompt with its response, in tokens, as in training.
        policy: a model that may have sampled the responses: a folder or a Hub id. Some rows are compared with its own
            samples. This can recognise rows of other models, temperatures and templates. Rows that were chosen among
            samples, such as right ones only, may differ too.
        policy_rows: number of rows to compare, evenly chosen from the file.
        policy_temperature: the temperature of the samples. Rows that top-k or top-p cut are more likely than samples.
        step_separator: the string that separates steps, as in training. Steps may not contain it.
        separator_token: the single token that follows each step, as in training.
        rising: whether rows with a right step after a wrong one are only counted (`keep`) or fail (`refuse`), as in
            training.
        min_right_share: minimum share of right among all labels. In unpaired rows, the labels are those of responses.
        max_right_share: maximum share of right among all labels.
        max_unlabelled_share: maximum share of rows without any labelled step. Training skips such rows.
        max_duplicate_share: maximum share of rows that repeat the response of an earlier row.
        max_contradictions: maximum number of rows that contradict another row with the same response, and of rows
            whose problem has another gold answer in an earlier row. Two prompts with their own `problem_id` are two
            problems. Answers of a task of your own are compared as text, unless `task` names it.
        max_over_long_share: maximum share of rows longer than max_length. Training refuses or drops such rows.
        max_shared_problems: maximum number of problems that train_file may share with each of the test_files. Near
            copies count: they differ only in blanks, capitals, LaTeX spacing, the punctuation at the end, or an
            instruction.
    """

    USES: ClassVar[Mapping[str, ReadIf]] = {
        "device": ReadIf(policy=GIVEN),
        "dtype": ReadIf(policy=GIVEN),
        "chat_template_path": _WITH_MODEL,
        "chat_template_kwargs": _WITH_MODEL,
        "end_of_turn": _WITH_MODEL,
    }

    train_file: RowsInput
    test_files: dict[str, Path] | None = None
    output: Annotated[Path, Output("{stage}.json")] | None = None
    format: Literal["auto", "stepwise", "unpaired", "prompt-completion"] = "auto"
    right_at: Annotated[RightAt, _LABELLED] = None
    model_name_or_path: ModelName | None = None
    model_revision: Annotated[str | None, _COUNTED] = None
    max_length: Annotated[AtLeast1, ReadIf(model_name_or_path=GIVEN, policy=GIVEN)] = 2048
    policy: ModelName | None = None
    policy_rows: Annotated[AtLeast1, _COMPARED] = 48
    policy_temperature: Annotated[float, Bounds(above=0), _COMPARED] = 1.0
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


def audit(config: AuditConfig) -> Audit:
    """Runs the stage and returns what it writes to `output`.

    Raises:
        ValueError: a row is invalid, or a limit is exceeded. A limit is reported after the tables are printed and the
            output is written. The output's `failures` contain the same messages.
    """
    from qstep.data import RowError, index_rows, named
    from qstep.evals import Audit, holds, write_result
    from qstep.evals.audit import audit_rows
    from qstep.evals.contamination import format_of, shared_with
    from qstep.report.tables import audit_notes, audit_tables
    from qstep.tasks import Tasks

    if config.output is not None:
        refuse_foreign("output", config.output, holds(Audit))
        stop_dry_run(config.output)
    tests = config.test_files or {}
    files = {"train_file": config.train_file} | {f"test_files.{name}": path for name, path in tests.items()}
    fingerprints = {name: finished(path) for name, path in files.items()}
    format = format_of(config.train_file, config.columns) if config.format == "auto" else config.format
    check_found(config, f"{config.train_file} is {format}", format=format)
    counted = config.model_name_or_path is not None
    forbidden = sorted({config.step_separator, config.separator_token}) if counted and format == "stepwise" else []
    try:
        index = index_rows(config.train_file, format, forbidden=forbidden, columns=config.columns)
        index = index.with_verdicts(config.right_at)
    except RowError as error:
        raise ValueError(f"{error}{_hint(config.train_file)}") from None
    found = audit_rows(
        index,
        train_file=named(config.train_file),
        tokens=_token_lengths(index, config),
        own_samples=_own_samples(index, config),
        shared={name: shared_with(index, path) for name, path in tests.items()},
        provenance=provenance(asdict(config)) | {"files": fingerprints},
        tasks=Tasks(config.task),
    )
    verdicts = [*_verdict_failures(index)]
    found = replace(found, failures=[*_failures(found, config, judged=not verdicts), *verdicts])
    if config.output is not None:
        write_result(config.output, found)
        say_written(config.output)
    for table in audit_tables(found):
        print_table(*table)
    for note in (*audit_notes(found), *_reward_note(config)):
        print_result(note, markup=False, soft_wrap=True)
    if found.failures:
        raise ValueError(f"{config.train_file} fails:\n" + "\n".join(f"- {failure}" for failure in found.failures))
    print_result(f"audit {config.train_file}: it passes")
    return found


def _hint(path: Path) -> str:
    """Advice for a published data set that is not converted yet."""
    from qstep.data import Source, recognise

    try:
        format = recognise(Source.of(str(path)))
    except ValueError:
        return ""
    return "" if format == "trl_stepwise" else f" (its columns are those of {format}: run `qstep convert` on it first)"


def _reward_note(config: AuditConfig) -> Iterator[str]:
    """Advice for rows without a reward or label that may have one under another name."""
    from qstep.data import chosen_reward, numbered_rows

    first = next((row for _, row in numbered_rows(config.train_file)), {})
    if "labels" in first:  # a scorer's rows need no reward
        return
    if {"reward", "label"}.isdisjoint(config.columns or {}) and (advice := chosen_reward(first)):
        yield f"rewards: no column `reward` or `label`{advice}"


def _token_lengths(index: Index, config: AuditConfig) -> TokenSpread | None:
    """The lengths in tokens, if there is a tokenizer to count them."""
    from qstep.evals.audit import token_lengths
    from qstep.models.loading import load_tokenizer

    if config.model_name_or_path is None:
        return None
    return token_lengths(
        index,
        config.with_chat(load_tokenizer(config.model_name_or_path, revision=config.model_revision)),
        step_separator=config.step_separator,
        separator_token=config.separator_token,
        max_length=config.max_length,
    )


def _own_samples(index: Index, config: AuditConfig) -> OwnSamples | None:
    """The comparison with the policy's samples, if there is a policy."""
    from qstep.evals.sampled_by import chosen_rows, compare_with_own
    from qstep.models import PolicyModel
    from qstep.models.inference import load_for_sampling

    if config.policy is None:
        return None
    numbers = chosen_rows(len(index), config.policy_rows).tolist()
    rows = [(index.where(number), index.row(number)) for number in numbers]
    for where, row in rows:
        if "completion" not in row:
            raise ValueError(f"{where}, field 'completion': is missing, but --policy compares it. Remove --policy")
    model, tokenizer = load_for_sampling(config.policy, device=config.device, dtype=config.dtype)
    with bar("policy", len(rows)) as advance:
        return compare_with_own(
            PolicyModel(model),
            config.with_chat(tokenizer),
            rows,
            temperature=config.policy_temperature,
            max_length=config.max_length,
            advance=advance,
        )


def _failures(found: Audit, config: AuditConfig, *, judged: bool) -> Iterator[str]:
    """A message for each limit that is exceeded: the value, the limit, and what to do.

    judged: whether it is clear which responses are right.
    """
    if judged:
        yield from _label_failures(found, config)
    yield from _share_failures(found, config)
    yield from _row_failures(found, config)


def _verdict_failures(index: Index) -> Iterator[str]:
    """What training refuses of labels and rewards. Some methods do not ask which responses are right."""
    from qstep.data import RowError
    from qstep.objectives.source import RowsFile
    from qstep.objectives.verdicts import refuse_contradicting_verdicts, refuse_unclear_rewards

    for refuse in (refuse_contradicting_verdicts, refuse_unclear_rewards):
        try:
            refuse(RowsFile(index.path), index)
        except RowError as error:
            yield str(error)


def _label_failures(found: Audit, config: AuditConfig) -> Iterator[str]:
    if found.format == "prompt-completion":
        return
    labels, what = (found.responses, "response") if found.labels is None else (found.labels, "step")
    for name, count in (("right", labels.right), ("wrong", labels.wrong)):
        if not count:
            yield f"no {what} is labelled {name}, so nothing can be learned. Add rows, or label them"
    share = labels.right_share
    if share is not None:
        if config.min_right_share is not None and share < config.min_right_share:
            yield f"the share of right labels is {share:.4f}, below --min_right_share {config.min_right_share}"
        if config.max_right_share is not None and share > config.max_right_share:
            yield f"the share of right labels is {share:.4f}, above --max_right_share {config.max_right_share}"


def _share_failures(found: Audit, config: AuditConfig) -> Iterator[str]:
    shares: tuple[tuple[str, int, str], ...] = (
        ("max_unlabelled_share", found.without_labels or 0, "rows have no label: label them, or drop them"),
        ("max_duplicate_share", found.duplicates.rows, "rows repeat an earlier response: drop them"),
        (
            "max_over_long_share",
            0 if found.tokens is None else found.tokens.over_long.rows,
            f"rows are longer than --max_length {config.max_length}: raise it, or allow them here and train with "
            "--over_long drop",
        ),
    )
    for name, count, words in shares:
        limit = getattr(config, name)
        if limit is not None and count / found.rows > limit:
            yield f"{count} of {found.rows} {words} (--{name} {limit})"


def _row_failures(found: Audit, config: AuditConfig) -> Iterator[str]:
    from qstep.report.tables import lines_text

    if config.rising == "refuse" and found.rising is not None and found.rising.rows:
        yield (
            f"a right step follows a wrong one in {lines_text(found.rising)}. Correct or drop these rows, or give "
            "--rising keep. Training reads each response only up to its first wrong step, unless "
            "--stop_at_first_error is false"
        )
    if found.contradictions.rows > config.max_contradictions:
        yield (
            f"rows with the same response have contradicting labels: {lines_text(found.contradictions)}. Keep one of "
            f"each, or raise --max_contradictions, which is {config.max_contradictions}"
        )
    if found.golds.rows > config.max_contradictions:
        yield (
            f"problems have two gold answers: {lines_text(found.golds)}. Correct or drop one of each, give each of two "
            f"problems its own problem_id, or raise --max_contradictions, which is {config.max_contradictions}"
        )
    for name, shared in found.shared.items():
        if shared.problems + shared.near_copies.problems <= config.max_shared_problems:
            continue
        for part, words in ((shared, "are also in"), (shared.near_copies, "are near copies of problems in")):
            if part.problems:
                yield (
                    f"{part.problems} problems {words} {name}: {lines_text(part)}. Drop these rows here, or raise "
                    f"--max_shared_problems, which is {config.max_shared_problems}"
                )

"""The result of a run that is the same computation as its leader, copied from the leader's.

All measurements are the leader's, which `same_as` names; names and settings are the run's own.
"""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_text, write_text_atomically
from fastdllm.common.paths import ARTIFACTS, RESULTS
from fastdllm.records.result_files import (
    MARK_LETTERS,
    RESULT_FILES,
    keep_aside,
    keep_result_aside,
    stored_fingerprint,
)
from fastdllm.records.summary import SameAs, Summary, read_summary, write_summary
from fastdllm.runs.lock import run_lock
from fastdllm.runs.spec import RunSpec
from fastdllm.settings import DecodingSettings

SUMMARY, *DATA_FILES = RESULT_FILES


def write_copy(leader: Path, folder: Path, spec: RunSpec) -> Summary:
    """Write the result of the run in `folder`, copied from the one in `leader` (results/E/T/C).

    results.json and samples.jsonl are copied where the leader has them; one that was restored
    from artifacts/ has none.

    Raises:
        UserError: the leader has no result of this computation, or one that was copied from this
            run, or the folder is locked or not writable; nothing is changed then.
    """
    source = _result_of(leader, spec)
    leader_summary = read_summary(source)
    _refuse_own(leader_summary, leader, spec)
    summary = copied_summary(leader_summary, spec)
    with run_lock(folder):
        path = folder / SUMMARY
        if path.exists() and stored_fingerprint(path) != spec.fingerprint:
            keep_result_aside(folder)
        for name in DATA_FILES:
            if (source.parent / name).exists():
                write_text_atomically(folder / name, read_text(source.parent / name))
            else:
                # An earlier file belongs to another result.
                keep_aside(folder / name, spec.fingerprint[:MARK_LETTERS])
        write_summary(path, summary)
        for name in ("failed.json", "progress.json"):
            (folder / name).unlink(missing_ok=True)
    return summary


def copied_summary(source: Summary, spec: RunSpec) -> Summary:
    """Return the summary of `spec` with the measured values of `source`."""
    origin = source.same_as or SameAs(
        experiment=source.experiment,
        task=source.task,
        config=source.config,
        fingerprint=source.fingerprint,
    )
    settings = spec.settings.model_dump(mode="json", exclude_none=True)
    others = {k: v for k, v in source.model_args.items() if k not in DecodingSettings.model_fields}
    updates = {
        "experiment": spec.experiment,
        "task": spec.task,
        "config": spec.config,
        "fingerprint": spec.fingerprint,
        "decides": spec.decides,
        "model_args": {**others, "experiment_name": spec.experiment, **settings},
        "eval_params": {**source.eval_params, "seed": spec.settings.seed},
        "same_as": origin,
    }
    return source.model_copy(update=updates)


def _refuse_own(summary: Summary, leader: Path, spec: RunSpec) -> None:
    """Refuse a copy of the run itself, which would then never have been decoded."""
    origin = summary.same_as
    names = (spec.experiment, spec.task, spec.config)
    if origin is not None and (origin.experiment, origin.task, origin.config) == names:
        raise UserError(
            f"{leader}: was itself copied from {'/'.join(names)}, which has to be decoded; type "
            "the same snakemake command again"
        )


def _result_of(leader: Path, spec: RunSpec) -> Path:
    """Return the leader's summary of this computation, in results/ or else in artifacts/."""
    places = [leader / SUMMARY]
    if leader.is_relative_to(RESULTS):
        places.append(ARTIFACTS / leader.relative_to(RESULTS) / SUMMARY)
    for path in places:
        if path.exists() and read_summary(path).computation == spec.run.computation is not None:
            return path
    raise UserError(
        f"{leader}: has no result of the same computation as "
        f"{spec.experiment}/{spec.task}/{spec.config}; type the same snakemake command again"
    )

"""Provenance of the figures: one line per distinct way in which runs were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastdllm.results.summary import Summary
from fastdllm.statistics.costs import speed_conditions


@dataclass(frozen=True, slots=True)
class Origin:
    """What a number of runs share; a run made from another one counts as made the same way."""

    runs: int
    commit: str
    dirty: bool | None
    model: str
    model_digest: str
    conditions: str
    versions: str
    first: str
    last: str


def origins(summaries: Sequence[Summary]) -> list[Origin]:
    """Return the distinct ways, those of the most runs first."""
    by_origin: dict[tuple[object, ...], list[Summary]] = {}
    for run in summaries:
        key = (
            (run.git.commit, run.git.dirty) if run.git else None,
            _model(run),
            speed_conditions(run),
            tuple(sorted(run.environment.items())),
        )
        by_origin.setdefault(key, []).append(run)
    return [_origin(runs) for runs in sorted(by_origin.values(), key=len, reverse=True)]


def _origin(runs: Sequence[Summary]) -> Origin:
    run = runs[0]
    dates = sorted(run.timestamp for run in runs)
    name, digest = _model(run)
    return Origin(
        runs=len(runs),
        commit=run.git.commit if run.git else "",
        dirty=run.git.dirty if run.git else None,
        model=name,
        model_digest=digest,
        conditions=", ".join(speed_conditions(run)),
        versions=", ".join(f"{name} {version}" for name, version in run.environment.items()),
        first=dates[0],
        last=dates[-1],
    )


def _model(run: Summary) -> tuple[str, str]:
    path = run.model_args.get("model_path", run.decides.get("model", ""))
    return str(path), str(run.decides.get("model_digest", ""))

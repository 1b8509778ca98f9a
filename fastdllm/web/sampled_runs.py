"""The runs of the project whose answers can be shown: those with a samples.jsonl here."""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import RESULTS
from fastdllm.traces.samples import SampledAnswer, read_sample

SAMPLES = "samples.jsonl"


def sampled_runs(results: Path = RESULTS) -> list[str]:
    """Return the names `experiment/task/config`, sorted; folders like _plans are none."""
    found = results.glob(f"[!_.]*/*/*/{SAMPLES}")
    return sorted(path.parent.relative_to(results).as_posix() for path in found)


def sampled_answer(run: str, item: int, results: Path = RESULTS) -> SampledAnswer:
    """Read an answer of a run; item: from 0, as the report counts.

    Raises:
        UserError: there is no such run, or no such item.
    """
    # Also what keeps a name from leading out of the folder.
    known = sampled_runs(results)
    if not known:
        raise UserError("no run has its answers on this machine; make run decodes some")
    if run not in known:
        raise unknown_name("run with answers here", run, known)
    if item < 0:
        raise UserError(f"item {item}: the items are counted from 0")
    return read_sample(results / run / SAMPLES, item + 1)

"""How fast runs were, from everything that is on disk: summaries and answers.

One record for each measurement, whatever it comes from; estimates.py chooses among them. Copies of
another run's result are left out, as that run is here itself. Reads only, and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.paths import ARTIFACTS, LOGS, RESULTS, task_folder
from fastdllm.tools.estimate.finished_chunks import FinishedChunk, chunks_in
from fastdllm.tools.estimate.hardware import MeasuredHardware
from fastdllm.workflow.project.artifacts import stored_summary
from fastdllm.workflow.project.digests import digest_of

# Answers of a task are as large as the task, and the newest few are enough.
MOST_ANSWER_FILES = 5
# Snakemake writes its clock right after the job, whose last act is the summary.
MOST_SECONDS_APART = 120.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long `items` requests of one run took on one device, and the start of the process.

    model: name and digest. dtypes: the number format that was asked for, and what it came to.
    settings: digest of everything that decides the answers except the limit.
    startup_s: loading, warm-up and recording of shapes; None if another run of the same job had
    loaded the model. outside_s: what the job took besides (imports, scoring), if measured.
    """

    experiment: str
    task: str
    config: str
    hardware: MeasuredHardware
    model: tuple[str, str]
    dtypes: frozenset[str]
    settings: str
    computation: str | None
    batch_size: int
    items: int
    seconds: float
    startup_s: float | None
    time: str
    outside_s: float | None = None

    @property
    def seconds_per_item(self) -> float:
        return self.seconds / self.items


@dataclass(frozen=True, slots=True)
class Untimed:
    """A finished run whose summary has no speed (log-likelihoods); its answers have, if here."""

    record: Mapping[str, Any]
    answers_path: Path


@dataclass(frozen=True, slots=True)
class TaskSize:
    """How large a task is: documents, and requests to the model. is_group: of several subtasks."""

    n_items: int
    n_requests: int
    is_group: bool


@dataclass(frozen=True, slots=True)
class FinishedRuns:
    """What all summaries say, whatever their settings.

    sizes: of tasks, by name and limit. fingerprints: of the results here, by their folders.
    """

    paces: list[Pace] = field(default_factory=list)
    untimed: list[Untimed] = field(default_factory=list)
    sizes: dict[tuple[str, int | None], TaskSize] = field(default_factory=dict)
    fingerprints: dict[Path, str] = field(default_factory=dict)

    def items_of(self, task: str, limit: int | None) -> int | None:
        """Return the requests of a task as an earlier run counted them, else in proportion."""
        same = self.sizes.get((task, limit))
        if same is not None:
            return same.n_requests
        full_size = self.sizes.get((task, None))
        # The limit holds for each task of a group, and its summary does not say how large each is.
        if full_size is None or limit is None or full_size.is_group or full_size.n_items < 1:
            return None
        return round(min(limit, full_size.n_items) * full_size.n_requests / full_size.n_items)


def read_finished() -> FinishedRuns:
    """Read results/ and artifacts/; a summary that is in both counts once."""
    finished = FinishedRuns()
    seen: set[tuple[Any, ...]] = set()
    for folder in (RESULTS, ARTIFACTS):
        for path in sorted(folder.glob("[!_.]*/*/*/summary.json")):
            record = stored_summary(path).record
            if record is None:
                continue
            if folder == RESULTS:
                finished.fingerprints[path.parent] = record["fingerprint"]
            identity = (*path.parts[1:-1], record["fingerprint"], record["timestamp"])
            if "same_as" not in record and identity not in seen:
                seen.add(identity)
                _add(finished, record, path)
    return finished


def _add(finished: FinishedRuns, record: Mapping[str, Any], path: Path) -> None:
    try:
        params = record["eval_params"]
        size = TaskSize(int(params["n_items"]), int(params["n_requests"]), _is_group(record))
        pace = _pace_of_run(record, path)
    except (KeyError, TypeError, ValueError, AttributeError):
        return  # edited by hand, not usable
    finished.sizes.setdefault((record["task"], params.get("limit")), size)
    if pace is not None:
        finished.paces.append(pace)
    elif path.parts[0] == RESULTS.name:
        finished.untimed.append(Untimed(record, path.with_name("answers.jsonl")))


def _is_group(record: Mapping[str, Any]) -> bool:
    return "group_results" in record or "groups" in record.get("items", {})


def paces_of_answers(untimed: Iterable[Untimed]) -> list[Pace]:
    """Return the paces of the newest of these runs from their answers, one for each device."""
    newest = sorted(untimed, key=lambda run: str(run.record["timestamp"]), reverse=True)
    paces: list[Pace] = []
    n_files = 0
    for run in newest:
        found = chunks_in(run.answers_path, str(run.record["fingerprint"]))
        chunks = [chunk for chunk in found if not chunk.was_paused]
        paces += [_pace_of_answers(run.record, part) for part in by_hardware(chunks).values()]
        n_files += bool(chunks)
        if n_files == MOST_ANSWER_FILES:
            break
    return paces


def by_hardware(chunks: Iterable[FinishedChunk]) -> dict[MeasuredHardware, list[FinishedChunk]]:
    """Return the chunks by the device that decoded them."""
    grouped: dict[MeasuredHardware, list[FinishedChunk]] = {}
    for chunk in chunks:
        grouped.setdefault(chunk.hardware, []).append(chunk)
    return grouped


def _pace_of_run(record: Mapping[str, Any], path: Path) -> Pace | None:
    how = record["eval_params"]
    seconds, items = _decoding_s(record), int(how["n_requests"])
    if seconds is None or len(record["hardware"]) != 1 or not (seconds > 0 and items > 0):
        return None
    recording_s = (record.get("throughput") or {}).get("recording_s", 0.0)
    parts = (record.get("load_time_s"), record["warm_up_s"], recording_s)
    startup = None if parts[0] is None else sum(map(float, parts))
    return _pace(
        record,
        hardware=_hardware(record["hardware"][0]),
        items=items,
        seconds=seconds,
        startup_s=startup,
        outside_s=None if startup is None else _outside_s(record, path, seconds + startup),
    )


def _decoding_s(record: Mapping[str, Any]) -> float | None:
    """Return the seconds in which all answers of a run were made; None if not measured."""
    if "decoding_s" in record:
        return float(record["decoding_s"])
    throughput = record.get("throughput")
    # Older summaries have the seconds of generation only, and a group may hold both kinds of task.
    if throughput is None or "n_answers" in record["eval_params"]:
        return None
    return float(throughput["total_time_s"])


def _pace_of_answers(record: Mapping[str, Any], chunks: list[FinishedChunk]) -> Pace:
    return _pace(
        record,
        hardware=chunks[0].hardware,
        items=sum(chunk.items for chunk in chunks),
        seconds=sum(chunk.seconds for chunk in chunks),
        startup_s=startup_s(chunks),
        outside_s=None,
    )


def startup_s(chunks: Sequence[FinishedChunk]) -> float | None:
    """Return the seconds of loading, warm-up and recording of shapes, of the slowest start."""
    starts_s = [chunk.startup_s for chunk in chunks if chunk.startup_s is not None]
    if not starts_s:
        return None
    return max(starts_s) + sum(chunk.recording_s for chunk in chunks)


def _pace(record: Mapping[str, Any], **measured: Any) -> Pace:
    decides = record["decides"]
    return Pace(
        experiment=record["experiment"],
        task=record["task"],
        config=record["config"],
        model=(decides["model"], decides["model_digest"]),
        dtypes=frozenset({decides["dtype"], record["dtype"]}),
        settings=settings_digest(decides),
        computation=record.get("computation"),
        batch_size=int(record["eval_params"]["batch_size"]),
        time=record["timestamp"],
        **measured,
    )


def _hardware(record: Mapping[str, Any]) -> MeasuredHardware:
    return MeasuredHardware(record["name"], record.get("threads"))


def _outside_s(record: Mapping[str, Any], path: Path, inside_s: float) -> float | None:
    """Return what Snakemake's clock counted beyond the run's own (logs/eval/....benchmark.tsv)."""
    if record["resumed"] or path.parts[0] != RESULTS.name:
        return None
    folder = task_folder(record["task"], record["eval_params"].get("limit"))
    clock = LOGS / "eval" / record["experiment"] / folder / f"{record['config']}.benchmark.tsv"
    try:
        # A summary restored from artifacts/ is later than the clock of any job here.
        if not 0 <= clock.stat().st_mtime - path.stat().st_mtime < MOST_SECONDS_APART:
            return None
        names, values = clock.read_text(encoding="utf-8").splitlines()[:2]
        row = dict(zip(names.split("\t"), values.split("\t"), strict=False))
        outside_s = float(row["s"]) - inside_s
    except (OSError, ValueError, KeyError):
        return None
    # Negative: the file is of another job than the summary.
    return outside_s if outside_s > 0 else None


def settings_digest(decides: Mapping[str, Any]) -> str:
    """Return the digest that runs share if they differ only in their limit."""
    return digest_of({key: value for key, value in decides.items() if key != "limit"})

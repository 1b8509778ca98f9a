"""All results as a table of pandas, with a type for each column."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastdllm.common.console import notice
from fastdllm.common.errors import UserError
from fastdllm.common.paths import ARTIFACTS, RESULTS
from fastdllm.records.summary import (
    DECODING,
    PARAMETERS,
    ItemGroup,
    Summary,
    read_summary,
    unpack_bits,
)
from fastdllm.settings import DecodingSettings

if TYPE_CHECKING:
    from pandas import DataFrame

TEXT, WHOLE, NUMBER, TRUTH = "string", "Int64", "Float64", "boolean"
# Columns of every run; each setting of decoding follows under its own name.
_OF_RUN = {
    **dict.fromkeys(("experiment", "task", "config"), TEXT),
    "limit": WHOLE,
    "metric": TEXT,
    **dict.fromkeys(("accuracy", "low", "high"), NUMBER),
    **dict.fromkeys(("n_items", "n_requests"), WHOLE),
    **dict.fromkeys(("tokens_per_s", "tokens_per_forward", "truncation_rate"), NUMBER),
    **dict.fromkeys(("load_time_s", "decoding_s", "peak_memory_gib"), NUMBER),
    **dict.fromkeys(("dtype", "device", "model", "same_as"), TEXT),
    "timestamp": "datetime64[us, UTC]",
    **dict.fromkeys(("parameters", "fingerprint", "path"), TEXT),
}
_OF_ITEM = {
    **dict.fromkeys(("experiment", "task", "config"), TEXT),
    **dict.fromkeys(("limit", "item"), WHOLE),
    "subtask": TEXT,
    "correct": TRUTH,
    "score": NUMBER,
    "tokens": WHOLE,
    **dict.fromkeys(("finish_reason", "answer", "target", "prompt", "path"), TEXT),
}
_TYPES = {bool: TRUTH, int: WHOLE, float: NUMBER}


def results(
    rows: Literal["runs", "items"] = "runs",
    *,
    experiment: str | None = None,
    task: str | None = None,
    config: str | None = None,
) -> DataFrame:
    """Return all finished runs of the project in the current folder, or their items.

    A run that is in results/ and published in artifacts/ is there once, as in results/. A summary
    that cannot be read is named on stderr and left out.

    Args:
        rows: "runs": one row for each summary, with metric, speed and settings. "items": one for
            each item of each run; answers only of runs that were decoded here (samples.jsonl), and
            none of runs whose items have no summary.
        experiment, task, config: only these; `_single` are the runs of `fastdllm evaluate`.

    Raises:
        UserError: `rows` is something else, or the current folder is no project.
    """
    import pandas

    if rows not in ("runs", "items"):
        raise UserError(f"results: rows {rows!r} is not allowed; it should be runs or items")
    if not RESULTS.is_dir() and not ARTIFACTS.is_dir():
        raise UserError(
            f"results: {Path.cwd()} has neither {RESULTS}/ nor {ARTIFACTS}/; change to the "
            "project's folder first (os.chdir)"
        )
    wanted = {"experiment": experiment, "task": task, "config": config}
    found = [
        (path, summary)
        for path, summary in _summaries()
        if all(value in (None, getattr(summary, key)) for key, value in wanted.items())
    ]
    if rows == "items":
        types: dict[str, str] = _OF_ITEM
        records = [record for path, summary in found for record in _items(path, summary)]
    else:
        settings = DecodingSettings().model_dump()
        types = _OF_RUN | {name: _TYPES.get(type(v), TEXT) for name, v in settings.items()}
        types |= dict.fromkeys(("mask_id", "stop_token"), WHOLE)
        records = [_run(path, summary) for path, summary in found]
    columns = {
        name: pandas.array([record.get(name) for record in records], dtype=kind)
        for name, kind in types.items()
    }
    return pandas.DataFrame(columns)


def _summaries() -> Iterator[tuple[Path, Summary]]:
    seen: set[tuple[Path, str]] = set()
    for folder in (RESULTS, ARTIFACTS):
        for path in sorted(folder.glob("*/*/*/summary.json")):
            try:
                summary = read_summary(path)
            except UserError as error:
                notice(f"left out: {error}")
                continue
            run = path.relative_to(folder), summary.fingerprint
            if run not in seen:
                seen.add(run)
                yield path, summary


def _names(path: Path, summary: Summary) -> dict[str, Any]:
    names = {key: getattr(summary, key) for key in ("experiment", "task", "config")}
    return names | {"limit": summary.eval_params.get("limit"), "path": str(path)}


def _run(path: Path, summary: Summary) -> dict[str, Any]:
    low, high = summary.primary.interval or (None, None)
    same = summary.same_as
    settings = {
        key.removeprefix(DECODING): str(value) if isinstance(value, list) else value
        for key, value in summary.decides.items()
        if key.startswith(DECODING)
    }
    parameters = {
        key.removeprefix(PARAMETERS): value
        for key, value in summary.decides.items()
        if key.startswith(PARAMETERS)
    }
    return {
        **settings,
        # Not the setting, which the limit of a task's own overrules.
        "max_new_tokens": summary.eval_params.get("max_gen_toks"),
        **_names(path, summary),
        "metric": f"{summary.primary.metric},{summary.primary.filter}",
        "accuracy": summary.accuracy,
        "low": low,
        "high": high,
        "n_items": summary.eval_params.get("n_items"),
        "n_requests": summary.n_requests,
        "tokens_per_s": summary.throughput and summary.throughput.tokens_per_s,
        "tokens_per_forward": summary.tokens_per_forward,
        "truncation_rate": summary.truncation_rate,
        "load_time_s": summary.load_time_s,
        "decoding_s": summary.decoding_s,
        "peak_memory_gib": summary.peak_memory.gib,
        "dtype": summary.dtype,
        "device": ", ".join(hardware.name for hardware in summary.hardware),
        "model": summary.model_args.get("model_path"),
        "same_as": same and f"{same.experiment}/{same.task}/{same.config}",
        "timestamp": summary.timestamp,
        "parameters": json.dumps(parameters) if parameters else None,
        "fingerprint": summary.fingerprint,
    }


def _items(path: Path, summary: Summary) -> Iterator[dict[str, Any]]:
    names, samples = _names(path, summary), path.with_name("samples.jsonl")
    if samples.is_file():
        # Not splitlines, which also splits at letters that answers may have.
        for line in samples.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            sample = json.loads(line)
            texts = {key: str(sample[key]) for key in ("answer", "target", "prompt")}
            yield sample | texts | names | {"subtask": sample["task"]}
    elif summary.items is not None:
        groups = summary.items.groups or [ItemGroup(summary.task, summary.items.n)]
        places = [(group.name, item) for group in groups for item in range(group.n)]
        for (subtask, item), right in zip(places, unpack_bits(summary.items), strict=True):
            yield names | {"subtask": subtask, "item": item, "correct": right}

"""Summaries without a model: what a run of the small project writes in place of decoding."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fastdllm.results.result_files import SUMMARY_SCHEMA_VERSION

RIGHT_THEN_WRONG, WRONG_THEN_RIGHT = "gA==", "QA=="


def fake_summary(spec: Mapping[str, Any], *, correct_bits: str = RIGHT_THEN_WRONG) -> dict:
    """A whole summary of the run that a spec.json describes; each call has its own time."""
    keys = ("experiment", "task", "config", "fingerprint", "decides")
    decoding = {
        key.removeprefix("decoding."): value
        for key, value in spec["decides"].items()
        if key.startswith("decoding.") and value is not None
    }
    return {key: spec[key] for key in keys} | {
        "schema_version": SUMMARY_SCHEMA_VERSION,
        "computation": spec["run"]["computation"],
        "timestamp": datetime.now(UTC).isoformat(),
        "accuracy": 0.5,
        "metrics": [{"metric": "acc", "filter": "none", "value": 0.5, "n": 2, "primary": True}],
        "items": {"n": 2, "correct_bits": correct_bits},
        "peak_memory": {"gib": 1.0, "kind": "process_resident"},
        "load_time_s": 1.0,
        "warm_up_s": 1.0,
        "resumed": False,
        "dtype": "float32",
        "hardware": [{"device": "cpu", "name": "a processor", "threads": 1}],
        "environment": {},
        "model_args": {"model_path": "m", "experiment_name": spec["experiment"], **decoding},
        "eval_params": {
            "n_items": 2,
            "n_requests": 2,
            "batch_size": 1,
            "seed": spec["decides"]["seed"],
        },
    }

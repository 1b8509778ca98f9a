"""A small project whose experiment times two configs in turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.files import write_json_atomically
from fastdllm.speed.speed_spec import SpeedSpec, read_speed_spec
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.speeds import SpeedMeasurement, speed_measurements
from tests.support.run_project import *  # noqa: F403
from tests.support.small_project import edit

EXPERIMENT = """\
title: Trial
question: Is it faster?
grid: {threshold: [0.02, 0.01]}
config_name: "t{threshold}"
speed:
  baseline: t0.02
  configs: [t0.01]
  batch_sizes: [1, 4]
  sittings: 3
  precision: 0.5
"""


@pytest.fixture
def measurement(project: Path, make_plan_on_disk: Callable[..., Any]) -> SpeedMeasurement:
    """The only measurement of the project, whose spec and plan are written."""
    (project / "experiments/trial/experiment.yaml").write_text(EXPERIMENT)
    edit("tasks/sums.yaml", "max_gen_toks: 24", "max_gen_toks: 4")  # so that rounds are short
    make_plan_on_disk("sums")
    (found,) = speed_measurements(load_project())
    write_json_atomically(found.spec_path, found.spec())
    return found


@pytest.fixture
def spec(measurement: SpeedMeasurement) -> SpeedSpec:
    return read_speed_spec(measurement.spec_path)

"""Tests here have a whole small project of runs."""

from tests.support.run_project import (  # noqa: F401
    a_summary,
    make_plan_on_disk,
    make_spec,
    model_folder,
    project,
    quiet_offline_lm_eval,
    running,
    tokenizer,
)

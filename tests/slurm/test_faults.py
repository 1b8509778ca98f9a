"""Faults of a cluster: the grid gets through, and nothing is lost, mixed or done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.lab import Lab
from tests.slurm.projects import ClusterProject, make_project
from tests.slurm.trial import ATTACKED, EVERY_FAULT, run_trial

pytestmark = pytest.mark.slow
# Seconds until status has told what happened to a run, once SLURM knows: it looks every 30 s.
NAMED_WITHIN_S = 60.0


def test_a_grid_under_every_fault(lab: Lab, reference: ClusterProject, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", lab)
    trial = run_trial(project, EVERY_FAULT, {c: reference.answers(c) for c in ATTACKED})
    # Whoever cancels a job has to ask for it again; all others come back by themselves.
    assert (trial.missing, trial.calls) == ([], 2), trial
    assert trial.wrong == [], trial
    assert (trial.lost.total(), trial.twice.total()) == (0, 0), trial
    assert trial.doubles == set(), trial
    for fault, seconds in trial.named_s.items():
        assert seconds is not None, f"{fault}: status never said so, but {trial.told[fault]}"
        late_s = trial.late_s[fault]
        assert late_s < NAMED_WITHIN_S, f"{fault}: told {late_s:.0f} s after SLURM knew"
    untouched = set(ATTACKED) - set(trial.victims.values())
    assert untouched, trial

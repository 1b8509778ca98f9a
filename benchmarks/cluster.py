"""What SLURM costs a run: `python -m benchmarks.cluster`, on a real SLURM on this machine.

Needs SLURM's packages (tests/slurm/packages.py installs them as root). Runs go one after the other,
so that no two share a processor; what they take here is mostly the start of Python, three times.
"""

from __future__ import annotations

import re
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.record import record
from fastdllm.runs.attempts import read_attempts
from tests.slurm.lab import Lab
from tests.slurm.packages import why_absent
from tests.slurm.projects import ClusterProject, make_project

COMMAND = "python -m benchmarks.cluster"
RUNS = ("k1_first", "k1_middle", "k2_first", "k2_middle", "k3_first", "k3_middle")
FINISHED = re.compile(r"^\[(.+)\]\nFinished jobid: \d+ \(Rule: eval\)", flags=re.MULTILINE)


def main() -> int:
    """Measure and record."""
    if reason := why_absent():
        sys.stderr.write(f"{reason}\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab.start()
        try:
            project = make_project(Path(folder) / "project", lab)
            costs = [costs_of(project, config) for config in RUNS]
        finally:
            lab.stop()
    noticed, overhead = (sorted(column) for column in zip(*costs, strict=True))
    figures = {
        "from the end of a job to the next step": f"{median(noticed):.0f} s, at most "
        f"{noticed[-1]:.0f} s of {len(RUNS)} jobs",
        "overhead of a job besides its eval": f"{median(overhead):.0f} s, at most "
        f"{overhead[-1]:.0f} s of {len(RUNS)} jobs",
    }
    record("cluster", command=COMMAND, figures=figures)
    for figure, value in figures.items():
        sys.stdout.write(f"{figure}: {value}\n")
    return 0


def costs_of(project: ClusterProject, config: str) -> tuple[float, float]:
    """Of one run: seconds from the end of its job to the next step, and those not spent in eval."""
    done = project.snakemake(f"config={config}")
    said = done.stdout + done.stderr
    found = FINISHED.search(said)
    if done.returncode != 0 or found is None:
        raise RuntimeError(said)
    next_step = datetime.strptime(found[1], "%a %b %d %H:%M:%S %Y")
    (job,) = (j for j in project.jobs().values() if project.config_of(j["comment"]) == config)
    fields = ("sacct", "-X", "-n", "-P", f"--jobs={job['id']}", "--format=Start,End")
    start, end = map(datetime.fromisoformat, project.lab.ask(*fields).split("|"))
    (attempt,) = read_attempts(project.folder(config))
    assert attempt.ended is not None
    at_work = datetime.fromisoformat(attempt.ended) - datetime.fromisoformat(attempt.time)
    return (next_step - end).total_seconds(), (end - start - at_work).total_seconds()


if __name__ == "__main__":
    sys.exit(main())

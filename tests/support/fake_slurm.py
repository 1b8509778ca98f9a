"""SLURM for tests without SLURM: its commands as small scripts, and what they print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastdllm.cluster.jobs import SLURM_LOGS
from fastdllm.cluster.slurm import Job

COMMENT = "rule_eval_wildcards_demo_words_k1"


def log_of(rule: str, values: Sequence[str], job_id: str) -> Path:
    """Return the path of SLURM's own log of a job, relative to the project."""
    return SLURM_LOGS / f"rule_{rule}" / "_".join(values).replace("/", "_") / f"{job_id}.log"


def squeue_output(*jobs: Job) -> str:
    """Return what squeue prints about jobs."""
    return "".join(
        f"{job.id}\x1f{job.state}\x1fNone\x1fN/A\x1f\x1f1:00\x1f0\x1f{job.name or 'x'}\x1f"
        f"{job.comment}\x1f{job.work_dir}\x1e\n"
        for job in jobs
    )


class FakeSlurm:
    """Scripts in the place of SLURM's commands; the files `queue` and `down` say what they do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.say()
        fail = f"if cat {folder}/$0.down >&2 2>/dev/null; then exit 1; fi"
        note = f'printf "%s\\n" "$*" >> {folder}/$0.calls'
        for name, text in {
            "squeue": f"cat {folder}/queue",
            "sbatch": "echo 77",
            "scancel": "",
            "sacctmgr": "echo lab",
            "sacct": "",
            "scontrol": "",
            "sinfo": "",
        }.items():
            script = folder / "bin" / name
            fail_here, note_here = (line.replace("$0", name) for line in (fail, note))
            script.write_text(f"#!/bin/sh\n{note_here}\n{fail_here}\n{text}\n")
            script.chmod(0o755)

    def say(self, *jobs: tuple[str, ...], comment: str = COMMENT) -> None:
        """Set what squeue prints: ids, states, and names where they matter."""
        place = str(self.folder / "project")
        listed = [
            Job(i, state, name="".join(name), comment=comment, work_dir=place)
            for i, state, *name in jobs
        ]
        (self.folder / "queue.new").write_text(squeue_output(*listed))
        (self.folder / "queue.new").rename(self.folder / "queue")

    def break_down(self, name: str, error: str) -> Path:
        path = self.folder / f"{name}.down"
        path.write_text(error)
        return path

    def calls(self, name: str) -> list[str]:
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

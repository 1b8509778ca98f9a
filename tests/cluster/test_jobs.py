"""Comments, logs and adoption: which SLURM job works on what."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.cluster.jobs import comment_of, live_jobs, log_of
from fastdllm.cluster.slurm import Job

VALUES = ("00_baseline", "words", "k1_first")
COMMENT = "rule_eval_wildcards_00_baseline_words_k1_first"


def test_the_comment_is_the_one_of_the_plugin() -> None:
    assert comment_of("eval", VALUES) == COMMENT
    assert comment_of("shard", (*VALUES, "1/2")) == f"rule_shard_wildcards_{'_'.join(VALUES)}_1_2"
    assert comment_of("train") == "rule_train"


def test_the_log_is_the_one_of_the_plugin() -> None:
    expected = Path("logs/slurm/rule_eval/00_baseline_words_k1_first/12.log")
    assert log_of("eval", VALUES, "12") == expected
    assert log_of("train", (), "12") == Path("logs/slurm/rule_train/12.log")


def test_only_live_jobs_of_this_folder_count(tmp_path: Path) -> None:
    jobs = [
        Job(id="1", state="CANCELLED", comment=COMMENT, work_dir=str(tmp_path)),
        Job(id="2", state="RUNNING", comment=COMMENT, work_dir=str(tmp_path / "other")),
        Job(id="3", state="RUNNING", comment="", work_dir=str(tmp_path)),
        Job(id="4", state="PENDING", comment=COMMENT, work_dir=str(tmp_path)),
    ]
    assert live_jobs(jobs, tmp_path) == {COMMENT: jobs[3]}


def test_a_folder_has_several_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    job = Job(id="1", state="RUNNING", comment=COMMENT, work_dir=str(tmp_path / "link"))
    assert live_jobs([job], tmp_path / "real") == {COMMENT: job}


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_jobs_the_one_that_runs_counts_then_the_older(order: int) -> None:
    nine, ten, eleven = (
        Job(id=i, state=s, comment=COMMENT, work_dir="/p")
        for i, s in (("9", "PENDING"), ("10", "PENDING"), ("11", "RUNNING"))
    )
    assert live_jobs([nine, ten, eleven][::order], Path("/p")) == {COMMENT: eleven}
    assert live_jobs([nine, ten][::order], Path("/p")) == {COMMENT: nine}

"""What squeue and sacct print, read back; the commands are small scripts that note their calls."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdllm.cluster import slurm
from fastdllm.cluster.slurm import Job, JobState, SlurmError

Fake = Callable[..., Path]

RUNNING = (
    *("12", "RUNNING", "None", "2026-11-26T00:36:06", "gpu3", "1-02:03:04"),
    *("2", "uuid", "rule_eval_wildcards_a_b_c", "/home/me/project"),
)
WAITING = ("13_4", "PENDING", "Priority", "N/A", "", "UNLIMITED", "0", "wrap", "(null)", "/home/me")


# What the cache holds, with a job of one's own.
RECORD = '{"time": NOW, "jobs": [%s]}'


def queue(*jobs: tuple[str, ...]) -> str:
    return "".join("\x1f".join(job) + "\x1e\n" for job in jobs)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Puts a command on the PATH that prints a text; returns the file with a line per call."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))

    def put(name: str, text: str = "", *, error: str = "", code: int = 0) -> Path:
        calls = tmp_path / f"{name}.calls"
        script = folder / name
        script.write_text(
            f"#!{sys.executable}\nimport os, sys\n"
            f"open({str(calls)!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10))\n"
            "names = [k for k in os.environ if k.startswith(('SQUEUE_', 'SACCT_'))]\n"
            f"sys.stdout.write({text!r})\nsys.stderr.write({error!r} + ' '.join(names))\n"
            f"sys.exit({code} or len(names))\n"
        )
        script.chmod(0o755)
        return calls

    return put


def calls(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1]


def test_jobs_are_read_with_all_their_fields(fake: Fake) -> None:
    asked = fake("squeue", queue(RUNNING, WAITING))
    assert slurm.own_jobs() == [
        Job(
            id="12",
            state="RUNNING",
            start="2026-11-26T00:36:06",
            node="gpu3",
            time_left_s=93784.0,
            name="uuid",
            comment="rule_eval_wildcards_a_b_c",
            work_dir="/home/me/project",
            restarts=2,
        ),
        Job(id="13_4", state="PENDING", reason="Priority", name="wrap", work_dir="/home/me"),
    ]
    assert len(calls(asked)) == 1
    assert "--me --states=all" in calls(asked)[0]


def test_a_state_is_one_bare_word(fake: Fake) -> None:
    fake("squeue", queue(("1", "CANCELLED by 1000", *RUNNING[2:])))
    (job,) = slurm.own_jobs()
    assert job.state == "CANCELLED"
    assert not job.is_live
    assert slurm.bare_state("CANCELLED+") == "CANCELLED"


def test_whatever_a_comment_holds_moves_no_other_field(fake: Fake) -> None:
    odd = 'two\nlines | "quoted" \x1f, \\x1f %i'
    fake("squeue", queue((*RUNNING[:8], odd, "/a folder/b"), RUNNING))
    first, second = slurm.own_jobs()
    assert (first.id, first.comment, first.work_dir) == ("12", odd, "/a folder/b")
    assert second.comment == "rule_eval_wildcards_a_b_c"


def test_no_jobs_are_no_error(fake: Fake) -> None:
    fake("squeue", "")
    assert slurm.own_jobs() == []


def test_an_answer_is_taken_from_the_cache_while_it_is_young(fake: Fake) -> None:
    asked = fake("squeue", queue(RUNNING))
    first = slurm.own_jobs()
    assert slurm.own_jobs(max_age_s=60) == first
    assert len(calls(asked)) == 1
    assert slurm.own_jobs(max_age_s=1e-9) == first
    assert slurm.own_jobs() == first
    assert len(calls(asked)) == 3


def test_another_cluster_has_another_cache(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake("squeue", queue(RUNNING))
    slurm.own_jobs()
    monkeypatch.setenv("SLURM_CONF", "/elsewhere/slurm.conf")
    slurm.own_jobs(max_age_s=60)
    assert len(calls(asked)) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        RECORD % '{"id": "1", "state": "X", "new": 2}',
        RECORD % "7",
        '{"time": 1e12, "jobs": []}',
        '{"time": "x"}',
        "{",
    ],
)
def test_a_damaged_cache_is_no_cache(fake: Fake, tmp_path: Path, text: str) -> None:
    asked = fake("squeue", queue(RUNNING))
    slurm.own_jobs()
    (cache,) = (tmp_path / "cache/fastdllm").iterdir()
    cache.write_text(text.replace("NOW", str(time.time())))
    assert len(slurm.own_jobs(max_age_s=60)) == 1
    assert len(calls(asked)) == 2


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fake("squeue", queue(RUNNING))
    assert len(slurm.own_jobs(max_age_s=60)) == 1


def test_a_persons_own_defaults_hide_no_jobs(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake("squeue", queue(RUNNING))
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    monkeypatch.setenv("SACCT_FORMAT", "JobID")
    assert len(slurm.own_jobs()) == 1


def test_a_failing_squeue_is_one_line(fake: Fake) -> None:
    fake("squeue", error="squeue: error: no\n  controller\n", code=1)
    with pytest.raises(SlurmError, match=r"^squeue: error: no controller$"):
        slurm.own_jobs()


def test_a_silent_command_is_given_up(fake: Fake, tmp_path: Path) -> None:
    fake("squeue")
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(SlurmError, match=r"^squeue: no answer for 0 s$"):
        slurm.ask("squeue", patience_s=0.05)


def test_an_absent_squeue_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not slurm.has_slurm()
    with pytest.raises(SlurmError, match="squeue: no such command"):
        slurm.own_jobs()
    assert slurm.accounted(["1"]) == {}


def test_accounts_are_read_with_one_call(fake: Fake) -> None:
    here = Path.cwd()
    text = (
        f"7|CANCELLED by 1000|0:15|{here}\n8|RUNNING|0:0|{here}\n"
        f"9|COMPLETED|0:0|/another|project\n10|COMPLETED|0:0|\n"
    )
    asked = fake("sacct", text)
    assert slurm.accounted(["8", "7", "9", "8", "10"]) == {
        "7": JobState("7", "CANCELLED", 0),
        "8": JobState("8", "RUNNING", 0),
    }
    assert len(calls(asked)) == 1
    assert calls(asked)[0].endswith("--jobs=10,7,8,9")
    assert slurm.accounted([]) == {}
    assert len(calls(asked)) == 1


def test_a_folder_of_the_accounts_may_hold_their_separator(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a|b"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    fake("sacct", f"7|FAILED|1:0|{folder}\n8|FAILED|1:0|{tmp_path / 'link'}\n")
    assert set(slurm.accounted(["7", "8"])) == {"7", "8"}


def test_without_accounts_nothing_is_accounted(fake: Fake) -> None:
    fake("sacct", error="Slurm accounting storage is disabled\n", code=1)
    assert slurm.accounted(["1"]) == {}
    fake("sacct", error="sacct: error: slurmdbd: Connection refused\n", code=1)
    with pytest.raises(SlurmError, match="Connection refused"):
        slurm.accounted(["1"])


def test_a_refused_requeue_says_why(fake: Fake) -> None:
    asked = fake("scontrol", error="Requested operation is presently disabled for job 5\n", code=1)
    with pytest.raises(SlurmError, match="presently disabled"):
        slurm.requeue("5")
    assert calls(asked) == ["requeue 5"]


def test_spans_of_time_become_seconds() -> None:
    spans = {"59:58": 3598, "1-02:03:04": 93784, "0:00": 0, "10:00:00": 36000}
    assert {span: slurm.span_seconds(span) for span in spans} == spans
    for span in ("UNLIMITED", "INVALID", "NOT_SET", ""):
        assert slurm.span_seconds(span) is None

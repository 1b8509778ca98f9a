"""How jobs ended, by squeue, by the logs that a real SLURM 22.05 wrote, and by the accounts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fastdllm.cluster.slurm import JobState
from fastdllm.runs.attempts import Attempt
from fastdllm.workflow.status.endings import (
    KILLED,
    TAIL_BYTES,
    EndedJob,
    Ending,
    accounted_ending,
    ending_of,
)

STAMP = "slurmstepd: error: *** JOB 12 ON node-1 CANCELLED AT 2026-11-26T00:39:29"
OUT_OF_MEMORY = "out of memory (the job's, not the GPU's)"
EXIT = "srun: error: vm: task 0: Exited with exit code 2"
MEMORY_LIMIT = f"""\
slurmstepd-vm: error: StepId=7.batch exceeded memory limit (434 > 100), being killed
slurmstepd-vm: error: Exceeded job memory limit
{STAMP} ***
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, path: Path = Path("12.log")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words", "resumes"),
    [
        (f"start\n{STAMP} ***\n", "cancelled", True),
        (f"{STAMP} DUE TO TIME LIMIT ***\n", "stopped by its time limit", True),
        (f"{STAMP} DUE TO PREEMPTION ***\n", "preempted, and not queued again", True),
        (f"{STAMP} DUE TO NODE FAILURE, SEE SLURMCTLD LOG ***", "its node failed", True),
        (f"{STAMP} DUE TO JOB REQUEUE ***", "put back into the queue, and gone from there", True),
        (MEMORY_LIMIT, OUT_OF_MEMORY, False),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=12.0.", OUT_OF_MEMORY, False),
        ("srun: error: node-1: task 0: Out Of Memory", OUT_OF_MEMORY, False),
        ("srun: error: node-1: task 0: Killed", KILLED, True),
        (f"Command '...' died with <Signals.SIGKILL: 9>.\n{EXIT}\n", KILLED, True),
        (f"boo\n{EXIT}\nsaid Snakemake", f"failed: {EXIT}", False),
    ],
)
def test_the_log_says_how_a_job_ended(text: str, words: str, resumes: bool) -> None:
    ending = ending_of(EndedJob("12", log=write(text)), [])
    assert ending is not None
    assert (ending.words, ending.resumes, ending.log) == (words, resumes, Path("12.log"))


@pytest.mark.parametrize(
    ("state", "words", "resumes"),
    [
        ("TIMEOUT", "stopped by its time limit", True),
        ("NODE_FAIL", "its node failed", True),
        ("OUT_OF_MEMORY", OUT_OF_MEMORY, False),
        ("PREEMPTED", "preempted, and not queued again", True),
        ("CANCELLED", "cancelled", True),
    ],
)
def test_squeue_says_how_a_job_ended(state: str, words: str, resumes: bool) -> None:
    ending = ending_of(EndedJob("12", state), [])
    assert ending is not None
    assert (ending.words, ending.resumes, ending.is_clear) == (words, resumes, True)


def test_one_that_never_ran_was_cancelled_while_it_waited() -> None:
    ending = ending_of(EndedJob("12", "CANCELLED", is_without_node=True), [])
    assert ending is not None
    assert ending.words == "cancelled while it waited"


def test_a_job_cancelled_for_its_memory_ran_out_of_memory() -> None:
    ending = ending_of(EndedJob("12", "CANCELLED", log=write(MEMORY_LIMIT)), [])
    assert ending is not None
    assert ending.words == OUT_OF_MEMORY


def test_what_an_earlier_start_of_the_job_left_in_its_log_is_past() -> None:
    log = write(f"{STAMP} DUE TO PREEMPTION ***\nBuilding DAG of jobs...\nboo\n")
    ending = ending_of(EndedJob("12", "FAILED", "NonZeroExitCode", log=log), [])
    assert ending is not None
    assert (ending.words, ending.resumes) == ("failed: boo", False)


def test_nothing_is_made_up() -> None:
    assert ending_of(EndedJob("12", "COMPLETED", log=write(f"{STAMP} ***")), []) is None
    assert ending_of(EndedJob("12"), []) is None
    assert ending_of(EndedJob("12", log=write("all went well\n")), []) is None
    # The text of a program is no word of SLURM's.
    assert ending_of(EndedJob("12", log=write("RuntimeError: CUDA out of memory")), []) is None


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ("time limit", "stopped ahead of its time limit, and not queued again"),
        ("SIGTERM", "stopped by SIGTERM"),
        ("", KILLED),
    ],
)
def test_the_journal_knows_more_than_a_failed_state(why: str, words: str) -> None:
    attempts = [Attempt(slurm_job="11", why="failed"), Attempt(slurm_job="12", why=why)]
    ending = ending_of(EndedJob("12", "FAILED", "NonZeroExitCode"), attempts)
    assert ending is not None
    assert (ending.words, ending.resumes) == (words, True)


def test_a_job_that_failed_before_it_began_shows_the_last_line_of_its_own_log() -> None:
    own = write("Traceback ...\nModuleNotFoundError: No module named 'torch'\n\n", Path("own.log"))
    log = write("Error in rule eval\nsrun: error: vm: task 0: Exited with exit code 1")
    ending = ending_of(EndedJob("12", "FAILED", "NonZeroExitCode", log=log, own_log=own), [])
    assert ending is not None
    assert ending.words == "failed: ModuleNotFoundError: No module named 'torch'"
    assert ending.log == own


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "slurmstepd: error: execve(): python: No such file or directory\n"
            "srun: error: vm: task 0: Exited with exit code 2\n"
            "At least one job did not complete successfully.\n",
            "slurmstepd: error: execve(): python: No such file or directory",
        ),
        (
            "srun: lacks support for cpu binding\n"
            "srun: error: vm: task 0: Exited with exit code 1\n"
            "WorkflowError:\nAt least one job did not complete successfully.\n",
            "srun: error: vm: task 0: Exited with exit code 1",
        ),
        ("no such node\nWorkflowError:\nAt least one job did not complete.", "no such node"),
        ("bash: line 1: /env/bin/python: not found\n", "bash: line 1: /env/bin/python: not found"),
        ("", "its logs say nothing"),
    ],
)
def test_where_its_own_log_is_empty_slurms_log_is_named_and_shown(text: str, words: str) -> None:
    own, log = write("\n", Path("own.log")), write(text)
    ending = ending_of(EndedJob("12", "FAILED", "NonZeroExitCode", log=log, own_log=own), [])
    assert ending is not None
    assert (ending.words, ending.log) == (f"failed: {words}", log)


def test_a_job_that_failed_without_any_log_says_so() -> None:
    ending = ending_of(EndedJob("12", "FAILED", "NonZeroExitCode", own_log=Path("own.log")), [])
    assert ending is not None
    assert (ending.words, ending.log) == ("failed: its logs say nothing", None)


EARLIER = Attempt(slurm_job="11", why="time limit", ended="2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("start", ["2999-01-01T00:00:00", None])
def test_the_log_of_an_earlier_job_is_not_that_of_one_that_never_came_to_its_eval(
    start: str | None,
) -> None:
    own, log = write("chunk 3 of 8\n", Path("own.log")), write("slurmstepd: error: no python\n")
    ended = "2999-01-01T00:00:00+00:00" if start is None else "2026-01-01T00:00:00+00:00"
    job = EndedJob("12", "FAILED", "NonZeroExitCode", start=start, log=log, own_log=own)
    ending = ending_of(job, [replace(EARLIER, ended=ended)])
    assert ending is not None
    assert (ending.words, ending.log) == ("failed: slurmstepd: error: no python", log)


def test_an_earlier_attempt_is_not_the_end_of_a_job_without_one() -> None:
    log = write("a node that went away\n")
    ending = ending_of(EndedJob("12", log=log), [EARLIER])
    assert ending is not None
    assert (ending.words, ending.resumes, ending.log) == ("ended before its eval began", True, log)


def test_an_earlier_start_of_the_same_job_is_past() -> None:
    attempts = [Attempt(slurm_job="12", why="SIGTERM")]
    job = EndedJob("12", "FAILED", restarts=1, log=write("bash: no python\n"))
    ending = ending_of(job, attempts)
    assert ending is not None
    assert (ending.words, ending.resumes) == ("failed: bash: no python", False)
    again = ending_of(job, [*attempts, Attempt(slurm_job="12", restart=1, why="time limit")])
    assert again is not None
    assert again.words == "stopped ahead of its time limit, and not queued again"


def test_an_attempt_of_the_job_that_had_the_id_before_is_past() -> None:
    attempts = [Attempt(slurm_job="12", why="time limit", time="2026-01-01T00:00:00+00:00")]
    job = EndedJob("12", "FAILED", start="2026-02-01T00:00:00", log=write("bash: no python\n"))
    ending = ending_of(job, attempts)
    assert ending is not None
    assert ending.words == "failed: bash: no python"
    same = ending_of(replace(job, start="2025-12-31T00:00:00"), attempts)
    assert same is not None
    assert same.words == "stopped ahead of its time limit, and not queued again"


@pytest.mark.parametrize("earlier", [[], [EARLIER]])
def test_a_job_that_was_warned_before_its_eval_began_goes_on(earlier: list[Attempt]) -> None:
    said = "fastdllm: stopped by SIGUSR1 (time limit ahead); the same command resumes\n"
    log = write("srun: error: vm: task 0: Exited with exit code 75\n")
    job = EndedJob("12", "FAILED", log=log, own_log=write(said, Path("own.log")))
    ending = ending_of(job, earlier)
    assert ending is not None
    words = "stopped by SIGUSR1 (time limit ahead) before it began"
    assert (ending.words, ending.resumes) == (words, True)


def test_only_the_end_of_a_log_is_read() -> None:
    log = write(f"{STAMP} DUE TO TIME LIMIT ***\n" + "x" * TAIL_BYTES + f"\n{STAMP} ***\n")
    ending = ending_of(EndedJob("12", log=log), [])
    assert ending is not None
    assert ending.words == "cancelled"


@pytest.mark.parametrize(
    ("state", "exit_code", "words", "resumes"),
    [
        ("TIMEOUT", 0, "stopped by its time limit", True),
        ("CANCELLED", 0, "cancelled", True),
        ("FAILED", 0, KILLED, True),
        ("FAILED", 75, "stopped by SIGTERM", True),
        ("FAILED", 1, "failed: boo", False),
        ("FAILED", None, "failed: boo", False),
    ],
)
def test_the_accounts_say_what_is_unclear(
    state: str, exit_code: int | None, words: str, resumes: bool
) -> None:
    unclear = Ending("failed: boo", False, "12", is_clear=False)
    accounted = accounted_ending(unclear, JobState("12", state, exit_code))
    assert (accounted.words, accounted.resumes) == (words, resumes)

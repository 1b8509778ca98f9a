"""One job per GPU: cards are taken, waited for, and free again however a job ends."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from fastdllm.common.errors import UserError
from fastdllm.machine import gpus
from fastdllm.machine.gpus import card_for, visible_cards
from tests.support.run_project import PATIENCE_S

# Takes a card, says which, and keeps it until a line comes in.
JOB = """
import os, sys
from pathlib import Path
from fastdllm.machine.gpus import card_for
with card_for("auto", folder=Path(sys.argv[1])):
    print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def no_cards_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    nvidia_smi(tmp_path, monkeypatch, "exit 9")
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


def listed(folder: Path, *lines: str) -> str:
    (folder / "listed").write_text("".join(lines))
    return f"cat {folder}/listed"


class Job:
    """A process that takes a card and waits."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", JOB, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout, self.stderr = self.process.stdout, self.process.stderr

    def card(self) -> str:
        return line_of(self.stdout)

    def complaint(self) -> str:
        return line_of(self.stderr)

    def finish(self) -> None:
        self.process.communicate("done\n", timeout=PATIENCE_S)


def line_of(stream: IO[str]) -> str:
    ready, _, _ = select.select([stream], [], [], PATIENCE_S)
    assert ready, "the job said nothing"
    return stream.readline().strip()


@contextmanager
def jobs(folder: Path, n: int) -> Iterator[list[Job]]:
    started = [Job(folder) for _ in range(n)]
    try:
        yield started
    finally:
        for job in started:
            job.process.kill()
            job.process.communicate()


@pytest.mark.parametrize(
    ("variable", "cards"),
    [("2,0", ("2", "0")), ("GPU-a", ("GPU-a",)), ("0,-1,1", ("0",)), ("", ()), ("1,1", ("1",))],
)
def test_what_cuda_may_see_is_what_is_taken_from(
    monkeypatch: pytest.MonkeyPatch, variable: str, cards: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_cards() == cards


def test_nvidia_smi_counts_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"GPU {i}: Quadro RTX 6000 (UUID: GPU-{i}f)\n" for i in range(3)]
    nvidia_smi(tmp_path, monkeypatch, listed(tmp_path, *lines))
    assert visible_cards() == ("0", "1", "2")


def test_slices_of_a_card_are_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "GPU 0: NVIDIA A100 (UUID: GPU-1)\n",
        "  MIG 3g.20gb     Device  0: (UUID: MIG-a)\n",
        "  MIG 3g.20gb     Device  1: (UUID: MIG-b)\n",
    )
    nvidia_smi(tmp_path, monkeypatch, listed(tmp_path, *lines))
    assert visible_cards() == ("MIG-a", "MIG-b")


def test_device_files_count_where_nvidia_smi_cannot_say(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_cards() == ("0", "1")


def test_a_card_is_seen_alone_and_only_while_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with card_for("cuda", folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4"
        assert visible_cards() == ("4",)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_the_variable_is_gone_again_where_it_was_not_set(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    with card_for("auto", folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "cuda:1"])
def test_nothing_is_taken_for_a_cpu_or_a_card_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with card_for(device, folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not list(tmp_path.glob("*.lock"))


def test_the_only_card_of_a_slurm_job_is_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with card_for("auto", folder=tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert not list(tmp_path.glob("*.lock"))


@pytest.mark.slow
def test_several_cards_of_a_slurm_job_are_shared_among_its_processes_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {job: gpus._own_folder(job) for job in ("", f"test-{os.getpid()}")}
    assert len(set(folders.values())) == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with jobs(tmp_path, 2) as (first, second):
        assert {first.card(), second.card()} == {"0", "1"}
    for job, folder in folders.items():
        if job:
            folder.rmdir()


def test_a_machine_without_a_card_takes_none(tmp_path: Path) -> None:
    with card_for("auto", folder=tmp_path):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_folder_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UserError, match="cannot write"), card_for("auto", folder=tmp_path / "no"):
        pass


@pytest.mark.slow
def test_two_jobs_have_two_cards_and_the_third_waits_for_the_one_that_is_free_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with jobs(tmp_path, 2) as (first, second):
        assert {first.card(), (freed := second.card())} == {"0", "1"}
        with jobs(tmp_path, 1) as (third,):
            complaint = third.complaint()
            assert complaint == "fastdllm: all 2 GPUs are taken by other runs; waiting for one"
            second.finish()
            assert third.card() == freed


@pytest.mark.slow
def test_a_job_that_is_killed_leaves_its_card_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with jobs(tmp_path, 1) as (first,):
        assert first.card() == "3"
        with jobs(tmp_path, 1) as (second,):
            assert second.complaint() == "fastdllm: the GPU is taken by other runs; waiting for one"
            first.process.kill()
            assert second.card() == "3"


@pytest.mark.slow
def test_many_jobs_never_share_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    held: list[str] = []
    with jobs(tmp_path, 6) as started:
        waiting = list(started)
        while waiting:
            ready, _, _ = select.select([job.stdout for job in waiting], [], [], PATIENCE_S)
            assert ready, "no job got a card"
            job = next(job for job in waiting if job.stdout in ready)
            card = job.card()
            assert card not in held
            held.append(card)
            if len(held) == 3:
                # All are taken; the next card is one that was given back.
                held.remove(card)
                job.finish()
            waiting.remove(job)

"""The doctor: what it says of machines that are well and of machines that are not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from fastdllm.cluster.checks import associations, check_link
from fastdllm.cluster.site import ClusterOptions
from fastdllm.cluster.slurm import SlurmError
from fastdllm.common.errors import UserError
from fastdllm.tools.doctor.examine import examine
from fastdllm.tools.doctor.finding import DoctorFinding, Verdict
from fastdllm.tools.doctor.gpu import Build, driver_finding, dtype_finding
from fastdllm.tools.doctor.installation import look_at_caches, look_at_git, look_at_user
from fastdllm.tools.doctor.slurm_access import account_findings, partition_findings
from fastdllm.tools.doctor.storage import clock_finding, look_at_disks, look_at_locks
from tests.support.fakes import without_name

ROOT = Path(__file__).parents[2]
ALLOWED = {"gts-lab": {"inferno", "embers"}}
WELL = {
    "squeue": "exit 0",
    "sbatch": "exit 0",
    "sacctmgr": 'echo "gts-lab|embers,inferno"',
    "sinfo": 'echo "gpu-rtx6000|gpu:RTX_6000:4(S:0-1)"; echo "cpu|(null)"',
    "pace-quota": 'echo "Home 8.4 20.0 42.1%"; echo "Scratch 900 15000 6.0%"',
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose model and task are local, and an account of the pretended cluster."""
    project = tmp_path / "project"
    for name in ("experiments/00_baseline", "tasks", "models/tiny"):
        shutil.copytree(ROOT / name, project / name)
    text = "model: {path: models/tiny}\nexperiments: [00_baseline]\n"
    text += "tasks:\n  word_problems:\ncluster: {account: gts-lab}\n"
    (project / "workflow_config.yaml").write_text(text)
    return project


def doctor(
    project: Path, commands: Mapping[str, str], **variables: str
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code and findings by name, with nothing but these commands (and git) on the PATH."""
    folder = project.parent / "bin"
    folder.mkdir(exist_ok=True)
    for name, line in commands.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    git = shutil.which("git")
    assert git is not None
    if not (folder / "git").exists():
        (folder / "git").symlink_to(git)
    home = project.parent / "home"
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "fastdllm", "doctor", "--json"],
        cwd=project,
        env={"PATH": str(folder), "HOME": str(home), "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        findings.setdefault(finding["name"], []).append(finding)
    return done.returncode, findings


@pytest.mark.slow
def test_a_machine_that_is_well(project: Path) -> None:
    code, findings = doctor(project, WELL)
    problems = [f for group in findings.values() for f in group if f["state"] == "problem"]
    assert (code, problems) == (0, [])
    assert findings["account"][0]["text"] == "gts-lab, QOS embers, inferno"
    assert findings["partition"][0]["text"] == "gpu-rtx6000: RTX_6000"
    assert findings["quota"][0]["text"].startswith("42 % of the fullest is used")
    for name in ("python", "gpu", "results", "locks", "clock", "slurm", "model", "limits"):
        assert findings[name][0]["state"] == "ok", name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("commands", "name", "state", "says"),
    [
        ({"squeue": "echo down >&2; exit 1"}, "slurm", "warn", "squeue: down"),
        ({"squeue": "exec sleep 60"}, "slurm", "warn", "no answer"),
        ({"sacctmgr": 'echo "other|embers"'}, "account", "problem", "none of yours: other"),
        ({"sacctmgr": "echo no database >&2; exit 1"}, "account", "warn", "sacctmgr: no database"),
        ({"sinfo": "echo gone >&2; exit 1"}, "partition", "warn", "not be asked: sinfo: gone"),
        ({"pace-quota": 'echo "Home 20 20 99.9%"'}, "quota", "problem", "100 % of the fullest"),
        ({"pace-quota": 'echo "Home 19 20 95%"'}, "quota", "warn", "95 % of the fullest"),
    ],
)
def test_a_cluster_that_is_not_well(
    project: Path, commands: dict[str, str], name: str, state: str, says: str
) -> None:
    code, findings = doctor(project, {**WELL, **commands, "sleep": 'exec /bin/sleep "$@"'})
    assert findings[name][0]["state"] == state
    assert says in findings[name][0]["text"]
    assert findings[name][0]["fix"]
    assert code == (1 if state == "problem" else 0)


@pytest.mark.slow
def test_without_slurm_and_with_a_quota_of_the_system(project: Path) -> None:
    quota = "echo 'Filesystem blocks quota limit grace files quota limit'; "
    quota += "echo '/dev/x 9500* 9000 10000 6days 12 0 0'; exit 1"
    code, findings = doctor(project, {"quota": quota})
    assert code == 0
    assert findings["slurm"][0]["state"] == "ok"
    assert findings["quota"][0]["state"] == "warn"
    assert "95 %" in findings["quota"][0]["text"]


@pytest.mark.slow
def test_a_gpu_that_torch_was_not_built_for(project: Path) -> None:
    smi = 'case "$*" in *query*) echo "Quadro RTX 6000, 24220, 550.54, 7.5" ;; '
    smi += '*) echo "| NVIDIA-SMI 550.54  Driver Version: 550.54  CUDA Version: 12.4 |" ;; esac'
    config = project / "workflow_config.yaml"
    config.write_text(
        config.read_text().replace("{path: models/tiny}", "{path: models/tiny, dtype: bfloat16}")
    )
    _, findings = doctor(project, {**WELL, "nvidia-smi": smi})
    assert findings["gpu"][0]["text"] == "1 x Quadro RTX 6000 (24 GiB)"
    assert "driver 550.54" in findings["driver"][0]["text"]
    assert findings["dtype"][0]["state"] == "problem"
    assert "float16 or auto" in findings["dtype"][0]["fix"]


@pytest.mark.slow
def test_an_archive_that_no_job_can_use(project: Path) -> None:
    code, findings = doctor(project, WELL, FASTDLLM_ENV_ARCHIVE="/nowhere/venv-1.tar.zst")
    assert code == 0
    assert findings["archive"][0]["state"] == "warn"


@pytest.mark.slow
def test_a_job_without_the_gpu_it_was_given(project: Path) -> None:
    code, findings = doctor(project, WELL, SLURM_JOB_ID="7", SLURM_JOB_GPUS="0")
    assert code == 1
    assert "given GPU 0" in findings["gpu"][0]["text"]
    assert findings["job"][0]["text"].startswith("7 on ")


@pytest.mark.slow
def test_a_model_that_was_not_fetched_and_a_broken_configuration(project: Path) -> None:
    config = project / "workflow_config.yaml"
    config.write_text(config.read_text().replace("models/tiny", "lab/none"))
    code, findings = doctor(project, WELL)
    assert code == 1
    assert "is not in the cache" in findings["model"][0]["text"]
    assert findings["model"][0]["fix"] == "on a node with network: fastdllm fetch"
    config.write_text(config.read_text().replace("lab/none", "models/tiny"))
    weights = project / "models/tiny/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, findings = doctor(project, WELL)
    assert code == 1
    assert findings["model"][0]["text"].endswith("model.safetensors is truncated")
    config.write_text(config.read_text().replace("cluster:", "clusters:"))
    code, findings = doctor(project, WELL)
    assert code == 1
    assert "unknown key 'clusters'" in findings["config"][0]["text"]
    assert findings["locks"][0]["state"] == "ok", "the rest is looked at all the same"


@pytest.mark.parametrize(
    ("kernel_answers", "says"),
    [
        (lambda *_: None, "locks are granted to everybody"),
        (PermissionError(13, "no"), "no locks"),
        (OSError(37, "No locks available"), "No locks available"),
    ],
)
def test_a_file_system_without_locks_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel_answers: object, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=kernel_answers))
    (finding,) = look_at_locks()
    assert (finding.state, finding.text) == (Verdict.PROBLEM, f"{tmp_path.resolve()}: {says}")


@pytest.mark.slow
def test_results_that_cannot_be_written(project: Path) -> None:
    if os.geteuid() == 0:
        # Nothing is read-only for root but what is no folder.
        (project / "results").symlink_to("/proc/self/ns")
    else:
        (project / "results").mkdir(mode=0o500)
    code, findings = doctor(project, WELL)
    assert code == 1
    assert any(finding["state"] == "problem" for finding in findings["results"])


def test_a_user_without_a_name_and_places_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    without_name(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "PIP_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    found = {finding.name: finding for finding in [*look_at_user(), *look_at_caches()]}
    assert found["user"].state is Verdict.PROBLEM
    assert found["home"].state is Verdict.WARN
    assert str(tmp_path / "file/home") in found["home"].text
    assert found["caches"].state is Verdict.PROBLEM
    assert "Snakemake does not start without" in found["caches"].fix
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    (finding,) = look_at_caches()
    assert (finding.state, finding.text) == (
        Verdict.WARN,
        f"cannot be written: HF_HOME {tmp_path / 'file'}",
    )
    with pytest.raises(SlurmError, match="has no name here to ask about"):
        associations(patience_s=1.0)


def test_no_place_for_temporary_files_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")
    monkeypatch.setattr("tempfile.gettempdir", Mock(side_effect=nowhere))
    found = {finding.name: finding for finding in look_at_user()}
    assert found["tmp"].state is Verdict.PROBLEM
    assert found["tmp"].text == nowhere.strerror


def test_a_repository_of_another_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    (finding,) = look_at_git()
    assert finding.state is Verdict.WARN
    assert "detected dubious ownership" in finding.text
    assert finding.fix == f"git config --global --add safe.directory {tmp_path}"


def test_results_that_lead_to_a_purged_folder(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "results").symlink_to("/scratch/gone")
    message = "results: is a link to /scratch/gone, which does not exist"
    assert any(message in str(f) and f.state is Verdict.PROBLEM for f in look_at_disks())
    with pytest.raises(UserError, match=message):
        check_link(Path("results"))


@pytest.mark.slow
def test_a_check_that_fails_itself_hides_no_other(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_at_git() -> list[DoctorFinding]:
        raise ValueError("of git,\nsomething new")

    monkeypatch.chdir(project)
    monkeypatch.setattr("fastdllm.tools.doctor.examine.look_at_git", look_at_git)
    findings = {finding.name: finding for finding in examine()}
    assert findings["git"].text == "could not be checked: ValueError: of git, something new"
    assert findings["git"].state is Verdict.PROBLEM
    assert "python" in findings


@pytest.mark.slow
def test_what_it_takes(project: Path) -> None:
    program = "import sys; from fastdllm.tools.doctor import examine; "
    program += "heavy = {'torch', 'transformers', 'snakemake'} & set(sys.modules); assert not heavy"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=project, env=environment, check=True)


@pytest.mark.parametrize(
    ("options", "state"),
    [
        (ClusterOptions(), Verdict.WARN),
        (ClusterOptions(account="GTS-lab"), Verdict.OK),
        (ClusterOptions(account="gts-lab", qos="embers"), Verdict.OK),
        (ClusterOptions(account="gts-lab", qos="fast"), Verdict.PROBLEM),
        (ClusterOptions(account="gts-labs"), Verdict.PROBLEM),
    ],
)
def test_accounts(options: ClusterOptions, state: Verdict) -> None:
    assert account_findings(ALLOWED, options)[0].state is state
    assert account_findings({}, options)[0].state is Verdict.OK


def test_a_partition_that_is_not_there() -> None:
    kinds = {"gpu-a": {"A100"}, "cpu": set[str]()}
    (finding,) = partition_findings(kinds, ClusterOptions(partition="gpu-b"))
    assert finding.state is Verdict.PROBLEM
    assert "with GPUs are gpu-a: A100" in finding.text
    assert partition_findings(kinds, ClusterOptions(partition="gpu-a,cpu"))[0].state is Verdict.OK
    assert partition_findings({}, ClusterOptions(partition="gpu-b")) == []


@pytest.mark.parametrize(
    ("newest", "build", "state"),
    [
        ("12.4", Build("2.13.0", "12.6"), Verdict.OK),
        ("13.0", Build("2.13.0", "12.6"), Verdict.OK),
        ("12.4", Build("2.13.0", "13.0"), Verdict.PROBLEM),
        (None, Build("2.13.0", "13.0"), Verdict.OK),
        ("12.4", Build("2.13.0+cpu", None), Verdict.PROBLEM),
        ("12.4", None, Verdict.PROBLEM),
    ],
)
def test_drivers(newest: str | None, build: Build | None, state: Verdict) -> None:
    assert driver_finding("550", newest, build).state is state


@pytest.mark.parametrize(
    ("capability", "dtype", "state"),
    [
        (7.5, "bfloat16", Verdict.PROBLEM),
        (7.5, "float16", Verdict.OK),
        (7.5, "auto", Verdict.OK),
        (8.0, "bfloat16", Verdict.OK),
        (8.0, "float16", Verdict.WARN),
        (9.0, "float32", Verdict.WARN),
        (9.0, None, Verdict.OK),
    ],
)
def test_number_formats(capability: float, dtype: str | None, state: Verdict) -> None:
    assert dtype_finding(capability, dtype).state is state


@pytest.mark.parametrize(
    ("offset_s", "state"), [(0.5, Verdict.OK), (30.0, Verdict.WARN), (3600.0, Verdict.PROBLEM)]
)
def test_clocks(offset_s: float, state: Verdict) -> None:
    assert clock_finding(offset_s).state is state


@pytest.mark.slow
def test_it_is_read_by_people(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdllm", "doctor"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert all(line.split()[0] in ("ok", "warn", "problem") for line in lines[:-1])
    assert lines[-1].endswith("that stop runs")

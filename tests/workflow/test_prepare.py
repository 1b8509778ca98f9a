"""What a call asks of the cluster, chosen and refused before anything is submitted.

SLURM's commands are small scripts here; tests/slurm has the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cluster import checks
from fastdllm.cluster import checks as offers
from fastdllm.cluster.choice import Choice
from fastdllm.common.errors import UserError
from fastdllm.tasks.generation import largest_budget
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.prepare import gpu_of, prepare
from fastdllm.workflow.project.config_files import WorkflowConfig
from tests.cluster.test_fitting import SEVEN_B

PROFILES = Path(__file__).parents[2] / "profiles"
VARIABLES = {
    "FASTDLLM_ACCOUNT": "gts-lab",
    "FASTDLLM_GPU": "RTX_6000",
    "FASTDLLM_GRES": "gpu:RTX_6000:1",
    "FASTDLLM_CONSTRAINT": "",
    "FASTDLLM_PARTITION": "gpu-rtx6000",
    "FASTDLLM_CPU_PARTITION": "cpu-small",
    "FASTDLLM_QOS": "embers",
    "FASTDLLM_MAX_MINUTES": "480",
    "FASTDLLM_MEM_PER_GPU": "32G",
}
SINFO = """\
gpu-rtx6000|gpu:RTX_6000:4(S:0-1)
gpu-v100|gpu:V100:2
gpu-l40s|gpu:l40s:8,lscratch:1
cpu-small|(null)
"""
ASSOCIATIONS = """\
gts-lab|embers,inferno
gts-paid|inferno
"""

Program = Callable[[str, str], None]
Call = Callable[..., Choice | None]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "SNAKEMAKE_PROFILE"):
        monkeypatch.setenv(name, "of an earlier call")
    monkeypatch.delenv("SNAKEMAKE_PROFILE")


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the first on the PATH, and holds a cluster."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


@pytest.fixture
def program(programs: Path) -> Program:
    def write(name: str, script: str) -> None:
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)

    return write


@pytest.fixture
def cluster(program: Program) -> None:
    program("sbatch", "exit 0")
    program("sinfo", f"cat <<'EOF'\n{SINFO}EOF")
    program("sacctmgr", f"cat <<'EOF'\n{ASSOCIATIONS}EOF")


def written(**keys: Any) -> WorkflowConfig:
    """A workflow_config.yaml with these keys."""
    keys = {"model": {"path": "models/tiny"}, **keys}
    return WorkflowConfig(experiments=["some"], tasks={"some": None}, **keys)


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Prepare a call with a profile; other keywords are keys of `model`."""

    def run(
        *arguments: str,
        profile: str = "pace",
        dry: bool = False,
        other_jobs: int = 0,
        **given: str,
    ) -> Choice | None:
        keys = ("account", "gpu", "qos", "partition")
        words = {key: given.pop(key) for key in keys if key in given}
        config = written(model={"path": "models/tiny", "dtype": "float32", **given})
        command = ["--profile", str(PROFILES / profile), "--executor", "fastdllm-slurm", *arguments]
        project = tmp_path / "project"
        project.mkdir(exist_ok=True)
        return prepare(
            config, words, command, is_dry_run=dry, folder=project, other_jobs=other_jobs
        )

    return run


def refusal(call: Call, *arguments: str, **given: str | bool | int) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def seven_b(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps(SEVEN_B))
    return str(folder)


def variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES}


@pytest.mark.usefixtures("cluster")
def test_the_first_gpu_and_queue_of_the_site_are_taken(call: Call) -> None:
    choice = call(account="gts-lab")
    assert choice is not None
    assert choice.notes == ()
    assert choice.words == (
        "jobs on PACE Phoenix: GPU RTX_6000 (24 GiB, no bfloat16), QOS embers (free, at most 8 h, "
        "may be stopped after 1 h), account gts-lab"
    )
    assert variables() == VARIABLES


@pytest.mark.usefixtures("cluster")
def test_words_of_the_command_win_over_the_file(tmp_path: Path) -> None:
    config = written(cluster={"account": "gts-paid", "gpu": "V100", "qos": "inferno"})
    command = ["--profile", str(PROFILES / "pace"), "--executor", "fastdllm-slurm"]
    choice = prepare(config, {"gpu": "L40S"}, command, is_dry_run=False, folder=tmp_path)
    assert choice is not None
    assert (choice.account, choice.gpu, choice.qos) == ("gts-paid", "L40S", "inferno")
    assert choice.max_minutes == 72 * 60


@pytest.mark.usefixtures("cluster")
def test_a_gpu_is_asked_for_as_the_cluster_spells_it(call: Call) -> None:
    choice = call(account="gts-lab", gpu="L40S")
    assert choice is not None
    assert choice.gpu == "L40S"
    assert choice.gres == "gpu:l40s:1"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["none is named", "yours: gts-lab, gts-paid", "--config account="]),
        ({"account": "gts-lob"}, ["none of yours", "did you mean gts-lab?", "gts-lab, gts-paid"]),
        ({"account": "gts-paid"}, ["gts-paid may not use 'embers'", "allowed: inferno"]),
        ({"account": "GTS-PAID"}, ["GTS-PAID may not use 'embers'"]),
        ({"account": "gts-lab", "gpu": "A100"}, ["has no A100 now", "has RTX_6000, V100, l40s"]),
        (
            {"account": "gts-lab", "partition": "gpu-v100"},
            ["gpu-v100 has only V100", "RTX_6000 is in: gpu-rtx6000", "partition=gpu-rtx6000"],
        ),
        (
            {"account": "gts-lab", "partition": "cpu-small"},
            ["cpu-small has no GPU of a known kind", "RTX_6000 is in: gpu-rtx6000"],
        ),
        (
            {"account": "gts-lab", "partition": "gpu-rtx6000,gpu-rtx"},
            ["has no 'gpu-rtx'", "RTX_6000 is in: gpu-rtx6000"],
        ),
    ],
)
def test_the_cluster_is_asked_before_anything_is_submitted(
    call: Call, options: dict[str, str], parts: list[str]
) -> None:
    message = refusal(call, **options)
    assert all(part in message for part in parts), message
    assert variables()["FASTDLLM_GPU"] == "of an earlier call"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (
            {"gpu": "rtx6000"},
            ["unknown GPU 'rtx6000' on PACE Phoenix", "did you mean RTX_6000?", "H200: 141 GiB"],
        ),
        ({"gpu": "K80"}, ["unknown GPU 'K80'", "good choices are RTX_6000, V100, L40S, A100"]),
        (
            {"gpu": "V100", "dtype": "bfloat16"},
            ["GPU V100 lacks (Volta", "dtype: float16 or auto", "choices are L40S, A100, H100"],
        ),
        ({"qos": "ember"}, ["unknown QOS 'ember'", "did you mean embers?", "inferno: charged"]),
        ({"account": "my account"}, ["cluster: account", "letters, digits"]),
        ({"device": "cuda:1"}, ["device: cuda:1", "sees one GPU only; set device: auto"]),
    ],
)
def test_names_and_formats_are_checked_on_a_laptop_too(
    call: Call, options: dict[str, str], parts: list[str]
) -> None:
    message = refusal(call, dry=True, **options)
    assert all(part in message for part in parts), message


def test_a_model_that_is_too_big_is_refused_with_the_gpus_that_hold_it(
    call: Call, tmp_path: Path
) -> None:
    message = refusal(call, dry=True, path=seven_b(tmp_path), dtype="float32", gpu="RTX_6000")
    assert "in float32 needs at least 29.5 GiB, GPU RTX_6000 has 24 GiB" in message
    assert "good choices are V100 with 32 GiB, L40S, A100, H100, H200" in message


def test_the_size_of_a_card_is_asked_for_where_it_matters(call: Call, tmp_path: Path) -> None:
    small = call(dry=True, gpu="V100")
    large = call(dry=True, path=seven_b(tmp_path), dtype="auto", gpu="V100")
    assert small is not None
    assert large is not None
    assert (small.constraint, large.constraint) == (None, "V100-32GB")


def test_a_model_that_was_not_fetched_is_not_judged(call: Call) -> None:
    choice = call(dry=True, path="nobody/knows-this-model", dtype="auto")
    assert choice is not None
    assert any("nothing checked whether it fits" in note for note in choice.notes)


@pytest.mark.usefixtures("cluster")
def test_jobs_that_would_not_find_their_model_are_not_submitted(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    message = refusal(call, path="nobody/knows-this-model", account="gts-lab")
    assert "model 'nobody/knows-this-model': is not in the cache" in message
    assert "fastdllm fetch" in message


def test_a_gpu_that_would_do_nothing_is_told(call: Call) -> None:
    choice = call(dry=True, device="cpu", account="gts-lab")
    assert choice is not None
    assert choice.text == (
        "fastdllm: jobs on PACE Phoenix: GPU RTX_6000 (24 GiB, no bfloat16), QOS embers (free, at "
        "most 8 h, may be stopped after 1 h), account gts-lab\n"
        "fastdllm: model: device: cpu, so the GPU of each job would be idle; set device: auto\n"
    )


def test_a_dry_run_tells_of_a_missing_account_and_needs_no_slurm(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers, "ask", None)
    choice = call(dry=True)
    assert choice is not None
    assert ["none is named; `pace-quota` lists yours" in note for note in choice.notes] == [True]
    assert variables() == {**VARIABLES, "FASTDLLM_ACCOUNT": ""}


def test_without_sbatch_nothing_can_be_submitted(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "sbatch" else name)
    message = refusal(call, account="gts-lab")
    assert message.startswith("sbatch: no such command")
    assert "profiles/local" in message


@pytest.mark.parametrize(
    "broken", ["echo no database >&2; exit 1", "exec sleep 60", "exit 0", "echo '|'"]
)
def test_a_command_that_fails_is_no_reason_to_refuse(
    call: Call, program: Program, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    program("sbatch", "exit 0")
    program("sinfo", broken)
    program("sacctmgr", broken)
    monkeypatch.setattr(checks, "PATIENCE_S", 0.2)
    assert call(account="gts-lab") is not None
    assert variables() == VARIABLES


@pytest.mark.usefixtures("cluster")
def test_a_queue_that_no_account_may_use_is_refused_without_an_account_too(call: Call) -> None:
    message = refusal(call, profile="slurm", qos="long")
    assert "none of your accounts may use 'long'; allowed: embers, inferno" in message


@pytest.mark.usefixtures("cluster")
def test_gpus_of_no_known_kind_are_not_judged(call: Call, program: Program) -> None:
    program("sinfo", "echo 'gpu-rtx6000|gpu:4'")
    choice = call(account="gts-lab")
    assert choice is not None
    assert choice.gres == "gpu:RTX_6000:1"


@pytest.mark.usefixtures("cluster")
def test_a_full_disk_is_told_before_the_jobs_meet_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path.cwd())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 * 2**20))
    message = refusal(call, account="gts-lab")
    assert "5 MiB are free" in message


@pytest.mark.usefixtures("cluster")
def test_a_quota_that_is_used_up_is_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(122, os.strerror(122))

    monkeypatch.setattr(checks.tempfile, "NamedTemporaryFile", refuse)
    assert "your quota is used up" in refusal(call, account="gts-lab")


@pytest.mark.usefixtures("cluster")
def test_results_elsewhere_are_looked_at_as_well(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "results").symlink_to(tmp_path / "elsewhere")
    usage = shutil.disk_usage(tmp_path)

    def free(folder: Path) -> object:
        return usage._replace(free=0) if folder.resolve().name == "elsewhere" else usage

    monkeypatch.setattr(shutil, "disk_usage", free)
    assert "elsewhere: 0 MiB are free" in refusal(call, account="gts-lab")


@pytest.mark.usefixtures("cluster")
def test_nothing_is_left_in_the_folder(call: Call, tmp_path: Path) -> None:
    call(account="gts-lab")
    assert list((tmp_path / "project").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "qos", "message"),
    [
        (["--set-resources", "eval:runtime=600"], "embers", "rule eval: 600 minutes, but QOS"),
        (["--set-resources", "eval:runtime=10h"], "embers", "rule eval: 600 minutes, but QOS"),
        (["--default-resources", "runtime=9000"], "inferno", "jobs: 9000 minutes, but QOS infer"),
        (["--jobs", "60"], "embers", "--jobs 60: QOS embers takes 50 jobs of one person"),
    ],
)
def test_numbers_beyond_the_limits_of_the_queue_are_refused(
    call: Call, arguments: list[str], qos: str, message: str
) -> None:
    assert message in refusal(call, *arguments, dry=True, qos=qos)


def test_the_main_process_as_a_job_needs_a_place(call: Call) -> None:
    message = refusal(call, "--jobs", "50", dry=True, other_jobs=1)
    assert message == (
        "--jobs 50: QOS embers takes 50 jobs of one person, and the main process is one; --jobs 49 "
        "keeps the others until there is room"
    )
    assert call("--jobs", "50", dry=True) is not None
    assert call(dry=True, other_jobs=1) is not None, "the profile leaves it"


@pytest.mark.parametrize("dry", [True, False])
def test_the_plugin_that_submits_twice_is_refused(call: Call, dry: bool) -> None:
    message = refusal(call, "--executor", "slurm", dry=dry)
    assert message.startswith("--executor slurm: would submit runs a second time")
    assert "use --executor fastdllm-slurm" in message


def test_numbers_within_the_limits_pass(call: Call) -> None:
    arguments = ["--set-resources", "eval:runtime=600", "shard:runtime=20", "--jobs", "60"]
    assert call(*arguments, dry=True, qos="inferno") is not None


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("gpu", [None, "A100"])
def test_an_unknown_cluster_takes_any_gpu_as_it_is_written(
    call: Call, program: Program, gpu: str | None
) -> None:
    program("sinfo", "echo 'gpu|gpu:A100:8'")
    choice = call(profile="slurm", **({} if gpu is None else {"gpu": gpu}))
    assert choice is not None
    assert choice.environment() == {
        **dict.fromkeys(VARIABLES, ""),
        "FASTDLLM_GPU": gpu or "",
        "FASTDLLM_GRES": "gpu:1" if gpu is None else "gpu:A100:1",
        "FASTDLLM_MAX_MINUTES": "480",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--profile", "none"],
        ["--profile", str(PROFILES / "local")],
        ["--profile", str(PROFILES / "pace"), "--executor", "local"],
    ],
)
def test_calls_that_submit_nothing_need_no_cluster(tmp_path: Path, arguments: list[str]) -> None:
    config = written(cluster={"gpu": "nowhere"})
    assert prepare(config, {}, arguments, is_dry_run=False, folder=tmp_path) is None


def test_the_profile_may_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(PROFILES / "pace"))
    command = ["--executor", "fastdllm-slurm"]
    assert prepare(written(), {}, command, is_dry_run=True, folder=tmp_path) is not None


@pytest.mark.usefixtures("cluster")
def test_the_memory_is_that_of_the_budgets_of_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = seven_b(tmp_path)
    (tmp_path / "tasks").mkdir()
    data = "dataset_path: json\ndataset_kwargs: {data_files: items.jsonl}\n"
    (tmp_path / "items.jsonl").write_text("{}\n")
    for name, budget in (("some", "max_gen_toks: 9"), ("long", "max_tokens: 300000")):
        task = f"task: {name}\n{data}generation_kwargs: {{{budget}}}\n"
        (tmp_path / "tasks" / f"{name}.yaml").write_text(task)
    group = "group: both\ntask: [some, {task: other, generation_kwargs: {max_gen_toks: 7}}]\n"
    (tmp_path / "tasks/both.yaml").write_text(group + data)
    monkeypatch.chdir(tmp_path)
    config = written(
        model={"path": model, "dtype": "float16"},
        decoding={"max_new_tokens": 500_000},
    ).model_copy(update={"tasks": {"some": None, "long": None, "both": None}})
    assert gpu_of(PROFILES / "pace", config, ["some"]) == "RTX_6000"
    with pytest.raises(
        UserError, match=r"in float16 needs at least 31\.3 GiB, GPU RTX_6000 has 24"
    ):
        gpu_of(PROFILES / "pace", config)
    assert largest_budget(find_task_files(TaskSource.named("both")).layers) == 9
    assert largest_budget(find_task_files(TaskSource.named("long")).layers) == 300_000

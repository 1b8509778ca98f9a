"""The profiles: what Snakemake makes of their entries, with Snakemake itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

from tests.support.forks import run_snakemake

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
CHOSEN = {
    "FASTDLLM_GRES": "gpu:V100:1",
    "FASTDLLM_CONSTRAINT": "V100-32GB",
    "FASTDLLM_PARTITION": "gpu-v100",
    "FASTDLLM_CPU_PARTITION": "cpu-small",
    "FASTDLLM_QOS": "embers",
    "FASTDLLM_MEM_PER_GPU": "32G",
}
# Two rules that write down the resources they get.
SNAKEFILE = """
import json

def given(wildcards, resources, threads):
    return json.dumps({**{key: resources.get(key) for key in resources.keys()}, "cpus": threads})

rule all:
    input: "eval.json", "train.json"

rule eval:
    output: "eval.json"
    params: given
    resources: runtime=17
    shell: "printf %s {params:q} > {output}"

rule train:
    output: "train.json"
    params: given
    shell: "printf %s {params:q} > {output}"
"""


def resources(folder: Path, profile: str, chosen: dict[str, str]) -> dict[str, dict[str, object]]:
    """What the rules eval and train ask for, with a profile and these variables."""
    (folder / "Snakefile").write_text(SNAKEFILE)
    words = ("--profile", str(PROFILES / profile), "--executor", "local", "--cores", "8")
    with pytest.MonkeyPatch.context() as environment:
        for name, value in chosen.items():
            environment.setenv(name, value)
        done = run_snakemake(*words, folder=folder)
    assert done.returncode == 0, done.stderr
    made = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("eval", "train")}
    options = (
        *("slurm_account", "slurm_partition", "qos", "gres", "constraint", "slurm_extra"),
        *("mem_mb", "runtime", "cpus"),
    )
    return {name: {key: all_[key] for key in options if key in all_} for name, all_ in made.items()}


# An account of digits stays a name.
@pytest.mark.slow
@pytest.mark.parametrize(("profile", "account"), [("pace", "007"), ("slurm", "gts-lab")])
def test_a_job_asks_for_what_was_chosen(tmp_path: Path, profile: str, account: str) -> None:
    made = resources(tmp_path, profile, {**CHOSEN, "FASTDLLM_ACCOUNT": account})
    extra = made["eval"].pop("slurm_extra")
    assert set(str(extra).split()) == {"--mem-per-gpu=32G", "--signal=USR1@120"}
    assert made == {
        "eval": {
            "slurm_account": account,
            "slurm_partition": "gpu-v100",
            "qos": "embers",
            "gres": "gpu:V100:1",
            "constraint": "V100-32GB",
            "mem_mb": 0,
            "runtime": 17,
            "cpus": 4,
        },
        "train": {
            "slurm_account": account,
            "slurm_partition": "cpu-small",
            "qos": "embers",
            "mem_mb": 4000,
            "runtime": 480,
            "cpus": 1,
        },
    }


@pytest.mark.slow
def test_what_was_not_chosen_is_not_asked_for(tmp_path: Path) -> None:
    nothing = {**dict.fromkeys(CHOSEN, ""), "FASTDLLM_ACCOUNT": "", "FASTDLLM_GRES": "gpu:1"}
    assert resources(tmp_path, "slurm", nothing) == {
        "eval": {
            "gres": "gpu:1",
            "slurm_extra": "--signal=USR1@120",
            "mem_mb": 16000,
            "runtime": 17,
            "cpus": 4,
        },
        "train": {"mem_mb": 4000, "runtime": 480, "cpus": 1},
    }


@pytest.mark.parametrize("profile", ["pace", "slurm"])
def test_snakemake_knows_every_entry(profile: str) -> None:
    path = PROFILES / profile / "config.yaml"
    parsed, unknown = get_argument_parser([str(path)]).parse_known_args([])
    assert unknown == []
    assert parsed.executor == "fastdllm-slurm"


def test_an_entry_that_snakemake_does_not_know_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("jobs: 3\nfastdllm-slurm-no-such: 4\n")
    parsed, unknown = get_argument_parser([str(tmp_path)]).parse_known_args([])
    assert parsed.jobs == 3
    assert unknown == ["--fastdllm-slurm-no-such=4"]


@pytest.mark.parametrize("profile", ["pace", "slurm"])
def test_each_rule_that_decodes_gets_a_gpu(profile: str) -> None:
    entries = yaml.safe_load((PROFILES / profile / "config.yaml").read_text())
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    decoding = {
        text.partition(":")[0] for text in rules.split("\nrule ") if "gpu_slot=ONE_GPU" in text
    }
    assert decoding >= {"eval", "shard", "pack"}
    assert set(entries["set-resources"]) == set(entries["set-threads"]) == decoding
    assert all(
        given == entries["set-resources"]["eval"] for given in entries["set-resources"].values()
    )


@pytest.mark.parametrize(("visible", "slots"), [("0,1,2", 3), ("1", 1), ("", 0)])
def test_a_workstation_has_as_many_slots_as_cards(
    monkeypatch: pytest.MonkeyPatch, visible: str, slots: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    parsed, _ = get_argument_parser([str(PROFILES / "local")]).parse_known_args([])
    assert parsed.resources["gpu_slot"].value == slots


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*/*.yaml")), ids=lambda p: p.parent.name)
def test_every_entry_of_a_profile_is_explained(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line]
    entries = [n for n, line in enumerate(lines) if re.match(r"[a-z_-]+:", line)]
    assert [lines[n] for n in entries if not lines[n - 1].lstrip().startswith("#")] == []

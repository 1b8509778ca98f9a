"""site.yaml: a cluster as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.cluster.site import ClusterOptions, load_site
from fastdllm.common.errors import UserError
from fastdllm.validation import validated

PROFILES = Path(__file__).parents[2] / "profiles"
KIND = "memory_gib: 24, bfloat16: false, architecture: Turing"


def written(folder: Path, text: str) -> Path:
    (folder / "site.yaml").write_text(f"name: here\n{text}")
    return folder


def test_pace_prefers_the_queue_that_is_free() -> None:
    site = load_site(PROFILES / "pace")
    assert site.qos is not None
    preferred = next(iter(site.qos))
    assert preferred == "embers"
    assert site.qos[preferred].words == "free, at most 8 h, may be stopped after 1 h"
    assert site.qos["inferno"].words == "charged, at most 72 h"
    assert site.account_required


def test_pace_knows_every_kind_of_gpu_that_the_profile_may_ask_for() -> None:
    gpus = load_site(PROFILES / "pace").gpus
    assert gpus is not None
    assert {name: (kind.sizes_gib, kind.bfloat16) for name, kind in gpus.items()} == {
        "RTX_6000": ((24,), False),
        "V100": ((16, 32), False),
        "L40S": ((48,), True),
        "A100": ((40, 80), True),
        "H100": ((80,), True),
        "H200": ((141,), True),
    }


def test_the_site_of_an_unknown_cluster_asks_for_nothing() -> None:
    site = load_site(PROFILES / "slurm")
    assert site.gpus is None
    assert site.qos is None
    assert not site.account_required


def test_the_commented_example_is_a_valid_one(tmp_path: Path) -> None:
    lines = (PROFILES / "slurm" / "site.yaml").read_text().splitlines()
    kept = [line for line in lines if line not in ("gpus: null", "qos: null")]
    # What is left of a comment that is no YAML is a sentence of the text around it.
    text = "\n".join(
        line.removeprefix("# ") if line.startswith(("# gpus:", "# qos:", "#   ")) else line
        for line in kept
    )
    (tmp_path / "site.yaml").write_text(text)
    site = load_site(tmp_path)
    assert site.gpus is not None
    assert site.gpus["A100"].constraints == {80: "a100-80g"}
    assert site.qos is not None
    assert site.qos["normal"].max_hours == 48


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu: null", "unknown key 'gpu'; did you mean 'gpus'?"),
        (f"gpus: {{A: {{{KIND}, memory: 3}}}}", "unknown key 'gpus.A.memory'"),
        ("gpus: {A: {memory_gib: 0, bfloat16: false, architecture: x}}", "gpus.A.memory_gib"),
        (f"gpus: {{A: {{{KIND}, constraints: {{80: big}}}}}}", "80 is no size of memory_gib"),
        ("gpus: {}", "gpus: {} is not allowed; it should"),
        (f"gpus: {{'A 1': {{{KIND}}}}}", "letters, digits"),
        ("qos: {fast: {charged: true}}", "qos.fast.max_hours: this key is required"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_site(written(tmp_path, text))
    assert message in str(error.value)
    assert "site.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"site\.yaml: no such file; the facts of a cluster"):
        load_site(tmp_path)


@pytest.mark.parametrize("account", ["gts x", "a;b", "$(id)", '"', "-x", "a,b"])
def test_a_word_that_a_shell_would_read_is_refused(account: str) -> None:
    with pytest.raises(UserError, match="letters, digits"):
        validated(ClusterOptions, {"account": account}, "cluster")


def test_several_partitions_may_be_named() -> None:
    options = validated(ClusterOptions, {"partition": "gpu-a100,gpu-h100"}, "cluster")
    assert options.partition == "gpu-a100,gpu-h100"

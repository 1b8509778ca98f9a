"""Claims in the commands: what is published, held back until all is done, and printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.records.claims_record import read_claims
from tests.support.claimed_project import GRID, commit, decode, git
from tests.support.small_project import SmallProject, edit

CLAIMS_JSON = Path("artifacts/demo/claims.json")
TABLE = Path("artifacts/demo/table.md")
WAITS = "1 of 2 configs done; nothing is shown before all are"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_tables_wait_for_all_configs(claimed: str, capsys: pytest.CaptureFixture[str]) -> None:
    decode("k1_first")
    assert f"words: {WAITS}" in shown(capsys, "aggregate")
    assert WAITS in TABLE.read_text()
    assert "k1_first" not in TABLE.read_text()
    assert "k1_first" not in TABLE.with_name("table.csv").read_text()
    table = shown(capsys, "table")
    assert f"words: {WAITS}" in table
    assert "acc %" not in table
    assert main(["compare", "demo/words/k1_first", "demo/words/k1_first"]) == 2
    assert WAITS in capsys.readouterr().err
    record = read_claims(CLAIMS_JSON)
    assert (record.registered, record.waits) == (claimed, WAITS)

    decode("k2_first")
    assert f"wrote {CLAIMS_JSON}" in shown(capsys, "aggregate")
    assert "k2_first" in TABLE.read_text()
    assert "acc %" in shown(capsys, "table")
    assert f"wrote {CLAIMS_JSON}" not in shown(capsys, "aggregate"), "nothing changed"


def test_claims_are_shown(claimed: str, capsys: pytest.CaptureFixture[str]) -> None:
    git("checkout", "-q", claimed)
    text = shown(capsys, "claims")
    assert text.startswith(f"demo: claims registered in {claimed[:10]}\n")
    assert "planned: 2 items, power 90 % (a guess)" in text
    assert "0 of 2 configs done" in text
    assert "results have to come from a later commit" in text

    commit()
    decode()
    text = shown(capsys, "claims", "demo")
    assert "C1 k2_first loses less than 90.00 points to k1_first: confirmed (p < 0.001, 2 " in text
    assert "C2 k2_first is right more often than k1_first: not confirmed (p 1.000, 2 items)" in text
    assert f"not in {CLAIMS_JSON} yet; fastdllm aggregate writes it" in text
    shown(capsys, "aggregate")
    assert "not in" not in shown(capsys, "claims")


def test_experiments_without_claims_are_named(
    project: SmallProject, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.path.is_dir()
    for command in (["claims", "demo"], ["power", "demo", "--discordance", "0.1"]):
        assert main(command) == 2
        assert "demo has no `claims:` in its experiment.yaml" in capsys.readouterr().err


def test_power_says_how_many_items(claimed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert claimed
    edit(GRID, "margin: 0.9", "margin: 0.005")
    text = shown(capsys, "power", "demo", "--discordance", "0.032")
    assert text.startswith("demo: items for a power of 90 %, from 3.2 % of items that differ\n")
    assert " items if the true difference is 0.00 points; with 2 the power is 0 %" in text
    needed = int(text.splitlines()[2].split()[0].replace(",", ""))
    assert needed == pytest.approx(13_600, rel=0.03)

    for arguments, words in (
        ((), "give either --task"),
        (("--task", "words"), "words is what the claims are about"),
        (("--task", "wordz"), "unknown task 'wordz'; did you mean 'words'?"),
        (("--task", "choices"), "no experiment has a result of k2_first on that task"),
        (("--discordance", "2"), "must be at most 1"),
        (("--discordance", "0.1", "--power", "90"), "must be between 0 and 1"),
        (("--task", "choices", "--difference", "0.1"), "goes with --discordance"),
    ):
        assert main(["power", "demo", *arguments]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_workflow_publishes_claims(claimed: str) -> None:
    project = SmallProject(Path.cwd())
    assert "will confirm no claim" not in project.snakemake("-n").stderr
    git("checkout", "-q", claimed)
    early = project.snakemake("-n").stderr
    assert f"demo will confirm no claim: what this call makes was made in {claimed[:10]}" in early
    commit()
    done = project.snakemake()
    assert done.returncode == 0, done.stderr
    record = read_claims(CLAIMS_JSON)
    assert record.registered == claimed
    assert "does not say which commit" in str(record.results[0].reason), "as these fakes do not"
    assert "Nothing to be done" in project.snakemake("-n").stdout
    CLAIMS_JSON.unlink()
    assert "aggregate" in project.snakemake("-n").stdout
    edit(GRID, "margin: 0.9", "margin: 0.8")
    assert project.snakemake().returncode == 0
    assert project.jobs() == {}
    assert read_claims(CLAIMS_JSON).digest != record.digest, "and no run again"

"""Claims are registered by a commit: moved, changed, dirty, rebased and shallow ones are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.records.claims_record import ClaimsRecord
from fastdllm.workflow.claim_results import (
    claims_are_current,
    claims_of,
    claims_path,
    claims_record,
    published_results,
    withheld,
    write_claims,
)
from fastdllm.workflow.project.runs import Project, load_project
from fastdllm.workflow.project.selection import Selection
from tests.support.claimed_project import CLAIMS, GRID, commit, decode, git
from tests.support.small_project import REUSE, SmallProject, edit


def record() -> ClaimsRecord:
    project = load_project()
    return claims_record(project, project.claims[0], published_results(project))


def verdicts() -> list[tuple[str, str | None]]:
    return [(result.verdict, result.reason) for result in record().results]


def test_a_commit_before_the_runs_registers_claims(claimed: str) -> None:
    decode()
    made = record()
    assert made.registered == claimed
    assert made.problem is None
    assert [result.verdict for result in made.results] == ["confirmed", "not confirmed"]
    assert made.results[0].n == 2


def test_results_of_the_registering_commit_itself_are_exploratory(claimed: str) -> None:
    decode("k1_first")
    decode("k2_first", at=claimed)
    verdict, reason = verdicts()[0]
    assert verdict == "exploratory"
    assert str(reason).startswith(f"k2_first was made in {claimed[:10]}, the commit that registers")


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (GRID, "margin: 0.9", "margin: 0.8"),
        (GRID, "power: 0.9", "power: 0.8"),
        (GRID, "config: k2_first, against: k1_first}", "config: k1_first, against: k2_first}"),
        ("workflow_config.yaml", "chunk_size: 2", "chunk_size: 3"),
        ("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8"),
        ("experiments/demo/generation_functions.py", "OutputReuse):", "OutputReuse):\n    x = 1\n"),
        ("tasks/words.yaml", "{{q}}", "{{q}}?"),
        ("tasks/data/words.jsonl", "1", "3"),
        ("models/tiny/model.safetensors", "weights", "others"),
    ],
)
def test_what_makes_it_another_claim_registers_anew(
    claimed: str, path: str, old: str, new: str
) -> None:
    del claimed
    before = git("rev-parse", "HEAD")
    edit(path, old, new)
    changing = commit()
    decode(at=before)
    assert record().registered == changing
    assert verdicts()[0][0] == "exploratory"
    commit()
    decode()
    assert verdicts()[0] == ("confirmed", None)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (GRID, "title: Demo", "# a comment\ntitle: Another"),
        (GRID, "reuse_k: [1, 2]", "reuse_k: [1, 2, 3]"),
        ("workflow_config.yaml", "choices:", "choices: {chunk_size: 7}"),
        ("workflow_config.yaml", "chunk_size: 2", "chunk_size: 2, batch_size: 7, shards: 2"),
        ("experiments/demo/generation_functions.py", "class Reuse", "# a comment\nclass Reuse"),
        ("tasks/data/choices.jsonl", "2", "4"),
    ],
)
def test_what_does_not_keeps_the_registration(claimed: str, path: str, old: str, new: str) -> None:
    decode()
    edit(path, old, new)
    commit()
    decode("k3_first")
    assert record().registered == claimed
    assert verdicts()[0] == ("confirmed", None)


def test_claims_that_move_to_another_file_or_back_are_new(claimed: str) -> None:
    decode()
    text = Path(GRID).read_text()
    Path(GRID).write_text(text.replace("margin: 0.9", "margin: 0.5"))
    commit("another claim")
    Path(GRID).write_text(text)
    back = commit("the first one again")
    assert record().registered == back != claimed
    assert verdicts()[0][0] == "exploratory"


def test_uncommitted_changes_make_results_exploratory(claimed: str) -> None:
    del claimed
    decode(dirty=True)
    assert verdicts()[0] == ("exploratory", "k1_first was made with uncommitted changes") or (
        "k2_first was made with uncommitted changes" in str(verdicts()[0][1])
    )
    decode()
    edit(GRID, "title: Demo", "title: Demonstration")
    assert verdicts()[0] == ("exploratory", f"{GRID} has uncommitted changes")


def test_a_run_without_a_commit_is_exploratory(claimed: str) -> None:
    del claimed
    decode("k1_first")
    decode("k2_first", git=None)
    summary = Path("artifacts/demo/words/k2_first/summary.json")
    summary.write_text(summary.read_text().replace('"git": null, ', ""))
    assert verdicts()[0] == (
        "exploratory",
        "k2_first does not say which commit it was made with",
    )


def test_a_rebased_history_loses_the_commits_of_its_results(claimed: str) -> None:
    decode()
    git("checkout", "-q", "--orphan", "other")
    commit("all at once")
    commit("later")
    verdict, reason = verdicts()[0]
    assert verdict == "exploratory"
    assert "which is not a commit after" in str(reason) or "were published before" in str(reason)
    assert record().registered != claimed


def test_a_shallow_clone_does_not_know(claimed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decode()
    commit("results")
    write_claims(project := load_project(), published_results(project))
    commit("claims.json")
    git("clone", "-q", "--depth", "1", f"file://{Path.cwd()}", "../clone")
    monkeypatch.chdir("../clone")
    assert verdicts()[0] == (
        "exploratory",
        "the history is not complete here; git fetch --unshallow",
    )
    there = load_project()
    assert write_claims(there, published_results(there)) == [], "what is known is not taken back"
    assert claims_of(there, published_results(there))["demo"].registered == claimed


def test_results_from_a_merged_branch_count(claimed: str) -> None:
    decode()
    git("branch", "side", f"{claimed}~1")
    git("stash", "-q", "-u")
    git("checkout", "-q", "side")
    Path("notes.txt").write_text("unrelated")
    edit("workflow_config.yaml", "model:", "# of the side\nmodel:")
    commit("on the side")
    git("merge", "-q", "--no-edit", "master" if "master" in git("branch") else "main")
    git("stash", "pop", "-q")
    commit("results")
    assert record().registered == claimed
    assert verdicts()[0] == ("confirmed", None)


def test_results_that_were_published_before_are_known(claimed: str) -> None:
    decode("k1_first")
    commit("a result")
    edit(GRID, "margin: 0.9", "margin: 0.8")
    changing = commit("another claim")
    commit()
    decode()
    verdict, reason = verdicts()[0]
    assert verdict == "exploratory"
    assert str(reason) == (
        f"results on words were published before the claims were registered ({changing[:10]}), "
        "such as of demo/k1_first"
    )
    edit("tasks/data/words.jsonl", "1", "7")
    commit("fresh items")
    commit()
    decode()
    assert verdicts()[0] == ("confirmed", None), "of fresh items nothing was known"
    assert claimed


def test_outside_of_git_nothing_is_registered(project: SmallProject) -> None:
    (project.path / "experiments/demo/generation_functions.py").write_text(REUSE)
    with Path(GRID).open("a") as stream:
        stream.write(CLAIMS)
    decode(at="0" * 40)
    made = record()
    assert made.registered is None
    assert "not a git repository" in str(made.problem)
    assert made.results[0].verdict == "exploratory"


def test_claims_in_files_that_git_ignores_are_in_no_commit(claimed: str) -> None:
    assert claimed
    git("rm", "-r", "-q", "--cached", "experiments")
    Path(".gitignore").write_text("experiments/\n")
    commit("ignore the experiments")
    decode()
    assert verdicts()[0] == (
        "exploratory",
        "the claims are in no commit yet; git commit registers them",
    )


def test_nothing_is_shown_before_all_configs_are_done(claimed: str) -> None:
    decode("k1_first")
    project = load_project()
    done = published_results(project)
    line = "1 of 2 configs done; nothing is shown before all are"
    assert withheld(project, done) == {"words": line}
    made = record()
    assert (made.registered, made.waits) == (claimed, line)
    assert [result.p for result in made.results] == [None, None]

    decode("k2_first")
    project = load_project()
    assert withheld(project, published_results(project)) == {}
    few = load_project(Selection(limit=1))
    assert "nothing is shown before all items" in withheld(few, published_results(few))["words"]


def test_the_file_is_written_once_and_checked_when_read(claimed: str) -> None:
    assert claimed
    decode()
    project, path = load_project(), claims_path("demo")
    done = published_results(project)
    assert not claims_are_current(project, done)
    assert write_claims(project, done) == [path]
    assert write_claims(project, done) == []
    assert claims_are_current(project, done)
    assert claims_of(project, done)["demo"] == record().model_copy(
        update={"content_digest": claims_of(project, done)["demo"].content_digest}
    )
    decode()
    project = load_project()
    assert claims_of(project, published_results(project)) == {}, "of results there were before"
    path.write_text(path.read_text().replace("not confirmed", "contradicted"))
    with pytest.raises(UserError, match="edited or merged by hand"):
        claims_of(project, published_results(project))


def test_specs_say_under_which_claims_a_run_is(claimed: str) -> None:
    assert claimed
    project = load_project()
    digest = project.claims[0].digest
    assert {run.config: run.spec()["run"].get("claims") for run in project.runs} == {
        "k1_first": [digest],
        "k2_first": [digest],
    }
    fingerprints = [run.fingerprint for run in project.runs]
    edit(GRID, "margin: 0.9", "margin: 0.8")
    other: Project = load_project()
    assert other.claims[0].digest != digest
    assert [run.fingerprint for run in other.runs] == fingerprints, "it decides no answer"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "config: k2_first, against: k1_first, margin",
            "config: k2_frist, against: k1_first, margin",
            "claims.0: unknown config 'k2_frist'; did you mean 'k2_first'?",
        ),
        ("config: k2_first, against: k1_first}", "config: k1_last, against: k1_first}", "the same"),
        (
            "kind: better, config: k2_first, against: k1_first}",
            "kind: faster, config: k2_first, against: k1_first, batch: 1, ratio: 0.9}",
            "claims.1: needs `speed:`",
        ),
    ],
)
def test_mistakes_show_at_once(claimed: str, old: str, new: str, words: str) -> None:
    assert claimed
    edit(GRID, "layer_subset: [first]", "layer_subset: [first, last]")
    edit(GRID, old, new)
    with pytest.raises(UserError) as refused:
        load_project()
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)

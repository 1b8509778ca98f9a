"""Who is decoded and who is copied, from files alone: running leaders, locks, old rules, copies."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.records.summary import read_summary, write_summary
from fastdllm.runs.spec import read_spec
from fastdllm.workflow.copied_results import write_copy
from fastdllm.workflow.project.artifacts import SummaryReader, current_summary, publish, published
from fastdllm.workflow.project.runs import Project, Run, load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.reconcile import reconcile
from fastdllm.workflow.shared_computations import assign_leaders
from fastdllm.workflow.status.run_status import RunStatus, State, inspect
from tests.support.fakes import WRONG_THEN_RIGHT, fake_summary
from tests.support.small_project import REUSE, SmallProject, add_experiment, edit

THREE = """\
tasks: [words]
grid: {reuse_k: [2], layer_subset: [first, middle, last]}
config_name: "{layer_subset}"
"""


@pytest.fixture
def runs(project: SmallProject) -> dict[str, Run]:
    """Three runs that are one computation, by their config."""
    assert Path.cwd() == project.path
    add_experiment("reuse", THREE, REUSE)
    edit("workflow_config.yaml", "[demo, reuse]", "[reuse]")
    reconcile(load_project())
    return {run.config: run for run in load_project().runs}


def finish(run: Run) -> None:
    run.summary_path.write_text(json.dumps(fake_summary(run.spec())))


def copy(leader: Run, member: Run) -> None:
    write_copy(leader.folder, member.folder, read_spec(member.spec_path))


def seen(project: Project | None = None) -> dict[str, tuple[str, str]]:
    """State and leader's config of each selected run; "" for one that is decoded or valid."""
    project = project or load_project()
    statuses = assign_leaders([inspect(run) for run in project.runs], project)
    return {s.run.config: (str(s.state), _leader(s)) for s in statuses}


def _leader(status: RunStatus) -> str:
    return status.leader.config if status.leader is not None and status.is_to_be_made else ""


def test_the_first_valid_result_leads(runs: dict[str, Run]) -> None:
    finish(runs["last"])
    assert seen() == {
        "first": ("missing", "last"),
        "middle": ("missing", "last"),
        "last": ("unpublished", ""),
    }


def test_a_copy_leads_only_where_nothing_decoded_does(runs: dict[str, Run]) -> None:
    finish(runs["last"])
    copy(runs["last"], runs["first"])
    assert seen()["middle"] == ("missing", "last")
    runs["last"].summary_path.unlink()
    assert seen() == {
        "first": ("unpublished", "last"),
        "middle": ("missing", "last"),
        "last": ("missing", ""),
    }, "a run is never made from its own copy"
    assert seen(load_project(Selection(configs=("middle",)))) == {"middle": ("missing", "first")}
    copy(runs["first"], runs["middle"])
    same_as = read_summary(runs["middle"].summary_path).same_as
    assert same_as is not None
    assert same_as.config == "last", "the one that was decoded is named"


@pytest.mark.usefixtures("runs")
def test_of_an_edited_policy_the_origin_is_decoded_and_its_copies_follow() -> None:
    grid = THREE.replace("[2]", "[1]").replace("[first, middle, last]", "[first, last]")
    for name in ("one", "two"):
        add_experiment(name, grid, REUSE)
    named = {run.name: run for run in load_project().runs}
    origin, *copies = (
        named[f"{name}/words/{config}"] for name in ("one", "two") for config in ("first", "last")
    )
    reconcile(load_project())
    finish(origin)
    for run in copies:
        copy(origin, run)
    policy = Path("experiments/one/generation_functions.py")
    policy.write_text(policy.read_text() + "\n    batch = 1\n")
    project = load_project(Selection(experiments=("one", "two")))
    statuses = reconcile(project)
    assert [(s.run.name, s.leader and s.leader.name, s.is_to_be_made) for s in statuses] == [
        ("one/words/first", None, True),
        ("one/words/last", "one/words/first", True),
        ("two/words/first", "one/words/first", True),
        ("two/words/last", "one/words/first", True),
    ]
    with pytest.raises(UserError, match="was itself copied from one/words/first"):
        copy(copies[-1], project.runs[0])


def test_one_that_failed_holds_up_nobody(runs: dict[str, Run]) -> None:
    def fail(name: str) -> None:
        (runs[name].folder / "failed.json").write_text('{"reason": "no memory"}')

    fail("first")
    assert seen() == {
        "first": ("failed", "middle"),
        "middle": ("missing", ""),
        "last": ("missing", "middle"),
    }
    fail("middle")
    fail("last")
    assert seen()["first"] == ("failed", ""), "where all have failed, the first is tried again"


def test_a_copy_of_an_earlier_result_is_not_published(runs: dict[str, Run]) -> None:
    finish(runs["first"])
    copy(runs["first"], runs["last"])
    both = [runs["first"], runs["last"]]
    project = load_project()
    assert publish(project.runs) == published(project.runs) == both
    finish(runs["first"])
    by_name = {run.name: run for run in project.runs}
    assert current_summary(runs["last"], by_name, SummaryReader()) is None
    assert publish(project.runs) == published(project.runs) == [runs["first"]]
    copy(runs["first"], runs["last"])
    current = current_summary(runs["last"], by_name, SummaryReader())
    assert current.path == runs["last"].summary_path
    assert publish(project.runs) == [runs["last"]]
    assert published(project.runs) == both


def test_who_waits_for_a_running_leader_is_left_out(runs: dict[str, Run]) -> None:
    (runs["middle"].folder / "progress.json").write_text('{"items_done": 1, "items_total": 2}')
    with (runs["middle"].folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        statuses = reconcile(load_project())
    assert {status.state for status in statuses} == {State.RUNNING}
    assert "same as reuse/words/middle, which is running" in statuses[0].reason
    assert seen() == {
        "first": ("missing", "middle"),
        "middle": ("interrupted", ""),
        "last": ("missing", "middle"),
    }, "killed, it leads again, as it has begun"


def test_what_another_snakemake_makes_is_left_alone(runs: dict[str, Run]) -> None:
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    project = load_project()
    held = frozenset(str(run.summary_path) for run in project.runs if run.config != "last")
    before = {name: run.spec_path.read_text() for name, run in runs.items()}
    reconcile(project, held=held)
    assert [runs[name].spec_path.read_text() == before[name] for name in runs] == [
        True,
        True,
        False,
    ]
    # A selection of the other one alone does not wait: it is decoded.
    alone = load_project(Selection(configs=("last",)))
    statuses = reconcile(alone, held=held)
    assert [(s.run.config, s.leader, s.is_to_be_made) for s in statuses] == [("last", None, True)]


def test_a_result_that_does_not_say_what_it_computed_leads_nobody(runs: dict[str, Run]) -> None:
    record = fake_summary(runs["first"].spec())
    del record["computation"]
    runs["first"].summary_path.write_text(json.dumps(record))
    assert seen() == {
        "first": ("unpublished", ""),
        "middle": ("missing", ""),
        "last": ("missing", "middle"),
    }


def test_a_copy_by_rules_of_yesterday_is_none(runs: dict[str, Run]) -> None:
    finish(runs["first"])
    copy(runs["first"], runs["last"])
    summary = read_summary(runs["last"].summary_path)
    other = summary.model_copy(update={"computation": "another"})
    write_summary(runs["last"].summary_path, other)
    status = inspect(runs["last"])
    assert status.state is State.STALE
    assert "copied from reuse/words/first; no longer the same" in status.reason
    assert publish([runs["last"]]) == []


def test_a_replicate_leads_the_runs_of_other_experiments(runs: dict[str, Run]) -> None:
    add_experiment("twice", THREE.replace("[first, middle, last]", "[first, last]"), REUSE)
    edit("experiments/twice/experiment.yaml", "tasks:", "replicate: true\ntasks:")
    project = load_project()
    statuses = assign_leaders([inspect(run) for run in project.runs], project)
    leaders = {status.run.name: status.leader and status.leader.name for status in statuses}
    assert leaders == {
        **{run.name: "twice/words/first" for run in runs.values()},
        "twice/words/first": None,
        "twice/words/last": None,
    }


def test_a_lone_replicate_has_another_decoded_beside_it(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    add_experiment("twice", THREE.replace("[first, middle, last]", "[first]"), REUSE)
    reconcile(load_project())
    lone = next(run for run in load_project().runs if run.experiment == "twice")
    finish(lone)
    copy(lone, runs["last"])
    edit("experiments/twice/experiment.yaml", "tasks:", "replicate: true\ntasks:")
    project = load_project(Selection(experiments=("reuse",)))
    assert seen(project) == {
        "first": ("missing", ""),
        "middle": ("missing", "first"),
        "last": ("stale", "first"),
    }
    record = fake_summary(runs["first"].spec(), correct_bits=WRONG_THEN_RIGHT)
    runs["first"].summary_path.write_text(json.dumps(record))
    for name in ("reuse", "twice"):
        assert main(["status", "--experiment", name]) == 0
        alarms = [line for line in capsys.readouterr().out.splitlines() if "ALARM" in line]
        assert len(alarms) == 1, "whichever of the two is selected"


def test_a_copy_needs_a_result_of_the_same_computation(runs: dict[str, Run]) -> None:
    with pytest.raises(UserError, match="has no result of the same computation"):
        copy(runs["first"], runs["last"])
    finish(runs["first"])
    edit("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8")
    reconcile(load_project())
    with pytest.raises(UserError, match="has no result of the same computation"):
        copy(runs["first"], runs["last"])
    assert not runs["last"].summary_path.exists()


def test_a_copy_makes_room_and_takes_the_data_along(runs: dict[str, Run]) -> None:
    leader, member = runs["first"], runs["last"]
    finish(leader)
    (leader.folder / "samples.jsonl").write_text("of the leader")
    old = fake_summary(member.spec()) | {"fingerprint": "0123456789"}
    member.summary_path.write_text(json.dumps(old))
    (member.folder / "samples.jsonl").write_text("of other settings")
    (member.folder / "failed.json").write_text('{"reason": "of an eval"}')
    copy(leader, member)
    assert (member.folder / "samples.jsonl").read_text() == "of the leader"
    assert (member.folder / "samples.01234567.jsonl").read_text() == "of other settings"
    assert json.loads((member.folder / "summary.01234567.json").read_text()) == old
    assert inspect(member).state is State.UNPUBLISHED
    assert inspect(member).reason == "not yet copied to artifacts/"


def test_a_copy_of_a_published_leader_has_no_data(runs: dict[str, Run]) -> None:
    leader, member = runs["first"], runs["last"]
    finish(leader)
    publish([leader])
    leader.summary_path.unlink()
    (member.folder / "samples.jsonl").write_text("of an earlier copy")
    copy(leader, member)
    assert sorted(path.name for path in member.folder.glob("sa*")) == [
        f"samples.{member.fingerprint[:8]}.jsonl"
    ]
    assert Path(member.summary_path).exists()

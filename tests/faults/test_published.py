"""Published results whose folders were renamed, copied, merged or edited by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.records.result_files import NAMES
from fastdllm.records.summary import Summary, Throughput, read_summary, write_summary
from fastdllm.workflow.project.artifacts import stored_summary
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.reconcile import PUBLISHED_STAMP, reconcile
from fastdllm.workflow.status.run_status import RunStatus, State, inspect
from tests.support.fakes import fake_summary
from tests.support.run_project import REPOSITORY
from tests.support.small_project import edit

SETTINGS = Path("workflow_config.yaml")


@pytest.fixture
def shared(project: Path) -> Path:
    """A clone of a project of two published runs, without results/; also the working directory."""
    edit(SETTINGS, "  choices: {chunk_size: 6, apply_chat_template: true}\n", "")
    settings = 'grid: {threshold: [0.9, 0.7]}\nconfig_name: "t{threshold}"\n'
    edit("experiments/trial/experiment.yaml", "config_name: plain\n", settings)
    for run in load_project().runs:
        run.summary_path.parent.mkdir(parents=True)
        run.summary_path.write_text(json.dumps(fake_summary(run.spec())))
    assert main(["aggregate"]) == 0
    shutil.rmtree("results")
    return project


def reconciled() -> list[RunStatus]:
    """The states after what each call of Snakemake does: once, and again when all is published."""
    reconcile(load_project())
    assert main(["aggregate"]) == 0
    PUBLISHED_STAMP.touch()
    return reconcile(load_project())


def summaries() -> list[Summary]:
    """All results by every place that they are read from, which must agree."""
    found = [read_summary(run.artifact_path) for run in load_project().runs]
    assert found == [read_summary(run.summary_path) for run in load_project().runs]
    return found


def names(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The titles and rows of `fastdllm table`."""
    capsys.readouterr()
    assert main(["table"]) == 0
    lines = capsys.readouterr().out.partition("tables:")[0].splitlines()
    return [line.split()[0] for line in lines if line.endswith(": sums") or line[:3] == "t0."]


@pytest.mark.usefixtures("shared")
def test_a_renamed_experiment_keeps_its_results_under_its_new_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("experiments", "artifacts"):
        Path(folder, "trial").rename(Path(folder, "base"))
    edit(SETTINGS, "[trial]", "[base]")
    reconcile(load_project())
    assert not PUBLISHED_STAMP.exists(), "its table has the old title"
    assert {status.state for status in reconciled()} == {State.DONE}
    assert PUBLISHED_STAMP.exists()
    assert [(s.experiment, s.config, s.same_as) for s in summaries()] == [
        ("base", "t0.9", None),
        ("base", "t0.7", None),
    ]
    table = Path("artifacts/base/table.md").read_text()
    assert table.startswith("# base\n")
    assert table.count("\n| t0.") == 2
    assert names(capsys) == ["base:", "t0.9", "t0.7"]


@pytest.mark.usefixtures("shared")
def test_a_renamed_config_keeps_its_result_under_its_new_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit("experiments/trial/experiment.yaml", '"t{threshold}"', '"t{threshold}_new"')
    for config in ("t0.9", "t0.7"):
        folder = Path("artifacts/trial/sums", config)
        folder.rename(folder.with_name(f"{config}_new"))
    assert {status.state for status in reconciled()} == {State.DONE}
    assert names(capsys) == ["trial:", "t0.9_new", "t0.7_new"]
    assert main(["compare", "trial/sums/t0.9_new", "trial/sums/t0.7_new"]) == 0
    assert capsys.readouterr().out.startswith(
        "a  trial  sums  t0.9_new\nb  trial  sums  t0.7_new\n"
    )


@pytest.mark.parametrize("is_replicated", [False, True])
@pytest.mark.usefixtures("shared")
def test_a_copied_experiment_holds_copies_and_no_second_measurement(
    capsys: pytest.CaptureFixture[str], *, is_replicated: bool
) -> None:
    for folder in ("experiments", "artifacts"):
        shutil.copytree(Path(folder, "trial"), Path(folder, "again"))
    edit(SETTINGS, "[trial]", "[trial, again]")
    if is_replicated:
        edit("experiments/again/experiment.yaml", "title", "replicate: true\ntitle")
        *_, status = reconciled()
        assert status.state is State.STALE
        assert status.reason == "copied from trial/sums/t0.7; replicate: true asks for its own"
        assert names(capsys) == ["trial:", "t0.9", "t0.7"]
        return
    assert {status.state for status in reconciled()} == {State.DONE}
    found = [(s.experiment, s.config, s.same_as and s.same_as.experiment) for s in summaries()]
    assert found == [
        ("trial", "t0.9", None),
        ("trial", "t0.7", None),
        ("again", "t0.9", "trial"),
        ("again", "t0.7", "trial"),
    ]
    assert names(capsys) == ["trial:", "t0.9", "t0.7", "again:", "t0.9", "t0.7"]
    assert Path("artifacts/trial/table.md").read_text().count("\n| t0.") == 2
    assert Path("artifacts/again/table.md").read_text().count("\n| t0.") == 2


def commit(branch: str, path: Path, summary: Summary) -> None:
    write_summary(path, summary)
    git("switch", "--quiet", "-c", branch)
    git("add", ".")
    git("commit", "--quiet", "-m", branch)


def git(*words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)


@pytest.mark.parametrize("is_kept_whole", [True, False])
def test_a_merge_takes_one_result_and_never_lines_of_both(
    a_summary: Summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_kept_whole: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    if is_kept_whole:
        shutil.copy(REPOSITORY / ".gitattributes", tmp_path)
    path = Path("artifacts/demo/words/k1/summary.json")
    before = a_summary.model_copy(update=dict(zip(NAMES, path.parts[1:4], strict=True)))
    speed = Throughput(tokens_generated=100, total_time_s=2.0, tokens_per_s=50.0)
    ours = before.model_copy(update={"throughput": speed})
    more_slots = {"eval_params": {**before.eval_params, "batch_size": 64}, "throughput": None}
    commit("before", path, before)
    commit("theirs", path, before.model_copy(update=more_slots))
    git("switch", "--quiet", "before")
    commit("ours", path, ours)
    git("merge", "--quiet", "-X", "ours", "-m", "both", "theirs")
    if is_kept_whole:
        assert read_summary(path) == ours
        return
    merged = json.loads(path.read_text())
    assert (merged["throughput"]["total_time_s"], merged["eval_params"]["batch_size"]) == (2.0, 64)
    with pytest.raises(UserError, match=f"^{path}: edited or merged by hand"):
        read_summary(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tokens_per_s": 1234.5', '"tokens_per_s": 2031.0'),
        ('"full_block": 20', '"full_block": -20'),
        ('"batch_size": 32', '"batch_size": 64'),
    ],
)
def test_a_summary_that_was_edited_by_hand_is_refused_and_one_of_another_layout_is_not(
    a_summary: Summary, tmp_path: Path, old: str, new: str
) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, a_summary)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=8))
    assert read_summary(path) == a_summary
    assert stored_summary(path).problem is None
    edit(path, old, new)
    with pytest.raises(UserError) as caught:
        read_summary(path)
    assert str(caught.value) == stored_summary(path).problem
    assert str(caught.value).startswith(f"{path}: edited or merged by hand")


@pytest.mark.parametrize("name", ["a\0b", "../../secret", None, 5])
@pytest.mark.usefixtures("shared")
def test_a_name_in_a_summary_that_cannot_be_a_folder_is_looked_up_nowhere(name: object) -> None:
    run = load_project().runs[0]
    record = json.loads(run.artifact_path.read_text())
    run.artifact_path.write_text(json.dumps({**record, "experiment": name}))
    assert inspect(run).state is State.DONE
    assert read_summary(run.artifact_path).experiment == "trial"


@pytest.mark.usefixtures("shared")
def test_settings_that_are_not_those_of_the_fingerprint_make_a_result_stale() -> None:
    run = load_project().runs[0]
    edit(run.artifact_path, '"decoding.threshold": 0.9', '"decoding.threshold": 0.5')
    status = inspect(run)
    assert (status.state, status.why) == (State.STALE, "decoding.threshold 0.5 -> 0.9")
    assert main(["aggregate"]) == 0
    assert "t0.9" not in Path("artifacts/trial/table.md").read_text()

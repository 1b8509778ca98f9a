"""The files of a task are written from the data set of the hub that its own file names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.runs.needs import FETCHED
from fastdllm.tasks.task_metadata import hub_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.tools.fetching.proof import prove_offline
from fastdllm.tools.fetching.source_files import are_as_fetched, fetch_files
from tests.support.fake_hub import COMMIT, Hub, serve
from tests.support.small_project import edit
from tests.tools.test_fetch import ROOT, fetch

# `fetch` plans in processes.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("project")]

CONFIG = f"""\
model: {{path: {ROOT / "models/tiny"}}}
experiments: [00_baseline]
tasks:
  other:
"""
TASK = """\
task: quiz
dataset_path: json
dataset_kwargs: {data_dir: tasks/data/quiz, data_files: {test: test.jsonl, train: "*/train.jsonl"}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 24, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata:
  options: {apply_chat_template: true}
  source:
    repo: lab/quiz
    config: main
    files: {test.jsonl: [test, extra], more/train.jsonl: train, NOTES.md: {file: NOTES.md}}
"""
README = """\
---
configs:
- config_name: main
  data_files:
  - {split: test, path: "main/test*"}
  - {split: extra, path: "main/extra*"}
  - {split: train, path: main/train.jsonl}
---
"""
ROWS = {
    "test": [{"question": f"{a} + {a} = ?", "answer": str(2 * a), "n": a} for a in range(1, 6)],
    "extra": [{"question": "½ + ½ = ?", "answer": "1", "n": None}],
    "train": [{"question": "7 + 7 = ?", "answer": "14", "n": 1}],
}
DATA = Path("tasks/data/quiz")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    data = folder / "datasets/lab/quiz"
    (data / "main").mkdir(parents=True)
    (data / "README.md").write_text(README)
    (data / "NOTES.md").write_bytes(b"as \xff is\r\n")
    for split, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"main/{split}.jsonl").write_text(text)
    with serve(folder) as hub:
        yield hub


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the task, which is not enabled; the current folder."""
    project = tmp_path / "project"
    shutil.copytree(ROOT / "experiments/00_baseline", project / "experiments/00_baseline")
    (project / "tasks").mkdir()
    (project / "tasks/quiz.yaml").write_text(TASK)
    other = TASK.replace("task: quiz", "task: other").replace("data/quiz", "data/other")
    (project / "tasks/other.yaml").write_text(other)
    (project / "workflow_config.yaml").write_text(CONFIG)
    monkeypatch.chdir(project)
    return project


def rows(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def test_a_task_is_fetched_by_its_name(project: Path, hub: Hub, tmp_path: Path) -> None:
    done = fetch(project, hub, tmp_path / "home", "--task", "quiz")
    assert done.returncode == 0, done.stderr
    assert "task quiz: 3 files of data" in done.stdout
    assert "task quiz: is planned and scored without a network" in done.stdout
    assert rows("test.jsonl") == ROWS["test"] + ROWS["extra"]
    assert rows("more/train.jsonl") == ROWS["train"]
    assert (DATA / "NOTES.md").read_bytes() == b"as \xff is\r\n"
    record = json.loads(FETCHED.read_text())["tasks"]["quiz"]
    assert record["data_sets"] == [{"repo": "lab/quiz", "revision": "main", "commit": COMMIT}]
    assert sorted(file["path"] for file in record["files"]) == sorted(
        str(DATA / name) for name in ("test.jsonl", "more/train.jsonl", "NOTES.md")
    )
    times = {path: path.stat().st_mtime_ns for path in DATA.rglob("*")}
    again = fetch(project, hub, tmp_path / "home", "--task", "quiz", HF_ENDPOINT="http://no:9")
    assert again.returncode == 0, again.stderr
    assert "task quiz: 3 files, as they were fetched" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in DATA.rglob("*")} == times


@pytest.mark.parametrize(
    ("reasons", "says"),
    [
        (
            ["no room", "no room"],
            "task 'quiz': its data is here, but it cannot be planned: no room",
        ),
        (
            ["it looks for the network", "no route"],
            "cannot be planned and scored without a network",
        ),
        (
            ["it lacks words", None, "it lacks words"],
            "without a network, which jobs lack (it lacks",
        ),
    ],
)
def test_only_what_the_network_would_help_is_laid_to_it(
    monkeypatch: pytest.MonkeyPatch, reasons: list[str | None], says: str
) -> None:
    found = iter(reasons)
    monkeypatch.setattr("fastdllm.tools.fetching.proof._problem", lambda *_: next(found))
    with pytest.raises(UserError) as refused:
        prove_offline("quiz")
    assert says in str(refused.value)
    assert list(found) == []


def test_a_file_of_the_user_is_not_replaced(project: Path, hub: Hub, tmp_path: Path) -> None:
    (project / DATA).mkdir(parents=True)
    (project / DATA / "test.jsonl").write_text('{"question": "mine", "answer": "1"}\n')
    done = fetch(project, hub, tmp_path / "home", "--task", "quiz")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "tasks/data/quiz/test.jsonl: is here already and differs from lab/quiz" in line
    assert rows("test.jsonl") == [{"question": "mine", "answer": "1"}]
    assert not (DATA / "more").exists(), "nothing is written where something is refused"


@pytest.fixture
def reached(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, as this process is to see it: it has read its variables."""
    import datasets
    from huggingface_hub import constants

    home = str(tmp_path / "home")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", home)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    return hub


def test_files_that_are_here_need_no_hub(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (DATA / "more").mkdir(parents=True)
    for name in ("test.jsonl", "more/train.jsonl"):
        (DATA / name).write_text('{"question": "mine", "answer": "1"}\n')
    monkeypatch.setattr("fastdllm.tools.fetching.proof.prove_offline", lambda _: None)
    assert main(["fetch", "--task", "quiz"]) == 0
    assert "task quiz: its files are here already, nothing to fetch" in capsys.readouterr().out
    assert not (project / DATA / "NOTES.md").exists()


def test_another_source_is_fetched_anew(reached: Hub) -> None:
    record = fetch_here()
    assert are_as_fetched(hub_files(TaskSource.named("quiz")), record)
    edit("tasks/quiz.yaml", "config: main", f"config: main\n    revision: {reached.commit}")
    assert not are_as_fetched(hub_files(TaskSource.named("quiz")), record)


def fetch_here(**record: object) -> dict[str, object]:
    notes: list[str] = []
    return fetch_files(hub_files(TaskSource.named("quiz")), record, notes.append) | {"notes": notes}


def test_what_was_fetched_is_replaced_where_the_hub_has_changed(
    reached: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch_here()
    assert first["notes"] == []
    commit = "f" * 40
    monkeypatch.setattr(reached, "commit", commit)
    file = reached.folder / "datasets/lab/quiz/NOTES.md"
    old = file.read_bytes()
    file.write_bytes(b"new")
    try:
        with pytest.raises(UserError, match=r"NOTES.md: is here already and differs from lab/quiz"):
            fetch_here()
        again = fetch_here(**first)
    finally:
        file.write_bytes(old)
    assert again["notes"] == [f"{DATA}/NOTES.md: replaced, as lab/quiz has changed"]
    assert (DATA / "NOTES.md").read_bytes() == b"new"
    assert again["data_sets"] == [{"repo": "lab/quiz", "revision": "main", "commit": commit}]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("lab/quiz", "lab/none", "data set 'lab/none': the hub has no such data set"),
        ("lab/quiz", "a/b/c", "data set 'a/b/c': "),
        ("config: main", "config: man", "'lab/quiz': cannot be loaded: BuilderConfig 'man' not"),
        (
            "jsonl: train",
            "jsonl: trian",
            "main: unknown split 'trian'; did you mean 'train'",
        ),
        ("file: NOTES", "file: NOTE", "data set 'lab/quiz': the hub has no file 'NOTE.md' of it"),
        ("config: main", "revision: v9", "the hub has no revision 'v9' of it; see metadata.source"),
        (
            "repo:",
            "repository:",
            "metadata.source: repo: this key is required",
        ),
        ("NOTES.md:", "../NOTES.md:", "metadata.source: files: '../NOTES.md' is not within"),
        ("data_dir: tasks/data/quiz, ", "", "metadata.source: needs dataset_kwargs.data_dir"),
        ("[test, extra]", "[]", "metadata.source: files.test.jsonl"),
    ],
)
@pytest.mark.usefixtures("reached")
def test_what_cannot_be_fetched_is_one_line(old: str, new: str, says: str) -> None:
    edit("tasks/quiz.yaml", old, new)
    with pytest.raises(UserError) as refused:
        fetch_here()
    assert says in str(refused.value)
    assert not DATA.exists()


@pytest.mark.parametrize("is_raw", [True, False])
def test_gated_data_says_how_to_get_it(reached: Hub, *, is_raw: bool) -> None:
    kept, end = TASK.index("    files: {"), TASK.index("NOTES.md: {")
    if is_raw:
        Path("tasks/quiz.yaml").write_text(TASK[: kept + len("    files: {")] + TASK[end:])
    reached.gated.add("lab/quiz")
    try:
        with pytest.raises(UserError) as refused:
            fetch_here()
    finally:
        reached.gated.clear()
    assert str(refused.value) == (
        "data set 'lab/quiz': is gated; accept its terms on https://huggingface.co/datasets/"
        "lab/quiz, then give your token: hf auth login (or export HF_TOKEN=...)"
    )


def test_a_data_set_that_the_file_names_itself_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "dataset_path: json\ndataset_kwargs: {data_dir: tasks/data/quiz, "
    edit("tasks/quiz.yaml", path, "dataset_path: lab/quiz\ndataset_kwargs: {")
    edit("tasks/quiz.yaml", "source:", "sources:")
    assert main(["fetch", "--task", "quiz"]) == 2
    told = capsys.readouterr()
    assert "task quiz: " not in told.out
    assert told.err.startswith("fastdllm: tasks/quiz.yaml: dataset_path: lab/quiz: no such folder")


def test_a_task_that_fails_does_not_stop_the_others(
    project: Path, hub: Hub, tmp_path: Path
) -> None:
    edit("tasks/other.yaml", "repo: lab/quiz", "repo: lab/none")
    named = [word for task in ("other", "quiz") for word in ("--task", task)]
    done = fetch(project, hub, tmp_path / "home", *named)
    assert done.returncode == 2
    assert "task quiz: is planned and scored without a network" in done.stdout
    assert json.loads(FETCHED.read_text())["tasks"].keys() == {"quiz"}
    reason, end = done.stderr.splitlines()
    assert reason.startswith("fastdllm: task 'other': data set 'lab/none': the hub has no such")
    assert end == "fastdllm: 1 of 2 tasks cannot be run yet, as the lines above say: other"


def test_the_files_of_a_group_are_those_of_its_tasks(project: Path) -> None:
    (project / "tasks/both.yaml").write_text("group: both\ntask: [quiz, other]\n")
    files = hub_files(TaskSource.named("both"))
    assert len(files) == 6
    assert {path.parts[2] for path in files} == {"quiz", "other"}
    edit("tasks/other.yaml", "data/other", "data/quiz")
    edit("tasks/other.yaml", "config: main", "config: more")
    with pytest.raises(UserError, match=r"another subtask has another source of tasks/data/quiz/"):
        hub_files(TaskSource.named("both"))


@pytest.mark.usefixtures("reached")
def test_the_network_that_is_switched_off_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="unset HF_HUB_OFFLINE"):
        fetch_here()

"""Fetching from a hub on this machine, and knowing in a job's first second what was not fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import is_whole_safetensors, lacking
from fastdllm.runs.needs import FETCHED, require
from fastdllm.tasks.task_source import TaskSource
from fastdllm.tools.fetching.model import fetch_model
from fastdllm.workflow.project.digests import FileDigests
from tests.support.fake_hub import COMMIT, Hub, serve
from tests.support.run_project import PATIENCE_S

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"
SUMS = [{"question": f"{a} + {a} = ?", "answer": str(2 * a)} for a in range(1, 6)]
REMOTE = """\
json
dataset_kwargs:
  data_dir: tasks/data/remote
  data_files: {test: test.jsonl}
"""
SOURCE = "  source: {repo: lab/MyData, files: {test.jsonl: train}}\n"
CONFIG = """\
model: {path: lab/tiny}
experiments: [00_baseline]
tasks:
  local: {apply_chat_template: true}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a model of the hub, a local task, and a task with data of the hub."""
    folder = tmp_path_factory.mktemp("fetch")
    shutil.copytree(ROOT / "models" / "tiny", folder / "hub" / "models" / "lab" / "tiny")
    data = folder / "hub" / "datasets" / "lab" / "MyData"
    data.mkdir(parents=True)
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SUMS))
    project = folder / "project"
    shutil.copytree(ROOT / "experiments" / "00_baseline", project / "experiments" / "00_baseline")
    (project / "tasks").mkdir()
    (project / "tasks" / "sums.jsonl").write_text((data / "train.jsonl").read_text())
    task = (ROOT / "tasks" / "word_problems.yaml").read_text().replace("{{result}}", "{{answer}}")
    source = "json\ndataset_kwargs:\n  data_files:\n    test: tasks/data/word_problems.jsonl\n"
    assert source in task
    local = source.replace("data/word_problems.jsonl", "sums.jsonl")
    for name, text in (
        ("local", task.replace(source, local)),
        ("remote", task.replace(source, REMOTE).replace("metadata:\n", f"metadata:\n{SOURCE}")),
    ):
        named = text.replace("task: word_problems", f"task: {name}")
        (project / "tasks" / f"{name}.yaml").write_text(named)
    (project / "workflow_config.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[Hub]:
    with serve(folder / "hub") as hub:
        yield hub


@pytest.fixture(scope="module")
def fetched(folder: Path, hub: Hub) -> Path:
    """The project after a fetch of both tasks."""
    project = folder / "project"
    config = CONFIG + "  remote: {apply_chat_template: true}\n"
    (project / "workflow_config.yaml").write_text(config)
    done = fetch(project, hub, folder / "home")
    assert done.returncode == 0, done.stderr
    assert "task remote: is planned and scored without a network" in done.stdout
    return project


@pytest.fixture
def copy(fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project and its caches, to be spoilt; the current folder."""
    shutil.copytree(fetched, tmp_path / "project")
    shutil.copytree(fetched.parent / "home", tmp_path / "home", symlinks=True)
    record = tmp_path / "project" / FETCHED
    record.write_text(record.read_text().replace(str(fetched.parent), str(tmp_path)))
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "project"


def fetch(
    project: Path, hub: Hub, home: Path, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "fastdllm", "fetch", *arguments],
        cwd=project,
        env={
            **kept,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def reached(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub and the folder home, as this process is to see them: it has read its variables."""
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return hub


def fetched_here(model: str) -> list[str]:
    """Fetch a model in this process; return what is said of it."""
    notes: list[str] = []
    fetch_model(model, None, digests=FileDigests.load(), note=notes.append)
    return notes


def snapshot_of(home: Path) -> Path:
    return home / "hub" / "models--lab--tiny" / "snapshots" / COMMIT


def only_model(project: Path, folder: Path) -> Path:
    """A copy of the project with nothing fetched and the local task alone."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("results"))
    (folder / "workflow_config.yaml").write_text(CONFIG)
    return folder


@pytest.mark.slow
def test_a_fetch_is_recorded_with_digests(fetched: Path) -> None:
    record = json.loads((fetched / FETCHED).read_text())
    assert record["model"]["commit"] == COMMIT
    weights = record["model"]["files"][WEIGHTS]
    assert weights["bytes"] == (ROOT / "models" / "tiny" / WEIGHTS).stat().st_size
    assert len(weights["sha256"]) == 64
    (data,) = record["tasks"]["remote"]["files"]
    assert (fetched / data["path"]).stat().st_size == data["bytes"]
    assert "local" not in record["tasks"]


@pytest.mark.slow
def test_a_second_fetch_downloads_nothing(fetched: Path, hub: Hub) -> None:
    before = dict(hub.served_bytes)
    done = fetch(fetched, hub, fetched.parent / "home")
    assert done.returncode == 0, done.stderr
    assert hub.served_bytes == before


@pytest.mark.slow
def test_what_is_fetched_is_enough(copy: Path) -> None:
    require("lab/tiny", None, TaskSource.named("remote"))
    require("lab/tiny", COMMIT, TaskSource.named("local"))
    (copy / FETCHED).unlink()
    require("lab/tiny", "main", TaskSource.named("remote"))


@pytest.mark.slow
@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize(
    ("lost", "says"),
    [
        ("hub", "model 'lab/tiny': is not in the cache"),
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
        (WEIGHTS, "there are no safetensors weights"),
        ("half", "model.safetensors is truncated"),
        ("data", "task 'remote': tasks/data/remote/test.jsonl: no such file"),
    ],
)
def test_what_is_missing_is_named(copy: Path, *, is_recorded: bool, lost: str, says: str) -> None:
    home = copy.parent / "home"
    if not is_recorded:
        (copy / FETCHED).unlink()
    if lost == "hub":
        shutil.rmtree(home / lost)
    elif lost == "data":
        shutil.rmtree("tasks/data")
    elif lost == "half":
        file = snapshot_of(home) / WEIGHTS
        os.truncate(file, file.stat().st_size // 2)
    else:
        (snapshot_of(home) / lost).unlink()
    with pytest.raises(UserError) as caught:
        require("lab/tiny", None, TaskSource.named("remote"))
    assert says in str(caught.value)
    assert "on a node with network: fastdllm fetch" in str(caught.value)


@pytest.mark.slow
def test_another_cache_than_the_one_fetched_to_is_said(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(copy / "elsewhere"))
    with pytest.raises(UserError, match=r"it was fetched to .*home/hub: is HF_HOME set"):
        require("lab/tiny", None, TaskSource.named("local"))


@pytest.mark.slow
@pytest.mark.usefixtures("copy")
def test_a_revision_that_was_not_fetched_is_refused() -> None:
    with pytest.raises(UserError, match=r"revision v2: is not in the cache"):
        require("lab/tiny", "v2", TaskSource.named("local"))


@pytest.mark.slow
def test_the_check_is_quick_and_needs_no_torch(copy: Path) -> None:
    program = (
        "import sys\n"
        "from fastdllm.runs.needs import require\n"
        "from fastdllm.tasks.task_source import TaskSource\n"
        "require('lab/tiny', None, TaskSource.named('remote'))\n"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=copy, env=environment, check=True)


@pytest.mark.slow
@pytest.mark.usefixtures("reached")
def test_a_damaged_file_is_fetched_again(copy: Path) -> None:
    home = copy.parent / "home"
    file = snapshot_of(home) / WEIGHTS
    good = file.read_bytes()
    # As many bytes as before: only the digest can tell.
    file.write_bytes(bytes(100) + good[100:])
    notes = fetched_here("lab/tiny")
    assert f"model lab/tiny: {WEIGHTS} is damaged in the cache; fetching it again" in notes
    assert file.read_bytes() == good


@pytest.mark.slow
def test_a_download_that_breaks_off_goes_on(
    folder: Path,
    reached: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = only_model(folder / "project", tmp_path / "small")
    text = (project / "workflow_config.yaml").read_text().replace("lab/tiny", "lab/big")
    (project / "workflow_config.yaml").write_text(text)
    model = folder / "hub" / "models" / "lab" / "big"
    if not model.exists():
        shutil.copytree(ROOT / "models" / "tiny", model)
    # huggingface_hub writes, and so resumes, in steps of 10 MB.
    size = 24_000_000
    head = json.dumps({"x": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (model / WEIGHTS).write_bytes(len(head).to_bytes(8, "little") + head + bytes(size))
    # More often than huggingface_hub tries again by itself.
    reached.cut[WEIGHTS] = 20
    monkeypatch.chdir(project)
    assert main(["fetch"]) == 2
    err = capsys.readouterr().err
    assert "the same command resumes there" in err.splitlines()[-1]
    assert "Traceback" not in err
    reached.cut[WEIGHTS] = 1
    reached.served_bytes.clear()
    reached.ranges.clear()
    assert main(["fetch"]) == 0
    record = json.loads(Path(FETCHED).read_text())
    assert record["model"]["files"][WEIGHTS]["bytes"] == model.joinpath(WEIGHTS).stat().st_size
    assert list(reached.served_bytes) == [WEIGHTS], "files that were whole are not sent again"
    assert reached.ranges == ["bytes=10485760-"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("lab/none", "the hub has no such model"),
        ("lab/tiny, revision: v9", "the hub has no revision 'v9'"),
    ],
)
@pytest.mark.usefixtures("reached")
def test_what_the_hub_does_not_have_is_one_line(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    says: str,
) -> None:
    project = only_model(folder / "project", tmp_path / "small")
    (project / "workflow_config.yaml").write_text(CONFIG.replace("lab/tiny", config))
    monkeypatch.chdir(project)
    assert main(["fetch"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ],
)
def test_variables_that_keep_the_hub_away_are_one_line(
    folder: Path, hub: Hub, tmp_path: Path, variables: dict[str, str], says: str
) -> None:
    project = only_model(folder / "project", tmp_path / "small")
    done = fetch(project, hub, tmp_path / "home", **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert says in line


@pytest.mark.slow
def test_a_hub_that_sends_something_else_is_refused(folder: Path, hub: Hub, tmp_path: Path) -> None:
    project = only_model(folder / "project", tmp_path / "small")
    hub.swapped[WEIGHTS] = 9
    done = fetch(project, hub, tmp_path / "home")
    hub.swapped.clear()
    assert done.returncode == 2
    assert f"{WEIGHTS} differs from the hub's digest" in done.stderr


@pytest.mark.slow
def test_local_models_and_tasks_need_nothing(folder: Path, hub: Hub, tmp_path: Path) -> None:
    project = only_model(folder / "project", tmp_path / "small")
    config = CONFIG.replace("lab/tiny", str(ROOT / "models" / "tiny"))
    (project / "workflow_config.yaml").write_text(config)
    done = fetch(project, hub, tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing to fetch") == 2
    assert not (tmp_path / "home").exists()


METRIC = """\
import os
import pathlib
import urllib.request


def mean(values):
    {body}
    return sum(values) / len(values)
"""
FETCHES = """\
if os.environ["HF_EVALUATE_OFFLINE"] == "0":  # as metrics of the hub do
        pathlib.Path("words.txt").write_bytes(urllib.request.urlopen("{url}").read())
    pathlib.Path("words.txt").read_bytes()
"""


@pytest.fixture
def use_metric(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Let the local task have a metric of its own, in a project whose model is local too."""

    def use(body: str) -> None:
        project = only_model(folder / "project", tmp_path / "small")
        config = CONFIG.replace("lab/tiny", str(ROOT / "models" / "tiny"))
        (project / "workflow_config.yaml").write_text(config)
        (project / "tasks" / "own.py").write_text(METRIC.format(body=body))
        task = project / "tasks" / "local.yaml"
        old = "aggregation: mean"
        assert old in task.read_text()
        task.write_text(task.read_text().replace(old, "aggregation: !function own.mean"))
        monkeypatch.chdir(project)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE"):
            monkeypatch.delenv(name, raising=False)  # of other tests in this process

    return use


@pytest.mark.slow
def test_a_metric_that_asks_the_network_is_found_at_fetch(
    use_metric: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    use_metric('urllib.request.urlopen("http://127.0.0.1:9/")')
    assert main(["fetch"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fastdllm: task 'local': cannot be planned and scored without a network")
    assert "it looks for the network" in line


@pytest.mark.slow
def test_what_scoring_fetches_itself_is_fetched(
    use_metric: Callable, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    use_metric(FETCHES.format(url=hub.url + "/lab/tiny/resolve/main/config.json"))
    assert main(["fetch"]) == 0
    assert "task local: is planned and scored without a network" in capsys.readouterr().out
    assert Path("words.txt").exists()


def test_a_sharded_model_needs_each_shard(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "models" / "tiny", tmp_path / "model")
    model = tmp_path / "model"
    (model / WEIGHTS).rename(model / "model-00001-of-00002.safetensors")
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert lacking(model) == "model-00002-of-00002.safetensors is missing"
    shutil.copy(model / places["a"], model / places["b"])
    assert lacking(model) is None


@pytest.mark.parametrize("content", [b"", bytes(8), b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_safetensors_file_is_not_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    assert not is_whole_safetensors(tmp_path / "x")

"""`fastdllm lm-eval`: what it adds to lm-eval's command line, and which mistakes it words."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from fastdllm.cli import main
from fastdllm.harness.arguments import read_arguments

pytestmark = pytest.mark.usefixtures("project", "alone")


@pytest.fixture
def run(model_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Call `fastdllm lm-eval run` with the model of the project."""
    monkeypatch.setattr(sys, "argv", [])

    def call(*words: str, model: str = "") -> int:
        given = f"model_path={model_folder},dtype=float32,device=cpu{model}"
        return main(["lm-eval", "run", "--model_args", given, *words])

    return call


def test_a_run_keeps_its_answers_under_the_digest_of_its_settings(
    run, model_folder: Path, capsys
) -> None:
    words = ("--tasks", "sums", "--limit", "3", "--apply_chat_template")
    words += ("--use_cache", "cache", "--output_path", "out.json", "--seed", "7")
    assert run(*words, model=",threshold=0.2,experiment_name=trial,batch_size=2") == 0
    shown = capsys.readouterr()
    assert "task sums is tasks/sums.yaml" in shown.err and "|exact_match|" in shown.out
    assert "--seed chooses examples" in shown.err and "--model_args seed=0" in shown.err
    given = {"model_path": str(model_folder), "dtype": "float32", "device": "cpu"}
    digest = read_arguments({**given, "threshold": 0.2, "experiment_name": "trial"}).digest()
    assert Path(f"cache_{digest[:12]}_rank0.db").is_file()
    (file,) = Path().glob("out_*.json")
    config = json.loads(file.read_text())["config"]
    assert (config["policy"], config["decoding"]["threshold"]) == ("Plain", 0.2)
    assert config["throughput"]["tokens_generated"] > 0
    assert (config["batch_size"], config["device"]) == (2, "cpu"), "those of --model_args win"


@pytest.mark.usefixtures("run")
def test_the_model_is_ours_by_default_as_its_help_says(model_folder: Path, capsys) -> None:
    """Also where --config names the rest; the option is changed in lm-eval's own parser."""
    with pytest.raises(SystemExit):
        main(["lm-eval", "run", "--help"])
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "Model name" in line)
    assert line.endswith("Model name (default: fast_dllm_v2)")
    Path("lm.yaml").write_text(f"model_args: {{pretrained: {model_folder}, dtype: float32}}\n")
    assert main(["lm-eval", "run", "--config", "lm.yaml", "--tasks", "sums", "--limit", "1"]) == 0
    assert "\nfast_dllm_v2 ({" in capsys.readouterr().out


def test_answers_that_cannot_be_kept_are_said(run, capsys) -> None:
    words = ("--tasks", "sums", "--limit", "1", "--use_cache", "cache")
    assert run(*words) == 0
    (file,) = Path().glob("cache_*.db")
    file.unlink()
    with closing(sqlite3.connect(file)) as other:
        other.execute("create table unnamed (a text)")
    capsys.readouterr()
    assert run(*words) == 2
    assert f"fastdllm: --use_cache: {file}: no such column: key; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "lm-eval run: --tasks is missing"),
        (("--tasks", "sums", "--limit", "3", "--samples", '{"sums": [1]}'), "--limit must be None"),
        (("--tasks", "sums", "--log_samples"), "Specify --output_path"),
        (("--tasks", "sums", "--gen_kwargs", "temperature=0.7"), "add do_sample=true"),
        (("--tasks", "sums", "--gen_kwargs", '{"top_p": 1}', "temperature=0"), "behind JSON"),
        (("--tasks", "sums", "--check_integrity"), "not in its package; leave it out"),
        (("--tasks", "sums", "--cache_requests"), "would ask old ones after an edit"),
        (("--tasks", "sums", "--samples", '{"sums": [5, 3]}'), "in ascending order from 0"),
        (("--tasks", "sums", "--samples", '{"sums": []}'), "in ascending order from 0"),
        (("--tasks", "sums", "--samples", '{"sum": [1]}'), "unknown task 'sum'; did you mean"),
        (("--tasks", "sums", "--include_path", "nowhere"), "nowhere: no such folder"),
        (("--tasks", "sums", "--limit", "0"), "--limit 0: should be a number of items"),
        (("--tasks", "sums", "--limit", "2.5"), "--limit 2.5: should be a number of items"),
        (("--tasks", "sums", "--wandb_args", "project=x"), "log the files of --output_path"),
    ],
)
def test_a_mistake_is_one_line(run, capsys, words: tuple[str, ...], says: str) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastdllm: lm-eval") and says in error


def test_a_home_folder_of_nobody_is_one_line(run, capsys) -> None:
    assert run("--tasks", "sums", model=",pretrained=~nobody_here/model") == 2
    assert "fastdllm: ~nobody_here/model: this home folder is" in capsys.readouterr().err


def test_a_wrong_argument_is_named_before_lm_eval_lists_its_tasks(run, capsys) -> None:
    assert run("--tasks", "sums", model=",reuse_kk=2") == 2
    assert "unknown argument 'reuse_kk'; did you mean 'reuse_k'?" in capsys.readouterr().err


def test_a_mode_of_likelihoods_is_refused_where_there_are_none(run, capsys) -> None:
    words = ("--limit", "1", "--apply_chat_template")
    mode = ",likelihood_mode=published"
    assert run("--tasks", "sums", *words, model=mode) == 2
    assert "likelihood_mode: has no effect, as these tasks only" in capsys.readouterr().err
    assert run("--tasks", "sums,choices", *words, model=mode) == 0


def test_data_that_is_missing_is_named(run, capsys) -> None:
    Path("tasks/data/sums.jsonl").unlink()
    assert run("--tasks", "sums") == 2
    assert "tasks/data/sums.jsonl" in capsys.readouterr().err


def test_data_is_read_from_where_the_workflow_reads_it(run, capsys) -> None:
    task, config = Path("tasks/sums.yaml"), Path("workflow_config.yaml")
    old = "{data_files: {test: tasks/data/sums.jsonl}}"
    new = "{data_dir: tasks/data/sums, data_files: {test: sums.jsonl}}"
    task.write_text(task.read_text().replace(old, new))
    config.write_text(config.read_text().replace("{chunk_size: 3,", "{data: mine, chunk_size: 3,"))
    Path("mine").mkdir()
    Path("tasks/data/sums.jsonl").rename("mine/sums.jsonl")
    for name in ("sums", str(task.absolute())):
        assert run("--tasks", name, "--limit", "2", "--apply_chat_template") == 0
        assert "|exact_match|" in capsys.readouterr().out
    for pattern in ("su*", "tasks/*.yaml"):  # lm-eval would look for the data beside it
        assert run("--tasks", pattern, "--limit", "2") == 2
        assert "sums in tasks/; name each task" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_before_decoding(run, capsys) -> None:
    assert run("--tasks", "sums", "--output_path", "/proc/out") == 2
    assert "cannot write into /proc/out" in capsys.readouterr().err


def test_examples_that_a_task_rules_out_are_refused(run, capsys) -> None:
    task = Path("tasks/sums.yaml")
    task.write_text(task.read_text() + "num_fewshot: 0\n")
    assert run("--tasks", "sums", "--num_fewshot", "2") == 2
    assert "its file says num_fewshot: 0" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["False", "tool_use"])
def test_a_template_that_is_not_used_is_refused(run, capsys, name: str) -> None:
    assert run("--tasks", "sums", "--apply_chat_template", name) == 2
    assert f"{name}: lm-eval takes this for the name of a template" in capsys.readouterr().err


def test_a_model_without_a_template_is_refused_one(
    run, capsys, model_folder: Path, tmp_path: Path
) -> None:
    bare = shutil.copytree(model_folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    words = ("--tasks", "sums", "--limit", "2", "--apply_chat_template")
    assert run(*words, model=f",model_path={bare}") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"fastdllm: {bare}: has no chat template; leave out --apply_chat_template"


def test_code_is_run_only_where_the_project_allows_it(run, capsys) -> None:
    task = Path("tasks/sums.yaml")
    task.write_text(task.read_text() + "unsafe_code: true\n")
    assert run("--tasks", "sums", "--confirm_run_unsafe_code") == 2
    assert "set allow_code_execution: true in workflow_config.yaml" in capsys.readouterr().err


@pytest.fixture
def other(run, monkeypatch: pytest.MonkeyPatch):
    """Evaluate a task that lm-eval loads by itself, of a helper with the given code."""

    def tasks(config: EvaluatorConfig, _: object) -> TaskManager:
        config.tasks = ["other"]
        return TaskManager(include_path="others", include_defaults=False)

    monkeypatch.setattr(EvaluatorConfig, "process_tasks", tasks)

    def call(helper: str, kind: str = "", tasks: str = "other") -> int:
        Path("others").mkdir()
        task = Path("tasks/sums.yaml").read_text().replace("task: sums", "task: other")
        name = "process_results" if "(doc, results)" in helper else "process_docs"
        Path("others/other.yaml").write_text(f"{task}\n{name}: !function helper.given\n{kind}\n")
        Path("others/helper.py").write_text(helper)
        return run("--tasks", tasks, "--limit", "1", "--apply_chat_template")

    return call


@pytest.mark.parametrize(
    ("helper", "says"),
    [
        ("import nowhere", "it imports 'nowhere', which is not installed here; install the pack"),
        ("import json.nowhere", "it imports 'json.nowhere', which the json that is installed her"),
        ("raise ImportError('pip install it')", "ImportError: pip install it"),
        ("raise ConnectionError('no hub')", "no hub; fastdllm new-task copies a task into tasks/"),
        ("raise SystemExit('no token')", "SystemExit: no token"),
        ("def given(docs): raise KeyError('id')", "KeyError: 'id'"),
        ("def given(doc, results): return 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_task_of_lm_eval_that_fails_is_one_line(other, capsys, helper: str, says: str) -> None:
    assert other(helper) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastdllm: lm-eval cannot evaluate other: ") and says in error


def test_perplexity_is_refused_before_other_tasks_are_decoded(
    run, other, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("fastdllm.harness.answerer.timed_answers", lambda *_: 1 / 0)
    kind = "output_type: loglikelihood_rolling"
    assert other("def given(docs): return docs", kind, tasks="sums,other") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastdllm: task 'other': loglikelihood_rolling (perplexity of a text)")
    task = Path("tasks/sums.yaml")
    task.write_text(task.read_text().replace("output_type: generate_until", kind))
    assert run("--tasks", "sums") == 2
    assert "task 'sums': loglikelihood_rolling (perplexity of a" in capsys.readouterr().err


def test_an_error_of_the_decoder_keeps_its_traceback(
    other, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastdllm.harness.answerer.timed_answers", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        other("def given(docs): return docs")


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lm-eval list a few of its 14,000 tasks, as all would take ten seconds."""
    index = TaskIndex.build([Path(lm_eval.tasks.__file__).parent / "gsm8k"])
    assert "gsm8k" in index
    monkeypatch.setattr(TaskIndex, "build", lambda *_: dict(index))


@pytest.mark.usefixtures("listed")
def test_an_unknown_task_is_named_with_the_nearest(run, capsys) -> None:
    assert run("--tasks", "summs") == 2
    assert "unknown task 'summs'; did you mean 'sums'?" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "says"), [("a text", "Expected YAML dict"), ("a: [", "Parser")])
@pytest.mark.usefixtures("listed")
def test_a_file_that_is_no_task_is_named(run, capsys, text: str, says: str) -> None:
    Path("others.yaml").write_text(text)
    assert run("--tasks", "others.yaml") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastdllm: lm-eval cannot read its tasks: ") and says in error

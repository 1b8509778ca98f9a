"""Results that are no numbers: neither read from a file nor made by a metric."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.records.summary import read_summary, write_summary
from fastdllm.runs.answers import read_content
from fastdllm.runs.attempts import read_attempts
from fastdllm.runs.spec import read_spec
from fastdllm.sandbox import programs
from fastdllm.statistics.comparison import why_not_paired
from fastdllm.tasks.lm_eval_setup import lm_eval_environment
from fastdllm.workflow.project.artifacts import stored_summary
from fastdllm.workflow.project.runs import load_project
from tests.support.fakes import fake_summary
from tests.support.run_project import write_lines

OWN = """\
def score(doc, results):
    return {{"own": 1.0}}


def mean(values):
    {mean}
"""


def replaced(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"value": 0.8', '"value": NaN', "metrics.0.value: NaN is no number"),
        ('"accuracy": 0.8', '"accuracy": -Infinity', "accuracy: -Infinity is no number"),
        ('"accuracy": 0.8', '"accuracy": 1e999', "accuracy: inf is not allowed; it should be a"),
        ('"tokens_per_s": 1234.5', '"tokens_per_s": Infinity', "throughput.tokens_per_s: Infinity"),
        ('"full_block": 20', '"full_block": NaN', "passes.full_block: NaN is no number"),
        ('"batch_size": 32', '"batch_size": NaN', "eval_params.batch_size: NaN is no number"),
    ],
)
def test_a_summary_with_a_number_that_is_none_is_refused(
    a_summary: Any, tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, a_summary)
    replaced(path, old, new)
    with pytest.raises(UserError) as caught:
        read_summary(path)
    assert str(caught.value).startswith(f"{path}: {says}")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"accuracy": 0.8', '"accuracy": 0.9', "accuracy is not the value of the one primary"),
        ('"primary": true', '"primary": false', "accuracy is not the value of the one primary"),
        ('"correct_bits": "2A=="', '"correct_bits": "+A=="', "items are not those of its accuracy"),
        ('"correct_bits": "2A=="', '"correct_bits": "2A"', "Incorrect padding"),
        ('"correct_bits": "2A=="', '"correct_bits": "2AA="', "2 bytes are not the bits of 5 items"),
        ('"n": 5\n  }', '"n": 6\n  }', "items are not those of its accuracy"),
    ],
)
def test_a_summary_whose_figures_contradict_each_other_is_refused(
    a_summary: Any, tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, a_summary)
    replaced(path, old, new)
    with pytest.raises(UserError, match=f"^{path}: {says}"):
        read_summary(path)


@pytest.mark.usefixtures("project")
def test_a_summary_whose_items_cannot_be_read_is_a_problem_and_not_published(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = load_project().runs
    for run in runs:
        run.summary_path.parent.mkdir(parents=True)
        run.summary_path.write_text(json.dumps(fake_summary(run.spec())))
    replaced(runs[0].summary_path, '"gA=="', '"g"')
    replaced(runs[1].summary_path, '"gA=="', '"wA=="')
    assert main(["status"]) == 0
    assert "items cannot be read" in (problem := stored_summary(runs[0].summary_path).problem or "")
    assert main(["aggregate"]) == 0
    shown = capsys.readouterr().out
    assert f"not published: {runs[1].summary_path}: items are not those of its accuracy" in shown
    assert problem.startswith(str(runs[0].summary_path))
    assert not any(run.artifact_path.exists() for run in runs)


def test_a_key_that_is_given_twice_hides_no_number_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"a": NaN, "a": 1}')
    with pytest.raises(UserError, match="a key given twice: NaN is no number"):
        read_json(path)


@pytest.mark.parametrize("mean", ["return float('nan')", "return float('-inf')"])
def test_a_metric_that_is_no_number_ends_the_run(
    project: Path,
    make_plan_on_disk: Any,
    make_spec: Any,
    capsys: pytest.CaptureFixture[str],
    mean: str,
) -> None:
    use_own_metric(project, mean)
    make_plan_on_disk()
    assert "metric 'own,number' is" in capsys.readouterr().err
    assert_eval_fails(make_spec(), capsys, "task 'sums': its metric 'own,number' is")


@pytest.mark.parametrize(
    ("mean", "says"),
    [
        ("raise KeyError('no such answer')", "KeyError: 'no such answer'"),
        ("import no_such_metric.parts", "it imports 'no_such_metric', which is not installed"),
        (
            "import nltk; nltk.data.find('tokenizers/no_such_data')",
            "it needs the nltk data 'no_such_data'",
        ),
        (
            "import evaluate; evaluate.load('no_such_metric')",
            "it needs the metric 'no_such_metric' of the Hugging Face hub, which is not here; on",
        ),
    ],
)
def test_what_would_end_scoring_is_said_at_plan(
    project: Path, make_plan_on_disk: Any, mean: str, says: str
) -> None:
    use_own_metric(project, mean)
    with pytest.raises(UserError) as caught:
        make_plan_on_disk()
    assert f"task 'sums' cannot be evaluated: {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


NOT_ALLOWED = "task 'sums': its scores come from running the code in answers, in a sandbox"


def allow_code(project: Path, *, allowed: bool) -> None:
    config = project / "workflow_config.yaml"
    lines = [line for line in config.read_text().splitlines() if "allow_code" not in line]
    config.write_text("\n".join([*lines, f"allow_code_execution: {str(allowed).lower()}"]) + "\n")


@pytest.mark.slow  # the sandbox says what it lacks here
def test_a_task_that_runs_code_asks_for_permission(
    project: Path,
    make_spec: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")  # neither needed nor enough
    path = project / "tasks/sums.yaml"
    path.write_text(path.read_text() + "unsafe_code: true\n")
    spec = make_spec()

    def fails(*command: str) -> bool:
        capsys.readouterr()
        code, error = main(list(command)), capsys.readouterr().err.splitlines()[-1]
        return code == 2 and error.startswith(f"fastdllm: {NOT_ALLOWED}")

    assert fails("plan", "--task", "sums")
    allow_code(project, allowed=True)
    assert main(["plan", "--task", "sums"]) == 0
    allow_code(project, allowed=False)
    assert fails("eval", str(spec))
    assert not spec.with_name("answers.jsonl").exists(), "nothing was decoded"
    allow_code(project, allowed=True)
    assert main(["eval", str(spec), "--shard", "1/2"]) == 0
    # Forbidden while it was decoded, and allowed again: each is seen when the run is finished.
    assert main(["eval", str(spec), "--shard", "2/2"]) == 0
    spec.with_name("summary.json").unlink()
    allow_code(project, allowed=False)
    assert fails("finish", str(spec))
    assert not spec.with_name("summary.json").exists()
    allow_code(project, allowed=True)
    shared = replace(programs.best_isolation(), lacking=("the network", "the files of this user"))
    monkeypatch.setattr(programs, "best_isolation", lambda: shared)
    monkeypatch.setitem(sys.modules, "evaluate_modules.metrics.code_eval", sys)
    assert main(["finish", str(spec)]) == 0
    summary = read_summary(spec.with_name("summary.json"))
    assert summary.fingerprint == read_spec(spec).fingerprint
    inside, outside = summary.notices or ()
    assert inside.startswith("the code of answers could reach the network, the files of this user,")
    assert outside == "code of answers was run outside of the sandbox (code_eval of `evaluate`)"


def test_code_outside_of_the_sandbox_needs_more_than_a_variable(
    project: Path, make_plan_on_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = "import os; assert os.environ.get('HF_ALLOW_CODE_EVAL') == '1', 'HF_ALLOW_CODE_EVAL'"
    asks += "; return sum(values) / len(values)"
    use_own_metric(project, asks)
    for variable, allows_code, is_planned in (
        ("1", False, False),
        ("0", True, False),
        ("1", True, True),
    ):
        monkeypatch.setenv("HF_ALLOW_CODE_EVAL", variable)
        with lm_eval_environment(offline=True, private_cache=True, allows_code=allows_code):
            if is_planned:
                assert make_plan_on_disk().header.n_items == 10
                continue
            with pytest.raises(UserError, match=r"outside of the sandbox .* export HF_ALLOW_CODE"):
                make_plan_on_disk()


def test_an_answer_that_is_no_number_is_refused(
    make_plan_on_disk: Any, make_spec: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_plan_on_disk("choices")
    spec = make_spec("choices")
    assert main(["eval", str(spec)]) == 0
    answers = spec.with_name("answers.jsonl")
    logprob = read_content(answers).records[2]["answers"][0]["logprob"]
    replaced(answers, f'"logprob": {logprob}', '"logprob": NaN')
    for name in ("summary.json", "results.json", "samples.jsonl"):
        spec.with_name(name).unlink()
    assert_eval_fails(spec, capsys, "answers.jsonl, line 3: answers.0.logprob: input should be a")


def use_own_metric(project: Path, mean: str) -> None:
    (project / "tasks/own.py").write_text(OWN.format(mean=mean))
    path = project / "tasks/sums.yaml"
    replaced(
        path,
        "{metric: exact_match, aggregation: mean,",
        "{metric: own, aggregation: !function own.mean,",
    )
    replaced(path, "exact_match,number", "own,number")
    replaced(path, "test_split:", "process_results: !function own.score\ntest_split:")


def assert_eval_fails(spec: Path, capsys: pytest.CaptureFixture[str], says: str) -> None:
    capsys.readouterr()
    assert main(["eval", str(spec)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert says in error
    assert error.startswith("fastdllm: ")
    assert not spec.with_name("summary.json").exists()


def test_a_commit_that_git_does_not_tell_is_recorded_as_unknown(
    project: Path, make_plan_on_disk: Any, make_spec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    make_plan_on_disk()
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    summary = read_summary(spec.with_name("summary.json"))
    assert summary.git is None
    assert (summary.git_unknown or "").startswith("detected dubious ownership")
    (attempt,) = read_attempts(spec.parent)
    assert (attempt.commit or "").startswith("unknown (detected dubious ownership")


def test_versions_of_all_processes_that_made_a_result_are_recorded(
    make_plan_on_disk: Any, make_spec: Any
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    here = read_summary(spec.with_name("summary.json")).environment
    path = spec.with_name("answers.jsonl")
    header, session, *chunks = path.read_text().splitlines(keepends=True)
    earlier = json.loads(session)
    earlier["versions"]["torch"] = "1.0"
    path.write_text("".join([header, json.dumps(earlier) + "\n", chunks[0]]))
    spec.with_name("summary.json").unlink()
    assert main(["eval", str(spec)]) == 0
    found = read_summary(spec.with_name("summary.json")).environment
    assert found == {**here, "torch": f"1.0 and {here['torch']}"}


def test_the_commit_is_that_of_all_processes(
    project: Path, make_plan_on_disk: Any, make_spec: Any
) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *identity, *words], cwd=project, check=True)
    (project / ".git" / "info" / "exclude").write_text("*\n")
    make_plan_on_disk()
    spec = make_spec()
    assert main(["eval", str(spec)]) == 0
    path = spec.with_name("answers.jsonl")
    header, session, *chunks = path.read_text().splitlines(keepends=True)
    for changes, says in (
        ({}, None),
        ({"dirty": True}, "dirty"),
        ({"commit": "a" * 40}, f"several commits: {'a' * 40}, "),
    ):
        earlier = json.loads(session)
        earlier["git"].update(changes)
        path.write_text("".join([header, json.dumps(earlier) + "\n", chunks[0]]))
        spec.with_name("summary.json").unlink()
        assert main(["eval", str(spec)]) == 0
        found = read_summary(spec.with_name("summary.json"))
        assert (found.git is not None and found.git.dirty) is (says == "dirty")
        assert (found.git is None) is ("commit" in changes)
        assert says in (None, "dirty") or says in (found.git_unknown or "")


def test_runs_of_data_that_changed_on_its_hub_are_not_compared(
    project: Path, make_plan_on_disk: Any, make_spec: Any
) -> None:
    summaries = []
    for first_target in (0, 5):  # as if the same spec met other data
        items = [{"question": f"{i}? ", "answer": str(first_target + i)} for i in range(4)]
        write_lines(project / "tasks/data/sums.jsonl", items)
        make_plan_on_disk()
        spec = make_spec()
        assert main(["eval", str(spec)]) == 0
        summaries.append(read_summary(spec.with_name("summary.json")))
    first, other = summaries
    other = other.model_copy(update={"decides": first.decides})
    assert why_not_paired(first, first) is None
    assert (why_not_paired(first, other) or "").startswith("data or model of the hub have changed")

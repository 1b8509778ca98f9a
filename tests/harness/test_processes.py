"""Several processes share the work of one evaluation, and a killed one loses no answer."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from fastdllm.common.errors import UserError
from fastdllm.harness import team
from fastdllm.runs.answer_records import Answer
from fastdllm.tasks.plan import PlannedRequest
from tests.support.own_forks import OwnFork
from tests.support.run_project import PATIENCE_S, REPOSITORY

pytestmark = pytest.mark.usefixtures("alone")

# One evaluation as of `fastdllm lm-eval run`, without the seconds in which lm-eval lists its tasks.
PROGRAM = """\
import json, sys
from fastdllm.tasks.lm_eval_setup import lm_eval_environment
with lm_eval_environment(offline=True, private_cache=True):
    from tests.harness.test_processes import evaluate
    print(json.dumps(evaluate(json.loads(sys.argv[1]))))
"""


def evaluate(options: dict[str, Any], told: Callable[[], Any] = lambda: None) -> list[Any]:
    """Return the result as JSON, and how many requests this process answered itself.

    options: of the model, `tasks` and `use_cache`. told: is called after each answer is kept.
    """
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    from fastdllm.harness.fast_dllm_v2 import FastDLLM

    lm = FastDLLM(**options["model"])
    answer, n_asked = lm._answerer.answer, 0

    def counted(requests: Any, tell: Any) -> Any:
        nonlocal n_asked
        n_asked += len(requests)

        def tell_both(one: Any) -> None:
            tell(one)
            if lm.cache_hook.dbdict is not None:
                lm.cache_hook.dbdict.commit()
            told()

        return answer(requests, tell_both)

    lm._answerer.answer = counted  # type: ignore[method-assign]
    result = simple_evaluate(
        lm,
        tasks=options["tasks"],
        use_cache=options.get("use_cache"),
        apply_chat_template=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
    )
    assert result is not None
    kept = {key: result[key] for key in ("results", "n-samples", "samples")}
    return [json.loads(json.dumps(kept, default=str)), n_asked]


def given(model_folder: Path, tasks: tuple[str, ...] = ("sums",), **more: Any) -> dict[str, Any]:
    arguments = {"pretrained": str(model_folder), "dtype": "float32", "device": "cpu"}
    return {"model": {**arguments, "chunk_size": 2}, "tasks": list(tasks), **more}


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables}


def started(project: Path, words: list[str], **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=project,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process: subprocess.Popen[str]) -> tuple[Any, int]:
    """The result that process 0 printed last, and how many requests it answered itself."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    result, n_asked = json.loads(out.splitlines()[-1])
    return result, n_asked


@pytest.mark.slow
def test_two_processes_share_the_work_and_give_the_result_of_one(
    project: Path, model_folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    options = given(model_folder, ("sums", "choices"))
    Path("program.py").write_text(PROGRAM)
    words = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    words += ["program.py", json.dumps(options)]
    running.append(started(project, words, ACCELERATE_USE_CPU="true"))
    together, n_here = result_of(running[0])
    result, n_alone = evaluate(options)
    assert together == result
    assert n_alone == 10 + 3 * 8
    assert 0 < n_here < n_alone, "the other process answered, too"


@pytest.mark.slow
def test_under_torchrun_the_command_prints_one_table(
    project: Path, model_folder: Path, running: list[subprocess.Popen[str]]
) -> None:
    command = ["fastdllm", "lm-eval", "run", "--tasks", "sums", "--apply_chat_template"]
    command += ["--model_args", f"model_path={model_folder},chunk_size=2,show_speed=True"]
    words = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", *command]
    running.append(started(project, [*words, "--output_path", "out"], ACCELERATE_USE_CPU="true"))
    out, err = running[0].communicate(timeout=PATIENCE_S)
    assert running[0].returncode == 0, err
    assert out.count("|exact_match|") == 1
    assert "tokens/s of 2 processes together" in out
    assert err.count("task sums is tasks/sums.yaml") == 1
    (results,) = Path(project, "out").rglob("results_*.json")
    assert results.parent.name == str(model_folder).replace("/", "__")
    config = json.loads(results.read_text())["config"]
    assert (config["processes"], config["device_name"]) == (2, "cpu")


@pytest.mark.slow
def test_what_was_answered_survives_a_kill(project: Path, model_folder: Path) -> None:
    cache = str(project / "cache")
    options = given(model_folder, use_cache=cache)
    answered = iter(range(1, 11))

    def killed() -> int:
        evaluate(options, lambda: next(answered) == 5 and os.kill(os.getpid(), signal.SIGKILL))
        return 0

    process = OwnFork(killed, cwd=project)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    with sqlite3.connect(f"{cache}_rank0.db") as stored:
        ((n_kept,),) = stored.execute("select count(*) from unnamed").fetchall()
    assert n_kept == 5 + 1, "the answers, and the mark of their settings"
    result, n_asked = evaluate(options)
    assert n_asked == 10 - 5
    assert result == evaluate(given(model_folder))[0]


def test_a_value_of_any_size_reaches_another_process() -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = TCPStore("127.0.0.1", store.port, is_master=False)
    n_keys = store.num_keys()
    value = {"not compressible": random.Random(0).randbytes(6 << 20).hex()}
    team.put(store, "key", value)
    assert store.num_keys() > n_keys + 2, "in several pieces"
    assert team.take(client, "key") == value
    assert store.num_keys() == n_keys, "nothing is left"


def test_process_0_answers_what_nobody_else_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(team.distributed, "rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setattr(team, "GOODBYE_S", 0.0)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    request = PlannedRequest(id="1", kind="generate_until", item="t:0", prompt_ids=(1,), args=())

    def answer(requests: Any, _: Any) -> Any:
        return tuple(Answer(id=request.id) for request in requests), 1.0

    for _ in range(2):  # models of one program
        of_chunks = team.Team().answer([[request], [request]], answer, lambda _: None)
        assert of_chunks == [((Answer(id="1"),), 1.0, 0)] * 2


def test_processes_that_cannot_meet_are_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match=r"MASTER_ADDR .*; torchrun and accelerate launch set it"):
        team.Team()


def test_processes_that_know_nothing_of_each_other_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(UserError, match="srun started 4 processes that know nothing of each"):
        team.Team()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert team.Team().size == 1


def test_a_launcher_that_started_only_one_process_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    team.Team()
    assert capsys.readouterr().err == "", "one process was asked for"
    monkeypatch.setenv("MASTER_PORT", "29500")
    team.Team()
    assert "this one does all the work" in capsys.readouterr().err

"""Ask a task, answer it and score it, as runs do: planned by one process, scored by another.

The two know nothing of each other: they order sets otherwise, have caches of their own and reach no
network. Each is a fork of a process that has imported lm-eval. Only slow tests may start those.

Run as a program, this module is such a process: a call from each line, answered by a fork.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.tasks.plan import Plan, read_plan
from fastdllm.tasks.task_source import TaskSource

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared/data"
# Its tokenizer keeps every text as it is, and it has a chat template.
MODEL = ROOT / "models/tiny"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a task, as planning saw it: its columns (doc), and its options if it has some."""

    task: str
    index: int
    doc: dict[str, Any]
    choices: list[str] | None
    target: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """The scores of a task: metrics by "metric,filter", samples as in samples.jsonl.

    tied: items that are right or wrong by the order of equally likely options.
    """

    primary: str
    metrics: dict[str, float]
    group_results: dict[str, float] | None
    samples: list[dict[str, Any]]
    tied: int
    plan: Plan

    @property
    def score(self) -> float:
        return self.metrics[self.primary]


# The text of an answer; of an item with options, the number of one or its text.
Answerer = Callable[[Item], str | int]


def needs_data(name: str) -> pytest.MarkDecorator:
    """Skip a test where the published files of a task are not there."""
    folder = DATA / name
    return pytest.mark.skipif(not folder.is_dir(), reason=f"needs ../shared/data/{name}")


def outcome(
    task: str,
    data: Path | None,
    answer: Answerer,
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    apply_chat_template: bool = True,
    tasks: Path = ROOT / "tasks",
) -> Outcome:
    """Return the scores of a task whose items an answerer has answered.

    Args:
        data: the folder of the task's files; None: they are in tasks/data.
        limit: first n items of each subtask.
        tasks: the folder of task files.

    Raises:
        UserError: as planning or scoring raise it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(tasks, folder / "tasks", ignore=shutil.ignore_patterns("data", "__*"))
        (folder / "tasks/data").symlink_to((tasks / "data").absolute())
        options = {
            "task": task,
            "data": data and str(data.absolute()),
            "limit": limit,
            "chunk_size": 100,
            "num_fewshot": num_fewshot,
            "apply_chat_template": apply_chat_template,
            "max_positions": 10**6,
            "vocab_size": 10**6,
            "allows_code": True,
        }
        _call("1", "plan", folder, options)
        plan = read_plan(folder / "plan", task)
        items = [Item(**record) for record in _read(folder / "items.json")]
        _write(folder / "answers.json", _answers(plan, items, answer))
        _call("2", "score", folder, options)
        return Outcome(**_read(folder / "scores.json"), plan=plan)


def _answers(plan: Plan, items: list[Item], answer: Answerer) -> dict[str, Any]:
    """Return the answer to each request: a text, or whether its option is the chosen one."""
    named = {f"{item.task}:{item.index}": item for item in items}
    given: dict[str, str | int] = {}
    answers: dict[str, Any] = {}
    for request in plan.requests:
        item = named[request.item]
        if request.item not in given:
            given[request.item] = answer(item)
        chosen = given[request.item]
        if request.kind == "loglikelihood":
            text = item.choices[chosen] if isinstance(chosen, int) and item.choices else chosen
            answers[request.id] = request.args[1].strip() == str(text).strip()
        else:
            answers[request.id] = chosen
    return answers


def _call(seed: str, *call: Any) -> None:
    # Tests that may start no process must not find one that is running already.
    sys.audit("subprocess.Popen", sys.executable, ["python"], None, None)
    server = _server(seed)
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(call, default=str) + "\n")
    server.stdin.flush()
    kind, text = json.loads(server.stdout.readline())
    if kind == "user error":
        raise UserError(text)
    assert kind == "done", text


@cache
def _server(seed: str) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.shipped_tasks"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.communicate)
    return server


def _serve() -> None:
    """Answer each line with one; a child does not return."""
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment
    from fastdllm.tools.fetching.proof import refuse_network

    sys.addaudithook(refuse_network)
    with lm_eval_environment(offline=True, private_cache=True):
        import fastdllm.runs.scoring
        import fastdllm.tasks.planning  # noqa: F401
        from fastdllm.model.tokenizer import load_tokenizer

        load_tokenizer(str(MODEL))  # imports what takes longest
        for line in sys.stdin:
            if not (child := os.fork()):
                _work_and_exit(*json.loads(line))
            if code := os.waitpid(child, 0)[1]:
                sys.stdout.write(f'["failed", "wait status {code}"]\n')
                sys.stdout.flush()


def _work_and_exit(stage: str, folder: str, options: Mapping[str, Any]) -> None:
    kind, text = "done", ""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        os.chdir(folder)
        {"plan": _plan, "score": _score}[stage](options)
    except UserError as error:
        kind, text = "user error", str(error)
    except BaseException:
        kind, text = "failed", traceback.format_exc()
    replies.write(json.dumps([kind, text]) + "\n")
    replies.close()
    os._exit(0)


def _plan(options: Mapping[str, Any]) -> None:
    from fastdllm.model.tokenizer import load_tokenizer
    from fastdllm.tasks import planning
    from fastdllm.tasks.lm_eval_tasks import load_task
    from fastdllm.tasks.plan import write_plan
    from fastdllm.tasks.planning import PlanOptions, make_plan

    # Its checks take most of the time; the items below are of the task that was planned.
    planning.load_task = cache(load_task)
    source = _source(options)
    options = {key: value for key, value in options.items() if key != "data"}
    plan = make_plan(load_tokenizer(str(MODEL)), PlanOptions(**{**options, "task": source}))
    write_plan(Path("plan"), plan, made_from="{}\n")
    items = []
    for name, leaf in planning.load_task(source).leaves.items():
        for index in range(len(plan.header.item_digests[name])):
            doc = leaf.eval_docs[index]
            has_options = leaf.OUTPUT_TYPE == "multiple_choice"
            choices = leaf.doc_to_choice(doc) if has_options else None
            items.append(Item(name, index, doc, choices, leaf.doc_to_target(doc)))
    _write(Path("items.json"), [asdict(item) for item in items])


def _score(options: Mapping[str, Any]) -> None:
    from fastdllm.decoding.sequence import PassCounts
    from fastdllm.model.tokenizer import load_tokenizer
    from fastdllm.runs.answer_records import Answer
    from fastdllm.runs.scoring import score_answers
    from fastdllm.tasks.lm_eval_tasks import load_task

    tokenizer = load_tokenizer(str(MODEL))
    answers = []
    for key, answer in _read(Path("answers.json")).items():
        if isinstance(answer, bool):
            answers.append(Answer(id=key, logprob=-1.0 if answer else -9.0, is_greedy=answer))
        else:
            ids = tuple(tokenizer(answer, add_special_tokens=False)["input_ids"])
            passes = PassCounts()
            answers.append(Answer(id=key, token_ids=ids, finish_reason="length", passes=passes))
    task = load_task(_source(options))
    scores = score_answers(
        read_plan(Path("plan"), options["task"]),
        answers,
        tokenizer=tokenizer,
        task=task,
        bootstrap_iters=0,
        allows_code=True,
    )
    record = {
        "primary": ",".join(task.primary),
        "metrics": {f"{m.metric},{m.filter}": m.value for m in scores.metrics},
        "group_results": scores.group_results,
        "samples": scores.samples,
        "tied": scores.tied_items,
    }
    _write(Path("scores.json"), record)


def _source(options: Mapping[str, Any]) -> TaskSource:
    return TaskSource(TaskSource.named(options["task"]).file, options["data"])


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, default=str), encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    _serve()

"""Every step of the published tasks by our commands, and asked by lm-eval: the same to the letter.

Planned, decoded in shards of which one is killed and taken up again, scored, published. gsm8k and
mmlu by a checkpoint of the published layout, with 32k positions and a vocabulary of real size,
whose weights are few and random; the others by a small one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load, save_file

from fastdllm.cli import main
from fastdllm.common.files import to_json
from fastdllm.model.checkpoint import WEIGHTS
from fastdllm.records.summary import read_summary
from fastdllm.tasks.plan import Plan, read_plan
from fastdllm.tools.bench.random_models import SHAPES
from fastdllm.workflow.project.runs import Run, load_project
from scripts.random_checkpoint import FILES, narrow, write_checkpoint
from tests.support.own_forks import fork_fastdllm
from tests.support.real_size_tokenizer import IM_START, VOCABULARY, save_real_size_tokenizer
from tests.support.shipped_tasks import DATA, ROOT, needs_data
from tests.tasks_shipped import test_gpqa, test_minerva_math, test_mmlu

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("alone")]

# Of the 2,048 that an answer may have: a block and a part of one.
TOKENS = 40
SUBJECTS = 3  # of each category of mmlu
GROUPS = {"mmlu": 4 * SUBJECTS + 4, "minerva_math": 7}  # subjects and categories

Write = Callable[[Path], object]


def rows(name: str, first: int, end: int) -> Write:
    """Write some rows of a published file into a folder."""

    def write(to: Path) -> None:
        file = DATA / name
        opened = gzip.open if file.suffix == ".gz" else Path.open
        with opened(file, "rb") as stream:
            text = b"".join(stream.readlines()[first:end])
        (to / file.name.removesuffix(".gz")).write_bytes(text)

    return write


def of_gpqa(name: str) -> Write:
    return lambda to: test_gpqa.write_rows(to, test_gpqa.rows_of("all", 5), name)


# Who writes its data, the requests in a chunk, and the shards, of which the first has two chunks.
# At real size there is one, as it takes seconds to load the tokenizer.
TASKS: dict[str, tuple[Write, int, int]] = {
    "gsm8k": (rows("gsm8k/test.jsonl", 0, 5), 3, 1),
    "mmlu": (lambda to: test_mmlu.write_rows(to, 1), 10, 1),
    "minerva_math": (lambda to: test_minerva_math.write_rows(to, 1), 2, 2),
    "gpqa": (of_gpqa("gpqa_main"), 4, 3),
    "gpqa_diamond": (of_gpqa("gpqa_diamond"), 4, 3),
    "ifeval": (rows("ifeval/input_data.jsonl", 0, 5), 2, 2),
    "humaneval": (rows("humaneval/HumanEval.jsonl.gz", 0, 5), 2, 2),
    "mbpp": (rows("mbpp/mbpp.jsonl", 10, 15), 1, 3),  # those before are no questions
}
AT_REAL_SIZE = ("gsm8k", "mmlu")
OUR_ROWS = ("minerva_math", "gpqa", "gpqa_diamond")


def params(*, at_real_size: bool) -> list[Any]:
    names = [name for name in TASKS if (name in AT_REAL_SIZE) == at_real_size]
    return [pytest.param(n, marks=() if n in OUR_ROWS else needs_data(n)) for n in names]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "1.5b"
    write_checkpoint(folder, narrow(SHAPES["1.5b"], 48, 3), files=FILES["1.5b"])
    save_real_size_tokenizer(folder)
    # As they were made, layers hardly change what the last token says, and all answers are one.
    weights = load((folder / WEIGHTS).read_bytes())
    for name in weights:
        if ".layers." in name and weights[name].dim() == 2:
            weights[name] *= 10
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert json.loads((folder / "config.json").read_text())["max_position_embeddings"] == 32768
    return folder


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project whose tasks have short answers, and mmlu few subjects."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("data"))
    for file in (tmp_path / "tasks").rglob("*.yaml"):
        file.write_text(re.sub(r"max_gen_toks: \d+", f"max_gen_toks: {TOKENS}", file.read_text()))
    mmlu = yaml.safe_load((tmp_path / "tasks/mmlu.yaml").read_text())
    for category in mmlu["task"]:
        del category["task"][SUBJECTS:]
    (tmp_path / "tasks/mmlu.yaml").write_text(yaml.safe_dump(mmlu))
    experiment = tmp_path / "experiments/plain"
    experiment.mkdir(parents=True)
    (experiment / "experiment.yaml").write_text("title: x\nquestion: x\nconfig_name: plain\n")
    (experiment / "generation_functions.py").write_text(
        "from fastdllm.policy import Policy\n\n\nclass Plain(Policy):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    # Else a task with helpers is planned once more, in another process.
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.mark.parametrize("task", params(at_real_size=True))
def test_every_step_at_real_size(checkpoint: Path, task: str) -> None:
    plan = every_step(task, checkpoint)
    ids = [token for request in plan.requests for token in request.prompt_ids]
    assert IM_START in ids and max(ids) < VOCABULARY


@pytest.mark.parametrize("task", params(at_real_size=False))
def test_every_step(model_folder: Path, task: str) -> None:
    every_step(task, model_folder)


def every_step(task: str, model: Path) -> Plan:
    """Make a run of a task, compare it with what lm-eval gives, and return its plan."""
    write, chunk_size, shards = TASKS[task]
    Path("data").mkdir()
    write(Path("data"))
    Path("workflow_config.yaml").write_text(
        f"model: {{path: {model}, dtype: float32, device: cpu}}\n"
        "experiments: [plain]\nbootstrap_iters: 9\nallow_code_execution: true\n"
        f"tasks: {{{task}: {{chunk_size: {chunk_size}, data: data}}}}\n"
    )
    assert main(["plan", "--task", task]) == 0
    (run,) = load_project().runs
    spec = str(run.spec_path)
    write_spec(run)
    killed_after_a_chunk(run, f"1/{shards}")
    for shard in (*range(2, shards + 1), 1):
        assert not run.summary_path.exists()
        assert main(["eval", spec, "--shard", f"{shard}/{shards}"]) == 0
    assert main(["finish", spec]) == 0
    plan = read_plan(Path("results/_plans", task), task)
    check_what_is_published(run, plan)
    compare_with_lm_eval(run, model, chunk_size)
    return plan


def write_spec(run: Run) -> None:
    run.folder.mkdir(parents=True)
    run.spec_path.write_text(to_json(run.spec()))
    os.utime(run.spec_path, (0, 0))


def killed_after_a_chunk(run: Run, shard: str) -> None:
    """Decode a shard in a process that is killed (-9) as soon as a chunk is on the disk."""

    def n_chunks() -> int:
        return sum(file.read_text().count('"chunk"') for file in run.folder.rglob("*.jsonl"))

    synced = os.fsync

    def killing(descriptor: int) -> None:
        synced(descriptor)
        if n_chunks():
            os.kill(os.getpid(), signal.SIGKILL)

    process = fork_fastdllm(
        *("eval", str(run.spec_path), "--shard", shard),
        cwd=Path.cwd(),
        first=lambda: setattr(os, "fsync", killing),
    )
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err
    assert n_chunks() == 1


def check_what_is_published(run: Run, plan: Plan) -> None:
    for command in ("status", "aggregate", "table", "report"):
        assert main([command]) == 0
    assert f"## {run.task}\n" in Path("artifacts/plain/table.md").read_text()
    assert run.task in Path("artifacts/report.html").read_text()
    summary = read_summary(run.artifact_path)
    assert summary.items is not None and summary.items.n == plan.header.n_items
    assert len(summary.group_results or ()) == GROUPS.get(run.task, 0)
    generates = plan.requests[0].kind == "generate_until"
    assert (summary.throughput is not None) == generates
    assert summary.eval_params.get("likelihood_mode") == (None if generates else "chain")


def compare_with_lm_eval(run: Run, model: Path, chunk_size: int) -> None:
    work = f"chunk_size={chunk_size},batch_size=auto"  # as in the run, for the last digit
    words = ["--model_args", f"model_path={model},dtype=float32,{work}"]
    words += ["--tasks", run.task, "--apply_chat_template", "--confirm_run_unsafe_code"]
    assert main(["lm-eval", "run", *words, "--output_path", "out", "--log_samples"]) == 0
    (file,) = Path("out").rglob("results_*.json")
    direct, results = (json.loads(f.read_text()) for f in (file, run.folder / "results.json"))
    for key in results.keys() - {"configs"}:  # with the addresses of functions
        assert to_json(direct[key]) == to_json(results[key]), key
    asked = {
        (name, sample["doc_id"]): (
            sample["arguments"]["gen_args_0"]["arg_0"],
            sample["target"],
            [given if isinstance(given, str) else given[0] for (given,) in sample["resps"]],
        )
        for name in results["configs"]
        for line in next(Path("out").rglob(f"samples_{name}_2*.jsonl")).read_text().splitlines()
        for sample in [json.loads(line)]
    }
    lines = (run.folder / "samples.jsonl").read_text().splitlines()
    assert {
        (s["task"], s["item"]): (s["prompt"], str(s["target"]), answers_in(s))
        for s in map(json.loads, lines)
    } == asked
    assert len({str(answers) for _, _, answers in asked.values()}) == len(lines), "all differ"


def answers_in(sample: dict[str, Any]) -> list[Any]:
    """Return the answer, or the log-likelihoods of the options as lm-eval writes them."""
    if "options" in sample:
        return [str(option["logprob"]) for option in sample["options"]]
    return [sample["answer"]]

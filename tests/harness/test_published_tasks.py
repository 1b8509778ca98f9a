"""Published tasks, from plan to score, and asked by lm-eval: the same answers and figures.

By a checkpoint of the published layout, with 32k positions and a vocabulary of real size, whose
weights are few and random.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load, save_file

from fastdllm.cli import main
from fastdllm.common.files import to_json
from fastdllm.model.checkpoint import WEIGHTS
from fastdllm.tools.bench.random_models import SHAPES
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection
from scripts.random_checkpoint import FILES, narrow, write_checkpoint
from tests.support.real_size_tokenizer import save_real_size_tokenizer
from tests.support.shipped_tasks import DATA, ROOT, needs_data

pytestmark = pytest.mark.usefixtures("alone")

# Items of each task, or of each subtask of a group, and the requests in a chunk.
ITEMS = {"gsm8k": (10, 4), "mmlu": (1, 20)}
SUBJECTS = 3  # of each category of mmlu
# Of the 2,048 that an answer may have.
TOKENS = 12


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


@pytest.fixture
def published(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose model is the checkpoint, and whose tasks have short answers."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "tasks/data").mkdir()
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
    return checkpoint


def scored_in_shards(task: str, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Plan, decode in two shards and score; return results.json and the lines of samples.jsonl."""
    assert main(["plan", "--task", task, "--limit", str(limit)]) == 0
    (run,) = (run for run in load_project(Selection(limit=limit)).runs if run.task == task)
    run.folder.mkdir(parents=True)
    run.spec_path.write_text(to_json(run.spec()))
    os.utime(run.spec_path, (0, 0))
    for shard in ("1/2", "2/2"):
        assert main(["eval", str(run.spec_path), "--shard", shard]) == 0
    lines = (run.folder / "samples.jsonl").read_text().splitlines()
    return json.loads((run.folder / "results.json").read_text()), list(map(json.loads, lines))


@pytest.mark.parametrize("task", [pytest.param(task, marks=needs_data(task)) for task in ITEMS])
def test_lm_eval_asks_and_scores_what_a_run_does(published: Path, task: str) -> None:
    limit, chunk_size = ITEMS[task]
    Path("tasks/data", task).symlink_to(DATA / task)
    Path("workflow_config.yaml").write_text(
        f"model: {{path: {published}, dtype: float32, device: cpu}}\n"
        "experiments: [plain]\nbootstrap_iters: 9\n"
        f"tasks: {{{task}: {{chunk_size: {chunk_size}}}}}\n"
    )
    results, samples = scored_in_shards(task, limit)
    work = f"chunk_size={chunk_size},batch_size=auto"  # as in the run, for the last digit
    words = ["--model_args", f"model_path={published},dtype=float32,{work}"]
    words += ["--tasks", task, "--limit", str(limit), "--apply_chat_template"]
    assert main(["lm-eval", "run", *words, "--output_path", "out", "--log_samples"]) == 0
    (file,) = Path("out").rglob("results_*.json")
    direct = json.loads(file.read_text())
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
    assert {
        (s["task"], s["item"]): (s["prompt"], str(s["target"]), answers_in(s)) for s in samples
    } == asked
    assert len({str(answers) for _, _, answers in asked.values()}) == len(samples), "all differ"


def answers_in(sample: dict[str, Any]) -> list[Any]:
    """Return the answer, or the log-likelihoods of the options as lm-eval writes them."""
    if "options" in sample:
        return [str(option["logprob"]) for option in sample["options"]]
    return [sample["answer"]]

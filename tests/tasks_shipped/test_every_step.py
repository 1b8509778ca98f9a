"""Every step of published tasks with a model of 32k positions and a vocabulary of real size.

Planned, decoded, killed and taken up again, finished and summed up, by the workflow's commands.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.files import to_json
from fastdllm.records.summary import Summary, read_summary
from fastdllm.tasks.plan import read_plan
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection
from tests.harness.conftest import alone  # noqa: F401 (a fixture)
from tests.harness.test_published_tasks import (  # noqa: F401 (two of them are fixtures)
    ITEMS,
    SUBJECTS,
    checkpoint,
    published,
)
from tests.support.real_size_tokenizer import IM_START, VOCABULARY
from tests.support.run_project import PATIENCE_S
from tests.support.shipped_tasks import DATA, needs_data

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(params=[pytest.param(task, marks=needs_data(task)) for task in ITEMS])
def run(request: pytest.FixtureRequest, published: Path) -> Run:  # noqa: F811
    """A planned run of ten items or more."""
    task: str = request.param
    limit, chunk_size = ITEMS[task]
    Path("workflow_config.yaml").write_text(
        f"model: {{path: {published}, dtype: float32, device: cpu}}\n"
        "experiments: [plain]\nbootstrap_iters: 9\n"
        f"tasks: {{{task}: {{chunk_size: {chunk_size}, data: {DATA / task}}}}}\n"
    )
    assert main(["plan", "--task", task, "--limit", str(limit)]) == 0
    (run,) = load_project(Selection(limit=limit)).runs
    write_spec(run)
    return run


def write_spec(run: Run) -> None:
    run.folder.mkdir(parents=True)
    run.spec_path.write_text(to_json(run.spec()))
    os.utime(run.spec_path, (0, 0))


def killed_after_a_chunk(run: Run, shard: str) -> None:
    """Decode a shard in a process that is killed (-9) as soon as a chunk is on the disk."""
    child = os.fork()
    if not child:
        synced = os.fsync

        def killing(descriptor: int) -> None:
            synced(descriptor)
            if any('"chunk"' in file.read_text() for file in run.folder.rglob("*.jsonl")):
                os.kill(os.getpid(), signal.SIGKILL)

        os.fsync = killing
        signal.alarm(int(PATIENCE_S))
        try:
            main(["eval", str(run.spec_path), "--shard", shard])
        finally:  # no child goes on with the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def result(run: Run) -> list[Any]:
    files = [(run.folder / name).read_bytes() for name in ("results.json", "samples.jsonl")]
    summary = read_summary(run.summary_path)
    return [*files, summary.metrics, summary.items, summary.group_results]


def test_every_step_gives_the_same_result_whatever_happens(run: Run) -> None:
    assert main(["eval", str(run.spec_path)]) == 0
    whole, summary = result(run), read_summary(run.summary_path)
    shutil.rmtree(run.folder)
    write_spec(run)
    killed_after_a_chunk(run, "1/2")
    assert not run.summary_path.exists()
    for shard in ("2/2", "1/2"):
        assert main(["eval", str(run.spec_path), "--shard", shard]) == 0
    assert main(["finish", str(run.spec_path)]) == 0
    assert result(run) == whole
    assert main(["status", "--limit", str(run.limit)]) == 0
    check_summary(run, summary)
    plan = read_plan(Path("results/_plans", run.folder.parent.name), run.task)
    ids = [token for request in plan.requests for token in request.prompt_ids]
    assert IM_START in ids and max(ids) < VOCABULARY


def check_summary(run: Run, summary: Summary) -> None:
    generates, n = run.task == "gsm8k", {"gsm8k": 10, "mmlu": 4 * SUBJECTS}[run.task]
    assert summary.items is not None and summary.items.n == n
    assert (summary.throughput is not None) == generates
    assert summary.eval_params.get("likelihood_mode") == (None if generates else "chain")
    if generates:
        assert all(metric.stderr is not None for metric in summary.metrics)
    else:
        assert summary.group_results is not None and len(summary.group_results) == n + 4
        assert {"stem", "astronomy"} <= summary.group_results.keys()

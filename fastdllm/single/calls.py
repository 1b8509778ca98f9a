"""`fastdllm.evaluate`: an evaluation from Python, as in a notebook.

A process of its own decodes, as a job of the workflow does: the caller's modules, device and
variables stay as they are, and its memory is free again. The bar shows what is in progress.json.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fastdllm.common.console import notice
from fastdllm.common.errors import RESUME_EXIT_CODE, USER_ERROR_EXIT_CODE, UserError
from fastdllm.common.files import json_object
from fastdllm.common.paths import check_code
from fastdllm.records.summary import Summary, read_summary
from fastdllm.single.single_runs import SingleRun, child_error, single_run
from fastdllm.tasks.plan import planned_sizes

# How often the progress is looked at.
LOOK_S = 0.5


def evaluate(
    task: str,
    *,
    limit: int | None = None,
    model: str | None = None,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int | str | None = None,
    data: str | None = None,
    num_fewshot: int | None = None,
    again: bool = False,
    progress: bool = True,
    **decoding: Any,
) -> Summary:
    """Evaluate a task of tasks/ and return the summary; the current folder is the project's.

    What is not given is as workflow_config.yaml says. The files are in results/_single; a call with
    the same settings reuses what is there, whole or in part.

    Args:
        limit: first n items of each subtask; None: all.
        model: folder or hub id; revision: of a hub id. dtype, device: as in workflow_config.yaml.
        batch_size, data, num_fewshot: as for a task in workflow_config.yaml.
        again: decode what has a result once more.
        progress: show a bar.
        decoding: any field of `DecodingSettings`.

    Raises:
        UserError: a mistake that the caller can correct; the message is one line.
        RuntimeError: the process that decodes failed otherwise; it names the log.
    """
    check_code(Path.cwd())
    of_model = {"path": model, "revision": revision, "dtype": dtype, "device": device}
    of_task = {"batch_size": batch_size, "data": data, "num_fewshot": num_fewshot}
    single = single_run(
        task,
        limit=limit,
        model={key: value for key, value in of_model.items() if value is not None},
        options={key: value for key, value in of_task.items() if value is not None},
        decoding=decoding,
    )
    result = None if again else single.result()
    if result is not None:
        notice(f"already done: {single.run.summary_path} (again=True repeats it)")
        return result
    single.prepare()
    _decode(single, again=again, progress=progress)
    return read_summary(single.run.summary_path)


def _decode(single: SingleRun, *, again: bool, progress: bool) -> None:
    log = single.spec.log_path
    log.parent.mkdir(parents=True, exist_ok=True)
    # One that an ended caller left behind may be at work, and its result is what is asked for.
    command = [sys.executable, "-m", "fastdllm", "eval", str(single.run.spec_path), "--wait"]
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:  # another process may be writing there
        child = subprocess.Popen(
            [*command, *["--again"] * again], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        code = _watched(child, single, is_shown=progress)
    finally:
        if child.poll() is None:  # the caller was interrupted
            child.terminate()
            child.wait()
    text = log.read_bytes()[begin:].decode(errors="replace")
    if code == RESUME_EXIT_CODE:
        raise UserError(f"{single.run.name}: stopped by a signal; the same call goes on")
    if code == USER_ERROR_EXIT_CODE:
        raise child_error(text, code)
    if code:
        raise RuntimeError(f"{single.run.name}: {child_error(text, code)} (log: {log})")


def _watched(child: subprocess.Popen[bytes], single: SingleRun, *, is_shown: bool) -> int:
    """Wait for the process, show how far it is, and return its exit code."""
    file = single.run.folder / "progress.json"
    n_requests = sum(planned_sizes(single.plan_folder) or ())
    label = single.run.task_folder
    with tqdm(total=n_requests, desc=label, unit=" items", disable=not is_shown) as bar:
        while True:
            try:
                code = child.wait(LOOK_S)
            except subprocess.TimeoutExpired:
                code = None
            record = json_object(file)
            if code == 0:
                bar.n = n_requests
                bar.refresh()
            elif record:  # also of a process for which this one waits
                bar.n = record.get("items_done", 0)
                speed = record.get("tokens_per_s")
                bar.set_postfix_str(
                    f"{speed:.0f} tokens/s" if speed else str(record.get("state", ""))
                )
            if code is not None:
                return code

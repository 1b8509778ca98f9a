"""The process environment that lm-eval needs, and what of a task is asked before it is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from fastdllm.common.errors import UserError
from fastdllm.common.files import temporary_folder
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource

CODE_REFUSED = (
    "its scores come from running the code in answers, in a sandbox (docs/sandbox.md); to allow "
    "that, set allow_code_execution: true in workflow_config.yaml"
)
# By which `code_eval`, of the library `evaluate`, asks for permission; it knows no sandbox.
CODE_VARIABLE = "HF_ALLOW_CODE_EVAL"
CODE_OUTSIDE = (
    "its scores come from running the code in answers outside of the sandbox (code_eval of "
    "`evaluate`); humaneval and mbpp in tasks/ run it inside, as docs/sandbox.md says; to allow it "
    "nevertheless, set allow_code_execution: true in workflow_config.yaml and unsafe_code: true in "
    f"the file of the task, and export {CODE_VARIABLE}=1"
)


@contextmanager
def lm_eval_environment(
    *, offline: bool, private_cache: bool = True, allows_code: bool = False
) -> Iterator[None]:
    """Silence lm-eval and keep it off the network; the user's own variables win.

    Enter this before lm-eval, datasets or transformers are imported, which read their
    environment variables once.

    offline: no attempt to reach the hub (even local data tries it otherwise).
    private_cache: data sets are cached in a folder of this process only. `datasets` recognises a
        local file by path, time and size, so a shared cache can return rows of an older file. Data
        sets that are loaded from the hub need the shared one.
    allows_code: the variable that lets `code_eval` run answers outside of the sandbox counts.

    Raises:
        UserError: no temporary folder can be made.
    """
    defaults = {"TQDM_DISABLE": "1", "LMEVAL_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false"}
    defaults |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
    if offline:
        # lm-eval asks `evaluate` for a metric it does not know, which goes by the second alone.
        defaults |= {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    with temporary_folder("fastdllm-datasets-") as cache:
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        if not allows_code:
            os.environ.pop(CODE_VARIABLE, None)
        if private_cache:
            os.environ["HF_DATASETS_CACHE"] = cache  # clusters set it for everybody
        yield


def is_here(task: TaskSource) -> bool:
    """Whether all files of a task that are to be here are."""
    try:
        find_task_files(task)
    except UserError:
        return False
    return True


def runs_code(task: TaskSource) -> bool:
    """Whether the scores of a task come from running the code in answers.

    Raises:
        UserError: a file of the task is missing or broken.
    """
    return any(values.get("unsafe_code") for _, values in find_task_files(task).layers)


def code_notices() -> list[str]:
    """Return what the runs of such a task are to say of where this process has run code."""
    from fastdllm.sandbox.programs import best_isolation

    lacking = best_isolation().lacking
    notices = [
        f"the code of answers could reach {', '.join(lacking)}, which the sandbox does not keep "
        "apart where it was scored (docs/sandbox.md)"
    ] * bool(lacking)
    if any(name.endswith(".code_eval") for name in sys.modules):
        notices.append("code of answers was run outside of the sandbox (code_eval of `evaluate`)")
    return notices

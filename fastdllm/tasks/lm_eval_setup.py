"""The process environment that lm-eval needs, and whether the data of a task is local."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastdllm.common.errors import UserError
from fastdllm.common.files import temporary_folder
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource

# By which the metrics of code ask for permission; lm-eval's own switch follows it here.
CODE_VARIABLE = "HF_ALLOW_CODE_EVAL"
CODE_REFUSED = (
    "its scores come from running the code that a model wrote; allow that, best in a container: "
    f"export {CODE_VARIABLE}=1"
)


def allows_code() -> bool:
    """Whether the user lets metrics run the code in answers."""
    return os.environ.get(CODE_VARIABLE) == "1"


@contextmanager
def lm_eval_environment(*, offline: bool, private_cache: bool) -> Iterator[None]:
    """Silence lm-eval and keep it off the network; the user's own variables win.

    Enter this before lm-eval, datasets or transformers are imported, which read their
    environment variables once.

    offline: no attempt to reach the hub (even local data tries it otherwise).
    private_cache: data sets are cached in a folder of this process only. `datasets` recognises a
        local file by path, time and size, so a shared cache can return rows of an older file.

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
        if private_cache:
            os.environ["HF_DATASETS_CACHE"] = cache  # clusters set it for everybody
        yield


def data_is_local(task: TaskSource) -> bool:
    """Whether a task, or each member of a group, reads local files only."""
    if not task.file.is_file():
        return False
    try:
        return find_task_files(task).is_local
    except UserError:
        return True  # load_task says what is wrong with it; that needs no network either

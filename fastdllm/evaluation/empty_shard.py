"""A shard that is asked for no chunk, as a plan may have fewer chunks than the run has jobs.

There is nothing to load for it. Whoever decodes the last chunk finishes the run. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.evaluation.failures import failure_record
from fastdllm.evaluation.lock import shard_lock
from fastdllm.evaluation.plan_checks import check_plan
from fastdllm.evaluation.shards import Shard, lock_path, places, write_stamp
from fastdllm.evaluation.spec import RunSpec
from fastdllm.tasks.plan import read_plan


def stamped_without_chunks(spec: RunSpec, folder: Path, shard: Shard, *, wait: bool) -> bool:
    """Leave the stamp of a shard that has no chunk; False, and nothing done, where it has some.

    wait: wait for a process that works on the same shard, or on the whole run.

    Raises:
        UserError: the plan is missing or another one's, or the folder is locked or unwritable.
    """
    try:
        n_chunks = len(read_json(Path(spec.run.plan_folder) / "plan.json")["chunks"])
    except (UserError, KeyError, TypeError):
        return False  # who reads the whole plan says what is wrong with it
    if shard.chunks(n_chunks):
        return False
    own = places(folder, spec, shard)
    with shard_lock(folder, lock_path(folder, shard), wait=wait), failure_record(own):
        check_plan(spec, read_plan(Path(spec.run.plan_folder), spec.task))
        write_stamp(folder, shard, spec, [])
    return True

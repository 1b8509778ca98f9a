"""Which jobs were stopped though nothing was wrong with them, where SLURM takes none back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fastdllm.cluster.following import Ending
from fastdllm.common.errors import UserError
from fastdllm.runs.attempts import read_attempts
from fastdllm.runs.packs import member_specs, report_path
from fastdllm.runs.stopping import TIME_LIMIT


def was_only_stopped(ending: Ending, outputs: Sequence[Path]) -> bool:
    """Whether a job was preempted, or stopped itself ahead of its time limit, in good order.

    One that would be stopped for ever without finishing a chunk fails by itself instead. One that a
    person cancelled stays so, whatever it went through before: its journal may end with a time
    limit, after which it waited in the queue again.

    Args:
        outputs: of the job, from the project's folder on; they tell the runs, or the shard, whose
            journals count.
    """
    if ending.state != "FAILED":
        return ending.state == "PREEMPTED"
    for output in outputs:
        for folder, shard in _journals(output):
            attempts = [a for a in read_attempts(folder) if a.slurm_job == ending.job_id]
            own = [attempt for attempt in attempts if attempt.shard == shard]
            if own and own[-1].why == TIME_LIMIT:
                return True
    return False


def _journals(output: Path) -> Iterator[tuple[Path, str | None]]:
    """The folders of the runs that a job makes, and the name of the shard where it is one."""
    if output.parent.name == "shards":
        yield output.parents[1], output.stem
        return
    pack = output.parent.name
    if output != report_path(pack):
        yield output.parent, None
        return
    try:
        specs = member_specs(pack)
    except UserError:
        return  # the job itself tells what is wrong with it
    for spec in specs:
        yield Path(spec).parent, None

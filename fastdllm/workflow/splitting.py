"""How the work is split into jobs: one for each run, several for one run, or one for several runs.

Shards share the chunks of one run; the runs of a pack share one process and one loading of the
model. Neither affects the answers. The work of a live job stays split as it was when that job was
submitted, whatever the configuration says by now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastdllm.common.files import date_after, json_object, write_if_changed
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.packs import members_path, members_text, report_path
from fastdllm.runs.shards import Shard, stamp_path
from fastdllm.tasks.plan import planned_sizes
from fastdllm.workflow.project.config_files import WorkflowConfig
from fastdllm.workflow.project.runs import Run
from fastdllm.workflow.status.run_status import RunStatus


@dataclass(frozen=True, slots=True)
class JobSplit:
    """Which runs are split into shards, and which are packed; all others have a job each.

    shards: number of jobs by the name of a run. packs: runs by the id of a pack.
    followed: the packs that a live job works on; it has read its members already.
    """

    shards: Mapping[str, int] = field(default_factory=dict)
    packs: Mapping[str, tuple[Run, ...]] = field(default_factory=dict)
    followed: frozenset[str] = frozenset()

    def parts(self, runs: Iterable[Run]) -> dict[str, list[str]]:
        """Return the files of the parts of each split or packed run, by its summary."""
        files = {
            str(run.summary_path): [str(path) for path in stamp_paths(run, self.shards[run.name])]
            for run in runs
            if run.name in self.shards
        }
        for pack, members in self.packs.items():
            files |= {str(run.summary_path): [str(report_path(pack))] for run in members}
        return files

    def jobs(self, runs: Iterable[Run]) -> int:
        """Return the number of jobs that decode `runs`."""
        packed = {run.name: pack for pack, members in self.packs.items() for run in members}
        names = [run.name for run in runs]
        n_unpacked = sum(self.shards.get(name, 1) for name in names if name not in packed)
        return n_unpacked + len({packed[name] for name in names if name in packed})


def split_into_jobs(statuses: Sequence[RunStatus], config: WorkflowConfig) -> JobSplit:
    """Split the runs that are going to be decoded, and pack those that share a job."""
    shards: dict[str, int] = {}
    packs: dict[str, list[Run]] = {}
    loose: dict[tuple[str, int], list[Run]] = {}
    for status in statuses:
        run, options = status.run, config.task_options(status.run.task)
        job = status.jobs[0] if status.jobs else None
        if job is not None and job.pack is not None:
            packs.setdefault(job.pack, []).append(run)
        elif job is not None and job.shard is not None:
            shards[run.name] = job.shard.count
        elif job is not None:
            continue
        elif (parts := _shards(run, options.shards)) > 1:
            shards[run.name] = parts
        elif options.group > 1:
            loose.setdefault((run.task_folder, options.group), []).append(run)
    followed = frozenset(packs)
    for (task_folder, size), members in loose.items():
        for start in range(0, len(members), size):
            pack = members[start : start + size]
            if len(pack) > 1:
                packs[_pack_id(task_folder, pack)] = pack
    return JobSplit(shards, {pack: tuple(members) for pack, members in packs.items()}, followed)


def _shards(run: Run, wanted: int) -> int:
    """Into how many jobs a run is split: at most one per chunk, unless a larger split has begun."""
    sizes = planned_sizes(run.plan_folder) if wanted > 1 else None
    has_begun = sizes is not None and any((run.folder / "shards").glob(f"*-of-{wanted}.*"))
    return wanted if sizes is None or has_begun else min(wanted, len(sizes))


def stamp_paths(run: Run, shards: int) -> list[Path]:
    """Return the files that show Snakemake which shards of a run are done."""
    return [stamp_path(run.folder, Shard(i, shards)) for i in range(1, shards + 1)]


def update_part_files(split: JobSplit, runs: Sequence[Run]) -> None:
    """Write the members of packs; remove or date the files of parts to be made again."""
    for run in runs:
        if run.name in split.shards:
            for stamp in _invalid(stamp_paths(run, split.shards[run.name]), run):
                stamp.unlink(missing_ok=True)
    for pack, members in split.packs.items():
        if pack in split.followed:
            continue
        path = members_path(pack)
        write_if_changed(path, members_text([run.spec_path for run in members]))
        if report_path(pack).exists():
            # Some of its members are to be made (again), or there would be no such pack now.
            date_after(path, report_path(pack))


def _invalid(paths: Sequence[Path], run: Run) -> list[Path]:
    """Return stamps of answers that are gone, of other settings, or that do not fit the others.

    With dtype: auto, another type of GPU may decode in another dtype, and answers are never mixed:
    those of the last dtype stay. So do those of the code here, unless other code answered all.
    """
    records = {path: json_object(path) for path in paths}
    valid = [path for path, record in records.items() if _is_valid(path, record, run)]
    last = max(valid, key=lambda path: path.stat().st_mtime, default=None)
    dtype = records[last].get("dtype") if last is not None else None
    fitting = {path for path in valid if records[path].get("dtype") in (dtype, None)}
    codes = {path: records[path].get("code_digest") for path in fitting if "dtype" in records[path]}
    is_of_one = all(code == next(iter(codes.values())) for code in codes.values())
    if len(fitting) < len(paths) or not is_of_one:
        fitting -= {path for path, code in codes.items() if code != code_digest()}
    return [path for path in paths if path not in fitting]


def _is_valid(stamp: Path, record: Mapping[str, Any], run: Run) -> bool:
    """Whether the answers of a stamp still exist, for the settings of the run."""
    if record.get("fingerprint") != run.fingerprint:
        return False
    return stamp.with_suffix(".jsonl").exists() or _fingerprint_in(run.answers_path) == (
        run.fingerprint
    )


def _fingerprint_in(answers: Path) -> str | None:
    """Return the fingerprint in the header of an answers.jsonl."""
    try:
        with answers.open(encoding="utf-8") as stream:
            header = json.loads(stream.readline())
    except (OSError, ValueError):
        return None
    return header.get("fingerprint") if isinstance(header, dict) else None


def _pack_id(task_folder: str, members: Sequence[Run]) -> str:
    digest = hashlib.sha256("\n".join(f"{m.name} {m.fingerprint}" for m in members).encode())
    return f"{task_folder}-{digest.hexdigest()[:8]}"

"""Where a pack, several runs in one job, says what is in it and what became of it."""

from __future__ import annotations

from pathlib import Path

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json
from fastdllm.common.paths import RESULTS

PACKS = RESULTS / "_packs"
SCHEMA_VERSION = 1


def members_path(pack: str) -> Path:
    return PACKS / pack / "members.json"


def report_path(pack: str) -> Path:
    """The file that tells Snakemake that a pack has run through."""
    return PACKS / pack / "report.json"


def member_specs(pack: str) -> list[str]:
    """The specs of the runs in a pack, as its job is told them.

    Raises:
        UserError: its members.json is gone or damaged.
    """
    record = read_json(members_path(pack))
    specs = record.get("specs") if isinstance(record, dict) else None
    if not isinstance(specs, list):
        raise UserError(f"{members_path(pack)}: damaged; type the same snakemake command again")
    return [str(spec) for spec in specs]

"""Records in artifacts/ that carry a digest of their content, by which an edited one is refused.

summary.json has its own layout and names (summary.py); speed.json and claims.json are written here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, to_json
from fastdllm.records.result_files import DIGEST, content_digest, take_digest
from fastdllm.validation import validated

Record = TypeVar("Record", bound=BaseModel)


def signed_text(record: BaseModel) -> str:
    """Return the text of a record, what is absent left out, with the digest of its content."""
    values = record.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={DIGEST})
    # In the order in which the keys are read again.
    return to_json({**values, DIGEST: content_digest(json.loads(to_json(values)))})


def read_signed(path: Path, kind: type[Record], *, version: int, again: str) -> Record:
    """Read and check a record.

    Args:
        version: of the layout. again: what writes the file with this version of fastdllm.

    Raises:
        UserError: missing, not JSON, of another version, or edited by hand.
    """
    values = read_json(path)
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != version:
        raise UserError(
            f"{path}: schema_version {found!r} is not {version}; with this version of fastdllm "
            f"{again}"
        )
    problem = take_digest(values)
    record = validated(kind, values, str(path))
    if problem is not None:
        raise UserError(f"{path}: {problem}")
    return record

"""Small files, written completely or not at all.

The text goes to a temporary file in the same folder, is flushed to disk, and then replaces the old
file, so that a reader never sees half of it. What the file system refuses (read-only folder, full
disk) becomes a one-line `UserError`, and the old file stays as it was.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastdllm.common.errors import UserError

_ADVICE = {
    errno.EACCES: "make the folder writable (chmod u+w) or work in a copy of the project",
    errno.EPERM: "make the folder writable (chmod u+w) or work in a copy of the project",
    errno.EROFS: "the file system is read-only; work in a copy of the project",
    errno.ENOSPC: "the disk is full; free some space, then type the same command again",
    errno.EDQUOT: "your quota is used up; free some space, then type the same command again",
    errno.ENOTDIR: "a file stands where a folder is needed; rename or remove it",
    errno.EEXIST: "a file stands where a folder is needed; rename or remove it",
    errno.EISDIR: "a folder stands where a file is needed; rename or remove it",
}


def write_text_atomically(path: str | Path, text: str, *, is_flushed: bool = True) -> None:
    """Write `text` as UTF-8 to `path`, creating its folder.

    Args:
        is_flushed: to disk, so that it survives a power failure; thousands of files that the next
            command makes again would wait longer for that than for all else.

    Raises:
        UserError: the file system refused, or the text holds a file's name that is not UTF-8; the
            old content is intact, and nothing else is left.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        name = error.object[max(0, error.start - 20) : error.end + 10]
        raise UserError(
            f"cannot write {path}: {name!r} is not UTF-8 text; if it is a file or folder, rename it"
        ) from None
    write_bytes_atomically(Path(path), content, is_flushed=is_flushed)


def write_bytes_atomically(path: Path, content: bytes, *, is_flushed: bool = True) -> None:
    """Write a file, creating its folder; is_flushed: see `write_text_atomically`.

    Raises:
        UserError: the file system refused; the old content is intact, and nothing else is left.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            # mkstemp makes private files; a project folder is often shared within a group.
            os.fchmod(stream.fileno(), 0o666 & ~_umask())
            if is_flushed:
                os.fsync(stream.fileno())
        Path(temporary).replace(path)
        temporary = None
    except OSError as error:
        raise cannot("write", path, error) from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Refuse a place for a file before the work whose result goes there; creates its folder.

    Raises:
        UserError: a folder stands there, or its own folder cannot be made or not be written.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise cannot("write", path, error) from None


def write_json_atomically(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON with sorted keys; NaN and infinities are refused."""
    write_text_atomically(path, to_json(value))


def to_json(value: Any) -> str:
    """Return `value` in this project's JSON layout: sorted keys, two spaces, a final newline."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_if_changed(path: Path, text: str, *, is_flushed: bool = True) -> bool:
    """Write a text file, unless it already has that content; return whether it was written.

    is_flushed: see `write_text_atomically`.

    Raises:
        UserError: the file system refused.
    """
    try:
        if path.read_text(encoding="utf-8") == text:
            return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    except OSError as error:
        raise cannot("read", path, error) from None
    write_text_atomically(path, text, is_flushed=is_flushed)
    return True


# An input of this date is older than any output.
EPOCH_S = 0


def date(path: Path, seconds: float) -> None:
    """Set the modification time of a file, in seconds since the epoch.

    Raises:
        OSError: the file system refused.
    """
    if path.stat().st_mtime == seconds:
        return
    try:
        os.utime(path, (seconds, seconds))
    except PermissionError:
        # Only the owner may set the date of a file; in a group's folder a new file can replace it.
        write_text_atomically(path, path.read_text(encoding="utf-8"))
        os.utime(path, (seconds, seconds))


def date_after(path: Path, output: Path) -> None:
    """Make a file newer than what was made from it, so that Snakemake makes that again.

    Neither is dated in the future: the file would be newer than what is made next, too.
    """
    output_s, now_s = output.stat().st_mtime, time.time()
    if path.stat().st_mtime <= output_s:
        # It was made within this second, or dated by the clock of another machine.
        date(output, min(output_s, now_s - 1))
        date(path, now_s)


def stamp(path: Path, inputs: Iterable[Path]) -> None:
    """Leave a file without content that is as new as the newest of `inputs`.

    Raises:
        OSError: one of them is gone, or the file system refused.
    """
    newest_s = max(other.stat().st_mtime for other in inputs)
    if not path.exists():
        write_text_atomically(path, "")
    if path.stat().st_mtime < newest_s:
        date(path, newest_s)


def temporary_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Make a temporary folder, which is removed where its context ends.

    Raises:
        UserError: none can be made.
    """
    try:
        return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"no temporary folder: {reason}; set TMPDIR to one with room") from None


def read_text(path: str | Path) -> str:
    """Read a text file.

    Raises:
        UserError: it is missing or not readable.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise cannot("read", path, error) from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it is missing, not readable, or not JSON (an empty or half-written file, or one
            with a NaN, which Python's own reader takes).
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from None
    return json_of(content, path)


def json_of(content: bytes, path: str | Path) -> Any:
    """Return what the JSON in `content` says; `path`, where it is from, opens the error line.

    Raises:
        UserError: as of `read_json`.
    """
    if not content.strip():
        raise UserError(f"{path}: the file is empty")
    no_numbers: list[str] = []

    def as_float(name: str) -> float:
        no_numbers.append(name)
        return float(name)

    try:
        value = json.loads(content, parse_constant=as_float)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None
    if no_numbers:
        place = next(_not_finite(value), "a key given twice")
        raise UserError(f"{path}: {place}: {no_numbers[0]} is no number; make the file again")
    return value


def read_json_object(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: as of `read_json`, or it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def _not_finite(value: Any, place: str = "") -> Iterator[str]:
    """Yield the place of each number that is NaN or infinite, such as `metrics.0.value`."""
    if isinstance(value, float) and not math.isfinite(value):
        yield place
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    for key, inner in parts:
        yield from _not_finite(inner, f"{place}.{key}" if place else str(key))


def json_object(path: str | Path) -> dict[str, Any]:
    """Return the JSON object in a file; {} if it is missing, damaged, or holds something else."""
    try:
        value = read_json(path)
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def now(timespec: str = "seconds") -> str:
    """Return the time as records keep it: UTC in ISO 8601; timespec as in `datetime.isoformat`."""
    return datetime.now(UTC).isoformat(timespec=timespec)


def cannot(verb: str, path: str | Path, error: OSError) -> UserError:
    """Build the error for a refused file operation: which file, why, what to do."""
    reason = error.strerror or type(error).__name__
    advice = _ADVICE.get(error.errno or 0)
    if verb in ("read", "use") and error.errno in (errno.EACCES, errno.EPERM):
        advice = "make it readable (chmod u+r, or u+rx of its folders), or ask its owner to"
    return UserError(f"cannot {verb} {path}: {reason}" + (f"; {advice}" if advice else ""))


def is_own(path: Path) -> bool:
    """Whether a file is this user's, or is not there."""
    try:
        return path.stat().st_uid == os.getuid()
    except OSError:
        return True


def _umask() -> int:
    # The process mask can only be read by setting it; 0o077 keeps the moment private.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask

"""An environment as one file: packed once on scratch, unpacked by each job on its local disk.

A virtual environment finds its packages by the location of its `python`, so a copy works wherever
it is; the scripts in bin/, which name their environment, are written anew. Uses only the standard
library and `tar`, and zstd if it is installed, as it unpacks several times as fast as gzip. Both
formats carry checksums, so a damaged archive fails when it is unpacked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastdllm.cluster.venv import READY, RECORD, count_files, read_record
from fastdllm.common.errors import UserError
from fastdllm.common.files import cannot
from fastdllm.common.locks import take_lock

# Level 3 is zstd's own default: higher ones cost minutes, and unpacking gets no faster.
_PACK = {".tar.zst": "zstd -3 -T0 --quiet", ".tar.gz": "gzip -3"}
_UNPACK = {".tar.zst": "zstd", ".tar.gz": "gzip"}
# As `activate` names its environment.
_PLACE = re.compile(rb"^ *VIRTUAL_ENV=[\"']?(/[^\"'\n]+)", re.MULTILINE)
# Of the space that the copy needs: a node's disk is shared, and file systems need room to work.
_SPARE = 1.1


class NotUnpacked(Exception):
    """Why an archive cannot be used here; the message follows "the environment's archive:"."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive that was written, its size, and the size of its content."""

    path: Path
    bytes: int
    unpacked_bytes: int


def pack(venv: Path) -> Packed:
    """Write an environment into one archive beside its folder; replace an older one at the end.

    Raises:
        UserError: the environment is incomplete, tar is missing or fails, or the disk is full.
    """
    venv = venv.resolve()
    if not (venv / READY).exists():
        raise UserError(f"{venv}: incomplete, so it is not packed; make setup-cluster")
    ending = ".tar.zst" if shutil.which("zstd") else ".tar.gz"
    path = venv.with_name(venv.name + ending)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    command = ["tar", "--create", "--file", str(temporary), "--use-compress-program", _PACK[ending]]
    try:
        _run([*command, "--directory", str(venv.parent), venv.name], f"cannot pack {venv}")
        temporary.replace(path)
    except OSError as error:
        raise cannot("write", path, error) from None
    finally:
        temporary.unlink(missing_ok=True)
    for other in set(_PACK) - {ending}:
        # An archive of the other kind would hold an older environment under the same name.
        venv.with_name(venv.name + other).unlink(missing_ok=True)
    return Packed(path, path.stat().st_size, _unpacked_bytes(venv))


def find_archive(venv: Path) -> Path | None:
    """Return the archive of an environment, if it was packed after the environment was built."""
    venv = venv.resolve()
    for ending in _PACK:
        path = venv.with_name(venv.name + ending)
        if path.is_file() and path.stat().st_mtime >= _built_at(venv):
            return path
    return None


def unpack_on_node(archive: Path, venv: Path) -> Path:
    """Unpack the archive of `venv` below $TMPDIR (see `unpack`)."""
    place = os.environ.get("TMPDIR")
    if not place or not Path(place).is_dir():
        raise NotUnpacked(f"no folder TMPDIR here ({place})" if place else "TMPDIR is not set")
    return unpack(archive, venv, Path(place))


def unpack(archive: Path, venv: Path, folder: Path) -> Path:
    """Unpack the archive of `venv` below `folder`, unless it is there already; return the copy.

    Processes of one node take turns; what a killed or failed one leaves is removed.

    Raises:
        NotUnpacked: the archive is missing, older than the environment or damaged, the folder is
            of another user or full, or zstd is missing here.
    """
    ending = next((ending for ending in _UNPACK if archive.name.endswith(ending)), None)
    if ending is None or archive.name.removesuffix(ending) != venv.name:
        raise NotUnpacked(f"{archive} is not that of {venv.name}; fastdllm env --pack")
    if not archive.is_file():
        raise NotUnpacked(f"{archive} does not exist; fastdllm env --pack")
    if archive.stat().st_mtime < _built_at(venv):
        raise NotUnpacked(f"{archive.name} is older than the environment; fastdllm env --pack")
    if shutil.which(_UNPACK[ending]) is None:
        raise NotUnpacked(f"no {_UNPACK[ending]} on this node")
    try:
        with _private(folder) as place:
            copy = place / venv.name
            if _is_copy(copy, venv):
                return copy
            _remove(copy)
            free_gib = shutil.disk_usage(place).free / 2**30
            needed_gib = _SPARE * _unpacked_bytes(venv) / 2**30
            if free_gib < needed_gib:
                raise NotUnpacked(
                    f"{place} has {free_gib:.1f} of the {needed_gib:.1f} GiB that are needed"
                )
            part = place / f"{venv.name}.part"
            _remove(part)
            part.mkdir()
            try:
                command = ["tar", "--extract", "--no-same-owner", "--file", str(archive)]
                command += ["--directory", str(part), "--use-compress-program", _UNPACK[ending]]
                _run(command, "cannot unpack it")
                if not _is_copy(part / venv.name, venv):
                    raise NotUnpacked("it holds another environment; fastdllm env --pack")
                _rename_in_scripts(part / venv.name / "bin", copy)
                (part / venv.name).rename(copy)
            finally:
                _remove(part)
            return copy
    except UserError as error:
        raise NotUnpacked(str(error)) from None
    except OSError as error:
        raise NotUnpacked(f"{folder}: {error.strerror or error}") from None


@contextmanager
def _private(folder: Path) -> Iterator[Path]:
    """Yield a locked folder of this user; in /tmp, another user may have made one of its name."""
    place = folder / f"fastdllm-env-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    if place.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise NotUnpacked(f"{place} can be written by others")
    with (place / "lock").open("w") as stream:
        take_lock(stream.fileno(), wait=True)
        yield place


def _rename_in_scripts(scripts: Path, place: Path) -> None:
    """Let the scripts of an environment, which name its place, name another one."""
    found = _PLACE.search((scripts / "activate").read_bytes())
    if found is None:
        return
    for script in scripts.iterdir():
        if script.is_symlink() or not script.is_file():
            continue
        content = script.read_bytes()
        is_text = content.startswith(b"#!") or script.name.lower().startswith("activate")
        if is_text and found[1] in content:
            script.write_bytes(content.replace(found[1], os.fsencode(place)))


def _is_copy(copy: Path, venv: Path) -> bool:
    return (
        (copy / READY).exists()
        and (copy / "bin" / "python").exists()
        and read_record(copy) == read_record(venv)
    )


def _built_at(venv: Path) -> float:
    # The record is written once, at the end; .ready gets new dates for `make`.
    try:
        return (venv / RECORD).stat().st_mtime
    except OSError:
        return 0.0


def _unpacked_bytes(venv: Path) -> int:
    built = read_record(venv)
    return built.bytes if built is not None else count_files(venv)[1]


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _run(command: list[str], what: str) -> None:
    try:
        completed = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"{what}: no tar here") from None
    if completed.returncode:
        lines = completed.stderr.strip().splitlines() or [f"exit code {completed.returncode}"]
        raise UserError(f"{what}: {lines[0]}")

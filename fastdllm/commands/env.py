"""`fastdllm env`: which environment this is, whether it is complete, and where caches go.

`make setup-cluster` builds it on scratch. --pack writes it into one archive, which jobs unpack on
their node when FASTDLLM_ENV_ARCHIVE names it, and --local in an interactive session:

    source <(fastdllm env --local)
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from pathlib import Path

# The units of `readable`; rich may be what a broken environment lacks.
SUFFIXES = ("B", "KB", "MB", "GB", "TB")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pack", action="store_true", help="write the archive that jobs unpack on their node"
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="unpack the archive to this node's $TMPDIR and print what activates the copy: source "
        "<(fastdllm env --local)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check each file of each package (a minute on scratch)",
    )


def run(args: argparse.Namespace) -> int:
    from fastdllm.common.errors import UserError

    venv = Path(sys.prefix)
    if sys.prefix == sys.base_prefix:
        raise UserError(
            f"{sys.executable}: not in a virtual environment; make setup-cluster builds one, and "
            ".venv/bin/fastdllm runs in it"
        )
    if args.check:
        return _check(venv)
    if args.pack:
        return _pack(venv)
    if args.local:
        return _local(venv)
    sys.stdout.write("\n".join(_lines(venv)) + "\n")
    return 0


def _lines(venv: Path) -> list[str]:
    from fastdllm.cluster.archive import find_archive
    from fastdllm.cluster.build import CACHES
    from fastdllm.cluster.venv import cache_folders, problems, read_record
    from fastdllm.launch import ARCHIVE_VARIABLE

    place, project = venv.resolve(), Path()
    wrong, built = problems(venv, project), read_record(venv)
    lines = [f"environment  {venv}" + (f" -> {place}" if place != venv else "")]
    remedy = "make setup-cluster" if Path(".venv").is_symlink() else "make setup"
    lines += [f"state        {problem}; {remedy}" for problem in wrong]
    if not wrong:
        lines.append("state        complete, as pyproject.toml and constraints.txt ask for")
    if built is not None:
        size = f"{readable(built.bytes)} in {built.files:,} files"
        lines.append(f"built        {built.built}, Python {built.python}, {size}")
    archive = find_archive(venv)
    if archive is None:
        lines.append("archive      none (fastdllm env --pack)")
    else:
        wanted = os.environ.get(ARCHIVE_VARIABLE)
        used = "jobs unpack it" if wanted == str(archive) else f"unused; {use_line(archive)}"
        lines.append(f"archive      {archive}, {readable(archive.stat().st_size)}, {used}")
    for name, (folder, is_set) in cache_folders().items():
        unset = f" (not set; source {venv / CACHES})" if (venv / CACHES).is_file() else " (not set)"
        lines.append(f"{name:<14} {folder}{'' if is_set else unset}")
    siblings = place.parent.glob("venv-*")
    others = sorted(p for p in siblings if p.is_dir() and p != place) if _is_shared(place) else []
    for other in others:
        lines.append(f"another one  {other}")
    return lines


def _pack(venv: Path) -> int:
    from fastdllm.cluster.archive import pack

    started = time.monotonic()
    packed = pack(venv)
    sys.stdout.write(
        f"{packed.path}: {readable(packed.bytes)} of {readable(packed.unpacked_bytes)}, in "
        f"{time.monotonic() - started:.0f} s\nfor jobs to use it: {use_line(packed.path)}\n"
    )
    return 0


def _local(venv: Path) -> int:
    from fastdllm.cluster.archive import NotUnpacked, find_archive, unpack_on_node
    from fastdllm.common.console import notice
    from fastdllm.common.errors import UserError
    from fastdllm.launch import ARCHIVE_VARIABLE

    started = time.monotonic()
    archive = os.environ.get(ARCHIVE_VARIABLE) or find_archive(venv)
    if archive is None:
        raise UserError(f"{venv}: has no archive yet; write it once, with fastdllm env --pack")
    try:
        copy = unpack_on_node(Path(archive), venv.resolve())
    except NotUnpacked as error:
        raise UserError(f"the environment's archive: {error}") from None
    notice(f"the environment is {copy}, ready in {time.monotonic() - started:.1f} s")
    sys.stdout.write(f". {shlex.quote(str(copy / 'bin' / 'activate'))}\n")
    return 0


def _check(venv: Path) -> int:
    from fastdllm.cluster.venv import READY, UNFINISHED, damaged_files
    from fastdllm.common.errors import UserError

    damaged = damaged_files(venv)
    if damaged:
        # So that the next set-up starts from scratch; pip itself would see all packages installed.
        (venv / UNFINISHED).touch()
        (venv / READY).unlink(missing_ok=True)
        remedy = "make setup-cluster" if Path(".venv").is_symlink() else "make setup"
        raise UserError(
            f"{damaged[0]}: missing or changed (of {len(damaged)}); {remedy} repairs it"
        )
    sys.stdout.write(f"{venv}: all files of all packages are there\n")
    return 0


def _is_shared(place: Path) -> bool:
    return place.name.startswith("venv-")


def use_line(archive: Path) -> str:
    """Return the shell line that makes jobs unpack an archive."""
    from fastdllm.launch import ARCHIVE_VARIABLE

    return f"export {ARCHIVE_VARIABLE}={shlex.quote(str(archive))}"


def readable(size: float) -> str:
    """Return bytes with a unit, in powers of 1,000 as disks are sold: 812 MB."""
    for suffix in SUFFIXES:
        if size < 1000 or suffix == SUFFIXES[-1]:
            break
        size /= 1000
    return f"{size:.0f} {suffix}" if size >= 10 or suffix == "B" else f"{size:.1f} {suffix}"

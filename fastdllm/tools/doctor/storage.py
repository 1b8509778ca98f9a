"""Checks of disk space and quotas, and of the locks and the clock that results/ needs."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

from fastdllm.cluster.checks import check_folder, check_link
from fastdllm.common.errors import UserError
from fastdllm.common.locks import is_locked, take_lock
from fastdllm.common.paths import RESULTS, expanded
from fastdllm.tools.doctor.finding import DoctorFinding, ok, printed_by, problem, warn

GIB = 2**30
SCARCE_GIB = 5.0
# A grid leaves thousands of small files.
SCARCE_FILES = 10_000
HIGH_PERCENT, FULL_PERCENT = 90.0, 99.0
# File dates decide what runs again, so nodes whose clocks differ run too much or too little.
CLOCK_WARN_S, CLOCK_PROBLEM_S = 2.0, 60.0


def look_at_disks() -> list[DoctorFinding]:
    """Check the free space of home, scratch and results, each file system once; write a file."""
    places = {
        "results": nearest_folder(RESULTS),
        "scratch": expanded("~/scratch"),
        "home": expanded("~"),
    }
    findings, seen = [], set()
    for name, folder in places.items():
        if not folder.is_dir() or (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        findings.append(_room(name, folder))
    try:
        check_link(RESULTS)
        check_folder(nearest_folder(RESULTS))
    except UserError as error:
        findings.append(problem("results", str(error), "no run can be stored until this is fixed"))
    return findings


def look_at_quota() -> list[DoctorFinding]:
    """Check quotas with the site's own command, else with `quota`; nothing if there is neither."""
    text = printed_by("pace-quota")
    if text is not None:
        used = [
            (float(value), line.strip())
            for line in text.splitlines()
            for value in re.findall(r"(\d+(?:\.\d+)?)\s*%", line)
        ]
        return (
            [_quota("pace-quota", max(used))]
            if used
            else [ok("quota", "pace-quota shows none used up")]
        )
    text = printed_by("quota", "--no-wrap", "--user")
    shares = [share for line in (text or "").splitlines() if (share := _share(line)) is not None]
    return [_quota("quota", max(shares))] if shares else []


def look_at_locks() -> list[DoctorFinding]:
    """Check that a lock in results/ excludes a second process."""
    folder = nearest_folder(RESULTS)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".fastdllm.") as first:
            is_taken = take_lock(first.fileno())
            is_seen = is_locked(Path(first.name))
        if is_taken and is_seen:
            return [ok("locks", f"files in {folder.resolve()} can be locked")]
        what = "locks are granted to everybody" if is_taken and is_seen is False else "no locks"
    except OSError as error:
        what = error.strerror or "no locks"
    fix = "put the project on another file system: two evals could write one file"
    return [problem("locks", f"{folder.resolve()}: {what}", fix)]


def look_at_clock() -> list[DoctorFinding]:
    """Compare this machine's clock with that of the file server."""
    try:
        with tempfile.NamedTemporaryFile(
            dir=nearest_folder(RESULTS), prefix=".fastdllm."
        ) as stream:
            before = time.time()
            stream.write(b"x")
            stream.flush()
            os.fsync(stream.fileno())
            after, dated = time.time(), Path(stream.name).stat().st_mtime
    except OSError:
        return []  # look_at_disks reports that nothing can be written
    return [clock_finding(max(before - dated, dated - after, 0.0))]


def clock_finding(offset_s: float) -> DoctorFinding:
    """Judge an offset in seconds."""
    if offset_s <= CLOCK_WARN_S:
        return ok("clock", f"agrees with the file server (within {CLOCK_WARN_S:g} s)")
    make = problem if offset_s > CLOCK_PROBLEM_S else warn
    return make(
        "clock",
        f"{offset_s:.0f} s away from the file server's",
        "file dates decide what runs again: tell your site, and work on another node",
    )


def nearest_folder(path: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def _room(name: str, folder: Path) -> DoctorFinding:
    status = os.statvfs(folder)
    free_gib = status.f_bavail * status.f_frsize / GIB
    text = f"{folder.resolve()}: {free_gib:,.1f} GiB free"
    # File systems without a table of files say 0 of 0.
    if status.f_files and status.f_favail < SCARCE_FILES:
        text += f", room for {status.f_favail:,} files"
        return warn(name, text, "remove old results or environments (fastdllm env lists them)")
    if free_gib < SCARCE_GIB:
        return warn(name, text, "free some before a grid is submitted")
    return ok(name, text)


def _share(line: str) -> tuple[float, str] | None:
    """Percent of a line of `quota`: file system, blocks, quota, limit, ..."""
    fields = line.split()
    numbers = [field.rstrip("*") for field in fields[1:4]]
    if len(numbers) < 3 or not all(number.isdigit() for number in numbers):
        return None
    used, soft, hard = map(int, numbers)
    limit = hard or soft
    return (100 * used / limit, line.strip()) if limit else None


def _quota(command: str, fullest: tuple[float, str]) -> DoctorFinding:
    percent, line = fullest
    text = f"{percent:.0f} % of the fullest is used"
    if percent < HIGH_PERCENT:
        return ok("quota", f"{text} ({command})")
    make = problem if percent >= FULL_PERCENT else warn
    return make("quota", f"{text}: {' '.join(line.split())}", f"free some ({command} shows all)")

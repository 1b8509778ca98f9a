"""scripts/setup.sh with a pretended Python: what a fresh or a broken machine gets to see."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.run_project import PATIENCE_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

# Answers what the script asks; "-m venv" makes a folder whose pip notes each installation, takes a
# moment, or as long as the file `hold` is there, and fails while the file `broken` is. As in all
# environments, not every file can be compiled.
PRETENDED = """\
#!/bin/sh
case "$*" in
*fastdllm.cluster.build*) PYTHONPATH={root} exec {real} "$@" ;;
*"print("*) echo {version} ;;
*"version_info <"*) exit {too_old} ;;
*ensurepip*) exit {no_ensurepip} ;;
*"-m venv"*)
    for venv; do :; done
    rm -rf "$venv"
    mkdir -p "$venv/bin"
    echo made >> made
    cat > "$venv/bin/python" <<'PIP'
#!/bin/sh
case "$*" in
*install*)
    echo installed >> installed
    sleep 0.2
    while [ -e hold ]; do sleep 0.05; done
    test ! -e broken ;;
*compileall*)
    echo compiled >> compiled
    exit 1 ;;
esac
PIP
    touch "$venv/bin/activate"
    chmod +x "$venv/bin/python" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    return folder


def set_up(
    folder: Path, *arguments: str, version: str = "3.12", too_old: int = 0, no_ensurepip: int = 0
) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments, version=version, too_old=too_old, no_ensurepip=no_ensurepip)
    out, err = process.communicate(timeout=PATIENCE_S)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def start(
    folder: Path, *arguments: str, version: str = "3.12", too_old: int = 0, no_ensurepip: int = 0
) -> subprocess.Popen[str]:
    """Start the script with a pretended Python behind the first of `arguments`, if any."""
    python = folder / "python"
    if not python.exists():
        python.write_text(
            PRETENDED.format(
                version=version,
                too_old=too_old,
                no_ensurepip=no_ensurepip,
                root=ROOT,
                real=sys.executable,
            )
        )
        python.chmod(0o755)
    words = [*arguments[:1], str(python), *arguments[1:]]
    return subprocess.Popen(
        ["bash", "scripts/setup.sh", *words],
        cwd=folder,
        env={**os.environ, "HOME": str(folder.parent), "FASTDLLM_SCRATCH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def count(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ({"version": "3.9", "too_old": 1}, "is Python 3.9; 3.11 or newer is needed"),
        ({"no_ensurepip": 1}, "apt install python3.12-venv"),
    ],
)
def test_an_unfit_python_is_one_line(folder: Path, machine: dict, says: str) -> None:
    done = set_up(folder, **machine)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (folder / ".venv").exists()


def test_no_python_is_one_line(folder: Path) -> None:
    done = subprocess.run(
        ["bash", "scripts/setup.sh", "python9"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "install Python 3.11 or newer" in done.stderr


def test_an_interrupted_set_up_is_repaired_by_the_same_command(folder: Path) -> None:
    (folder / "broken").touch()
    done = set_up(folder)
    assert done.returncode == 2
    assert "run the same command again" in done.stderr
    assert not (folder / ".venv" / ".ready").exists()
    assert not (folder / "compiled").exists()
    (folder / "broken").unlink()
    assert set_up(folder).returncode == 0
    assert count(folder / "compiled") == 1
    assert (folder / ".venv" / ".ready").exists()
    again = set_up(folder)
    assert (again.returncode, again.stdout) == (0, ""), "nothing to do the second time"


def test_packages_half_installed_by_a_killed_set_up_are_thrown_away(folder: Path) -> None:
    assert set_up(folder).returncode == 0
    (folder / ".venv" / ".unfinished").touch()
    os.utime(folder / "constraints.txt")
    assert set_up(folder).returncode == 0
    assert count(folder / "made") == 2
    assert not (folder / ".venv" / ".unfinished").exists()


def test_on_a_cluster_the_packages_are_on_scratch_and_venv_is_a_link(folder: Path) -> None:
    scratch = folder.parent / "scratch"
    scratch.mkdir()
    done = set_up(folder, "--cluster")
    assert done.returncode == 0, done.stderr
    venv = (folder / ".venv").resolve()
    assert venv.parent == scratch / "fastdllm"
    assert venv.name.startswith("venv-")
    caches = subprocess.run(
        ["bash", "-c", f'. "{venv}/bin/activate"; echo $XDG_CACHE_HOME $HF_HOME $PIP_CACHE_DIR'],
        env={"PATH": os.environ["PATH"], "HF_HOME": "/mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    home = scratch / "fastdllm" / "cache"
    assert caches.stdout.split() == [str(home), "/mine", str(home / "pip")]
    # `make` calls the script without --cluster when constraints.txt is newer.
    (folder / "constraints.txt").write_text("torch==9.9\n")
    assert set_up(folder).returncode == 0
    newer = (folder / ".venv").resolve()
    assert newer.parent == venv.parent
    assert newer != venv
    (folder / "constraints.txt").write_text("")
    assert set_up(folder).returncode == 0
    assert (folder / ".venv").resolve() == venv, "the earlier environment is taken up again"
    assert count(folder / "installed") == 2


def test_a_linter_rule_is_no_reason_to_build_anew(folder: Path) -> None:
    assert set_up(folder, "--cluster", str(folder.parent / "big")).returncode == 0
    venv = (folder / ".venv").resolve()
    (folder / "pyproject.toml").write_text("[tool.ruff]\nline-length = 99\n")
    assert set_up(folder).returncode == 0
    assert (folder / ".venv").resolve() == venv
    assert (venv / ".ready").stat().st_mtime >= (folder / "pyproject.toml").stat().st_mtime


def test_twenty_set_ups_at_once_are_one_build(folder: Path) -> None:
    (folder.parent / "scratch").mkdir()
    processes = [start(folder, "--cluster") for _ in range(20)]
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, err) == (0, "")
    assert count(folder / "installed") == 1


def test_a_killed_builder_is_replaced_by_one_that_waits(folder: Path) -> None:
    (folder.parent / "scratch").mkdir()
    (folder / "hold").touch()
    first = start(folder, "--cluster")
    wait_until(lambda: count(folder / "installed") == 1)
    second = start(folder, "--cluster")
    assert second.stdout is not None
    assert "waiting for the set-up of process" in second.stdout.readline()
    first.send_signal(signal.SIGKILL)
    # Its pip lives on and is waited for: two must not write at once.
    (folder / "hold").unlink()
    out, err = second.communicate(timeout=PATIENCE_S)
    assert (second.returncode, err) == (0, "")
    assert "creating" in out, "what the killed one left is thrown away"
    assert count(folder / "installed") == 2
    first.communicate()


@pytest.mark.parametrize(
    ("prepare", "scratch", "says"),
    [
        (lambda folder: (folder / ".venv").mkdir(), "/big", "remove it first: rm -rf .venv"),
        (lambda folder: folder.exists(), "", "there is no ~/scratch here; choose where"),
        (lambda folder: (folder / "file").touch(), "file/venvs", "a file stands where a folder"),
    ],
)
def test_a_place_that_does_not_fit_is_one_line(
    folder: Path, prepare: Callable[[Path], object], scratch: str, says: str
) -> None:
    prepare(folder)
    done = set_up(folder, "--cluster", scratch)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def wait_until(condition: Callable[[], bool], *, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

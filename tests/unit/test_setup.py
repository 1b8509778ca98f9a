"""scripts/setup.sh with a pretended Python: what a fresh or a broken machine gets to see."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Answers what the script asks; "-m venv" makes a .venv whose pip fails while the file `broken` is.
PRETENDED = """\
#!/bin/sh
case "$*" in
*"print("*) echo {version} ;;
*"version_info <"*) exit {too_old} ;;
*ensurepip*) exit {no_ensurepip} ;;
*"-m venv"*)
    mkdir -p .venv/bin
    printf '#!/bin/sh\\ncase "$*" in *install*) test ! -e broken ;; esac\\n' > .venv/bin/python
    chmod +x .venv/bin/python ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", tmp_path / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    return tmp_path


def set_up(
    folder: Path, *, version: str = "3.12", too_old: int = 0, no_ensurepip: int = 0
) -> subprocess.CompletedProcess[str]:
    python = folder / "python"
    python.write_text(PRETENDED.format(version=version, too_old=too_old, no_ensurepip=no_ensurepip))
    python.chmod(0o755)
    return subprocess.run(
        ["bash", "scripts/setup.sh", str(python)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


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
    (folder / "broken").unlink()
    assert set_up(folder).returncode == 0
    assert (folder / ".venv" / ".ready").exists()
    again = set_up(folder)
    assert (again.returncode, again.stdout) == (0, ""), "nothing to do the second time"

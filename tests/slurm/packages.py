"""SLURM's programs: found, installed by apt, or the reason why they are missing."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

# Program -> Debian package.
PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
}
# Daemons live where an ordinary user's PATH does not lead.
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def program(name: str) -> str:
    """Return the path of a program that `missing_packages` found."""
    found = shutil.which(name, path=SEARCHED)
    assert found, f"{name} is not installed"
    return found


def missing_packages() -> list[str]:
    """Return the Debian packages whose programs are missing."""
    return sorted({PROGRAMS[name] for name in PROGRAMS if not shutil.which(name, path=SEARCHED)})


def why_absent() -> str:
    """Install what is missing if possible; return the reason if not, else ""."""
    if not missing_packages():
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return f"no SLURM here: install the packages {' '.join(missing_packages())}"
    # One worker installs, the others wait and find the packages.
    with (Path(tempfile.gettempdir()) / "fastdllm-slurm-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        packages = missing_packages()
        said = _install(packages) if packages else ""
    still = missing_packages()
    return f"apt-get install {' '.join(still)} failed: {said[-500:]}" if still else ""


def _install(packages: list[str]) -> str:
    """Return the output of apt. In runlevel 1 the packages start no services of the machine."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    options = ["-y", "-qq", "--no-install-recommends"]
    said = ""
    for command in (["update", "-qq"], ["install", *options, *packages]):
        done = subprocess.run(
            ["apt-get", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said += done.stdout + done.stderr
    return said

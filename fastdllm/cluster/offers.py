"""What a cluster lets this user ask for: accounts with their QOS, partitions with their GPUs.

Nothing is known where a command of SLURM does not answer: a caller has to go on without.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable

from fastdllm.cluster.slurm import SlurmError, ask

_GPUS = re.compile(r"gpu(?::([A-Za-z][\w.+-]*))?(?::\d+)?(?:\(|,|$)")


def associations(*, patience_s: float) -> dict[str, set[str]]:
    """The QOS that each account of this user may use; {} where nothing is known."""
    return _read(
        *("sacctmgr", "--noheader", "--parsable2", "show", "associations"),
        *("where", f"user={getpass.getuser()}", "format=account,qos"),
        patience_s=patience_s,
        values=lambda qos: {name for name in qos.split(",") if name},
    )


def partitions(*, patience_s: float) -> dict[str, set[str]]:
    """The types of GPU in each partition; {} where nothing is known."""
    return _read(
        *("sinfo", "--all", "--noheader", "--format=%R|%G"),
        patience_s=patience_s,
        values=lambda gres: {match[1] for match in _GPUS.finditer(gres) if match[1]},
    )


def _read(
    *command: str, patience_s: float, values: Callable[[str], set[str]]
) -> dict[str, set[str]]:
    """Lines of a name, | and what it holds; a name may be there several times."""
    try:
        text = ask(*command, patience_s=patience_s)
    except SlurmError:
        return {}
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("|")
        if name.strip():
            found.setdefault(name.strip(), set()).update(values(rest))
    return found

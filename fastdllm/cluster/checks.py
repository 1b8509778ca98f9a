"""What would make the jobs of a call fail on the cluster, found before anything is submitted.

Each check asks one command of SLURM, or the file system, and refuses in one line. A command that
does not answer is no reason to refuse: SLURM itself will say what is wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from fastdllm.cluster.choice import Choice, missing_account
from fastdllm.cluster.site import Site
from fastdllm.cluster.slurm import SlurmError, ask
from fastdllm.common.errors import UserError, nearest_name
from fastdllm.common.files import cannot
from fastdllm.machine.process import user_name

# The user waits for the answer.
PATIENCE_S = 15.0
# A run leaves some megabytes, and a grid some hundred; below this something else is wrong.
LEAST_FREE_GIB = 1.0
# Enough for a file system with quotas to notice.
TRIAL_BYTES = 1024 * 1024


def check_sbatch() -> None:
    """Refuse where jobs cannot be submitted at all."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch: no such command, so no job can be submitted from this machine; log in to the "
            "cluster, or decode here: snakemake --profile profiles/local"
        )


def check_link(path: Path) -> None:
    """Refuse a link to a folder that is gone, as on a purged scratch disk."""
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: is a link to {path.readlink()}, which does not exist (any more); create that "
            "folder again, or remove the link"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot take results: not writable, full, or its quota used up."""
    try:
        free_gib = shutil.disk_usage(folder).free / 2**30
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".fastdllm.", suffix=".tmp") as trial:
            trial.write(bytes(TRIAL_BYTES))
            trial.flush()
            # A network file system may notice a quota only now.
            os.fsync(trial.fileno())
    except OSError as error:
        raise cannot("write to", folder.resolve(), error) from None
    if free_gib < LEAST_FREE_GIB:
        raise UserError(
            f"{folder.resolve()}: {free_gib * 1024:.0f} MiB are free, and results need more; free "
            "some, or work in a copy of the project on another file system"
        )


def check_account(choice: Choice, site: Site) -> None:
    """Refuse a missing account, one that is not this user's, and a QOS that it may not use."""
    allowed = _offered(associations)
    if choice.account is None and site.account_required:
        raise UserError(missing_account(site, allowed))
    if not allowed:
        return
    # SLURM writes accounts in lower case and accepts them in any.
    account = choice.account.lower() if choice.account is not None else None
    if account is not None and account not in allowed:
        nearest = nearest_name(account, allowed)
        hint = f"did you mean {nearest}? " if nearest else ""
        raise UserError(
            f"cluster: account: {choice.account!r} is none of yours on {choice.site}; {hint}"
            f"yours: {', '.join(sorted(allowed))}"
        )
    qos = allowed[account] if account is not None else set().union(*allowed.values())
    if choice.qos is not None and qos and choice.qos not in qos:
        who = (
            "none of your accounts may" if account is None else f"account {choice.account} may not"
        )
        raise UserError(
            f"cluster: qos: {who} use {choice.qos!r}; allowed: {', '.join(sorted(qos))}"
        )


def check_partition(choice: Choice, site: Site) -> Choice:
    """Refuse a GPU or a partition that does not exist; return the choice in SLURM's spelling."""
    kinds_of = _offered(partitions)
    if not kinds_of:
        return choice
    # Without any kind of GPU in SLURM's answer nothing can be checked.
    kind = _type(choice) if any(kinds_of.values()) else None
    if kind is not None and not _having(kind, kinds_of):
        raise UserError(
            f"cluster: gpu: {choice.site} has no {kind} now; it has "
            f"{', '.join(sorted(set().union(*kinds_of.values())))}: --config gpu=..."
        )
    usual = _usual(choice, site)
    wanted = choice.partition.split(",") if choice.partition is not None else []
    for name in wanted:
        if name not in kinds_of:
            hint = _where(kind, kinds_of, usual=usual) if kind else _listed(name, kinds_of)
            raise UserError(f"cluster: partition: {choice.site} has no {name!r}; {hint}")
    if kind is None:
        return choice
    offered = set().union(*(kinds_of[name] for name in wanted or kinds_of))
    spelled = next((name for name in sorted(offered) if _same(name, kind)), None)
    if spelled is None:
        has = f"only {', '.join(sorted(offered))}" if offered else "no GPU of a known kind"
        raise UserError(
            f"cluster: gpu: partition {choice.partition} has {has}; "
            f"{_where(kind, kinds_of, usual=usual)}"
        )
    return replace(choice, gres=f"gpu:{spelled}:1")


def check_small_job(partition: str, site: str) -> None:
    """Refuse a partition that does not exist, for the job of `fastdllm submit`."""
    existing = _offered(partitions)
    for name in partition.split(",") if existing else ():
        if name not in existing:
            raise UserError(
                f"--partition {name}: {site} has no such partition; {_listed(name, existing)}"
            )


def _listed(name: str, names: Iterable[str]) -> str:
    nearest = nearest_name(name, names)
    hint = f"did you mean {nearest}? " if nearest else ""
    return f"{hint}there are: {', '.join(sorted(names))}"


def _where(kind: str, kinds_of: Mapping[str, set[str]], *, usual: str | None) -> str:
    names = _having(kind, kinds_of)
    best = usual if usual in names else names[0]
    return f"{kind} is in: {', '.join(names)}; add it to the command: --config partition={best}"


def _usual(choice: Choice, site: Site) -> str | None:
    """Return the partition of the chosen kind of GPU according to site.yaml."""
    kind = site.gpus.get(choice.gpu) if site.gpus is not None and choice.gpu is not None else None
    return kind.partition if kind is not None else None


def _having(kind: str, kinds_of: Mapping[str, set[str]]) -> list[str]:
    return sorted(name for name, kinds in kinds_of.items() if any(_same(kind, k) for k in kinds))


def _same(kind: str, other: str) -> bool:
    return kind.casefold() == other.casefold()


def _type(choice: Choice) -> str | None:
    parts = choice.gres.split(":")
    return parts[1] if len(parts) == 3 else None


def _offered(ask_for: Callable[..., dict[str, set[str]]]) -> dict[str, set[str]]:
    """Return what SLURM offers this user; nothing where it does not answer."""
    try:
        return ask_for(patience_s=PATIENCE_S)
    except SlurmError:
        return {}


_GPUS = re.compile(r"gpu(?::([A-Za-z][\w.+-]*))?(?::\d+)?(?:\(|,|$)")


def associations(*, patience_s: float) -> dict[str, set[str]]:
    """Return the QOS that each account of this user may use.

    Raises:
        SlurmError: SLURM gave no answer.
    """
    user = user_name()
    if user is None:
        raise SlurmError(f"sacctmgr: user id {os.getuid()} has no name here to ask about")
    return _read(
        *("sacctmgr", "--noheader", "--parsable2", "show", "associations"),
        *("where", f"user={user}", "format=account,qos"),
        patience_s=patience_s,
        values=lambda qos: {name for name in qos.split(",") if name},
    )


def partitions(*, patience_s: float) -> dict[str, set[str]]:
    """Return the types of GPU in each partition.

    Raises:
        SlurmError: SLURM gave no answer.
    """
    return _read(
        *("sinfo", "--all", "--noheader", "--format=%R|%G"),
        patience_s=patience_s,
        values=lambda gres: {match[1] for match in _GPUS.finditer(gres) if match[1]},
    )


def _read(
    *command: str, patience_s: float, values: Callable[[str], set[str]]
) -> dict[str, set[str]]:
    """Read lines of a name, | and its values; a name may occur several times."""
    values_of: dict[str, set[str]] = {}
    for line in ask(*command, patience_s=patience_s).splitlines():
        name, _, rest = line.partition("|")
        if name.strip():
            values_of.setdefault(name.strip(), set()).update(values(rest))
    return values_of

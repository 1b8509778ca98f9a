"""What a call would fail for on the cluster, found before anything is submitted.

Each check asks one command of SLURM, or the file system, and refuses in one line. A command that
does not answer is no reason to refuse: SLURM itself will say what it does not like.
"""

from __future__ import annotations

import getpass
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from fastdllm.cluster.choice import Choice, missing_account
from fastdllm.cluster.site import Site
from fastdllm.cluster.slurm import SlurmError, ask
from fastdllm.errors import UserError, nearest_name
from fastdllm.files import cannot

# A person waits for the answer.
PATIENCE_S = 15.0
# A run leaves some megabytes, and a grid some hundred; below this something else is wrong.
LEAST_FREE_GIB = 1.0
# As much as a file system with quotas notices.
TRIAL_BYTES = 1024 * 1024

_GPUS = re.compile(r"gpu(?::([A-Za-z][\w.+-]*))?(?::\d+)?(?:\(|,|$)")


def check_sbatch() -> None:
    """Refuse where jobs cannot be submitted at all."""
    if shutil.which("sbatch") is None:
        raise UserError(
            "sbatch: no such command, so no job can be submitted from this machine; log in to the "
            "cluster, or decode here: snakemake --profile profiles/local"
        )


def check_folder(folder: Path) -> None:
    """Refuse a folder that takes no results: not writable, full, or its quota used up."""
    try:
        free_gib = shutil.disk_usage(folder).free / 2**30
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".fastdllm.", suffix=".tmp") as trial:
            trial.write(bytes(TRIAL_BYTES))
            trial.flush()
    except OSError as error:
        raise cannot("write to", folder.resolve(), error) from None
    if free_gib < LEAST_FREE_GIB:
        raise UserError(
            f"{folder.resolve()}: {free_gib * 1024:.0f} MiB are free, and results need more; free "
            "some, or work in a copy of the project on another file system"
        )


def check_account(choice: Choice, site: Site) -> None:
    """Refuse an account that is missing or not one's own, and a QOS that it may not use."""
    allowed = _associations()
    if choice.account is None:
        if site.account_required:
            raise UserError(missing_account(site, allowed))
        return
    if not allowed:
        return
    # SLURM writes accounts in small letters and takes them in any.
    account = choice.account.lower()
    if account not in allowed:
        near = nearest_name(account, allowed)
        hint = f"did you mean {near}? " if near else ""
        raise UserError(
            f"cluster: account: {choice.account!r} is none of yours on {choice.site}; {hint}"
            f"yours: {', '.join(sorted(allowed))}"
        )
    qos = allowed[account]
    if choice.qos is not None and qos and choice.qos not in qos:
        raise UserError(
            f"cluster: qos: account {choice.account} may not use {choice.qos!r}; it may use: "
            f"{', '.join(sorted(qos))}"
        )


def check_partition(choice: Choice) -> Choice:
    """Refuse a partition that does not exist or lacks the GPU; spell the GPU as SLURM does."""
    there = _partitions()
    if not there:
        return choice
    wanted = (choice.partition or "").split(",") if choice.partition else []
    for name in wanted:
        if name not in there:
            near = nearest_name(name, there)
            hint = f"did you mean {near}? " if near else ""
            having = _having(choice, there)
            raise UserError(
                f"cluster: partition: no {name!r} on {choice.site}; {hint}"
                + (f"GPU {choice.gpu} is in: {', '.join(having)}" if having else _all(there))
            )
    kind = _type(choice)
    if kind is None:
        return choice
    found = {known for name in wanted or there for known in there[name]}
    spelled = next((known for known in found if known.casefold() == kind.casefold()), None)
    if spelled is not None:
        return replace(choice, gres=f"gpu:{spelled}:1")
    having = _having(choice, there)
    place = f"partition {choice.partition}" if wanted else choice.site
    has = f"has {', '.join(sorted(found))}" if found else "has no GPU with a type"
    elsewhere = (
        f"{kind} is in: {', '.join(having)}; add it to the command: --config partition={having[0]}"
        if having
        else "take one of those: --config gpu=..."
    )
    raise UserError(f"cluster: gpu: {place} has no {kind}; it {has}; {elsewhere}")


def _type(choice: Choice) -> str | None:
    parts = choice.gres.split(":")
    return parts[1] if len(parts) == 3 else None


def _having(choice: Choice, there: dict[str, set[str]]) -> list[str]:
    kind = (_type(choice) or "").casefold()
    return sorted(name for name, kinds in there.items() if kind in map(str.casefold, kinds))


def _all(names: Iterable[str]) -> str:
    return f"there are: {', '.join(sorted(names))}"


def _associations() -> dict[str, set[str]]:
    """The QOS that each account of this user may use; {} where nothing is known."""
    try:
        text = ask(
            *("sacctmgr", "--noheader", "--parsable2", "show", "associations"),
            *("where", f"user={getpass.getuser()}", "format=account,qos"),
            patience_s=PATIENCE_S,
        )
    except SlurmError:
        return {}
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        account, _, qos = line.partition("|")
        if account:
            found.setdefault(account, set()).update(name for name in qos.split(",") if name)
    return found


def _partitions() -> dict[str, set[str]]:
    """The types of GPU in each partition; {} where nothing is known."""
    try:
        text = ask("sinfo", "--all", "--noheader", "--format=%R|%G", patience_s=PATIENCE_S)
    except SlurmError:
        return {}
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        name, _, gres = line.partition("|")
        if name:
            kinds = {match[1] for match in _GPUS.finditer(gres) if match[1]}
            found.setdefault(name.strip(), set()).update(kinds)
    return found

"""What the jobs of one call ask for: chosen from the user's options and what the site has.

Checks everything that can be known without the cluster: names, and whether the model fits the card.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastdllm.cluster.fitting import ModelNeeds
from fastdllm.cluster.site import ClusterOptions, GpuKind, Qos, Site
from fastdllm.common.errors import UserError, nearest_name


@dataclass(frozen=True, slots=True)
class Choice:
    """What the jobs ask for; None or empty: not asked for, so SLURM's default applies.

    gpu: kind of GPU; gres: requests one. constraint: requests one of its sizes. mem_per_gpu: main
    memory with each GPU, as sbatch reads it. cpu_partition: for jobs without a GPU. max_minutes:
    longest time limit of a job. notes: what the user should know, one line each.
    """

    site: str
    account: str | None
    gpu: str | None
    gres: str
    constraint: str | None
    partition: str | None
    cpu_partition: str | None
    qos: str | None
    max_minutes: int | None
    mem_per_gpu: str | None
    words: str = ""
    notes: tuple[str, ...] = ()

    def environment(self) -> dict[str, str]:
        """Return the variables that the profiles' resources use; empty ones ask for nothing."""
        values = {
            "ACCOUNT": self.account,
            "GPU": self.gpu,
            "GRES": self.gres,
            "CONSTRAINT": self.constraint,
            "PARTITION": self.partition,
            "CPU_PARTITION": self.cpu_partition,
            "QOS": self.qos,
            "MAX_MINUTES": self.max_minutes,
            "MEM_PER_GPU": self.mem_per_gpu,
        }
        return {f"FASTDLLM_{k}": "" if v is None else str(v) for k, v in values.items()}

    @property
    def text(self) -> str:
        """The lines to print before the jobs are submitted."""
        return "".join(f"fastdllm: {line}\n" for line in (self.words, *self.notes))


def choose(site: Site, options: ClusterOptions, model: ModelNeeds) -> Choice:
    """Choose account, GPU, partition and QOS.

    Raises:
        UserError: an unknown GPU or QOS; a GPU without the model's number format, or too small; a
            device that no job has.
    """
    if model.device not in ("auto", "cpu", "cuda", "cuda:0"):
        raise UserError(
            f"model: device: {model.device}, but a job on {site.name} sees one GPU only; set "
            "device: auto"
        )
    notes = []
    if model.device == "cpu":
        notes.append("model: device: cpu, so the GPU of each job would be idle; set device: auto")
    if options.account is None and site.account_required:
        notes.append(missing_account(site))
    if model.config is None and site.gpus is not None:
        notes.append(f"model {model.name}: not fetched yet, so nothing checked whether it fits")
    qos_name, qos = _qos(site, options.qos)
    name, kind = _gpu(site, options.gpu, model)
    hours = qos.max_hours if qos is not None else site.max_hours
    gres_type = (kind.gres if kind is not None else None) or name
    parts = [
        f"GPU {name} ({kind.words})" if kind is not None else f"GPU {name or 'of any kind'}",
        f"QOS {qos_name} ({qos.words})" if qos is not None else qos_name and f"QOS {qos_name}",
        options.account and f"account {options.account}",
    ]
    return Choice(
        site=site.name,
        account=options.account,
        gpu=name,
        gres=f"gpu:{gres_type}:1" if gres_type else "gpu:1",
        constraint=_constraint(name, kind, model) if name and kind is not None else None,
        partition=options.partition or (kind.partition if kind is not None else None),
        cpu_partition=site.cpu_partition,
        qos=qos_name,
        max_minutes=None if hours is None else int(hours * 60),
        mem_per_gpu=kind.mem_per_gpu if kind is not None else None,
        words=f"jobs on {site.name}: " + ", ".join(part for part in parts if part),
        notes=tuple(notes),
    )


def missing_account(site: Site, accounts: Iterable[str] = ()) -> str:
    """Return the error line for a missing account."""
    names = ", ".join(sorted(accounts))
    if names:
        listed = f"yours: {names}"
    elif site.accounts_command is not None:
        listed = f"`{site.accounts_command}` lists yours"
    else:
        listed = "your site says which are yours"
    return (
        f"cluster: account: {site.name} charges every job to an account, and none is named; "
        f"{listed}; write it into workflow_config.yaml (cluster: account:), or add it to the "
        "command: --config account=..."
    )


def _qos(site: Site, requested: str | None) -> tuple[str | None, Qos | None]:
    if site.qos is None:
        return requested, None
    name = requested or next(iter(site.qos))
    if name not in site.qos:
        listed = "; ".join(f"{option}: {qos.words}" for option, qos in site.qos.items())
        raise UserError(
            f"cluster: qos: unknown QOS {name!r} on {site.name}; {_hint(name, site.qos)}{listed}"
        )
    return name, site.qos[name]


def _gpu(site: Site, requested: str | None, model: ModelNeeds) -> tuple[str | None, GpuKind | None]:
    if site.gpus is None:
        return requested, None
    name = requested or next(iter(site.gpus))
    kind = site.gpus.get(name)
    if kind is None:
        listed = "; ".join(f"{option}: {kind.words}" for option, kind in site.gpus.items())
        raise UserError(
            f"cluster: gpu: unknown GPU {name!r} on {site.name}; {_hint(name, site.gpus)}"
            f"{listed}; {_advice(site.gpus, model)}"
        )
    if model.dtype == "bfloat16" and not kind.bfloat16:
        raise UserError(
            f"model: dtype: bfloat16, which GPU {name} lacks ({kind.architecture}); set dtype: "
            f"float16 or auto, or choose another GPU: {_advice(site.gpus, model)}"
        )
    if not model.fitting_sizes(kind):
        raise UserError(
            f"cluster: gpu: {_too_small(name, kind, model)}; {_advice(site.gpus, model)}"
        )
    return name, kind


def _constraint(name: str, kind: GpuKind, model: ModelNeeds) -> str | None:
    """Return what requests a size that holds the model, if not every size does."""
    fitting = model.fitting_sizes(kind)
    if fitting == kind.sizes_gib:
        return None
    for size in fitting:
        if size in kind.constraints:
            return kind.constraints[size]
    raise UserError(
        f"cluster: gpu: {_too_small(name, kind, model, least=kind.sizes_gib[0])}; SLURM may "
        f"allocate that size, as site.yaml names no constraint for {fitting[0]} GiB "
        f"(gpus: {name}: constraints)"
    )


def _too_small(name: str, kind: GpuKind, model: ModelNeeds, *, least: int | None = None) -> str:
    dtype = model.dtype_on(kind)
    needed = model.needed_gib(kind) or 0.0
    size = least or kind.sizes_gib[-1]
    return f"{model.name} in {dtype} needs at least {needed:.1f} GiB, GPU {name} has {size} GiB"


def _advice(kinds: Mapping[str, GpuKind], model: ModelNeeds) -> str:
    """Return which kinds are a good choice, and why."""
    if model.config is None and model.dtype != "bfloat16":
        return f"{model.name} is not fetched yet, so its memory is not known"
    good = []
    for name, kind in kinds.items():
        sizes = model.fitting_sizes(kind)
        if sizes:
            only = "" if sizes == kind.sizes_gib else f" with {sizes[0]} GiB"
            good.append(f"{name}{only}")
    if not good:
        return f"none here holds {model.name}; a smaller dtype halves what its weights need"
    needed = {round(n, 1) for kind in kinds.values() if (n := model.needed_gib(kind)) is not None}
    why = f" needs at least {min(needed):.1f} GiB in {model.dtype}, so" if needed else ":"
    return f"{model.name}{why} good choices are {', '.join(good)}"


def _hint(name: str, valid: Iterable[str]) -> str:
    # People write names of hardware in either case, and with a blank, a dash or nothing between.
    plain = {_plain(option): option for option in valid}
    nearest = nearest_name(_plain(name), plain)
    return f"did you mean {plain[nearest]}? " if nearest else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())

"""What the user selects: `task=... experiment=... config=... limit=... restore=...`.

The first four restrict Snakemake (`--config task=a,b limit=10`) and `fastdllm status`. Values
are comma lists of names; a limit takes the first n items of each task and keeps such runs apart.
`restore=false` decodes what is published but not in results/, instead of restoring it. The
keys of `ClusterOptions` (account, gpu, qos, partition) win over workflow_config.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdllm.cluster.site import ClusterOptions
from fastdllm.common.errors import UserError, unknown_name
from fastdllm.workflow.project.config_files import unknown_task

CLUSTER_KEYS = tuple(ClusterOptions.model_fields)
KEYS = ("experiment", "task", "config", "limit", "restore", *CLUSTER_KEYS)
WHERE = "selection"


@dataclass(frozen=True, slots=True)
class Selection:
    """Names to keep per kind, None for all; limit: items per task, None for all.

    restore: whether finished runs are restored from artifacts/.
    cluster: what was given of `ClusterOptions`.
    """

    experiments: tuple[str, ...] | None = None
    tasks: tuple[str, ...] | None = None
    configs: tuple[str, ...] | None = None
    limit: int | None = None
    restore: bool = True
    cluster: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Selection:
        """Read the keys and values of Snakemake's `--config`.

        Raises:
            UserError: an unknown key, one without a value, an empty list, a limit that is not 1,
                2, 3, ..., or a `restore` that is neither true nor false.
        """
        for key, value in options.items():
            if key not in KEYS:
                raise unknown_name("key", str(key), KEYS, WHERE)
            # `task=$UNSET` would otherwise select, and with --forcerun repeat, everything.
            if value is None or not str(value).strip():
                raise UserError(
                    f"{WHERE}: {key}: is given without a value; write {key}=... or leave it out"
                )
        return cls(
            experiments=_names("experiment", options.get("experiment")),
            tasks=_names("task", options.get("task")),
            configs=_names("config", options.get("config")),
            limit=_limit(options.get("limit")),
            restore=_restore(options.get("restore", True)),
            cluster={key: str(options[key]) for key in CLUSTER_KEYS if key in options},
        )


def _names(key: str, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
    names = tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))
    if not names:
        raise UserError(f"{WHERE}: {key}: needs a name, or several with commas between them")
    return names


def _limit(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise UserError(
            f"{WHERE}: limit: {value!r} is not allowed; it should be a whole number of items, 1 or "
            "more; leave it out to run all items"
        )
    return int(value)


def _restore(value: Any) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise UserError(f"{WHERE}: restore: {value!r} is not allowed; it should be true or false")
    return text == "true"


def keep(
    kind: str, wanted: Iterable[str] | None, valid: Iterable[str], *, where: str = WHERE
) -> list[str]:
    """Return the names of `valid` that are wanted, in the order of `valid`; refuse unknown ones."""
    valid = list(valid)
    if wanted is None:
        return valid
    wanted = set(wanted)
    for name in sorted(wanted - set(valid)):
        if kind == "task":
            raise unknown_task(name, valid, where)
        raise unknown_name(kind, name, valid, where)
    return [name for name in valid if name in wanted]

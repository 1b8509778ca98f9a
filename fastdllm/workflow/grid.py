"""From an experiment's grid to its configs: names, decoding settings, policy parameters.

A key of the grid is a decoding setting or a field of the policy's Parameters. Every combination of
values is checked here, once, so that a typing error costs a second and not hours in a queue.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdllm.errors import UserError, unknown_name
from fastdllm.policy import Policy
from fastdllm.settings import DecodingSettings, check_block_size, layer_span
from fastdllm.validation import validated
from fastdllm.workflow.config import ExperimentConfig
from fastdllm.workflow.digests import ModelShape
from fastdllm.workflow.names import check_name


@dataclass(frozen=True, slots=True)
class Config:
    """One point of a grid."""

    name: str
    decoding: dict[str, Any]
    policy_parameters: dict[str, Any]


def expand_grid(
    experiment: ExperimentConfig,
    *,
    policy: type[Policy],
    defaults: Mapping[str, Any],
    shape: ModelShape | None,
    where: str,
) -> list[Config]:
    """Every config of an experiment, in the order of its grid.

    Args:
        defaults: decoding settings of the level above (workflow_config.yaml).
        shape: of the model, or None when it is not on this machine yet.
        where: the experiment.yaml, for error lines.

    Raises:
        UserError: unknown key, value out of range, settings that do not agree, span too large for
            the model, name template that does not fit, two configs of one name.
    """
    _check_keys(experiment.grid, policy, where)
    configs: dict[str, Config] = {}
    for values in itertools.product(*experiment.grid.values()):
        point = dict(zip(experiment.grid, values, strict=True))
        config = _config(
            experiment, point, policy=policy, defaults=defaults, shape=shape, where=where
        )
        if config.name in configs:
            raise UserError(
                f"{where}: config_name: {experiment.config_name!r} gives two configs the name "
                f"{config.name!r}; every grid key with several values must appear in it: "
                + ", ".join(f"{{{key}}}" for key, v in experiment.grid.items() if len(v) > 1)
            )
        configs[config.name] = config
    if experiment.baseline is not None and experiment.baseline not in configs:
        raise unknown_name("config", experiment.baseline, configs, f"{where}: baseline")
    return list(configs.values())


def _config(
    experiment: ExperimentConfig,
    point: Mapping[str, Any],
    *,
    policy: type[Policy],
    defaults: Mapping[str, Any],
    shape: ModelShape | None,
    where: str,
) -> Config:
    name = _config_name(experiment.config_name, point, where)
    place = f"{where}: config {name}"
    own = {key: value for key, value in point.items() if key in policy.Parameters.model_fields}
    swept = {key: value for key, value in point.items() if key not in own}
    merged = {**defaults, **experiment.decoding.given(), **swept}
    settings = validated(DecodingSettings, merged, place)
    parameters = validated(policy.Parameters, own, place)
    if shape is not None:
        try:
            check_block_size(settings, shape.block_size)
            if settings.layer_subset is not None:
                layer_span(settings.layer_subset, shape.num_layers)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    return Config(
        name=name, decoding=settings.model_dump(), policy_parameters=parameters.model_dump()
    )


def _check_keys(grid: Mapping[str, Any], policy: type[Policy], where: str) -> None:
    decoding, own = set(DecodingSettings.model_fields), set(policy.Parameters.model_fields)
    for key in sorted(decoding & own):
        raise UserError(
            f"{where}: the policy's parameter {key!r} has the name of a decoding setting; rename it"
        )
    for key in grid:
        if key not in decoding | own:
            raise unknown_name("key", key, decoding | own, f"{where}: grid")


def _config_name(template: str, point: Mapping[str, Any], where: str) -> str:
    place = f"{where}: config_name"
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise UserError(f"{place}: {template!r}: {error}") from None
    for field, format_spec, conversion in parts:
        if format_spec or conversion or not str(field).isidentifier():
            raise UserError(
                f"{place}: {template!r} is not allowed; only a grid key may stand in braces: "
                + (", ".join(f"{{{key}}}" for key in point) or "there is none")
            )
        if field not in point:
            raise unknown_name("grid key", str(field), point, place)
    try:
        name = template.format_map({key: _as_text(value) for key, value in point.items()})
        return check_name(name)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from None


def _as_text(value: Any) -> str:
    # As in YAML, so that the name shows what was written.
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)

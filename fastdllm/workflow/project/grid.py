"""From an experiment's grid to its configs: names, decoding settings, policy parameters.

A key of the grid is a decoding setting or a field of the policy's Parameters. Every combination of
values is checked here, once, so that a typo costs a second and not hours in a queue.
"""

from __future__ import annotations

import itertools
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.common.paths import check_name
from fastdllm.model.config import ModelShape
from fastdllm.policy import Policy
from fastdllm.settings import DecodingSettings, check_block_size, layer_span
from fastdllm.validation import StrictModel, validated
from fastdllm.workflow.project.config_files import ExperimentConfig


@dataclass(frozen=True, slots=True)
class Config:
    """One point of a grid, with all levels of settings merged."""

    name: str
    settings: DecodingSettings
    parameters: StrictModel

    @property
    def decoding(self) -> dict[str, Any]:
        """The settings as JSON has them: a range of layers is a list."""
        return self.settings.model_dump(mode="json")

    @property
    def policy_parameters(self) -> dict[str, Any]:
        """The policy's parameters as JSON has them."""
        return self.parameters.model_dump(mode="json")


def expand_grid(
    experiment: ExperimentConfig,
    *,
    policy: type[Policy],
    defaults: Mapping[str, Any],
    shape: ModelShape | None,
    where: str,
) -> list[Config]:
    """Return every config of an experiment, in the order of its grid.

    Args:
        defaults: decoding settings of the level above (workflow_config.yaml).
        shape: of the model, or None when it is not on this machine yet.
        where: the experiment.yaml, for error lines.

    Raises:
        UserError: unknown key, value out of range, settings that do not agree, span too large for
            the model, name template that does not fit, two configs of one name.
    """
    configs: dict[str, Config] = {}
    for place, grid in experiment.parts().items():
        _check_keys(grid.grid, policy, f"{where}: {place}grid")
        base = {**defaults, **experiment.decoding.given(), **grid.decoding.given()}
        for values in itertools.product(*grid.grid.values()):
            point = dict(zip(grid.grid, values, strict=True))
            name = config_name(grid.config_name, point, f"{where}: {place}config_name")
            if name in configs:
                raise _repeated_name(name, experiment, place, where)
            configs[name] = _config(name, point, policy=policy, base=base, shape=shape, where=where)
    return list(configs.values())


def _config(
    name: str,
    point: Mapping[str, Any],
    *,
    policy: type[Policy],
    base: Mapping[str, Any],
    shape: ModelShape | None,
    where: str,
) -> Config:
    place = f"{where}: config {name}"
    of_policy = {key: v for key, v in point.items() if key in policy.Parameters.model_fields}
    swept = {key: value for key, value in point.items() if key not in of_policy}
    settings = validated(DecodingSettings, {**base, **swept}, place)
    parameters = validated(policy.Parameters, of_policy, place)
    if shape is not None:
        try:
            check_block_size(settings, shape.block_size)
            if settings.layer_subset is not None:
                layer_span(settings.layer_subset, shape.num_layers)
            for key in ("mask_id", "stop_token"):
                token = getattr(settings, key)
                if token is not None and token >= shape.vocab_size:
                    raise ValueError(
                        f"{key} {token} is outside the model's vocabulary of {shape.vocab_size}"
                    )
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    return Config(name=name, settings=settings, parameters=parameters)


def _repeated_name(name: str, experiment: ExperimentConfig, place: str, where: str) -> UserError:
    grid = experiment.parts()[place]
    swept = ", ".join(f"{{{key}}}" for key, values in grid.grid.items() if len(values) > 1)
    advice = f"every grid key with several values must appear in it: {swept}"
    if experiment.grids is not None:
        advice = "each grid of the list needs its own names" + (f"; {advice}" if swept else "")
    return UserError(
        f"{where}: {place}config_name: {grid.config_name!r} gives two configs the name {name!r}; "
        f"{advice}"
    )


def _check_keys(grid: Mapping[str, Any], policy: type[Policy], where: str) -> None:
    decoding, parameters = set(DecodingSettings.model_fields), set(policy.Parameters.model_fields)
    for key in sorted(decoding & parameters):
        raise UserError(
            f"{where}: the policy's parameter {key!r} has the name of a decoding setting; rename it"
        )
    for key in grid:
        if key not in decoding | parameters:
            raise unknown_name("key", key, decoding | parameters, where)


def config_name(template: str, point: Mapping[str, Any], place: str) -> str:
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
    if isinstance(value, list):
        return "-".join(_as_text(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)

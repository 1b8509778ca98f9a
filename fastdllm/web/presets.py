"""The configs of the project's experiments, to decode with in the page as their runs do.

A preset is a policy with its parameters and settings. Owns no component of the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastdllm.common.errors import UserError
from fastdllm.decoding.side_effects import load_without_side_effects
from fastdllm.policy import Policy, default_policy
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel
from fastdllm.workflow.project.config_files import (
    EXPERIMENTS,
    WORKFLOW_CONFIG,
    experiment_file,
    load_experiment_config,
    load_workflow_config,
)
from fastdllm.workflow.project.grid import expand_grid


@dataclass(frozen=True, slots=True)
class Preset:
    """One config of an experiment."""

    policy: type[Policy]
    parameters: StrictModel
    settings: DecodingSettings


@dataclass(frozen=True, slots=True)
class Presets:
    """The presets by name (`experiment/config`), and why configs of experiments are missing."""

    by_name: Mapping[str, Preset]
    problems: tuple[str, ...] = ()

    def policy(self, name: str, settings: DecodingSettings, num_layers: int) -> Policy:
        """Return a preset's policy with other settings; without such a preset the built-in one."""
        preset = self.by_name.get(name)
        if preset is None:
            return default_policy(settings, num_layers)
        return preset.policy(settings, preset.parameters, num_layers)


def load_presets() -> Presets:
    """Read the experiments of the project in the current folder; there are none outside of one."""
    if not WORKFLOW_CONFIG.exists():
        return Presets({})
    try:
        config = load_workflow_config()
    except UserError as error:
        return Presets({}, (str(error),))
    found: dict[str, Preset] = {}
    problems = []
    for experiment in config.experiments:
        try:
            described = load_experiment_config(experiment)
            policy = load_without_side_effects(EXPERIMENTS / experiment / described.policy)
            # Whether a config fits the model is said when it is used: others may fit.
            configs = expand_grid(
                described,
                policy=policy,
                defaults=config.decoding.given(),
                shape=None,
                where=str(experiment_file(experiment)),
            )
        except UserError as error:
            problems.append(str(error))
            continue
        for point in configs:
            found[f"{experiment}/{point.name}"] = Preset(policy, point.parameters, point.settings)
    return Presets(found, tuple(problems))

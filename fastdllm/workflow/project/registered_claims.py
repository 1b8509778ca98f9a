"""The claims of experiments with the runs they are about, and the digest that registers them.

The digest covers whatever would make it another claim: the claims and what was planned, and the
computations of all configs they name (which hold model, task, data, shots and settings). Titles,
names of experiments and the rest of a grid do not count. Knows nothing of results or git.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.records.claim_kinds import Claim, Faster, Planned
from fastdllm.workflow.project.config_files import ExperimentConfig, experiment_file
from fastdllm.workflow.project.digests import digest_of

# Of a run: experiment, task, config.
Place = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class RegisteredClaims:
    """The claims of one experiment.

    places: by task and the name that claims use, the run. digest: of all that registers them.
    """

    experiment: str
    claims: tuple[Claim, ...]
    planned: Planned | None
    tasks: tuple[str, ...]
    places: Mapping[tuple[str, str], Place] = field(repr=False)
    digest: str

    def task_of(self, claim: Claim) -> str:
        """The task that a claim is about."""
        return claim.task or self.tasks[0]

    def places_of(self, claim: Claim) -> dict[str, Place]:
        """The runs of a claim's configs, by the names it uses."""
        task = self.task_of(claim)
        return {name: self.places[task, name] for name in (claim.config, *claim.controls)}


def registered_claims(
    experiments: Mapping[str, ExperimentConfig], computations: Mapping[Place, str]
) -> list[RegisteredClaims]:
    """Return the claims of all experiments that have some.

    Args:
        computations: of every run of the project.

    Raises:
        UserError: a claim names a config that is not there, or twins, or speeds that are not
            measured.
    """
    return [
        _registered(name, config, computations)
        for name, config in experiments.items()
        if config.claims
    ]


def _registered(
    experiment: str, config: ExperimentConfig, computations: Mapping[Place, str]
) -> RegisteredClaims:
    claims, tasks = tuple(config.claims or ()), tuple(config.tasks or ())
    places: dict[tuple[str, str], Place] = {}
    for index, claim in enumerate(claims):
        where = f"{experiment_file(experiment)}: claims.{index}"
        task = claim.task or tasks[0]
        named = {
            (place[2] if place[0] == experiment else f"{place[0]}/{place[2]}"): place
            for place in computations
            if place[1] == task
        }
        for name in (claim.config, *claim.controls):
            if name not in named:
                raise unknown_name("config", name, named, where)
            places[task, name] = named[name]
        for name in claim.controls:
            if computations[named[name]] == computations[named[claim.config]]:
                raise UserError(
                    f"{where}: {claim.config} and {name} are the same computation, so there is "
                    "nothing to be tested between them"
                )
        if isinstance(claim, Faster):
            _check_speed(claim, config, where)
    return RegisteredClaims(
        experiment=experiment,
        claims=claims,
        planned=config.planned,
        tasks=tasks,
        places=places,
        digest=digest_of(
            {
                "claims": [claim.model_dump(mode="json") for claim in claims],
                "planned": config.planned.model_dump(mode="json") if config.planned else None,
                "tasks": tasks,
                "computations": {
                    f"{task} {name}": computations[place] for (task, name), place in places.items()
                },
            }
        ),
    )


def _check_speed(claim: Faster, config: ExperimentConfig, where: str) -> None:
    speed = config.speed
    if speed is None:
        raise UserError(f"{where}: needs `speed:`, whose configs are timed in turn")
    timed = [speed.baseline, *speed.configs]
    for name in (claim.config, *claim.controls):
        if name not in timed:
            raise unknown_name("config of speed", name, timed, where)
    if claim.batch not in speed.batch_sizes:
        sizes = ", ".join(map(str, speed.batch_sizes))
        raise UserError(f"{where}.batch: {claim.batch} is none of speed.batch_sizes ({sizes})")

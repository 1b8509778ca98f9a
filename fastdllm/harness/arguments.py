"""What `--model_args` may say: the published names, checked; and the digest of what they decide.

Decoding settings have the names of `DecodingSettings`, a policy's own parameters those of its
`Parameters`. An unknown name is refused: a misspelt one would run with the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.decoding.side_effects import load_without_side_effects
from fastdllm.decoding.user_code import policy_code_digest
from fastdllm.model.checkpoint import commit_of, find_checkpoint, local_folder
from fastdllm.model.loading import resolve_device, resolve_dtype
from fastdllm.policy import Policy
from fastdllm.runs.decoder_code import code_digest
from fastdllm.runs.spec import BatchSize
from fastdllm.settings import DecodingSettings
from fastdllm.validation import StrictModel, validated
from fastdllm.workflow.project.config_files import (
    EXPERIMENTS,
    DecodingOverrides,
    ModelChoice,
    Name,
    TaskOptions,
    load_experiment_config,
)
from fastdllm.workflow.project.digests import FileDigests, digest_of, model_digest

WHERE = "--model_args"
# Other names of the same: of lm-eval, which names the folder of results by the first, and of
# published scripts.
ALIASES = {"pretrained": "model_path", "bd_size": "block_size"}


def _batch_size(value: Any) -> Any:
    """Read a number that is text; `auto:4` is `auto`, as what fits is found anew for each chunk."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() else value.partition(":")[0]
    return value


class ModelArguments(DecodingOverrides):
    """The arguments that are no parameters of a policy; the decoding settings are among them."""

    model_path: Annotated[str, AfterValidator(os.path.expanduser)] = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = ModelChoice.model_fields[
        "dtype"
    ].default
    device: str = "auto"
    batch_size: Annotated[BatchSize, BeforeValidator(_batch_size)] = "auto"
    max_batch_size: int | None = Field(None, ge=1)
    chunk_size: int | None = Field(None, ge=1)
    show_speed: bool = False
    experiment_name: Name | None = None
    likelihood_mode: Literal["published", "chain"] = TaskOptions.model_fields[
        "likelihood_mode"
    ].default

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding settings that were given."""
        fields = DecodingSettings.model_fields
        return {name: value for name, value in self.given().items() if name in fields}


@dataclass(frozen=True, slots=True)
class Arguments:
    """All arguments, checked.

    policy_class, policy_file: of the experiment; None for the built-in policy.
    parameters: the policy's own.
    """

    model: ModelArguments
    settings: DecodingSettings
    policy_class: type[Policy] | None
    policy_file: Path | None
    parameters: StrictModel

    def digest(self) -> str:
        """Digest what decides the answers: weights, dtype, settings, policy and decoder.

        Not the task, whose prompts and options stand in each request, nor the batch size.

        Raises:
            UserError: the model is not here.
        """
        path, revision = self.model.model_path, self.model.revision
        folder = local_folder(path)
        if folder is None:
            weights: Any = [path, commit_of(path, find_checkpoint(path, revision))]
        else:
            digests = FileDigests.load()
            weights = model_digest(folder, digests)
            if digests.path.parent.is_dir():
                digests.save()
        dtype = resolve_dtype(self.model.dtype, resolve_device(self.model.device))
        policy = self.policy_file and policy_code_digest(self.policy_file)
        parts = [weights, str(dtype), code_digest(), policy, self.parameters.model_dump()]
        return digest_of([*parts, self.settings.model_dump(), self.model.likelihood_mode])


def read_arguments(values: Mapping[str, Any]) -> Arguments:
    """Check the arguments of a model as lm-eval passes them.

    Raises:
        UserError: an unknown name, with the nearest one; a value that is not allowed; two that
            contradict each other; or an experiment that is not here.
    """
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name in named and named[name] != value:
            raise UserError(f"{WHERE}: {key} {value!r} contradicts {name} {named[name]!r}")
        named[name] = value
    policy_class, policy_file = _policy(named.get("experiment_name"))
    own = policy_class.Parameters.model_fields if policy_class else {}
    known = ModelArguments.model_fields
    for name in named:
        if name not in known and name not in own:
            raise unknown_name("argument", name, [*known, *ALIASES, *own], WHERE)
    model = validated(ModelArguments, {k: v for k, v in named.items() if k in known}, WHERE)
    parameters = {name: value for name, value in named.items() if name in own}
    return Arguments(
        model=model,
        settings=validated(DecodingSettings, model.decoding, WHERE),
        policy_class=policy_class,
        policy_file=policy_file,
        parameters=validated((policy_class or Policy).Parameters, parameters, WHERE),
    )


def _policy(experiment: Any) -> tuple[type[Policy] | None, Path | None]:
    """Return the policy of an experiment and its file; None without one."""
    if experiment is None:
        return None, None
    if not (EXPERIMENTS / str(experiment) / "experiment.yaml").is_file():
        existing = [path.parent.name for path in EXPERIMENTS.glob("[!_.]*/experiment.yaml")]
        raise unknown_name("experiment", str(experiment), existing, f"{WHERE}: experiment_name")
    file = EXPERIMENTS / str(experiment) / load_experiment_config(str(experiment)).policy
    return load_without_side_effects(file), file

"""Which runs are the same computation, so that one of them is decoded for all.

The settings of a run are normalised: what cannot touch its answers is left out. Runs whose rest is
equal are one class, whichever experiments they belong to. The rules:

- Log-likelihood tasks denoise nothing: of the decoding settings only those count that
  `fastdllm.likelihood.score` is given, and no policy does.
- A policy says of each config what has no effect on it (`Policy.computation`), or that it decides
  exactly like plain Fast-dLLM v2; then neither its code nor its parameters count.
- `lookahead_threshold` has no effect at `lookahead_depth` 0.

Names of experiments and configs never count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdllm.errors import UserError, unknown_name
from fastdllm.evaluation.spec import DECODING, PARAMETERS
from fastdllm.evaluation.task_files import TaskFiles
from fastdllm.policy import Computation, Policy
from fastdllm.settings import DecodingSettings
from fastdllm.workflow.digests import digest_of
from fastdllm.workflow.grid import Config

# lm-eval's kinds of task that only ask for log-likelihoods; what a task does not say is generation.
LIKELIHOOD_TYPES = frozenset({"multiple_choice", "loglikelihood"})
# What `score` is given of the settings (fastdllm/evaluation/generate.py).
LIKELIHOOD_SETTINGS = frozenset({"block_size", "mask_id", "stop_token"})
_POLICY_KEYS = frozenset({"policy", "policy_digest"})


def computation_of(decides: Mapping[str, Any], idle: frozenset[str]) -> str:
    """Digest of what decides a run's answers, without the keys that are `idle` for them."""
    return digest_of({key: value for key, value in decides.items() if key not in idle})


def idle_in_likelihoods(decides: Mapping[str, Any]) -> frozenset[str]:
    """The keys of `decides` without effect on a task of log-likelihoods."""
    counts = {f"{DECODING}{name}" for name in LIKELIHOOD_SETTINGS}
    settings = {key for key in decides if key.startswith((DECODING, PARAMETERS))}
    return frozenset(settings - counts) | _POLICY_KEYS | {"seed"}


def idle_in_generation(policy: type[Policy], config: Config, where: str) -> frozenset[str]:
    """The keys of `decides` without effect on the tokens that a config generates.

    Args:
        where: the policy's file, for error lines.

    Raises:
        UserError: the policy's `computation` fails, or names what is no setting.
    """
    said = _asked(policy, config, where)
    idle = {_key(name, config) for name in said.ignored}
    if "seed" in said.ignored:
        idle.add("seed")
    if config.settings.lookahead_depth == 0:
        idle.add(f"{DECODING}lookahead_threshold")
    if said.is_plain:
        idle |= {f"{DECODING}reuse_k", f"{DECODING}layer_subset", *_POLICY_KEYS}
        idle |= {f"{PARAMETERS}{name}" for name in type(config.parameters).model_fields}
    return frozenset(idle)


def _asked(policy: type[Policy], config: Config, where: str) -> Computation:
    if "computation" not in vars(policy):
        # What a class above says is about its own decisions, not about those that override them.
        return Computation()
    place = f"{where}: config {config.name}: computation"
    try:
        said = policy.computation(config.settings, config.parameters)
    except Exception as error:
        # A user's code may raise anything; the cause stays attached.
        raise UserError(f"{place}: {type(error).__name__}: {error}") from error
    if not isinstance(said, Computation):
        raise UserError(f"{place}: must return a fastdllm.policy.Computation, not {said!r}")
    known = DecodingSettings.model_fields.keys() | type(config.parameters).model_fields.keys()
    for name in sorted(said.ignored - known):
        raise unknown_name("setting", name, known, place)
    return said


def _key(name: str, config: Config) -> str:
    is_own = name in type(config.parameters).model_fields
    return f"{PARAMETERS if is_own else DECODING}{name}"


def is_likelihood_task(files: TaskFiles) -> bool:
    """Whether no part of a task generates; where that takes more than a look, it counts as if.

    To decode one run too many costs time only.
    """
    return all(_asks_likelihoods(values) for _, values in files.layers)


def _asks_likelihoods(values: Mapping[str, Any]) -> bool:
    kind, members = values.get("output_type"), values.get("task")
    if kind is not None and kind not in LIKELIHOOD_TYPES:
        return False
    if isinstance(members, list):
        # A group that names a data set can make tasks of names alone.
        return "dataset_path" not in values and all(
            isinstance(member, str) or (isinstance(member, Mapping) and _asks_likelihoods(member))
            for member in members
        )
    # What a file includes is looked at by itself.
    return kind is not None or "include" in values

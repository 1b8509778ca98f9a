"""Which runs are the same computation, so that one of them is decoded for all.

The settings of a run are normalised: what cannot affect its answers is left out. Runs that are then
equal form one class, whichever experiments they belong to. The rules:

- Log-likelihood tasks denoise nothing: only the decoding settings that are passed to
  `fastdllm.decoding.likelihood.score` count, and no policy does.
- A policy declares for each config what has no effect on it (`Policy.computation`), or that it
  decides exactly like plain Fast-dLLM v2; then neither its code nor its parameters count. Only for
  such a plain config is the effect of look-ahead known: never beyond the end of a block, and at
  depth 0 its threshold has no effect. A policy that declares nothing may read any setting, so all
  of them count.
- Where a policy declares something, a named span of layers counts as its range.

Names of experiments and configs never count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastdllm.common.errors import UserError, unknown_name
from fastdllm.model.config import ModelShape
from fastdllm.policy import Computation, Policy
from fastdllm.records.summary import DECODING, PARAMETERS
from fastdllm.settings import DecodingSettings, layer_span
from fastdllm.tasks.task_files import TaskFiles
from fastdllm.workflow.project.digests import digest_of
from fastdllm.workflow.project.grid import Config

# lm-eval's kinds of task that only ask for log-likelihoods, and its default kind.
LIKELIHOOD_TYPES = frozenset({"multiple_choice", "loglikelihood"})
GENERATES = "generate_until"
# What `score` is given of the settings (fastdllm/runs/chunk_engine.py).
LIKELIHOOD_SETTINGS = frozenset({"block_size", "mask_id", "stop_token"})
_POLICY_KEYS = frozenset({"policy", "policy_digest"})


@dataclass(frozen=True, slots=True)
class NormalForm:
    """How the keys of `decides` are normalised for one config.

    idle: keys without effect on its answers.
    instead: values that replace others of the same effect.
    """

    idle: frozenset[str] = frozenset()
    instead: Mapping[str, Any] = field(default_factory=dict)


def computation_of(decides: Mapping[str, Any], normal: NormalForm) -> str:
    """Digest of what decides a run's answers, in its normal form."""
    merged = {**decides, **normal.instead}
    return digest_of({key: value for key, value in merged.items() if key not in normal.idle})


def normal_in_likelihoods(decides: Mapping[str, Any]) -> NormalForm:
    """What counts of `decides` on a task of log-likelihoods."""
    counts = {f"{DECODING}{name}" for name in LIKELIHOOD_SETTINGS}
    settings = {key for key in decides if key.startswith((DECODING, PARAMETERS))}
    return NormalForm(frozenset(settings - counts) | _POLICY_KEYS | {"seed"})


def normal_in_generation(
    policy: type[Policy], config: Config, shape: ModelShape | None, where: str
) -> NormalForm:
    """What counts of `decides` for the tokens that a config generates.

    Args:
        shape: of the model, or None when it is not on this machine yet.
        where: the policy's file, for error lines.

    Raises:
        UserError: the policy's `computation` fails, or names something that is not a setting.
    """
    if "computation" not in vars(policy):
        # A base class declares for its own decisions, not for those that override them.
        return NormalForm()
    declared = _declared(policy, config, where)
    settings = config.settings
    idle = {_key(name, config) for name in declared.ignored}
    instead: dict[str, Any] = {}
    if "seed" in declared.ignored:
        idle.add("seed")
    if shape is not None and settings.layer_subset is not None:
        span = layer_span(settings.layer_subset, shape.num_layers)
        instead[f"{DECODING}layer_subset"] = list(span)
    if declared.is_plain:
        plain = _normal_if_plain(settings, type(config.parameters).model_fields)
        idle |= plain.idle
        instead |= plain.instead
    return NormalForm(frozenset(idle), instead)


def _normal_if_plain(settings: DecodingSettings, parameters: Iterable[str]) -> NormalForm:
    """What counts for a policy that decides exactly like plain Fast-dLLM v2."""
    idle = {f"{DECODING}reuse_k", f"{DECODING}layer_subset", *_POLICY_KEYS}
    idle |= {f"{PARAMETERS}{name}" for name in parameters}
    depth = min(settings.lookahead_depth, settings.block_size // settings.small_block_size - 1)
    if depth == 0:
        idle.add(f"{DECODING}lookahead_threshold")
    if settings.small_block_size == settings.block_size:
        # Each pass computes the whole block anew, whether or not an earlier one is cached.
        idle.add(f"{DECODING}use_block_cache")
    return NormalForm(frozenset(idle), {f"{DECODING}lookahead_depth": depth})


def is_plain(decides: Mapping[str, Any], computation: str) -> bool:
    """Whether the computation of a run that generated is plain decoding at its settings."""
    settings, parameters = (
        {k.removeprefix(prefix): v for k, v in decides.items() if k.startswith(prefix)}
        for prefix in (DECODING, PARAMETERS)
    )
    plain = _normal_if_plain(DecodingSettings.model_validate(settings), parameters)
    return computation_of(decides, plain) == computation


def _declared(policy: type[Policy], config: Config, where: str) -> Computation:
    place = f"{where}: config {config.name}: computation"
    try:
        declared = policy.computation(config.settings, config.parameters)
    except (Exception, SystemExit) as error:
        # A user's code may raise anything; the cause stays attached. A SystemExit would end the
        # whole command silently.
        line = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        raise UserError(f"{place}: {line}") from error
    if not isinstance(declared, Computation):
        raise UserError(f"{place}: must return a fastdllm.policy.Computation, not {declared!r}")
    # Not a string, whose letters would be taken for names.
    is_set = isinstance(declared.ignored, frozenset | set)
    if not is_set or not all(isinstance(name, str) for name in declared.ignored):
        raise UserError(f"{place}: ignored: must be a frozenset of names, not {declared.ignored!r}")
    names = DecodingSettings.model_fields.keys() | type(config.parameters).model_fields.keys()
    for name in sorted(declared.ignored - names):
        raise unknown_name("setting", name, names, place)
    return declared


def _key(name: str, config: Config) -> str:
    is_own = name in type(config.parameters).model_fields
    return f"{PARAMETERS if is_own else DECODING}{name}"


def is_likelihood_task(files: TaskFiles) -> bool:
    """Whether certainly no part of a task generates.

    False where its files do not show that: one run too many only costs time.
    """
    return all(_asks_likelihoods(values) for _, values in files.layers)


def is_generating_task(files: TaskFiles) -> bool:
    """Whether certainly no part of a task asks for a likelihood."""
    return all(_generates(values) for _, values in files.layers)


def _generates(values: Mapping[str, Any]) -> bool:
    """Whether a file, or a member that a group defines itself, asks for no likelihood."""
    if "class" in values or values.get("output_type", GENERATES) != GENERATES:
        return False
    members = values.get("task")
    inline = members if isinstance(members, list) else ()
    return all(_generates(member) for member in inline if isinstance(member, Mapping))


def _asks_likelihoods(values: Mapping[str, Any], of_group: str | None = None) -> bool:
    """Whether a file, or a member that a group defines itself, asks for nothing else.

    of_group: the output_type that the group around it gives its members.
    """
    if "class" in values:
        # A task in Python makes its own requests, regardless of its file.
        return False
    kind, members = values.get("output_type", of_group), values.get("task")
    if kind is not None and str(kind) not in LIKELIHOOD_TYPES:
        return False
    if isinstance(members, list):
        # A group that names a data set can make tasks of names alone.
        return ("dataset_path" not in values or kind is not None) and all(
            isinstance(member, str)
            or (isinstance(member, Mapping) and _asks_likelihoods(member, kind))
            for member in members
        )
    # Included files are checked separately.
    return kind is not None or "include" in values

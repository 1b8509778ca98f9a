"""Refuses a policy that changes anything beyond the tokens it decides about.

What its class or file remembers, the state of a random generator, a setting of torch and the code
of fastdllm outlive a chunk: answers would depend on what the same process did before.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CellType, FunctionType, ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.rules import violation
from fastdllm.decoding.user_code import imported_files, is_own
from fastdllm.policy import Policy

# What each of some things holds.
_Told = dict[str, object]
_PLAIN = (type(None), bool, int, str, bytes)
_OF_ALL = "which all code of a process shares; use values that are written down or given"


def load_without_side_effects(path: Path | str) -> type[Policy]:
    """Import a policy; refuse one whose import draws at random or changes what a process shares.

    Raises:
        UserError: as `load_policy`, or naming what was changed.
    """
    shared = _shared()
    load_policy(path)
    changed = _changed(shared, _shared())
    # Once more, as libraries may draw when they are imported for the first time.
    generators = _generators()
    policy = load_policy(path)
    changed = changed or _changed(generators, _generators())
    if changed is not None:
        raise UserError(f"{path}: changed {changed} when it was imported, {_OF_ALL}")
    return policy


@contextmanager
def without_side_effects(policy: Policy) -> Iterator[None]:
    """Refuse what policies of this class, however many are made, change within.

    Raises:
        PolicyViolation: naming what was changed.
    """
    cls: Any = type(policy)
    names = _imported_names(cls)
    modules = [sys.modules[name] for name in names if name in sys.modules]
    remembered, shared = _memory(policy, modules), _shared() | _generators()
    yield
    after = _memory(policy, modules)
    changed = _changed(dict.fromkeys(after) | remembered, after)
    if changed is not None:
        raise violation(
            policy,
            f"changed {changed} while it decided, and what its class or file holds outlives a "
            "run; it may not keep a memory",
        )
    changed = _changed(shared, _shared() | _generators())
    if changed is not None:
        raise violation(policy, f"changed {changed} while it decided, {_OF_ALL}")


@cache
def _imported_names(policy_class: Any) -> list[str]:
    """The names of the user's modules behind a policy, read once: its file may be edited later."""
    return list(imported_files(Path(inspect.getfile(policy_class))))


def _changed(before: _Told, after: _Told) -> str | None:
    return next((name for name, held in before.items() if held != after.get(name)), None)


def _generators() -> _Told:
    """The states of the random generators that all code of the process shares."""
    of_numpy: Any = numpy.random.get_state()
    name, keys, *rest = of_numpy
    return {
        "the generator of `random`": random.getstate(),
        "the generator of `numpy.random`": (name, keys.tobytes(), *rest),
        "the generator of `torch`": torch.get_rng_state().numpy().tobytes(),
    }


def _shared() -> _Told:
    """What else all code of the process shares, and decoding depends on or a policy might."""
    matmul = torch.backends.cuda.matmul
    settings = {
        "torch's float32 precision": torch.get_float32_matmul_precision(),
        "torch's reduced precision": (
            matmul.allow_fp16_reduced_precision_reduction,
            matmul.allow_bf16_reduced_precision_reduction,
        ),
        "torch's number of threads": torch.get_num_threads(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's choice of algorithms": torch.are_deterministic_algorithms_enabled(),
    }
    return {**settings, **_code_of_fastdllm()}


def _code_of_fastdllm() -> _Told:
    """What stands for each function and class of fastdllm, by the module that is imported."""
    code: _Told = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fastdllm":
            # A list, as another thread may import.
            values = list(vars(module).values())
            parts = [value for value in values if isinstance(value, FunctionType | type)]
            classes = [part for part in parts if isinstance(part, type) and part.__module__ == name]
            members = [member for each in classes for member in vars(each).values()]
            methods = [m for m in members if isinstance(m, FunctionType | classmethod | property)]
            code[f"the code of {name}"] = [id(part) for part in (*parts, *methods)]
    return code


def _memory(policy: Policy, modules: list[ModuleType]) -> _Told:
    """What all policies of a class could remember by, as its names and what each holds.

    modules: of the user that its file imports.
    """
    cls = type(policy)
    shared: dict[str, object] = {"self.parameters": policy.parameters}
    for each in cls.__mro__[-2::-1]:
        shared |= {f"{each.__name__}.{name}": value for name, value in _named(vars(each)).items()}
    shared |= {module.__name__: module for module in modules}
    shared |= _named(vars(sys.modules[cls.__module__]))
    seen: dict[int, object] = {}
    return {name: list(_facts([value], seen)) for name, value in shared.items()}


def _named(values: Any) -> dict[str, object]:
    return {name: value for name, value in values.items() if not name.startswith("__")}


def _facts(values: Iterable[object], seen: dict[int, object] | None = None) -> Iterator[object]:
    """Yield all that these values hold, in an order that stays the same while they do.

    Of functions, classes and modules this is what they hold if they are the user's.

    seen: what was told already, by id; kept, so that no other object gets the id.
    """
    seen = {} if seen is None else seen
    own = cache(is_own)
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, float | complex):
            yield repr(value)  # a NaN is no other than itself
        elif type(value) in _PLAIN:
            yield type(value), value
        elif id(value) not in seen:
            seen[id(value)] = value
            yield type(value)
            if isinstance(value, FunctionType | type | ModuleType):
                yield id(value)
                name = value.__name__ if isinstance(value, ModuleType) else value.__module__
                waiting += _held(value) if own(name) else []
            elif isinstance(value, staticmethod | classmethod):
                waiting.append(value.__func__)
            else:
                try:
                    waiting += _parts(value)
                except Exception:  # as an open file, a lock, or any class of a library
                    yield id(value)


def _held(value: FunctionType | type | ModuleType) -> list[object]:
    """What a function, class or module of the user could remember by."""
    if not isinstance(value, FunctionType):
        return [part for item in _named(vars(value)).items() for part in item]
    cells = [c.cell_contents for c in value.__closure__ or () if c != CellType()]
    return [value.__defaults__, value.__kwdefaults__, vars(value), *cells]


def _parts(value: object) -> list[object]:
    """What an object consists of, as `pickle` would write it."""
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), tuple(value.shape), hashlib.sha256(numbers).hexdigest()]
    if type(value) is dict:
        return [part for item in value.items() for part in item]
    if type(value) in (list, tuple, set, frozenset):
        return list(value)  # type: ignore[call-overload]
    reduced = value.__reduce_ex__(4)
    if isinstance(reduced, str):
        return [reduced]
    _, arguments, state, items, pairs, *_ = (*reduced, None, None, None)
    return [arguments, state, list(items or ()), list(pairs or ())]

"""Loads the one `Policy` subclass of a file. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

from fastdllm.common.errors import UserError
from fastdllm.decoding.user_code import forget_imported, only_counted_imports
from fastdllm.policy import Policy


class _FromSource(SourceFileLoader):
    """Compiles the file each time: Python's cache knows it by size and second only."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def load_policy(path: Path | str) -> type[Policy]:
    """Import the one `Policy` subclass that a `generation_functions.py` defines.

    Raises:
        UserError: no such file, the file does not import, or it defines no or several policies.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such policy file; copy experiments/_template to start one")
    name = f"fastdllm_policy_{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    assert spec is not None and spec.loader is not None
    forget_imported(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop(name, None)
    with only_counted_imports(path):
        # As an ordinary import does: pydantic looks up names in annotations there.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            # Whatever a user's file raises on import is for the user to fix; the cause stays
            # attached. A SystemExit would end the whole command silently.
            line = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
            raise UserError(f"{path}: cannot be imported: {line}") from error
    policies = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Policy) and value.__module__ == name
    ]
    if len(policies) != 1:
        names = ", ".join(cls.__name__ for cls in policies) or "none"
        raise UserError(f"{path}: must define exactly one subclass of Policy; found {names}")
    return policies[0]

"""Loads the one `Policy` subclass of a file, and digests its code. Imports no torch."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

from fastdllm.common.errors import UserError
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
    # As an ordinary import does: pydantic looks up names in annotations there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        # Whatever a user's file raises on import is for the user to fix; the cause stays attached.
        # A SystemExit would end the whole command silently.
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


def forget_imported(path: Path) -> dict[str, Path]:
    """Let Python import the project's modules that a file imports anew, from their source.

    Two experiments may each have a module of one name, and Python knows a compiled one by size and
    second only. Where its cache cannot be written, neither has this user filled it.

    Returns the modules' files by their names.

    Raises:
        UserError: a file is missing or is not valid Python.
    """
    files = {name: file for name, file, _ in _with_imported(path, "", set()) if name}
    for name, file in files.items():
        parts = name.split(".")
        for known in (".".join(parts[:end]) for end in range(len(parts), 0, -1)):
            if _is_of_project(sys.modules.get(known)):
                del sys.modules[known]
        forget_bytecode(file)
    importlib.invalidate_caches()
    return files


def _is_of_project(module: ModuleType | None) -> bool:
    """Whether a module comes from the current folder, and not from a library or an environment."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    paths = [Path(place).resolve() for place in places if place]
    environment = Path(sys.prefix).resolve()
    return any(
        path.is_relative_to(Path.cwd().resolve()) and not path.is_relative_to(environment)
        for path in paths
    )


def forget_bytecode(file: Path) -> None:
    """Remove what Python has compiled of a file."""
    with suppress(OSError):
        Path(importlib.util.cache_from_source(str(file.resolve()))).unlink(missing_ok=True)


def policy_code_digest(path: Path | str) -> str:
    """Digest the code of a policy or task helper, and of the project's modules that it imports.

    Comments, docstrings and layout do not count.

    Raises:
        UserError: a file is missing or is not valid Python.
    """
    own, *imported = (digest for _, _, digest in _with_imported(Path(path), "", set()))
    if not imported:
        return own
    return hashlib.sha256(repr([own, sorted(imported)]).encode()).hexdigest()


def _with_imported(path: Path, own_name: str, seen: set[Path]) -> Iterator[tuple[str, Path, str]]:
    """Yield name, file and digest of a file, then of the modules in its folder and the project's.

    Not of fastdllm itself, which records its commit and its version.
    """
    tree = _syntax_tree(path)
    yield own_name, path, hashlib.sha256(repr(_shape(tree)).encode()).hexdigest()
    for name in _imported_names(tree):
        for root in (Path(), path.parent):
            place = root / name.replace(".", "/")
            for module in (place.with_suffix(".py"), place / "__init__.py"):
                if module.is_file() and module.resolve() not in seen:
                    seen.add(module.resolve())
                    yield from _with_imported(module, name, seen)


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            # What is imported may be a module, too.
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        yield from (name for name in names if name.partition(".")[0] != "fastdllm")


def _syntax_tree(path: Path) -> ast.AST:
    """Parse a file, without its docstrings."""
    try:
        # As bytes: Python detects the encoding.
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid Python: {error.msg}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid Python: {error}") from None
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            del body[0]
    return tree


def _shape(node: object) -> object:
    """Return a syntax tree as nested lists, without empty fields: newer Pythons add some."""
    if isinstance(node, ast.AST):
        fields = [(name, _shape(value)) for name, value in ast.iter_fields(node)]
        return [type(node).__name__, *(part for part in fields if part[1] not in (None, []))]
    return [_shape(item) for item in node] if isinstance(node, list) else node


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

"""The code behind a policy or a task helper: which modules of the user it imports, and its digest.

A digest reads files and runs none of them, so what is imported in other ways than by a statement is
refused when it is imported. Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from types import FunctionType, ModuleType

from fastdllm.common.errors import UserError

# What policies and helpers are written with: recorded by commit and DECODER_VERSION.
_INTERFACE = (
    *("fastdllm", "fastdllm.policy", "fastdllm.settings", "fastdllm.validation"),
    *("fastdllm.sandbox", "fastdllm.sandbox.programs"),
)
# fastdllm, the script that started it, and where `datasets` and others keep code of the hub.
_OF_OTHERS = (
    *("fastdllm", "__main__", "__mp_main__"),
    *("datasets_modules", "evaluate_modules", "transformers_modules"),
)
_LIBRARIES = (
    Path(__file__).resolve().parents[1],
    *(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "purelib", "platlib")),
)
# Places beyond these are added by the code of users.
_PATH_AT_START = frozenset(sys.path)


def forget_imported(path: Path) -> dict[str, Path]:
    """Let Python import the project's modules that a file imports anew, from their source.

    Two experiments may each have a module of one name, and Python knows a compiled one by size and
    second only. Where its cache cannot be written, neither has this user filled it.

    Returns the modules' files by their names.

    Raises:
        UserError: a file is missing or is not valid Python.
    """
    files = imported_files(path)
    names = {known for name in files for known in _with_parents(name)}
    # A folder without __init__.py asks the one around it where it is, so none may stay alone.
    within = [name for name in sys.modules if not names.isdisjoint(_with_parents(name))]
    for own in [name for name in within if is_own(name)]:
        del sys.modules[own]
    for file in files.values():
        forget_bytecode(file)
    importlib.invalidate_caches()
    return files


@contextmanager
def only_counted_imports(*paths: Path) -> Iterator[None]:
    """Refuse code of the user that is imported within, and that no digest of `paths` counts.

    Raises:
        UserError: naming its file; whatever imports it next is refused, too.
    """
    before = set(sys.modules)
    yield
    new = [name for name in set(sys.modules) - before if is_own(name)]
    files = {file for name in new for file in _files_behind(sys.modules[name]) if file}
    counted = {file.resolve() for path in paths if new for file in code_files(path)}
    for file in sorted(files):
        if _is_own_place(Path(file)) and Path(file).resolve() not in counted:
            for name in new:
                del sys.modules[name]
            where = ", ".join(map(str, paths)) or "a task file"
            raise UserError(
                f"{where}: takes code from {file}, whose changes its results would not notice; "
                "let a plain `import` name a .py file in its own folder, or by its path from the "
                "project's folder"
            )


def is_own(name: str) -> bool:
    """Whether an imported module is the user's: of the project, or of a place that code added."""
    module = sys.modules.get(name)
    if not isinstance(module, ModuleType) or name.partition(".")[0] in _OF_OTHERS:
        return False
    # Not by getattr: a module of torch answers for every name, and with what is no path.
    places = [vars(module).get("__file__"), *(vars(module).get("__path__") or ())]
    return any(_is_own_place(Path(place)) for place in places if place)


def _is_own_place(place: Path) -> bool:
    """Whether a file or folder, or what it links to, is the user's and of no library."""
    if {"site-packages", "dist-packages"} & set(place.parts) or not place.exists():
        return False
    roots = {Path.cwd(), *(Path(root).resolve() for root in set(sys.path) - _PATH_AT_START)}
    paths = (place.absolute(), place.resolve())
    return any(path.is_relative_to(root) for path in paths for root in roots) and not any(
        path.is_relative_to(library) for path in paths for library in _LIBRARIES
    )


def _files_behind(module: ModuleType) -> Iterator[str | None]:
    """Yield the files of a module, and of the modules, functions and classes that it holds."""
    yield vars(module).get("__file__")
    for value in vars(module).values():
        if isinstance(value, ModuleType) and is_own(value.__name__):
            yield vars(value).get("__file__")
        classes = value.__mro__ if isinstance(value, type) else ()
        functions = [value, *(part for each in classes for part in vars(each).values())]
        for function in functions:
            if isinstance(function, FunctionType):
                yield function.__code__.co_filename


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
    own, *imported = (digest for _, _, digest in _with_imported(Path(path)))
    if not imported:
        return own
    return hashlib.sha256(repr([own, sorted(imported)]).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Digest the code of one file, in the same way.

    Raises:
        UserError: it is missing or is not valid Python.
    """
    return _tree_digest(_syntax_tree(path))


def imported_files(path: Path) -> dict[str, Path]:
    """Return the user's modules behind a file by their names, of fastdllm none.

    Raises:
        UserError: a file is missing or is not valid Python.
    """
    files = {name: file for name, file, _ in _with_imported(path) if name}
    return {name: file for name, file in files.items() if name.partition(".")[0] != "fastdllm"}


def code_files(path: Path) -> list[Path]:
    """Return the files that `policy_code_digest` counts.

    Raises:
        UserError: a file is missing or is not valid Python.
    """
    return [file for _, file, _ in _with_imported(path)]


def _with_imported(path: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield name, file and digest of a file, then of the modules of the user behind it.

    These are the modules that it and they import from the project or from their folders; of
    fastdllm not the interface of policies.
    """
    seen: set[tuple[str, Path]] = set()
    waiting = [("", path)]
    for name, file in waiting:
        tree = _syntax_tree(file)
        yield name, file, _tree_digest(tree)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        for imported in _imported_names(tree, package):
            for root in (Path(), path.parent, file.parent):
                place = root / imported.replace(".", "/")
                for module in (place.with_suffix(".py"), place / "__init__.py"):
                    if module.is_file() and (imported, module.resolve()) not in seen:
                        seen.add((imported, module.resolve()))
                        waiting.append((imported, module))


def _imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield the names of what may be an imported module, each after its parents.

    package: that the file is in, from which relative imports start.
    """
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # which Python raises, too, when it comes there
                relative = "." * node.level + (node.module or "")
                module = importlib.util.resolve_name(relative, package)
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        for name in names:
            yield from (known for known in _with_parents(name) if known not in _INTERFACE)


def _with_parents(name: str) -> Iterator[str]:
    """Yield a.b.c as a, a.b and a.b.c, which Python imports in this order."""
    return accumulate(name.split("."), "{}.{}".format)


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


def _tree_digest(tree: ast.AST) -> str:
    return hashlib.sha256(repr(_shape(tree)).encode()).hexdigest()


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

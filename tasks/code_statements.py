"""Statements of Python code: the names that each gives and takes, and which a function needs."""

from __future__ import annotations

import ast
import builtins
import symtable
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_BUILTINS = frozenset(dir(builtins))


class Statement(NamedTuple):
    """A statement at the top level.

    bound: the names that it gives a value. used: those that it, or a function in it, takes from
        outside. changed: those of what it changes in place, as by `table[0] = 1`.
    is_stub: it is a function without code, as in a prompt. gives: it is one that returns something.
    """

    text: str
    bound: frozenset[str]
    used: frozenset[str]
    changed: frozenset[str]
    is_stub: bool
    gives: bool
    is_always_needed: bool


def statements_of(code: str) -> list[Statement] | None:
    """Return the statements of code; None if it is not Python."""
    try:
        return [_statement(node, text) for node, text in _split(code)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def error_line(code: str) -> int | None:
    """Return the line, counted from 1, at which code stops to be Python; None if it does not."""
    try:
        _parsed(code)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):  # which say nothing of lines
        return code.count("\n") + 1
    return None


def names_taken(code: str) -> list[str]:
    """Return the names that code takes from outside and Python does not know."""
    statements = statements_of(code) or []
    bound = frozenset[str]().union(*(one.bound for one in statements))
    return sorted(frozenset[str]().union(*(one.used for one in statements)) - bound - _BUILTINS)


def names_called(code: str) -> list[str]:
    """Return the functions that code calls, in the order of their lines.

    Raises:
        ValueError: it is not Python.
    """
    try:
        calls = [node for node in ast.walk(_parsed(code)) if isinstance(node, ast.Call)]
    except SyntaxError as error:
        raise ValueError(f"not valid Python: {error}: {code!r}") from None
    calls.sort(key=lambda call: call.lineno)
    return list(dict.fromkeys(c.func.id for c in calls if isinstance(c.func, ast.Name)))


def needed(
    chosen: Sequence[Statement],
    others: Sequence[Statement],
    names: Iterable[str],
    *,
    before: Sequence[Statement] = (),
) -> str:
    """Return the code of `chosen` that some names need, after what of `others` that needs.

    before: goes first, needed or not.

    What only shows or tests a function is left out: calls, prints, asserts, loops over examples.
    """
    own = frozenset[str]().union(*(one.bound for one in chosen))
    listed = [*(one for one in others if not one.bound & own), *chosen]
    wanted, kept = set(names), set[int]()
    while True:
        more = {
            index
            for index, one in enumerate(listed)
            if one.is_always_needed or (one.bound | one.changed) & wanted
        }
        if more == kept:
            break
        kept = more
        wanted |= {name for index in kept for name in listed[index].used}
    # What an import from __future__ says holds for all code of a program, and stands first.
    texts = [one.text for one in (*before, *(listed[index] for index in sorted(kept)))]
    texts.sort(key=lambda text: not text.startswith("from __future__ "))
    return "\n\n".join(texts) + "\n"


def _parsed(code: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.parse(code)


def _split(code: str) -> Iterator[tuple[ast.stmt, str]]:
    lines = code.split("\n")
    for node in _parsed(code).body:
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            text = "\n".join(lines[decorators[0].lineno - 1 : node.end_lineno])
        else:
            text = ast.get_source_segment(code, node) or ""
        yield node, text


def _statement(node: ast.stmt, text: str) -> Statement:
    bound, used = set[str](), set[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        top = symtable.symtable(text, "answer", "exec")
    for symbol in top.get_symbols():
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace():
            bound.add(symbol.get_name())
        if symbol.is_referenced():
            used.add(symbol.get_name())
    for table in _inner(top):
        for symbol in table.get_symbols():
            if symbol.is_global():
                used.add(symbol.get_name())
                bound |= {symbol.get_name()} if symbol.is_assigned() else set()
    is_script = isinstance(node, ast.If) and "__name__" in used
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    is_definition = is_function or isinstance(node, ast.ClassDef | ast.Import | ast.ImportFrom)
    return Statement(
        text=text,
        bound=frozenset() if is_script else frozenset(bound),
        used=frozenset(used),
        changed=frozenset() if is_script or is_definition else frozenset(_changed(node)),
        is_stub=is_function and all(map(_does_nothing, node.body)),
        gives=is_function and any(map(_gives, node.body)),
        is_always_needed=_is_always_needed(node),
    )


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    waiting = list(table.get_children())
    while waiting:
        yield (child := waiting.pop())
        waiting += child.get_children()


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yield the names of what a statement changes in place, or calls a method of."""
    for part in ast.walk(node):
        is_stored = isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(
            part.ctx, ast.Load
        )
        is_called = isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute)
        root = part if is_stored else part.func if is_called else None
        while isinstance(root, ast.Subscript | ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name):
            yield root.id


def _does_nothing(node: ast.stmt) -> bool:
    """Whether a statement of a function is its docstring, or stands for code that is not there."""
    if isinstance(node, ast.Raise):
        return "NotImplementedError" in ast.dump(node)
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _gives(node: ast.AST) -> bool:
    """Whether a part of a function returns something, or is the beginning of a generator."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return False
    is_end = isinstance(node, ast.Return | ast.Yield | ast.YieldFrom)
    return is_end or any(map(_gives, ast.iter_child_nodes(node)))


def _is_always_needed(node: ast.stmt) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "__future__" or node.names[0].name == "*"
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and (
        isinstance(call.func, ast.Attribute) and call.func.attr == "setrecursionlimit"
    )

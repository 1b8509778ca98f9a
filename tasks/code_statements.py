"""Statements of Python code: the names that each gives and takes, and which a function needs."""

from __future__ import annotations

import ast
import io
import symtable
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

# Stands for all names of a module that `from module import *` gives.
_ALL = "*"


class Statement(NamedTuple):
    """A statement at the top level.

    bound: the names that it gives a value. used: those that it, or a function in it, takes from
        outside. changed: those of what it changes in place, as by `table[0] = 1`.
    gives: it is a function that returns something. is_import: what it binds is not of the answer.
    """

    text: str
    bound: frozenset[str]
    used: frozenset[str]
    changed: frozenset[str]
    gives: bool
    is_import: bool


def statements_of(code: str) -> list[Statement]:
    """Return the statements of code.

    Raises:
        SyntaxError: it is not Python; its lineno, if it has one, says from which line on.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(code, "answer", "exec", dont_inherit=True)
            return [_statement(node, text) for node, text in _split(code)]
    except SyntaxError as error:
        # Python names the last bracket that is open: where an answer repeats one without end, each
        # line would be tried as the last.
        if error.lineno:
            before = code.split("\n")[: error.lineno - 1]
            error.lineno = _first_open_bracket(before) or error.lineno
        raise
    except (ValueError, RecursionError, MemoryError) as error:  # which say nothing of lines
        raise SyntaxError(str(error)) from None


def _first_open_bracket(lines: Sequence[str]) -> int | None:
    """Return the line, from 1 on, of the first bracket that is not closed, or None."""
    code = "\n".join(lines)
    if sum(map(code.count, "([{")) <= sum(map(code.count, ")]}")):  # nearly always, and quick
        return None
    opened: list[int] = []
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.OP and token.string in "([{":
                opened.append(token.start[0])
            elif token.type == tokenize.OP and token.string in ")]}" and opened:
                opened.pop()
    return opened[0] if opened else None


def names_called(code: str) -> list[str]:
    """Return the functions that code calls, in the order of their lines.

    Raises:
        ValueError: it is not Python.
    """
    try:
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
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
    own = frozenset[str]().union({_ALL}, *(one.bound for one in chosen))
    listed = [*(one for one in others if not one.bound & own), *chosen]
    # A method of a module is called for what it gives, or for the whole program, as sys.exit().
    modules = frozenset[str]().union(*(one.bound for one in listed if one.is_import))
    wanted, kept = {_ALL, *names}, set[int]()
    while True:
        more = {
            index
            for index, one in enumerate(listed)
            if (one.bound | (one.changed - modules)) & wanted
        }
        if more == kept:
            break
        kept = more
        wanted |= {name for index in kept for name in listed[index].used}
    texts = [one.text for one in (*before, *(listed[index] for index in sorted(kept)))]
    return "\n\n".join(texts) + "\n"


def _split(code: str) -> Iterator[tuple[ast.stmt, str]]:
    lines = code.split("\n")
    for node in ast.parse(code).body:
        decorators = getattr(node, "decorator_list", [])
        if decorators:
            text = "\n".join(lines[decorators[0].lineno - 1 : node.end_lineno])
        else:
            text = ast.get_source_segment(code, node) or ""
        yield node, text


def _statement(node: ast.stmt, text: str) -> Statement:
    bound, used = set[str](), set[str]()
    top = symtable.symtable(text, "answer", "exec")
    for symbol in top.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            bound.add(symbol.get_name())
        if symbol.is_referenced():
            used.add(symbol.get_name())
    for table in _inner(top):
        used |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
    if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
        bound.add(_ALL)
    is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    return Statement(
        text=text,
        bound=frozenset(bound),
        used=frozenset(used),
        changed=frozenset(_changed(node)),
        gives=is_function and any(map(_gives, node.body)),
        is_import=isinstance(node, ast.Import | ast.ImportFrom),
    )


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _inner(child)


def _changed(node: ast.stmt) -> Iterator[str]:
    """Yield the names of what a statement changes in place, or calls a method of for its effect."""
    for part in ast.walk(node):
        root: ast.AST | None = None
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            root = part
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Call):
            root = part.value.func if isinstance(part.value.func, ast.Attribute) else None
        while isinstance(root, ast.Subscript | ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name):
            yield root.id


def _gives(node: ast.AST) -> bool:
    """Whether a part of a function returns something, or is the beginning of a generator."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return False
    is_end = isinstance(node, ast.Return | ast.Yield | ast.YieldFrom)
    return is_end or any(map(_gives, ast.iter_child_nodes(node)))

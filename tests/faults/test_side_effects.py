"""Policies that change what outlives them: a memory, a generator, a setting, code of fastdllm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastdllm.common.errors import PolicyViolation, UserError
from fastdllm.decoding import finite
from fastdllm.decoding.side_effects import load_without_side_effects, without_side_effects
from fastdllm.policy import PassKind, Policy, SequenceState
from fastdllm.settings import DecodingSettings

POLICY = Path("experiments/trial/generation_functions.py")
HEAD = """
import functools, itertools, logging, random, re, threading
from collections import deque
from types import SimpleNamespace
import numpy
import torch
from fastdllm.policy import Policy, PassKind, SpanAction
from fastdllm.validation import StrictModel


class Slots:
    __slots__ = ("n",)


class Odd(Policy):
    calls = 0
"""
# In the class, before a method that does something; in the file, after it; what that does; what
# is then changed.
MEMORIES = {
    "dict": ("begun = {}", "", "self.begun.setdefault(state.request, 1)", "Odd.begun"),
    "number": ("", "", "type(self).calls += 1", "Odd.calls"),
    "base": ("", "", "Policy.n = getattr(Policy, 'n', 0) + 1", "Policy.n"),
    "list": ("", "SEEN = []", "SEEN.append(state.block)", "SEEN"),
    "global": ("", "n = 0.5", "global n; n += 1", "n"),
    "text": ("", "text = ''", "global text; text += '.'", "text"),
    "new": ("", "", "global last; last = state", "last"),
    "tuple": ("", "pair = ([], 1)", "pair[0].append(1)", "pair"),
    "object": ("", "box = SimpleNamespace(n=0)", "box.n += 1", "box"),
    "own-class": ("", "class Box:\n    n = 0", "Box.n += 1", "Box"),
    "slots": ("", "box = Slots()", "box.n = getattr(box, 'n', 0) + 1", "box"),
    "deque": ("", "last = deque(maxlen=2)", "last.append(state.block_step)", "last"),
    "iterator": ("", "steps = itertools.count()", "next(steps)", "steps"),
    "tensor": ("", "mean = torch.zeros((), dtype=torch.bfloat16)", "mean.add_(1)", "mean"),
    "array": ("", "counts = numpy.zeros(3)", "counts[0] += 1", "counts"),
    "generator": ("", "dice = random.Random(1)", "dice.random()", "dice"),
    "torchs": ("", "dice = torch.Generator()", "torch.rand(1, generator=dice)", "dice"),
    "function": ("", "def f():\n    pass\n\nf.n = 0", "f.n += 1", "f"),
    "default": ("", "def f(seen=[]):\n    seen.append(1)", "f()", "f"),
    "closure": ("", "def g(n):\n    return lambda: n.append(1)\n\nf = g([])", "f()", "f"),
    "static": (
        "@staticmethod\n    def f(seen=[]):\n        seen.append(1)",
        "",
        "self.f()",
        "Odd.f",
    ),
    "module": ("", "import own_of_mine", "own_of_mine.n += 1", "own_of_mine"),
    "parameters": (
        "class Parameters(StrictModel):\n        seen: list = []",
        *("", "self.parameters.seen.append(1)", "self.parameters"),
    ),
}
OF_ALL = {
    "random": ("random.random()", "the generator of `random`"),
    "numpy": ("numpy.random.rand()", "the generator of `numpy.random`"),
    "torch": ("torch.rand(1)", "the generator of `torch`"),
    "seed": ("torch.manual_seed(state.block)", "the generator of `torch`"),
    "precision": ("torch.set_float32_matmul_precision('medium')", "torch's float32 precision"),
    "dtype": ("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
    "threads": ("torch.set_num_threads(torch.get_num_threads() + 1)", "torch's number of threads"),
    "algorithms": ("torch.use_deterministic_algorithms(True)", "torch's choice of algorithms"),
}
STATE = SequenceState(
    request=0,
    block=7,
    sub_block=0,
    block_step=0,
    sub_block_step=0,
    has_block_cache=False,
    has_stored_logits=False,
    predicted=(0, 0),
    masked=(True,) * 32,
    committed_since_compute=0,
    passes_since_compute=0,
    lowest_confidence=None,
)
DOES = """
    IN_CLASS

    def next_pass(self, state):
        STATEMENT
        return super().next_pass(state)


IN_FILE
"""
HARMLESS = """
    def next_pass(self, state):
        assert not LOCK.locked() and level(0).shape == (3,)
        return RULES["first"](super().next_pass(state))


@functools.cache
def level(block):
    return torch.rand(3, generator=torch.Generator().manual_seed(block))


LOCK, NAN, TABLE = threading.Lock(), [float("nan"), 1j], torch.tensor([float("nan")])
RULES = {"first": lambda kind: kind, "all": (i for i in range(3))}
PATTERN, NAMES, KINDS = re.compile("a"), frozenset("abc"), set(PassKind)
RULES["self"], LOG, LEVELS = RULES, logging.getLogger("mine"), numpy.array([None, "a"])
"""


@pytest.fixture
def torch_as_it_was() -> Iterator[None]:
    """Set torch up again as it was."""
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.use_deterministic_algorithms(False)


def written(in_class: str = "", in_file: str = "", statement: str = "pass") -> Policy:
    """Load a policy of this code as a run does."""
    policy = DOES.replace("IN_CLASS", in_class).replace("IN_FILE", in_file)
    POLICY.write_text(HEAD + policy.replace("STATEMENT", statement))
    cls = load_without_side_effects(POLICY)
    return cls(DecodingSettings(), cls.Parameters(), 6)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("kind", MEMORIES)
def test_a_policy_with_a_memory_that_outlives_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    Path("own_of_mine.py").write_text("n = 0\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    in_class, in_file, statement, changed = MEMORIES[kind]
    policy = written(in_class, in_file, statement)
    with (
        pytest.raises(PolicyViolation, match=rf"policy Odd: changed {changed} while it decided"),
        without_side_effects(policy),
    ):
        policy.next_pass(STATE)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("statement", "changed", "module"),
    [
        ("Policy.accept = lambda *_: None", "Policy.accept", "policy"),
        ("finite.first_not_finite = lambda _: None", "the code of fastdllm", "decoding.finite"),
    ],
    ids=["class", "function"],
)
def test_a_policy_that_replaces_code_of_fastdllm_is_refused(
    monkeypatch: pytest.MonkeyPatch, statement: str, changed: str, module: str
) -> None:
    for place, name in ((Policy, "accept"), (finite, "first_not_finite")):
        monkeypatch.setattr(place, name, vars(place)[name])  # as it was, once this is over
    statement = f"from fastdllm.decoding import finite; {statement}"
    policy = written(statement=statement)
    with pytest.raises(PolicyViolation, match=f"changed {changed}"), without_side_effects(policy):
        policy.next_pass(STATE)
    with pytest.raises(UserError, match=f"changed the code of fastdllm.{module} when it was im"):
        written(in_file=statement)


@pytest.mark.usefixtures("project")
def test_a_library_may_draw_when_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Path("site-packages/library_of_mine.py")
    library.parent.mkdir()
    library.write_text("import random\nrandom.random()\n")
    monkeypatch.syspath_prepend(str(library.parent.absolute()))
    written(in_file="import library_of_mine")


@pytest.mark.usefixtures("project")
def test_a_module_that_is_imported_late_may_not_be_a_memory_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("late_of_mine.py").write_text("n = 0\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    policy = written(statement="import late_of_mine; late_of_mine.n += 1")
    with without_side_effects(policy):
        policy.next_pass(STATE)  # the warm-up, which imports it
    with (
        pytest.raises(PolicyViolation, match="policy Odd: changed late_of_mine while it decided"),
        without_side_effects(policy),
    ):
        policy.next_pass(STATE)


@pytest.mark.usefixtures("project", "torch_as_it_was")
@pytest.mark.parametrize("kind", OF_ALL)
def test_a_policy_that_changes_what_the_process_shares_is_refused(kind: str) -> None:
    statement, changed = OF_ALL[kind]
    policy = written(statement=statement)
    refused = rf"changed {changed} {{}}, which all code of a process shares"
    with (
        pytest.raises(PolicyViolation, match=refused.format("while it decided")),
        without_side_effects(policy),
    ):
        policy.next_pass(STATE)
    if kind == "seed":
        return  # gives the same each time that it is imported
    again = statement.replace("'medium'", "'high'")
    with pytest.raises(UserError, match=refused.format("when it was imported")):
        written(in_file=again.replace("float64", "float16").replace("(True)", "(False)"))


@pytest.mark.usefixtures("project")
def test_a_policy_without_a_memory_may_hold_anything() -> None:
    POLICY.write_text(HEAD + HARMLESS)
    cls = load_without_side_effects(POLICY)
    policy = cls(DecodingSettings(), cls.Parameters(), 6)
    with without_side_effects(policy):
        assert policy.next_pass(STATE) is PassKind.FULL_BLOCK


@pytest.mark.usefixtures("project")
def test_a_policy_may_be_edited_while_it_decides() -> None:
    policy = written()
    with without_side_effects(policy):  # as in the warm-up
        expected = policy.next_pass(STATE)
    POLICY.write_text("def half(")
    with without_side_effects(policy):  # as in a chunk
        assert policy.next_pass(STATE) == expected

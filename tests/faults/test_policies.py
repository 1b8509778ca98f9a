"""Policies that depend on batch or chance, and settings that are not those of a result or model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdllm.cli import main
from fastdllm.common.errors import PolicyViolation, UserError
from fastdllm.decoding import finite
from fastdllm.decoding.asked_again import AskedAgain
from fastdllm.decoding.side_effects import load_without_side_effects, without_side_effects
from fastdllm.policy import Policy, Predictions, SequenceState
from fastdllm.runs import chunk_engine
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import read_spec
from fastdllm.settings import DecodingSettings
from fastdllm.workflow.project.digests import FileDigests, check_sources
from tests.support.run_project import silent, write_lines

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
SPAN = "    layer_spans = ((1, 3),)\n"
DRAWS = """
    def accept(self, predictions, states):
        return self.accepted_above(random.random(), predictions)
"""
COUNTS = """
    def accept(self, predictions, states):
        self.calls += 1
        return self.accepted_above(0.9 if self.calls % 2 else 0.0, predictions)
"""
COMPARES = """
    def accept(self, predictions, states):
        highest = predictions.confidence.amax().item()
        return self.accepted_above(min(0.999 * highest, 1.0), predictions) | (
            predictions.masked & (len(states) == 1)
        )
"""
COUNTS_PASSES = """
    def next_pass(self, state):
        self.calls += 1
        return PassKind.FULL_BLOCK if self.calls % 2 else super().next_pass(state)
"""
COUNTS_WINDOWS = """
    def window(self, state, kind):
        self.calls += 1
        start, stop = super().window(state, kind)
        return start, stop + (self.calls % 2 and kind is PassKind.FULL_BLOCK and stop < 32)
"""
COMPARES_CHANGES = (
    SPAN
    + """
    def span_actions(self, span, states, signals):
        changes = signals.input_change()
        calm = [change < max(changes) for change in changes]
        return [SpanAction.ADD_DELTA if c else SpanAction.COMPUTE for c in calm]
"""
)
DERIVED = """
    def accept(self, predictions, states):
        predictions.confidence.mul_(0.5)
        return self.accepted_above(0.3, predictions)
"""
REMEMBERS = """
    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings, parameters, num_layers)
        self.begun = {}

    def next_pass(self, state):
        begun = self.begun.setdefault(state.request, state.BEGUN)
        is_later = state.block_step == 1 and state.BEGUN != begun
        return PassKind.FULL_BLOCK if is_later else super().next_pass(state)
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
MEASURES = (
    SPAN
    + """
    def span_actions(self, span, states, signals):
        calm = [change < 0.1 for change in signals.input_change()]
        return [SpanAction.ADD_DELTA if c else SpanAction.COMPUTE for c in calm]
"""
)
LATE = """
    def accept(self, predictions, states):
        self.calls += 1
        return self.accepted_above(0.0 if self.calls > 60 else 2.0, predictions)
"""
OTHER_SETTINGS = """
    def __init__(self, settings, parameters, num_layers):
        super().__init__(settings.model_copy(update={"threshold": 0.1}), parameters, num_layers)
"""


@pytest.fixture
def run(make_spec: Callable[..., Path], make_plan_on_disk: Callable[..., Any]) -> Callable:
    """Decode the run of a policy."""

    def evaluate(policy: str, **options: int) -> Any:
        make_plan_on_disk()
        POLICY.write_text(HEAD + policy)
        spec = make_spec(**options)
        check = partial(check_sources, digests=FileDigests())
        return Evaluation(read_spec(spec), spec.parent, silent(), check).evaluate().summary

    return evaluate


@pytest.mark.parametrize(
    ("policy", "method"),
    [
        (DRAWS, "accept"),
        (COUNTS, "accept"),
        (COMPARES, "accept"),
        (COUNTS_PASSES, "next_pass"),
        (COUNTS_WINDOWS, "window"),
        (COMPARES_CHANGES, "span_actions"),
        (REMEMBERS.replace("BEGUN", "masked"), "next_pass"),
    ],
    ids=[
        *("draws", "counts", "compares", "counts-passes", "counts-windows", "compares-changes"),
        "remembers",
    ],
)
def test_a_policy_that_decides_otherwise_when_asked_again_is_refused(
    run: Callable, policy: str, method: str
) -> None:
    with pytest.raises(UserError, match=f"policy Odd: {method} decided otherwise when asked again"):
        run(policy)
    assert not list(Path("results").rglob("summary.json"))


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


def test_a_run_ends_with_what_its_policy_remembers(run: Callable) -> None:
    remembers = DOES.replace("IN_CLASS", "").replace("IN_FILE", "SEEN = []")
    with pytest.raises(UserError, match="policy Odd: changed SEEN while it decided"):
        run(remembers.replace("STATEMENT", "SEEN.append(state.block)"))
    assert not list(Path("results").rglob("summary.json"))


def test_a_run_ends_with_a_draw_long_after_its_warm_up(run: Callable) -> None:
    draws = DOES.replace("IN_CLASS", "").replace("IN_FILE", "")
    with pytest.raises(UserError, match="changed the generator of `random` while it decided"):
        run(draws.replace("STATEMENT", "state.request == 2 and random.random()"), batch_size=1)
    assert not list(Path("results").rglob("summary.json"))


def test_a_run_ends_with_a_decision_that_depends_on_others_long_after_its_warm_up(
    run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_engine, "ASKED_AGAIN", 5)
    with pytest.raises(UserError, match="policy Odd: accept decided otherwise when asked again"):
        run(LATE, batch_size=1)
    assert not list(Path("results").rglob("summary.json"))


def test_one_in_so_many_decisions_is_asked_again() -> None:
    made: list[Policy] = []

    class Mine(Policy):
        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            made.append(self)

        def accept(self, predictions: Predictions, states: Any) -> torch.Tensor:
            asked.append(len(states))
            return super().accept(predictions, states)

    asked: list[int] = []
    policy = AskedAgain(Mine(DecodingSettings(), Mine.Parameters(), 6), every=7)
    confidence = torch.rand(8, 32)
    predictions = Predictions(
        torch.zeros(8, 32, dtype=torch.long),
        confidence,
        torch.ones(8, 32, dtype=torch.bool),
        torch.zeros(8, dtype=torch.long),
    )
    for _ in range(7):
        kind = policy.next_pass(STATE)
        policy.window(STATE, kind)
        policy.accept(predictions, [STATE] * 8)
    assert len(made) == 1 + 7 * (1 + 1 + 8) // 7, "of all decisions, whatever they are about"
    assert asked.count(8) == 7 and 0 < asked.count(1) <= 10


@pytest.mark.usefixtures("torch_as_it_was")
def test_a_run_ends_with_a_setting_of_torch_that_its_policy_changes(run: Callable) -> None:
    with pytest.raises(UserError, match="changed torch's float32 precision when it was imported"):
        run("    pass\n\ntorch.set_float32_matmul_precision('medium')\n")
    assert not list(Path("results").rglob("summary.json"))


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


@pytest.mark.parametrize(
    "policy", [DERIVED, MEASURES, HARMLESS], ids=["writes-to-its-input", "measures", "harmless"]
)
def test_a_policy_that_decides_by_what_it_sees_is_decoded(run: Callable, policy: str) -> None:
    assert run(policy).items.n == 10


def test_what_a_policy_remembers_does_not_outlive_a_chunk(project: Path, run: Callable) -> None:
    questions = [{"question": "What is it? " * (1 + i), "answer": "1"} for i in range(10)]
    write_lines(project / "tasks/data/sums.jsonl", questions)
    policy = REMEMBERS.replace("BEGUN", "block")
    whole, answers = run(policy), Path("results/trial/sums/plain/answers.jsonl")
    header, session, first, *_ = answers.read_text().splitlines(keepends=True)
    answers.write_text(header + session + first)
    answers.with_name("summary.json").unlink()
    resumed = run(policy)
    assert resumed.resumed and resumed.passes == whole.passes


def test_a_policy_that_changes_its_settings_is_refused(run: Callable) -> None:
    with pytest.raises(UserError, match="Odd decodes with other settings than those that its res"):
        run(OTHER_SETTINGS)
    assert not list(Path("results").rglob("summary.json"))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("key", ["mask_id", "stop_token"])
def test_a_token_that_the_model_lacks_is_refused_before_any_job(
    capsys: pytest.CaptureFixture[str], key: str
) -> None:
    experiment = POLICY.with_name("experiment.yaml")
    experiment.write_text(experiment.read_text() + f"decoding: {{{key}: 256}}\n")
    assert main(["status"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"config plain: {key} 256 is outside the model's vocabulary of 256")

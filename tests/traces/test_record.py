"""A trace is read as it was written, and whatever contradicts itself is refused in one line."""

from __future__ import annotations

import copy
import json
import random
import re

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.traces.record import read_trace, trace_of, trace_text, write_trace
from scripts.write_schemas import texts
from tests.support.mutations import mutated_json
from tests.support.random_traces import random_trace
from tests.support.run_project import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "docs/schemas/trace.schema.json").read_text())
BY_SCHEMA = jsonschema.Draft202012Validator(SCHEMA)
SEEDS = st.integers(0, 2**32)


def content(values):
    return json.dumps(values).encode()


def a_trace():
    """A whole answer in blocks of 8: a prefill, a sub-block pass, a full-block pass, and more."""
    for seed in range(10_000):
        values = random_trace(random.Random(seed))
        steps, size = values["steps"], values["settings"]["block_size"]
        kinds = [step["kind"] for step in steps]
        if (
            size == 8
            and len(values["prompt"]["ids"]) in (9, 10)
            and values["settings"]["temperature"] == 0
            and values["answer"]["finish_reason"] == "length"
            and kinds[1:3] == ["sub_block", "full_block"]
        ):
            return values
    raise AssertionError("no such trace")


TRACE = a_trace()


def test_the_schema_is_up_to_date():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert json.dumps(SCHEMA) in {
        json.dumps(json.loads(t)) for t in texts().values() if t[0] == "{"
    }


@settings(deadline=None)
@given(seed=SEEDS)
def test_what_decoding_allows_is_read_and_written_alike(seed):
    values = random_trace(random.Random(seed))
    trace = trace_of(content(values), "here")
    text = trace_text(trace)
    assert trace_of(text.encode(), "here") == trace
    written = json.loads(text)
    for step in values["steps"]:
        if not step["runners_up"]:
            assert step["positions"] == []
    assert written["steps"] == values["steps"]
    assert written["settings"].items() >= values["settings"].items()
    BY_SCHEMA.validate(written)


# A busy machine draws slowly.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(data=st.data(), seed=SEEDS)
def test_damage_is_refused_in_one_line_or_harmless(data, seed):
    damaged, _ = data.draw(mutated_json(content(random_trace(random.Random(seed)))))
    try:
        trace = trace_of(damaged, "here")
    except UserError as error:
        assert str(error).startswith("here: ") and "\n" not in str(error)
    else:
        assert trace_of(trace_text(trace).encode(), "here") == trace


def put(values, path, value):
    *holders, last = path.split(".")
    for key in holders:
        values = values[int(key) if isinstance(values, list) else key]
    values[int(last) if isinstance(values, list) else last] = value


STEP = TRACE["steps"][2]
FIRST = TRACE["steps"][1]["positions"][0]
FAULTS = {
    "steps.1.positions.0": (3, "steps.1.positions: 3 is no position of the answer in block 1"),
    "steps.2.positions.0": (FIRST, f"steps.2.positions: {FIRST} is known already"),
    "steps.2.tokens.0": (40, "steps.2.tokens: 40 is outside the vocabulary of 40"),
    "steps.1.tokens.0": (3, "steps.1.tokens: 3 is the mask"),
    "steps.1.probabilities.0": (1.5, "steps.1.probabilities.0: 1.5 is not allowed"),
    "steps.2.probabilities.0": (0.001, "steps.2.runners_up: more likely than the token"),
    "steps.2.probabilities": ([], "steps.2: probabilities has 0 entries"),
    "steps.2.runners_up.0.0": ([9, 1.5], "steps.2: runners_up has probabilities that are none"),
    "steps.2.sub_block": (9, "steps.2.sub_block: 9 is not"),
    "steps.2.block": (2, "steps.2.block: 2 is not 1"),
    "steps.2.rows": (4, "steps.2.rows: 4 is not possible in a full_block step"),
    "steps.2.seconds": (0, "steps.2.seconds: 0 is earlier"),
    "steps.2.kind": ("commit", "steps.2."),
    "steps.2.layers_computed": (3, "steps.2.layers_computed: 3 with those skipped, of 4"),
    "steps.2.colour": ("red", "unknown key 'steps.2.colour'"),
    "answer.ids.0": (39, "answer.ids: not what the steps committed"),
    "answer.finish_reason": ("stop", "answer.finish_reason: stop, but the steps give length"),
    "passes.reused": (77, "passes.reused: 77, but the steps give"),
    "tokens_per_forward": (99.0, "tokens_per_forward: 99.0, but the steps give"),
    "seconds": (0, "seconds: fewer than those of the last step"),
    "pieces": ({}, "pieces: token"),
    "schema_version": (2, "schema_version 2 is not 1; make the trace again"),
    "format": ("other", "no trace; `fastdllm generate --trace FILE` makes one"),
    "settings.small_block_size": (12, "settings: small_block_size 12 does not divide"),
    "settings.block_size": (2**60, "settings.block_size: more than 16384"),
}


@pytest.mark.parametrize("path", FAULTS)
def test_an_edit_is_refused_by_the_name_of_its_field(path):
    values = copy.deepcopy(TRACE)
    value, problem = FAULTS[path]
    put(values, path, value)
    with pytest.raises(UserError) as caught:
        trace_of(content(values), "mia.json")
    assert str(caught.value).startswith(f"mia.json: {problem}")


def test_a_step_after_the_end_is_refused():
    values = copy.deepcopy(TRACE)
    values["steps"].append(values["steps"][-1])
    number = len(TRACE["steps"])
    with pytest.raises(UserError, match=f"steps.{number}.kind: the answer had ended before"):
        trace_of(content(values), "mia.json")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 900 + b"NaN" + b"]" * 900,
        content(TRACE).replace(b'"seconds": 0.125', b'"seconds": NaN'),
        content(TRACE).replace(b'"seconds": 0.125', b'"seconds": 1e999'),
        content(TRACE).replace(b'"seconds": 0.125', b'"seconds": ' + b"9" * 5000),
        content(TRACE).replace(b'"text": "made up"', rb'"text": "\ud800"'),
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(text):
    with pytest.raises(UserError) as caught:
        trace_of(text, "mia.json")
    assert str(caught.value).startswith("mia.json: ") and "\n" not in str(caught.value)


MANY = 20_000


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("steps", [{}] * MANY, "steps.0.kind: this key is required"),
        ("prompt.ids", ["a"] * MANY, "prompt.ids.0: 'a' is not allowed"),
        ("steps.0.tokens", ["a"] * MANY, "steps.0.tokens.0: 'a' is not allowed"),
        ("steps.1.runners_up", [[[1, "a"]]] * MANY, "steps.1.runners_up.0.0.1: 'a'"),
        ("steps.1.runners_up", [[[1] * MANY]], "runners_up.0.0: 20000 values are too many"),
        ("steps.1.proposed", [[1]] * MANY, "steps.1.proposed.0.1: this key is required"),
        ("pieces", {f"{n}": {} for n in range(MANY)}, "pieces.0.text: this key is required"),
        ("pieces.3", {f"{n}": 1 for n in range(MANY)}, "pieces.3: 20000 keys are no TokenPie"),
        ("settings", {f"{n}": 1 for n in range(MANY)}, "settings: 20000 keys are no DecodingSet"),
    ],
)
def test_of_many_errors_the_first_is_enough(path, value, said):
    values = copy.deepcopy(TRACE)
    put(values, path, value)
    with pytest.raises(UserError) as caught:
        trace_of(content(values), "here")
    assert said in str(caught.value)
    more = re.search(r"and (\d+) more$", str(caught.value))
    assert more is None or int(more[1]) < 20


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as stream:
        stream.truncate(2**30)
    with pytest.raises(UserError, match=r"large.json: larger than 8 MiB"):
        read_trace(path)


def test_a_file_is_written_and_read(tmp_path):
    trace = trace_of(content(TRACE), "here")
    write_trace(tmp_path / "new" / "mia.json", trace)
    assert read_trace(tmp_path / "new" / "mia.json") == trace
    with pytest.raises(UserError, match="cannot read"):
        read_trace(tmp_path)

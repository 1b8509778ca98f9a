"""Binning of passes, choice of spans, and the files."""

from __future__ import annotations

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from fastdllm.tools.sensitivity.layer_spans import (
    MeasuredSpan,
    best_by_width,
    default_stride,
    least_damage,
    named_spans,
    spans_to_measure,
)
from fastdllm.tools.sensitivity.measurement import MeasuredPasses
from fastdllm.tools.sensitivity.probed_policy import PassLog
from fastdllm.tools.sensitivity.sensitivity_record import (
    MOST_STEPS,
    SensitivityRecord,
    damages,
    grids,
    write_log,
    write_record,
)
from fastdllm.tools.sensitivity.show import render


def log(step, inputs=(0.0, 0.5), deltas=(0.25, 1.0), changed=(False, True, True)):
    return PassLog(
        request=0,
        block=1,
        sub_block=0,
        step=step,
        masked=3,
        committed_before=2,
        lowest_confidence=0.5,
        input_change=inputs,
        delta_change=deltas,
        changed=changed,
    )


def record_of(passes, **more):
    measured = MeasuredPasses(((0, 1), (1, 2), (0, 2)), passes)
    values = {
        "model": "models/none",
        "model_digest": "0",
        "n_items": 1,
        "data": "calibration.jsonl",
        "data_digest": "1",
        **grids(passes, 2),
        "spans": damages(measured, 2),
        "decoding": {},
        "dtype": "float32",
        "hardware": "a machine",
    }
    return SensitivityRecord(**values | more)


def test_passes_are_binned_by_step_and_averaged():
    figures = grids([log(1), log(1, inputs=(0.2, 0.7)), log(3, changed=(True, False, True))], 2)
    assert figures["steps"] == 4
    assert figures["passes"] == [0, 2, 0, 1]
    assert figures["input_change"] == [[None, 0.1, None, 0.0], [None, 0.6, None, 0.5]]
    assert figures["token_changed"] == [[None, 0.0, None, 1.0], [None, 1.0, None, 0.0]]


def test_late_steps_share_the_last_bin():
    figures = grids([log(step) for step in (1, MOST_STEPS - 1, MOST_STEPS, MOST_STEPS + 9)], 2)
    assert figures["steps"] == MOST_STEPS
    assert figures["passes"] == [0, 1, *[0] * (MOST_STEPS - 3), 3]


def test_what_cannot_be_measured_is_left_out_of_the_mean():
    figures = grids([log(0, deltas=(math.nan, math.nan)), log(0, deltas=(0.5, math.nan))], 2)
    assert figures["delta_change"] == [[0.5], [None]]


def test_damage_is_the_share_of_passes_and_saving_the_share_of_layers():
    spans = record_of([log(1), log(2, changed=(False, False, True))]).spans
    values = [(span.layers, span.saving, span.damage) for span in spans]
    assert values == [((0, 1), 0.5, 0.0), ((1, 2), 0.5, 0.5), ((0, 2), 1.0, 1.0)]


ranges = st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda r: r[0] < r[1])
measured_spans = st.lists(
    st.tuples(ranges, st.integers(0, 20)), min_size=1, unique_by=lambda pair: pair[0]
).map(
    lambda pairs: [
        MeasuredSpan(layers=r, saving=(r[1] - r[0]) / 10, damage=d / 20) for r, d in pairs
    ]
)


@given(measured_spans, st.integers(1, 10))
def test_the_chosen_span_saves_enough_and_none_that_does_is_better(spans, tenths):
    best = least_damage(spans, tenths * 0.1)
    enough = [span for span in spans if span.layers[1] - span.layers[0] >= tenths]
    assert (best is None) == (not enough)
    if best is not None:
        assert best in enough
        assert best.damage == min(span.damage for span in enough)
        equals = [span for span in enough if span.damage == best.damage]
        assert best.saving == max(span.saving for span in equals)


@given(measured_spans)
def test_each_width_has_one_best_span(spans):
    def width(span):
        return span.layers[1] - span.layers[0]

    assert [width(span) for span in best_by_width(spans)] == sorted(set(map(width, spans)))


@given(st.integers(1, 60), st.integers(1, 9))
def test_spans_are_ranges_of_layers_each_once_single_ones_first(layers, stride):
    spans = spans_to_measure(layers, stride)
    assert spans[:layers] == [(layer, layer + 1) for layer in range(layers)]
    assert len(set(spans)) == len(spans)
    assert all(0 <= start < stop <= layers for start, stop in spans)
    assert set(named_spans(layers).values()) <= set(spans)
    assert (0, layers) in spans
    if stride == 1:
        assert len(spans) == layers * (layers + 1) // 2


def test_deep_models_have_fewer_ends():
    assert [default_stride(n) for n in (6, 14, 15, 28, 29)] == [1, 1, 2, 2, 3]
    assert len(spans_to_measure(28, default_stride(28))) < 140


def test_a_record_is_read_as_it_was_written(tmp_path):
    record = record_of([log(1), log(2)], git={"commit": "abc", "dirty": False})
    path = tmp_path / "deep" / "tiny.json"
    write_record(record, path)
    values = json.loads(path.read_text())
    assert SensitivityRecord.model_validate(values) == record
    assert {"schema_version", "model", "layers", "steps", "spans", "passes", "git"} <= set(values)
    assert values["spans"][0] == {"layers": [0, 1], "saving": 0.5, "damage": 0.0}
    write_record(record_of([log(1)]), path)
    assert "git" not in json.loads(path.read_text())


def test_the_log_has_a_line_per_pass_and_the_single_layers(tmp_path):
    measured = MeasuredPasses(((0, 1), (1, 2), (0, 2)), [log(1), log(2, deltas=(math.nan, 1.0))])
    write_log(measured, 2, tmp_path / "x.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert lines[0]["token_changed"] == [False, True]
    assert lines[1]["delta_change"] == [None, 1.0]


def test_what_is_printed_names_the_span_to_paste():
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    for part in render(record_of([log(1), log(2, changed=(False, False, True))]), 0.5):
        console.print(part)
    text = console.export_text()
    assert "layer_subset: [0, 1]" in text
    assert "layer 1    ·  100    0" in text
    assert max(map(len, text.splitlines())) <= 80

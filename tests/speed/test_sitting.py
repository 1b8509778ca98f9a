"""Sittings: what is timed in which order, what is kept, and when it goes on after a kill."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.common.files import read_json, write_json_atomically
from fastdllm.records.speed_record import Sitting, read_speed, write_speed
from fastdllm.runs import answer_records
from fastdllm.runs.chunk_engine import DecodingEngine
from fastdllm.runs.spec import RunSpec
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.speed.combining import combine, read_sitting
from fastdllm.speed.sitting import SittingRun
from fastdllm.speed.speed_spec import SpeedSpec, piece_size, rounds_path, sitting_path
from fastdllm.statistics.paired_speed import PILOT_ROUNDS
from fastdllm.workflow.project.speeds import SpeedMeasurement
from tests.support.fakes import fake_sitting
from tests.support.run_project import silent

NAMES = ["t0.01", "t0.02", "t0.02 again"]


def sitting_run(measurement: SpeedMeasurement, spec: SpeedSpec, number: int = 1) -> SittingRun:
    return SittingRun(
        spec,
        measurement.folder,
        number,
        display=silent(),
        check_sources=lambda _: None,
        git=None,
    )


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, list[str]]]:
    """What each half decoded, in order: threshold, batch size, items."""
    calls: list[tuple[str, int, list[str]]] = []
    answer = DecodingEngine.answer

    def listening(self: DecodingEngine, requests: Any, flight: Any) -> Any:
        calls.append(
            (f"t{self.settings.threshold:g}", self.batch_size or 0, [r.item for r in requests])
        )
        return answer(self, requests, flight)

    monkeypatch.setattr(DecodingEngine, "answer", listening)
    return calls


def test_a_sitting_decodes_all_configs_in_mirrored_order(
    measurement: SpeedMeasurement, spec: SpeedSpec, heard: list[tuple[str, int, list[str]]]
) -> None:
    sitting = sitting_run(measurement, spec).measure()
    halves = 2 * len(NAMES)
    rounds = [heard[start : start + halves] for start in range(0, len(heard), halves)]
    for halves_of_round in rounds:
        names = [name for name, _, _ in halves_of_round]
        assert names == names[::-1], "each half mirrors the other"
        assert len({tuple(items) for _, _, items in halves_of_round}) == 1, "on the same items"
        assert len({size for _, size, _ in halves_of_round}) == 1
    timed = rounds[2:]
    assert [r[0][1] for r in rounds[:4]] == [1, 4, 1, 4], "an untimed round at each batch size"
    firsts = [r[0][0] for r in timed if r[0][1] == 1]
    assert firsts[:4] == ["t0.01", "t0.02", "t0.02", "t0.01"], "the first place goes round"
    pieces = [r[0][2] for r in timed if r[0][1] == 1]
    assert pieces[0] != pieces[1], "the next round takes the next items"
    for batch in sitting.batches:
        assert batch.rounds == sitting.planned_rounds[str(batch.batch_size)] >= PILOT_ROUNDS
        assert list(batch.seconds) == NAMES
        assert batch.items == piece_size(batch.batch_size, 10)
        assert batch.tokens["t0.02"] == batch.tokens["t0.02 again"]
    assert not rounds_path(measurement.folder, 1).exists()
    assert read_sitting(measurement.folder, 1, spec) == sitting


def test_a_complete_sitting_is_not_measured_again(
    measurement: SpeedMeasurement, spec: SpeedSpec, heard: list[tuple[str, int, list[str]]]
) -> None:
    made = made_up_sitting(measurement, spec, 1)
    assert sitting_run(measurement, spec).measure() == made
    assert heard == []


def made_up_sitting(
    measurement: SpeedMeasurement, spec: SpeedSpec, number: int, **changes: Any
) -> Sitting:
    """Write a sitting with a few rounds."""
    values = fake_sitting(spec.model_dump(mode="json"), number, **changes)
    write_json_atomically(sitting_path(measurement.folder, number), values)
    return read_sitting(measurement.folder, number, spec)


def test_a_stopped_sitting_goes_on_after_its_last_round(
    measurement: SpeedMeasurement, spec: SpeedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_sitting(measurement, spec, 1)
    stop, run = Stop(), sitting_run(measurement, spec, 2)
    run.stop = stop
    answered = DecodingEngine.answer

    def answer_until_stopped(self: DecodingEngine, requests: Any, flight: Any) -> Any:
        if len(rounds_path(measurement.folder, 2).read_text().splitlines()) == 4:
            stop.handle(signal.SIGTERM)
        return answered(self, requests, flight)

    monkeypatch.setattr(DecodingEngine, "answer", answer_until_stopped)
    with pytest.raises(Stopped):
        run.measure()
    kept = rounds_path(measurement.folder, 2).read_text().splitlines()
    assert len(kept) == 1 + 3, "what all share, and three rounds"
    monkeypatch.setattr(DecodingEngine, "answer", answered)
    torn = rounds_path(measurement.folder, 2)
    torn.write_text("\n".join([*kept, kept[-1][:50]]))

    sitting = sitting_run(measurement, spec, 2).measure()
    assert sitting.processes == 2
    first = {batch.batch_size: batch for batch in sitting.batches}
    for line in kept[1:]:
        measured = json.loads(line)
        assert tuple(measured["seconds"]["t0.02"]) in first[measured["batch_size"]].seconds["t0.02"]
    assert [batch.rounds for batch in sitting.batches] == [4, 4], "as the first sitting planned"


def test_rounds_of_another_node_are_set_aside(
    measurement: SpeedMeasurement, spec: SpeedSpec
) -> None:
    made_up_sitting(measurement, spec, 1)
    run = sitting_run(measurement, spec, 2)
    head = {
        "conditions": {
            "fingerprint": spec.fingerprint,
            "host": "another-node",
            "device": "cpu",
            "name": "a processor",
            "threads": 1,
            "dtype": "float32",
            "code_digest": "0",
            "environment": {},
        },
        "started": "2026-01-01T00:00:00+00:00",
        "processes": 1,
    }
    measurement.folder.mkdir(parents=True, exist_ok=True)
    rounds_path(measurement.folder, 2).write_text(json.dumps(head) + "\n")
    display = silent()
    run.display = display
    assert run.measure().processes == 1
    assert any("begins anew: host was another-node" in note for note in display.notes)
    assert rounds_path(measurement.folder, 2).with_name("rounds-2.other.jsonl").exists()


def test_answers_that_differ_between_halves_are_refused(
    measurement: SpeedMeasurement, spec: SpeedSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered, calls = DecodingEngine.answer, []

    def forgetful(self: DecodingEngine, requests: Any, flight: Any) -> Any:
        calls.append(1)
        result = answered(self, requests, flight)
        if len(calls) == 4:
            first = result.answers[0]
            from dataclasses import replace

            assert isinstance(first, answer_records.Answer)
            other = replace(first, token_ids=(*first.token_ids, 1))
            return replace(result, answers=(other, *result.answers[1:]))
        return result

    monkeypatch.setattr(DecodingEngine, "answer", forgetful)
    with pytest.raises(UserError, match="differ between two decodings"):
        sitting_run(measurement, spec).measure()


def test_sources_are_checked_before_and_after_loading(
    measurement: SpeedMeasurement, spec: SpeedSpec
) -> None:
    checked: list[RunSpec] = []

    def check(run: RunSpec) -> None:
        checked.append(run)
        if len(checked) == 2:
            raise UserError("changed since")

    run = sitting_run(measurement, spec)
    run.check_sources = check
    with pytest.raises(UserError, match="changed since"):
        run.measure()
    assert checked[0] is checked[1]


def test_sittings_are_combined_into_a_record(
    measurement: SpeedMeasurement, spec: SpeedSpec
) -> None:
    for number in (1, 2, 3):
        made_up_sitting(measurement, spec, number)
    record = combine(spec, measurement.folder)
    assert read_speed(measurement.record_path) == record
    estimate = record.estimate("t0.01", 4)
    assert estimate is not None
    assert estimate.ratio == pytest.approx((0.80 * 0.81 * 0.82) ** (1 / 3), rel=1e-5)
    assert estimate.interval[0] < 0.80
    assert estimate.interval[1] > 0.82
    assert estimate.rounds == 12
    assert estimate.seconds_per_answer == pytest.approx(2.1 * 0.81 / 16, rel=1e-5)
    assert estimate.tokens_per_answer == 10
    check = record.estimate("t0.02 again", 4)
    assert check is not None
    assert (check.ratio, check.interval) == (1, (1, 1))
    assert record.failed_checks == []


def test_a_baseline_unlike_itself_is_said(measurement: SpeedMeasurement, spec: SpeedSpec) -> None:
    for number in (1, 2, 3):
        sitting = made_up_sitting(measurement, spec, number)
        rounds = sitting.batches[0].seconds | {"t0.02 again": [(1.5, 1.5 + 0.001 * number)] * 4}
        odd = sitting.batches[0].model_dump() | {"seconds": rounds}
        made_up_sitting(measurement, spec, number, batches=[odd, sitting.batches[1].model_dump()])
    (failed,) = combine(spec, measurement.folder).failed_checks
    assert failed.startswith("batch 1: t0.02 took 1.4")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hardware": {"device": "cpu", "name": "another", "threads": 1}}, "differ in hardware"),
        ({"dtype": "bfloat16"}, "differ in dtype"),
        ({"code_digest": "1" * 64}, "differ in code"),
        ({"environment": {"torch": "2.12.0"}}, "differ in the version of torch"),
    ],
)
def test_sittings_of_other_conditions_are_refused(
    measurement: SpeedMeasurement, spec: SpeedSpec, changes: dict[str, Any], words: str
) -> None:
    for number in (1, 2):
        made_up_sitting(measurement, spec, number)
    made_up_sitting(measurement, spec, 3, **changes)
    with pytest.raises(UserError, match=f"sittings 1 and 3 {words}.*--forcerun speed"):
        combine(spec, measurement.folder)
    assert not measurement.record_path.exists()


def test_a_missing_sitting_is_named(measurement: SpeedMeasurement, spec: SpeedSpec) -> None:
    made_up_sitting(measurement, spec, 1)
    with pytest.raises(UserError, match=r"sitting-2\.json"):
        combine(spec, measurement.folder)


def test_a_sitting_of_other_settings_is_refused(
    measurement: SpeedMeasurement, spec: SpeedSpec
) -> None:
    made_up_sitting(measurement, spec, 1)
    other = spec.model_copy(update={"fingerprint": "other"})
    with pytest.raises(UserError, match="measured with other settings"):
        read_sitting(measurement.folder, 1, other)


def test_a_record_that_was_edited_is_refused(
    measurement: SpeedMeasurement, spec: SpeedSpec, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        made_up_sitting(measurement, spec, number)
    record = combine(spec, measurement.folder)
    values = read_json(measurement.record_path)
    values["estimates"][0]["ratio"] = 0.5
    edited = tmp_path / "speed.json"
    write_json_atomically(edited, values)
    with pytest.raises(UserError, match="edited or merged by hand"):
        read_speed(edited)
    write_speed(edited, record)
    assert read_speed(edited) == record

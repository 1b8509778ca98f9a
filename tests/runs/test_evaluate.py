"""Whole runs with the real decoder: results, resume, and what a failure leaves behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.records.summary import read_summary, unpack_bits
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import RunSpec, read_spec
from fastdllm.statistics.costs import (
    forwards_per_answer,
    layer_forwards_per_answer,
    position_forwards_per_answer,
)
from fastdllm.statistics.truncation import truncated_answers
from fastdllm.workflow.project.digests import FileDigests, check_sources
from tests.support.own_forks import fork_fastdllm
from tests.support.run_project import PATIENCE_S, silent, start_fastdllm


def check(spec: RunSpec) -> None:
    check_sources(spec, FileDigests())


def finish(spec: Path, **options: Any) -> Any:
    os.utime(spec, (0, 0))  # as the workflow dates the spec of a run that need not be repeated
    display, check_files = options.pop("display", silent()), options.pop("check_sources", check)
    return Evaluation(read_spec(spec), spec.parent, display, check_files).evaluate(**options)


def answers_in(folder: Path) -> dict[int, list[Any]]:
    """Answers by chunk without times, which differ from run to run."""
    answers = {}
    for line in (folder / "answers.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["record"] == "chunk":
            for answer in record["answers"]:
                answer.pop("latency_s", None)
            assert record["index"] not in answers, "a chunk was decoded twice"
            answers[record["index"]] = record["answers"]
    return answers


def kept_aside(folder: Path) -> list[Path]:
    return sorted(folder.glob("answers.*.jsonl"))


def test_run_leaves_consistent_files(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec()
    summary = finish(spec).summary
    assert read_summary(spec.parent / "summary.json") == summary
    samples = [json.loads(line) for line in (spec.parent / "samples.jsonl").open()]
    assert unpack_bits(summary.items) == [sample["correct"] for sample in samples]
    assert summary.accuracy == pytest.approx(sum(s["correct"] for s in samples) / 10)
    assert summary.passes.full_block == sum(s["passes"]["full_block"] for s in samples)
    assert summary.throughput.tokens_generated == sum(sample["tokens"] for sample in samples)
    chunks = summary.throughput.chunks
    assert len(chunks) == 4, "10 items in chunks of 3"
    assert sum(tokens for tokens, _ in chunks) == summary.throughput.tokens_generated
    assert sum(s for _, s in chunks) == pytest.approx(summary.throughput.total_time_s, abs=1e-3)
    assert summary.items.groups is None
    assert summary.throughput.recording_s is None, "a CPU records nothing"
    names = {path.name for path in spec.parent.iterdir()}
    expected = {"answers", "samples"}
    assert names == {f"{name}.jsonl" for name in expected} | {
        "spec.json",
        "summary.json",
        "results.json",
        "attempts.jsonl",
        "lock",
    }


def test_samples_tell_when_each_token_was_committed(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec()
    summary = finish(spec).summary
    samples = [json.loads(line) for line in (spec.parent / "samples.jsonl").open()]
    for sample in samples:
        passes, committed_at = sample["passes"], sample["committed_at"]
        assert len(committed_at) == len(sample["token_ids"]) == sample["tokens"]
        last = passes["full_block"] + passes["sub_block"] + passes["commit"] + passes["reused"]
        assert min(committed_at) >= 0 and max(committed_at) == last
    counts = summary.confidences.counts
    assert len(counts) == len(summary.confidences.edges) - 1
    # Of each block of 32, at most its first token comes from a pass that no threshold judges.
    tokens = summary.throughput.tokens_generated
    most = sum(1 + sample["tokens"] // 32 + 1 for sample in samples)
    assert tokens - most <= sum(counts) <= tokens


MEASURING = """\
from fastdllm.policy import Policy, SpanAction


class Plain(Policy):
    layer_spans = ((1, 3),)

    def span_actions(self, span, states, signals):
        return [
            SpanAction.ADD_DELTA if change <= 0.1 else SpanAction.COMPUTE
            for change in signals.input_change()
        ]
"""


def test_samples_tell_what_the_policy_measured(project, make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    (project / "experiments/trial/generation_functions.py").write_text(MEASURING)
    summary = finish(spec := make_spec()).summary
    samples = [json.loads(line) for line in (spec.parent / "samples.jsonl").open()]
    changes = [sample.get("input_changes", []) for sample in samples]
    assert [len(c) for c in changes] == [sample["passes"]["sub_block"] for sample in samples]
    calm = sum(change <= 0.1 for own in changes for _, change in own)
    assert 2 * calm == summary.passes.layer_forwards_skipped > 0


@pytest.mark.parametrize("size", [8, 32])
def test_position_forwards_are_layers_times_positions(make_spec, make_plan_on_disk, size) -> None:
    """By hand: whole blocks of the prompt, 32 rows of a full pass or commit, those of a window."""
    plan = make_plan_on_disk()
    summary = finish(make_spec(small_block_size=size)).summary
    prompts = sum(len(r.prompt_ids) // 32 * 32 for r in plan.requests if r.kind == "generate_until")
    passes, layers = summary.passes, 6
    rows = prompts + 32 * (passes.full_block + passes.commit) + size * passes.sub_block
    assert summary.position_forwards == layers * rows
    assert position_forwards_per_answer(summary) == pytest.approx(layers * rows / 10)


MIXED_YAML = """\
group: mixed
task:
  - sums
  - task: choices
    filter_list: [{name: number, filter: [{function: take_first}]}]
    metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
aggregate_metric_list:
  - {metric: exact_match, aggregation: mean, weight_by_size: true, filter_list: number}
"""


def test_costs_per_answer_count_no_likelihoods(project, make_spec, make_plan_on_disk) -> None:
    (project / "tasks/mixed.yaml").write_text(MIXED_YAML)
    make_plan_on_disk("mixed", chunk_size=6)
    mixed = finish(make_spec("mixed", chunk_size=6)).summary
    assert (mixed.n_requests, mixed.n_answers, mixed.passes.prefill) == (34, 10, 10)
    make_plan_on_disk("sums", chunk_size=6)
    alone = finish(make_spec("sums", chunk_size=6)).summary
    assert alone.n_answers == 10 and "n_answers" not in alone.eval_params
    for cost in (layer_forwards_per_answer, forwards_per_answer, truncated_answers):
        assert cost(mixed) == cost(alone) > 0


def test_a_range_of_layers_is_kept_in_the_summary(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec(reuse_k=1, layer_subset=(1, 3))
    summary = finish(spec).summary
    assert read_summary(spec.parent / "summary.json") == summary
    assert summary.model_args["layer_subset"] == summary.decides["decoding.layer_subset"] == [1, 3]


def test_likelihood_run_reports_seconds_and_no_speed(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk("choices")
    spec = make_spec("choices")
    summary = finish(spec).summary
    for name in (
        "throughput",
        "passes",
        "tokens_per_forward",
        "truncation_rate",
        "latency_s",
        "confidences",
    ):
        assert getattr(summary, name) is None
    assert summary.confidences is None
    assert summary.peak_memory.kind == "process_resident"
    lines = (spec.parent / "answers.jsonl").read_text().splitlines()
    seconds = [json.loads(line).get("seconds", 0.0) for line in lines]
    assert summary.decoding_s == round(sum(seconds), 4) > 0


def test_resumed_run_equals_an_uninterrupted_one(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec(temperature=0.7)
    uninterrupted = finish(spec).summary
    expected = answers_in(spec.parent)
    path = spec.parent / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:40])  # header, session, two chunks, a torn one
    (spec.parent / "summary.json").unlink()
    resumed = finish(spec)
    assert answers_in(spec.parent) == expected
    assert kept_aside(spec.parent) == []
    assert (uninterrupted.resumed, resumed.summary.resumed) == (False, True)
    assert resumed.summary.items == uninterrupted.items


def test_answers_of_two_machines_have_no_speed(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk()
    spec = make_spec()
    finish(spec)
    path = spec.parent / "answers.jsonl"
    header, session, *chunks = path.read_text().splitlines(keepends=True)
    elsewhere = json.dumps(json.loads(session) | {"device_name": "another CPU"}) + "\n"
    path.write_text("".join([header, elsewhere, chunks[0]]))
    (spec.parent / "summary.json").unlink()
    summary = finish(spec).summary
    assert summary.hardware[0].name == "another CPU"
    assert len(summary.hardware) == 2
    assert summary.throughput is None and summary.latency_s is None
    assert summary.decoding_s is None
    assert summary.tokens_per_forward is not None


def test_run_that_went_on_on_another_gpu_names_both_and_has_no_speed(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    finish(spec)
    path = spec.parent / "answers.jsonl"
    header, session, *rest = path.read_text().splitlines(keepends=True)
    gpus = [
        json.dumps(json.loads(session) | {"device": "cuda", "device_name": name, "threads": None})
        for name in ("NVIDIA A100", "Quadro RTX 6000")
    ]
    path.write_text("".join([header, f"{gpus[0]}\n", rest[0], f"{gpus[1]}\n", *rest[1:]]))
    (spec.parent / "summary.json").unlink()
    summary = finish(spec).summary
    assert [device.name for device in summary.hardware] == ["NVIDIA A100", "Quadro RTX 6000"]
    assert summary.gpu_info == "NVIDIA A100, Quadro RTX 6000"
    assert summary.resumed and summary.throughput is None and summary.latency_s is None


def test_answers_in_another_dtype_are_kept_aside_and_the_log_says_why(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    finish(spec)
    path = spec.parent / "answers.jsonl"
    path.write_text(path.read_text().replace('"float32"', '"float16"', 1))
    (spec.parent / "summary.json").unlink()
    notes: list[str] = []
    display = silent()
    display.note = notes.append
    outcome = finish(spec, display=display)
    assert notes == [
        f"earlier answers are kept in {kept_aside(spec.parent)[0]}: decoded in float16, but this "
        "device uses float32; with a dtype named in workflow_config.yaml all devices use the same"
    ]
    assert not outcome.summary.resumed


@pytest.mark.slow
def test_what_was_not_fetched_is_said_by_name_before_torch_is_imported(make_spec, project) -> None:
    spec = make_spec()
    record = json.loads(spec.read_text())
    record["run"]["model_path"] = "nobody/nothing"
    spec.write_text(json.dumps(record))
    program = (
        "import sys\nfrom fastdllm.cli import main\n"
        f"code = main(['eval', {str(spec)!r}])\n"
        "sys.exit(100 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "model 'nobody/nothing'" in done.stderr
    failure = json.loads((spec.parent / "failed.json").read_text())
    assert "nobody/nothing" in failure["reason"]


def test_run_with_a_result_needs_nothing_that_was_fetched(
    make_spec, make_plan_on_disk, monkeypatch, capsys
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    finish(spec)

    def missing(_: RunSpec) -> None:
        raise UserError("model 'nobody/nothing' is not here")

    monkeypatch.setattr("fastdllm.runs.needs.require_fetched", missing)
    for part in ((), ("--shard", "1/2")):
        assert main(["eval", str(spec), *part]) == 0
        assert "already done" in capsys.readouterr().out
    assert main(["eval", str(spec), "--again"]) == 2
    assert capsys.readouterr().err == "fastdllm: model 'nobody/nothing' is not here\n"


def test_answers_depend_neither_on_the_chunks_nor_on_the_batch_size(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    spec = make_spec(temperature=0.7)
    finish(spec)
    texts = {a["id"]: a["token_ids"] for c in answers_in(spec.parent).values() for a in c}
    for chunk_size, batch_size in ((1, "auto"), (10, 1), (10, 4)):
        make_plan_on_disk(chunk_size=chunk_size)
        spec = make_spec(chunk_size=chunk_size, batch_size=batch_size, temperature=0.7)
        finish(spec, again=True)
        answers = answers_in(spec.parent)
        assert len(answers) == 10 // chunk_size
        assert texts == {a["id"]: a["token_ids"] for c in answers.values() for a in c}


def test_changed_settings_start_anew_and_the_old_result_is_kept_and_found_again(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    first = finish(make_spec()).summary
    mark = first.fingerprint[:8]
    folder = make_spec(threshold=0.1).parent
    outcome = finish(folder / "spec.json")
    (aside,) = kept_aside(folder)
    assert aside.name.startswith(f"answers.{mark}.")
    assert outcome.summary.fingerprint != first.fingerprint
    assert outcome.summary.passes != first.passes
    assert read_summary(folder / f"summary.{mark}.json") == first
    assert (folder / f"samples.{mark}.jsonl").exists()
    back = finish(make_spec())
    assert back.summary.passes == first.passes
    assert back.summary.throughput == first.throughput, "the kept answers: nothing was decoded"


def test_a_finished_run_is_left_alone_until_it_is_asked_for_again(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    first = finish(spec).summary
    files = {path: path.read_bytes() for path in spec.parent.iterdir() if path.name != "lock"}
    left = finish(spec)
    assert (left.is_new, left.summary) == (False, first)
    assert all(path.read_bytes() == content for path, content in files.items())
    again = finish(spec, again=True)
    assert again.is_new and len(kept_aside(spec.parent)) == 1
    later = (spec.parent / "summary.json").stat().st_mtime + 1
    os.utime(spec, (later, later))
    dated = Evaluation(read_spec(spec), spec.parent, silent(), check).evaluate()
    assert dated.is_new and len(kept_aside(spec.parent)) == 2


def test_answers_of_a_result_are_no_repetition_though_a_kill_left_out_their_end(
    make_spec, make_plan_on_disk
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    first = finish(spec).summary
    answers = spec.parent / "answers.jsonl"
    *lines, end = answers.read_bytes().splitlines(keepends=True)
    assert b'"end"' in end
    answers.write_bytes(b"".join(lines))
    assert not finish(spec).is_new
    assert answers.read_bytes().count(b'"record": "end"') == 1
    assert finish(spec, again=True).summary.throughput != first.throughput, "decoded once more"
    *lines, end = answers.read_bytes().splitlines(keepends=True)
    later = [line.replace(b'"started": "2', b'"started": "3') for line in lines]
    for begun in (later, lines[:-1]):
        answers.write_bytes(b"".join(begun))
        assert not finish(spec).is_new
        assert answers.read_bytes() == b"".join(begun), "a repetition that was begun goes on"


@pytest.mark.parametrize("changed", ["policy", "task", "data", "spec"])
def test_what_was_edited_since_the_spec_was_written_is_not_decoded_with(
    make_spec, make_plan_on_disk, project, changed
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    path, old, new = {
        "policy": ("experiments/trial/generation_functions.py", "pass", "keeps_proposals = True"),
        "task": ("tasks/sums.yaml", "max_gen_toks: 24", "max_gen_toks: 25"),
        "data": ("tasks/data/sums.jsonl", '"answer": "0"', '"answer": "7"'),
        "spec": (str(spec), '"decoding.threshold": 0.9', '"decoding.threshold": 0.1'),
    }[changed]
    text = (project / path).read_text()
    assert old in text
    (project / path).write_text(text.replace(old, new))
    with pytest.raises(UserError, match=r"changed since the run was planned|not those of its"):
        finish(spec)
    assert not (spec.parent / "answers.jsonl").exists()
    (project / path).write_text(text)
    assert finish(spec).is_new


def test_plan_of_other_options_is_refused(make_spec, make_plan_on_disk) -> None:
    make_plan_on_disk(chunk_size=2)
    spec = make_spec()
    with pytest.raises(UserError, match="planned with chunk_size 2, the run asks 3; run `fastdllm"):
        finish(spec)
    failure = json.loads((spec.parent / "failed.json").read_text())
    assert "chunk_size" in failure["reason"]
    make_plan_on_disk()
    finish(spec)
    assert not (spec.parent / "failed.json").exists()


@pytest.mark.slow
def test_kill_and_rerun_gives_the_same_answers(
    make_spec, make_plan_on_disk, project, running, capsys
) -> None:
    data = project / "tasks/data/sums.jsonl"
    lines = [{"question": f"What is {i} + 1? " * 12, "answer": "1"} for i in range(30)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yaml = project / "tasks/sums.yaml"
    yaml.write_text(yaml.read_text().replace("max_gen_toks: 24", "max_gen_toks: 64"))
    plan = make_plan_on_disk()
    spec = make_spec(threshold=1.0)
    answers = spec.parent / "answers.jsonl"
    victim = fork_fastdllm("eval", str(spec), "--threads", "1", cwd=project)
    running.append(victim)
    deadline = time.monotonic() + PATIENCE_S
    while not answers.exists() or answers.read_bytes().count(b"\n") < 4:
        assert victim.poll() is None and time.monotonic() < deadline, victim.communicate()
        time.sleep(0.005)
    os.kill(victim.pid, signal.SIGSTOP)  # the holder must live while the second one asks
    second = fork_fastdllm("eval", str(spec), "--threads", "1", cwd=project)
    running.append(second)
    out, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 2, (out, err)
    assert f"process {victim.pid} on host" in err and err.count("\n") == 1
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    before = answers_in(spec.parent)
    assert 0 < len(before) < len(plan.header.chunks), "the kill came too late to test anything"
    assert not (spec.parent / "summary.json").exists()
    assert main(["eval", str(spec), "--threads", "1"]) == 0
    after = answers_in(spec.parent)
    assert {index: after[index] for index in before} == before
    assert "30/30 items" in capsys.readouterr().err, "a log gets a line at the end"
    # From the start, in this process: the same answers and scores.
    resumed = read_summary(spec.parent / "summary.json")
    assert finish(spec, again=True).summary.items == resumed.items
    assert answers_in(spec.parent) == after


@pytest.mark.slow
def test_missing_spec_is_one_line_and_code_2(project, running) -> None:
    process = start_fastdllm("eval", "results/nowhere/spec.json", cwd=project)
    running.append(process)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert err.count("\n") == 1 and "results/nowhere/spec.json" in err


@pytest.mark.slow
def test_full_disk_is_one_line_and_leaves_nothing_half_written(
    make_spec, make_plan_on_disk, project, running
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    # No file may grow beyond 3,000 bytes: enough for the header, not for all chunks.
    process = fork_fastdllm(
        *("eval", str(spec), "--threads", "1"),
        cwd=project,
        first=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    running.append(process)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2, err
    assert "cannot write" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (spec.parent / "summary.json").exists()
    assert (spec.parent / "answers.jsonl").read_bytes().endswith(b"\n")
    assert not list(spec.parent.glob("*.tmp")) and not list(spec.parent.glob(".*.tmp"))

"""`fastdllm bench`: one line for each mistake, and one JSON line of what was measured."""

from __future__ import annotations

import json

import pytest

from fastdllm.cli import main


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--batch", "1,x"],
            "--batch: 'x' is not a batch size; give whole numbers from 1",
        ),
        (["--batch", "0"], "--batch: '0' is not a batch size"),
        (["--batch", "8,8"], "--batch: 8 is listed twice"),
        (["--repeats", "0"], "argument --repeats: '0' is not allowed; it should be a whole number"),
        (["--threads", "two"], "argument --threads: 'two' is not allowed"),
        (["--model", "random:8b"], "unknown random model 'random:8b'; did you mean 'random:7b'?"),
        (["--model", "random:7b", "--revision", "main"], "--revision: random:7b has none"),
        (["--batch", "1,auto", "--mixed"], "--mixed needs a batch size above 1"),
        (["--profile", "/absent/trace.json"], "cannot be written: No such file"),
        (["--profile", "/"], "--profile /: cannot be written"),
        (["--batch", "5000"], "5000 is more than the 4096"),
        (["--stop-token", "3"], "--stop-token: bench fixes the length"),
        (["--max-new-tokens", "1"], "answers of 2 tokens or more"),
        (["--max-new-tokens", "5000"], "exceed the model's"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_measured(capsys, arguments, line):
    code = main(["bench", *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert line in captured.err


def test_bench_ends_with_one_json_line_of_what_was_asked(capsys, tmp_path):
    trace = tmp_path / "trace.json"
    sizes = ("--batch", "1,2", "--repeats", "1", "--requests", "3", "--max-new-tokens", "3")
    code = main(["bench", *sizes, "--mixed", "--profile", str(trace)])
    out = capsys.readouterr().out
    assert code == 0
    assert out.endswith("}\n")
    record = json.loads(out.splitlines()[-1])
    assert (record["model"], record["threads"]) == ("models/tiny", 1)
    alone, both = record["runs"]
    names = ("batch", "slots", "requests", "tokens")
    assert [alone[name] for name in names] == [1, 1, 3, 9]
    assert [both[name] for name in names] == [2, 2, 4, 12]
    assert (both["answers_compared_with_batch_1"], both["share_differing_from_batch_1"]) == (3, 0.0)
    assert "share_differing_from_batch_1" not in alone
    wanted = {"tokens_per_s", "passes_per_s", "ms_per_pass", "tokens_per_forward", "share_of_floor"}
    wanted |= {"peak_memory_gib", "time_to_first_token_p50_s", "latency_p50_s", "latency_p95_s"}
    assert all(run[name] > 0 for run in record["runs"] for name in wanted)
    assert [(row["batch"], row["requests"]) for row in record["mixed"]] == [(2, 3)]
    assert all(row["ratio_of_floors"] > 0 for row in record["mixed"])
    assert json.loads(trace.read_text())["traceEvents"]


def test_what_is_not_asked_for_is_not_in_the_record(capsys):
    model = ("--model", "tests/golden/m6", "--mask-id", "255", "--prompt-length", "3")
    sizes = ("--batch", "2", "--repeats", "1", "--requests", "2", "--max-new-tokens", "2")
    assert main(["bench", *model, *sizes]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["prompt_tokens"] == [3, 3]
    assert not {"mixed", "profile_s"} & set(record)
    assert "share_differing_from_batch_1" not in record["runs"][0]

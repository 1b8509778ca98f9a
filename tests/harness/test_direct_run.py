"""lm-eval that asks our model directly gets what plan, decode and score get."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.model import hash_args
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from lm_eval.utils import make_table
from sqlitedict import SqliteDict

from fastdllm.common.errors import UserError
from fastdllm.common.files import to_json
from fastdllm.harness.fast_dllm_v2 import FastDLLM
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.scoring import plain
from fastdllm.runs.spec import read_spec
from tests.support.run_project import silent

pytestmark = pytest.mark.usefixtures("project", "alone")


@pytest.fixture
def model(model_folder: Path) -> Any:
    """Make the model with some arguments."""

    def make(**arguments: Any) -> FastDLLM:
        given = {"pretrained": str(model_folder), "dtype": "float32", "device": "cpu"}
        return FastDLLM(**{**given, "likelihood_mode": "published", **arguments})

    return make


def directly(lm: FastDLLM, task: str, **options: Any) -> dict[str, Any]:
    result = simple_evaluate(
        lm,
        tasks=[task],
        task_manager=TaskManager(include_path="tasks", include_defaults=False),
        **{"apply_chat_template": True, "bootstrap_iters": 0, **options},
    )
    assert result is not None
    return result


def scored_run(spec: Path) -> dict[str, Any]:
    """Decode and score a run; return its results.json."""
    os.utime(spec, (0, 0))
    Evaluation(read_spec(spec), spec.parent, silent(), lambda _: None).evaluate()
    return json.loads((spec.parent / "results.json").read_text())


# Tokens are the same in any chunks and batch, likelihoods to the last digit in the same ones.
@pytest.mark.parametrize(
    ("task", "work"),
    [("sums", {"chunk_size": 4, "batch_size": 2}), ("choices", {"chunk_size": 6})],
)
def test_a_direct_run_equals_plan_decode_score(
    make_plan_on_disk, make_spec, model, task: str, work: dict[str, int]
) -> None:
    make_plan_on_disk(task)
    of_run = scored_run(make_spec(task))
    direct = directly(model(**work), task)
    assert direct["samples"][task], "answers were asked for"
    texts = {json.dumps(plain(sample["resps"])) for sample in direct["samples"][task]}
    assert len(texts) > 1, "items have different answers"
    assert of_run.keys() <= direct.keys()
    for key, value in of_run.items():
        if key != "configs":  # they say which file was read, and by whom
            assert to_json(plain(direct[key])) == to_json(value), key
    lines = (Path("results/trial") / task / "plain/samples.jsonl").read_text().splitlines()
    for sample, line in zip(direct["samples"][task], lines, strict=True):
        record = json.loads(line)
        assert record["prompt"] == sample["arguments"][0][0]
        answers = [resps[0] for resps in sample["resps"]]
        if task == "sums":
            assert [record["answer"]] == answers
        else:
            assert [option["logprob"] for option in record["options"]] == [a[0] for a in answers]


def test_tables_of_lm_eval_show_the_figures_of_a_run(make_plan_on_disk, make_spec) -> None:
    make_plan_on_disk("choices")
    spec = make_spec("choices")
    table = make_table(scored_run(spec))
    summary = json.loads((spec.parent / "summary.json").read_text())
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()]
    shown = {row[5]: row[7] for row in rows if len(row) > 7 and row[5] in ("acc", "acc_norm")}
    assert shown == {m["metric"]: f"{m['value']:.4f}".rstrip("0") for m in summary["metrics"]}


def test_a_task_is_obeyed_and_an_argument_that_it_overrules_refused(model) -> None:
    with pytest.raises(UserError, match=r"max_new_tokens 12 has no effect .* max_gen_toks=12"):
        directly(model(max_new_tokens=12), "sums")
    with pytest.raises(UserError, match=r"temperature 0.7 .* temperature=0.7,do_sample=true"):
        directly(model(temperature=0.7), "sums")
    short = directly(model(), "sums", gen_kwargs={"max_gen_toks": 2}, limit=2)
    assert 0 < short["config"]["throughput"]["tokens_generated"] <= 2 * 2


def test_a_task_without_a_budget_takes_that_of_the_arguments(project: Path, model) -> None:
    task = project / "tasks/sums.yaml"
    task.write_text(task.read_text().replace(", max_gen_toks: 24", ""))
    with pytest.raises(UserError, match="has no max_gen_toks"):
        directly(model(), "sums")
    result = directly(model(max_new_tokens=3), "sums", limit=2)
    assert 0 < result["config"]["throughput"]["tokens_generated"] <= 3 * 2


def test_a_prompt_that_does_not_fit_is_named(model) -> None:
    with pytest.raises(UserError, match=r"item sums:0: prompt of \d+ tokens \+ max_gen_toks"):
        directly(model(), "sums", gen_kwargs={"max_gen_toks": 100_000})


def test_the_speed_counts_what_was_decoded(model, capsys) -> None:
    lm = model(show_speed=True, batch_size=2)
    result = directly(lm, "sums")
    speed = result["config"]["throughput"]
    assert 0 < speed["tokens_generated"] <= 10 * 24
    rate = speed["tokens_generated"] / speed["total_time_s"]
    assert speed["tokens_per_s"] == pytest.approx(rate, rel=1e-3)
    line = f"speed: {speed['tokens_generated']:,} tokens, each answer up to its first stop token"
    assert line in capsys.readouterr().out
    assert speed["batch_size"] == 2


def test_the_speed_of_several_processes_is_that_of_all_together(model, monkeypatch) -> None:
    lm = model(chunk_size=4)

    def by_two(chunks: Any, answer: Any, tell: Any) -> Any:
        return [(answer(chunk, tell)[0], i + 1.0, i % 2) for i, chunk in enumerate(chunks)]

    monkeypatch.setattr(lm._team, "answer", by_two)
    speed = directly(lm, "sums")["config"]["throughput"]
    assert speed["total_time_s"] == 1.0 + 3.0, "of the first, which decoded longest"
    assert speed["tokens_per_s"] == pytest.approx(speed["tokens_generated"] / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "remark"),
    [
        ({"dtype": "bfloat16"}, "in bfloat16, answers may differ in places"),
        ({"dtype": "bfloat16", "chunk_size": 5}, None),
        ({}, None),
    ],
)
def test_half_precision_says_that_answers_depend_on_the_number_of_processes(
    model, monkeypatch, arguments: dict[str, Any], remark: str | None
) -> None:
    lm = model(**arguments)
    monkeypatch.setattr(lm._team, "size", 2)
    told = directly(lm, "sums", limit=4)["config"].get("remark")
    assert told == remark if remark is None else told.startswith(remark)
    assert remark is None or told.endswith(": chunk_size=1 repeats these")


def test_a_speed_names_the_batch_size_that_was_decoded(model, monkeypatch) -> None:
    monkeypatch.setattr("fastdllm.decoding.memory.MOST_SLOTS", 3)
    assert directly(model(), "sums")["config"]["throughput"]["batch_size"] == 3


def test_a_paused_process_has_no_speed(model, monkeypatch, capsys) -> None:
    lm = model(show_speed=True)
    # As a frozen process would be seen: longer between two looks than any look lasts.
    monkeypatch.setattr("fastdllm.runs.pauses.IDLE_S", -2.0)
    result = directly(lm, "sums")
    assert "throughput" not in result["config"]
    assert "speed: not measured" in capsys.readouterr().out


def test_lm_evals_own_models_are_there_as_well() -> None:
    assert get_model("dummy").__module__ == "lm_eval.models.dummy"


def test_prompts_without_the_template_are_named(model, capsys) -> None:
    directly(model(), "choices", limit=1, apply_chat_template=False)
    assert "written without the model's chat template" in capsys.readouterr().err


def test_a_cache_answers_for_its_own_settings_only(project: Path, model, monkeypatch) -> None:
    cache = str(project / "cache")
    first = directly(model(), "sums", use_cache=cache)

    def refuse(*_: object) -> None:
        pytest.fail("asked again")

    again = model()
    monkeypatch.setattr(again._answerer, "answer", refuse)
    assert directly(again, "sums", use_cache=cache)["results"] == first["results"]
    with pytest.raises(UserError, match="holds answers of another model or other settings"):
        directly(model(threshold=0.5), "sums", use_cache=cache)


def test_options_of_an_item_are_asked_again_together(project: Path, model, monkeypatch) -> None:
    cache = str(project / "cache")
    first = directly(model(), "choices", use_cache=cache)
    with SqliteDict(f"{cache}_rank0.db", autocommit=True) as kept:
        # As a kill would leave it: the likelihoods of one option, not of the others.
        one = hash_args("loglikelihood", first["samples"]["choices"][3]["arguments"][1])
        del kept[one]
    again, asked = model(), []
    answer = again._answerer.answer

    def counted(requests: Any, tell: Any) -> Any:
        asked.extend(request.item for request in requests)
        return answer(requests, tell)

    monkeypatch.setattr(again._answerer, "answer", counted)
    assert directly(again, "choices", use_cache=cache)["results"] == first["results"]
    assert asked == ["choices:3"] * 3


def test_a_cache_is_refused_where_several_answers_are_drawn(project: Path, model) -> None:
    task = project / "tasks/sums.yaml"
    task.write_text(task.read_text().replace(", do_sample: false", "") + "repeats: 2\n")
    lm = model(temperature=0.7)
    result = directly(lm, "sums", limit=1)
    assert len(set(result["samples"]["sums"][0]["resps"][0])) == 2, "each is drawn"
    with pytest.raises(UserError, match="draws 2 answers to each prompt, and --use_cache keeps"):
        directly(lm, "sums", limit=1, use_cache=str(project / "cache"))


def test_arguments_win_over_what_lm_eval_passes(model_folder: Path) -> None:
    given = f"pretrained={model_folder},device=cpu,batch_size=3"
    lm = FastDLLM.create_from_arg_string(given, {"device": "cuda:0", "batch_size": 1})
    assert lm._arguments.model.batch_size == 3
    assert str(lm.device) == "cpu"

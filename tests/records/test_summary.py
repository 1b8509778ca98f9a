"""The record of a run: its schema, its docs, its size, and every published one."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.records import bits
from fastdllm.records.summary import (
    MAX_BYTES,
    Hardware,
    ItemGroup,
    Items,
    Summary,
    pack_bits,
    read_summary,
    unpack_bits,
    write_summary,
)
from fastdllm.workflow.project.artifacts import stored_summary
from scripts.write_schemas import texts
from tests.support.run_project import REPOSITORY

FIRST_CHOICES = REPOSITORY / "artifacts/00_baseline/choice_problems/k1_first/summary.json"
PUBLISHED = sorted((REPOSITORY / "artifacts").glob("*/*/*/summary.json"))


@pytest.mark.parametrize(("path", "text"), texts().items(), ids=[str(path) for path in texts()])
def test_schemas_and_page_are_up_to_date(path: Path, text: str) -> None:
    stored = (REPOSITORY / path).read_text(encoding="utf-8")
    assert stored == text, f"{path} is out of date; run: python -m scripts.write_schemas"


@pytest.mark.skipif(not PUBLISHED, reason="no summaries in artifacts/ yet")
def test_every_published_summary_fits_the_schema() -> None:
    schema = json.loads((REPOSITORY / "docs/schemas/summary.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in PUBLISHED:
        validator.validate(json.loads(path.read_text()))
        assert read_summary(path).config == path.parent.name
        assert path.stat().st_size <= MAX_BYTES, path


@given(right=st.lists(st.booleans(), max_size=50))
def test_item_bits_are_read_back(right: list[bool]) -> None:
    n, packed = len(right), pack_bits(right)
    assert unpack_bits(Items(n=n, correct_bits=packed)) == right
    assert bits.ones(n, bits.as_number(n, packed)) == [i for i in range(n) if right[i]]


def test_item_bits_have_the_order_that_the_docs_name() -> None:
    assert base64.b64decode(pack_bits([True, False, True] + [False] * 6)) == bytes([0b10100000, 0])


def test_what_was_not_measured_is_absent(a_summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    bare = a_summary.model_copy(update={"throughput": None, "gpu_info": None, "git": None})
    write_summary(path, bare)
    stored = json.loads(path.read_text())
    assert not {"throughput", "gpu_info", "git"} & stored.keys()
    assert stored["decides"] == bare.decides, "a setting that is null is a setting"
    assert list(stored) == sorted(stored)
    assert read_summary(path) == bare


def of_mmlu(**changes: Any) -> Summary:
    """A published summary with as many items and subtasks as MMLU, decoded on a GPU."""
    task = yaml.safe_load((REPOSITORY / "tasks/mmlu.yaml").read_text())
    categories = [part["group"].removeprefix("mmlu_") for part in task["task"]]
    leaves = [leaf["task"].removeprefix("mmlu_") for part in task["task"] for leaf in part["task"]]
    sizes = dict.fromkeys(sorted(leaves), 246) | {"professional_law": 266}
    right = [(i * i) % 97 < 65 for i in range(14042)]
    accuracy = round(sum(right) / len(right), 6)
    published = read_summary(
        REPOSITORY / "artifacts/00_baseline/choice_problems/k1_first/summary.json"
    )
    metric = published.primary.model_copy(update={"value": accuracy, "n": len(right)})
    gpu = "NVIDIA A100-SXM4-80GB"
    return published.model_copy(
        update={
            "task": "mmlu",
            "accuracy": accuracy,
            "metrics": [metric],
            "items": Items(
                n=len(right),
                correct_bits=pack_bits(right),
                groups=[ItemGroup(name, n) for name, n in sizes.items()],
            ),
            "group_results": dict.fromkeys([*leaves, *categories], 0.672131),
            "hardware": [Hardware(device="cuda", name=gpu)],
            "gpu_info": gpu,
            "dtype_reason": "bfloat16, since this GPU has it (compute capability 8.0)",
            **changes,
        }
    )


def test_a_summary_of_mmlu_is_whole(tmp_path: Path) -> None:
    path, summary = tmp_path / "summary.json", of_mmlu()
    write_summary(path, summary)
    assert read_summary(path) == summary
    assert len(summary.group_results) == 57 + 4
    stored = json.loads(path.read_text())
    assert stored["group_results"] == summary.group_results
    sizes = dict(zip(stored["group_results"], stored["items"]["groups"], strict=True))
    assert (sizes["professional_law"], sizes["virology"], sizes["stem"]) == (266, 246, 0)
    assert stored_summary(path).record["items"]["groups"][0] == ["abstract_algebra", 246]


def test_remarks_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    """Published data have copies of items; a remark about them must not cost the results."""
    remark = "tasks/data/mmlu/test/college_physics.jsonl, line 17: has the question of line 5"
    path, notices = tmp_path / "summary.json", [f"{remark} {i}: {'x' * 100}" for i in range(5)]
    write_summary(path, of_mmlu(notices=notices))
    shown = [notices[0], "4 more such remarks, which plan.json has"]
    assert read_summary(path) == of_mmlu(notices=shown)


def test_sizes_that_fit_no_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_summary(path, of_mmlu())
    stored = json.loads(path.read_text())
    stored["group_results"].popitem()
    del stored["content_digest"]
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match="has 61 numbers for 60 group_results"):
        read_summary(path)
    assert "its items cannot be read" in stored_summary(path).problem


def test_a_summary_of_many_chunks_and_items_is_whole(a_summary: Summary, tmp_path: Path) -> None:
    groups = [ItemGroup(f"minerva_math_subject_{i}", 1000) for i in range(7)]
    right = [True, True, True, True, False] * 1400
    large = a_summary.model_copy(
        update={
            "items": Items(n=7000, correct_bits=pack_bits(right), groups=groups),
            "throughput": a_summary.throughput.model_copy(
                update={"chunks": [(12345, 123.4567)] * 100}
            ),
        }
    )
    write_summary(tmp_path / "summary.json", large)
    assert read_summary(tmp_path / "summary.json") == large


def test_lists_take_one_line_and_texts_are_kept(a_summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    odd = {"layer_subset": [3, 8], "names": ["a  b", "c [1,\n 2]", "d"], "none": []}
    write_summary(path, a_summary.model_copy(update={"model_args": odd}))
    assert '"layer_subset": [3, 8],' in path.read_text()
    assert read_summary(path).model_args == odd


def test_what_does_not_fit_is_left_out_and_the_result_is_kept(
    a_summary: Summary, tmp_path: Path
) -> None:
    path = tmp_path / "summary.json"
    groups = {f"task{i}": 0.5 for i in range(900)}
    write_summary(path, a_summary.model_copy(update={"group_results": groups}))
    assert read_summary(path) == a_summary
    bits = Items(n=60_000, correct_bits=pack_bits([True] * 60_000))
    write_summary(path, a_summary.model_copy(update={"group_results": groups, "items": bits}))
    assert read_summary(path) == a_summary.model_copy(update={"items": None})
    (primary,) = (metric for metric in a_summary.metrics if metric.primary)
    others = [
        primary.model_copy(update={"metric": f"acc_{i}", "primary": False}) for i in range(40)
    ]
    many = a_summary.model_copy(update={"metrics": [*others, primary]})
    only_primary = a_summary.model_copy(update={"metrics": [primary]})
    write_summary(path, many)
    assert read_summary(path) == only_primary
    write_summary(path, many.model_copy(update={"items": bits}))
    assert read_summary(path) == only_primary.model_copy(update={"items": None})
    with pytest.raises(ValueError, match="more than 8000"):
        write_summary(path, a_summary.model_copy(update={"environment": {"a": "x" * 9000}}))


def test_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"schema_version": 99}')
    with pytest.raises(UserError, match="schema_version 99 is not 2"):
        read_summary(tmp_path / "summary.json")

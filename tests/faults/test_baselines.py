"""What runs are compared with: plain decoding only where it is called so, and of which dtype."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.records.summary import DECODING, Summary, read_summary
from fastdllm.report.groups import baseline_of, deviations, grouped
from fastdllm.report.sentences import answer_of
from fastdllm.report.standings import Standing, standing_of
from fastdllm.report.text_tables import terminal_table
from fastdllm.settings import DecodingSettings
from fastdllm.statistics.comparison import compare
from fastdllm.statistics.comparison_text import comparison_text
from fastdllm.workflow.project.computations import NormalForm, computation_of
from tests.support.run_project import REPOSITORY

PUBLISHED = REPOSITORY / "artifacts/00_baseline/word_problems/k1_first/summary.json"


def run_of(summary: Summary, config: str, **settings: Any) -> Summary:
    """A run of an experiment whose policy declares nothing about what it computes."""
    values = DecodingSettings(**settings).model_dump(mode="json")
    decides = {"policy": "Mine", "policy_digest": "m" * 64}
    decides |= {f"{DECODING}{key}": value for key, value in values.items()}
    own = {"experiment": "05_mine", "config": config, "fingerprint": config, "decides": decides}
    own |= {"computation": computation_of(decides, NormalForm()), "timestamp": config}
    return summary.model_copy(update=own)


def test_a_policy_of_ones_own_is_not_plain_decoding(a_summary: Summary) -> None:
    mine, other = run_of(a_summary, "t0.9"), run_of(a_summary, "t0.5", threshold=0.5)
    assert deviations(mine) == {"policy": "Mine"}
    assert standing_of(mine, None, []) is Standing.NO_CONTROL
    answer = answer_of("05_mine", [mine, other], [])
    assert "against the baseline" in answer and "plain decoding" not in answer


def test_plain_decoding_is_known_by_what_it_computes() -> None:
    plain = read_summary(PUBLISHED)
    assert plain.decides["policy"] != "Policy" and deviations(plain) == {}


def test_without_plain_decoding_the_nearest_run_is_the_baseline(a_summary: Summary) -> None:
    reused, nearest = (
        run_of(a_summary, f"k{k}", threshold=0.8, reuse_k=k, layer_subset="first") for k in (3, 1)
    )
    assert baseline_of([reused, nearest]) is nearest
    answer = answer_of("05_mine", [reused, nearest], [])
    assert "Baseline `k1`" in answer and "plain decoding" not in answer


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("dtype", "float16", "Decoded in bfloat16 and float16, so answers may differ"),
        ("dtype", "bfloat16", None),
        ("code_digest", "b" * 64, "Decoded by different code of fastdllm (aaaaaaaa and bbbbbbbb)"),
        ("code_digest", "a" * 64, None),
        ("code_digest", None, None),
        (
            "environment",
            {"torch": "2.13.0+cpu", "lm_eval": "0.4.13", "python": "3.12.1"},
            "Made with different versions of packages (torch 2.12.1 and 2.13.0+cpu; "
            "lm_eval 0.4.12 and 0.4.13)",
        ),
        ("environment", {"torch": "2.12.1", "python": "3.12.1"}, None),
    ],
)
def test_runs_of_several_origins_are_not_compared_in_silence(
    a_summary: Summary, key: str, value: Any, says: str | None
) -> None:
    versions = {"torch": "2.12.1", "lm_eval": "0.4.12", "python": "3.11.7"}
    usual = {"dtype": "bfloat16", "code_digest": "a" * 64, "environment": versions}
    first = run_of(a_summary, "t0.9").model_copy(update=usual)
    other = run_of(a_summary, "t0.5", threshold=0.5).model_copy(update=usual | {key: value})
    shown = [
        terminal_table(grouped([first, other])),
        answer_of("05_mine", [first, other], []),
        " ".join(comparison_text(compare(first, other), "").split()),
    ]
    assert [(says or "for that alone") in text for text in shown] == 3 * [says is not None]


def test_the_table_of_one_experiment_has_the_baseline_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert main(["table", "--experiment", "01_adaptive_skip"]) == 0
    shown = capsys.readouterr().out
    assert "diff.: points to 00_baseline/k1_first" in shown and "00_baseline: " not in shown

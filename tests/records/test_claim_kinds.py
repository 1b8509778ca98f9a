"""Claims as they are written: each kind takes its own keys, and a mistake is one line."""

from __future__ import annotations

from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.records.claim_kinds import Faster, NonInferior
from fastdllm.validation import validated
from fastdllm.workflow.project.config_files import ExperimentConfig

BASE: dict[str, Any] = {"title": "t", "question": "q", "config_name": "x", "tasks": ["words"]}
CLAIM: dict[str, Any] = {
    **{"id": "C1", "kind": "noninferior", "config": "a", "against": "b", "margin": 0.005},
}
FASTER = {"id": "C2", "kind": "faster", "config": "a", "against": "b", "batch": 1, "ratio": 0.98}
PLANNED = {"n": 100, "power": 0.9, "from": "discordance 4 %"}


def experiment(*claims: Any, **changes: Any) -> ExperimentConfig:
    return validated(ExperimentConfig, {**BASE, "claims": list(claims), **changes}, "e.yaml")


def test_claims_are_read_by_their_kind_in_their_order() -> None:
    config = experiment(CLAIM, FASTER, planned=PLANNED)
    assert config.claims is not None
    first, second = config.claims
    assert isinstance(first, NonInferior)
    assert isinstance(second, Faster)
    assert (first.controls, second.controls) == (["b"], ["b"])
    assert config.planned is not None
    assert config.planned.source == "discordance 4 %"


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in CLAIM.items() if name != key}


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ([{**CLAIM, "kind": "better"}], "unknown key 'claims.0.margin'"),
        ([{**CLAIM, "kind": "better"}], "valid: against, config, id, kind, task"),
        ([{**CLAIM, "kind": "nonInferior"}], "claims.0: unknown kind 'nonInferior'; did you mean"),
        ([without("kind")], "claims.0: the key 'kind' is required"),
        ([without("margin")], "claims.0.margin: this key is required"),
        ([{**CLAIM, "margin": 1.5}], "claims.0.margin: 1.5 is not allowed; it should be less than"),
        ([{**CLAIM, "margin": 0}], "claims.0.margin: 0 is not allowed"),
        ([{**CLAIM, "marging": 0.1}], "did you mean 'margin'?"),
        ([{**CLAIM, "against": ["b"]}], "claims.0.against: ['b'] is not allowed"),
        ([{**CLAIM, "against": "a"}], "claims.0.against: 'a' is the config itself"),
        ([{**FASTER, "against": ["b", "b"]}], "'b' is named twice"),
        ([{**FASTER, "saves": 0.1}], "unknown key 'claims.0.saves'"),
        ([CLAIM, CLAIM], "claims.1.id: 'C1' is given twice"),
        ([{**CLAIM, "task": "wordz"}], "claims.0.task: unknown task 'wordz'; did you mean 'words'"),
        ([], "claims: [] is not allowed; it should not be empty"),
    ],
)
def test_mistakes_are_one_line(claims: list[Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        experiment(*claims)
    assert words in str(refused.value)
    assert str(refused.value).startswith("e.yaml: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tasks": None}, "tasks must name what the claims are about"),
        ({"tasks": ["words", "more"]}, "claims.0.task: is required, as tasks names 2"),
        ({"planned": {**PLANNED, "power": 90}}, "planned.power: 90 is not allowed"),
        ({"planned": PLANNED, "claims": None}, "planned: is about claims, and there are none"),
    ],
)
def test_claims_and_their_experiment_agree(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as refused:
        experiment(CLAIM, **changes)
    assert words in str(refused.value)

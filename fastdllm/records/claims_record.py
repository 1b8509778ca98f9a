"""claims.json: what was claimed before an experiment was run, and what came out.

Owns the record; the tests are made by statistics/claims.py. What was not measured is absent.
Imports no torch. How to read it: docs/claims.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fastdllm.records.claim_kinds import Claim, Planned
from fastdllm.records.signed_record import read_signed
from fastdllm.validation import StrictModel

CLAIMS_SCHEMA_VERSION = 1
CLAIMS_FILE = "claims.json"

Verdict = Literal[
    "confirmed", "not confirmed", "contradicted", "not tested", "exploratory", "not measured"
]


class ControlFigures(StrictModel):
    """The figures of a claim against one config."""

    against: str = Field(description="The config that it was compared with.")
    estimate: float = Field(
        description="Difference of the shares of right items, or ratio of seconds."
    )
    interval: tuple[float, float] = Field(
        description="Each end is a bound, one-sided 97.5 %; together a 95 % interval."
    )
    p: float = Field(description="One-sided p of the claim against this config.")
    only_config: int | None = Field(
        None, description="Items that are right in the claim's config only."
    )
    only_control: int | None = Field(None, description="Items that are right in the other only.")
    clustered_stderr: float | None = Field(
        None, description="Of the difference, where the task has groups."
    )
    cost_ratio: float | None = Field(
        None, description="The config's cost over this one's, of the same items."
    )


class ClaimResult(StrictModel):
    """One claim, and what came out."""

    claim: Claim = Field(description="As it was registered.")
    verdict: Verdict = Field(description="See docs/claims.md.")
    reason: str | None = Field(None, description="Why it is not confirmed or contradicted.")
    n: int | None = Field(None, description="Items of each config; sittings, of seconds.")
    p: float | None = Field(
        None, description="One-sided; of several configs the largest. Below 0.025 is confirmed."
    )
    p_opposite: float | None = Field(
        None, description="The same of the opposite. Below 0.025 is contradicted."
    )
    power: float | None = Field(
        None,
        description="Probability to be confirmed with this n and these shares of items that "
        "differ, if the true difference is 0; only of claims with a margin.",
    )
    controls: list[ControlFigures] = Field(description="By config, in the order of the claim.")


class ClaimsRecord(StrictModel):
    """claims.json of an experiment."""

    schema_version: Literal[1] = Field(1, description="Version of this layout.")
    experiment: str = Field(description="Experiment folder name.")
    digest: str = Field(
        description="Of the claims, what was planned, and the computations they are about."
    )
    registered: str | None = Field(
        None, description="The commit from which on nothing of that changed."
    )
    problem: str | None = Field(None, description="Why nothing of it can be confirmed.")
    planned: Planned | None = Field(None, description="As in experiment.yaml.")
    waits: str | None = Field(
        None, description="How many configs are done, while some are not; there are no figures yet."
    )
    results: list[ClaimResult] = Field(description="In the order in which they are tested.")
    made_from: dict[str, str] = Field(
        description="By run (experiment/task/config) or speed (experiment/task), fingerprint and "
        "time of the result."
    )
    content_digest: str | None = Field(
        None, description="Digest of all other fields, by which an edited file is refused."
    )


def read_claims(path: Path) -> ClaimsRecord:
    """Read and check a record.

    Raises:
        UserError: missing, not JSON, of another version, or edited by hand.
    """
    return read_signed(
        path,
        ClaimsRecord,
        version=CLAIMS_SCHEMA_VERSION,
        again="write it again: fastdllm aggregate",
    )


def claims_schema() -> dict[str, Any]:
    """JSON schema of claims.json, for docs/schemas/claims.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ClaimsRecord.model_json_schema(by_alias=True),
    }

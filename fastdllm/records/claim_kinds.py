"""What an experiment may claim before it is run: one class per kind, as in experiment.yaml.

Owns what is written there and kept in claims.json; tested by statistics/claims.py. How to register
claims: docs/claims.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fastdllm.validation import StrictModel

Margin = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]


class ClaimOfConfig(StrictModel):
    """What all kinds of claims have in common."""

    id: Text = Field(description="A short name, such as C1.")
    config: Text = Field(
        description="The config that the claim is about; of another experiment: "
        "<experiment>/<config>."
    )
    task: Text | None = Field(
        None, description="The task that it is about; needed where `tasks` names several."
    )


class _OfAccuracy(ClaimOfConfig):
    """A claim about one config against one other, by the items that are right."""

    against: Text = Field(description="The config that it is compared with, named likewise.")

    @property
    def controls(self) -> list[str]:
        """The configs that it is compared with."""
        return [self.against]


class NonInferior(_OfAccuracy):
    """It loses less than the margin."""

    kind: Literal["noninferior"] = Field(description="Loses less than `margin`.")
    margin: Margin = Field(description="As a share of items: 0.005 is half a point.")


class Equivalent(_OfAccuracy):
    """It differs by less than the margin, either way."""

    kind: Literal["equivalent"] = Field(description="Differs by less than `margin`.")
    margin: Margin = Field(description="As a share of items: 0.005 is half a point.")


class Better(_OfAccuracy):
    """It is right more often."""

    kind: Literal["better"] = Field(description="Is right more often.")


class _OfSeveral(ClaimOfConfig):
    """A claim about one config against each of one or more others."""

    against: list[Text] = Field(
        min_length=1, description="The configs that it is compared with, each of them."
    )

    @field_validator("against", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @property
    def controls(self) -> list[str]:
        """The configs that it is compared with."""
        return self.against

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        twice = next((name for name in self.against if self.against.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"against: {twice!r} is named twice; once is enough")
        return self


class Frontier(_OfSeveral):
    """It is on the frontier: no control is as cheap, and it loses less than the margin to each."""

    kind: Literal["frontier"] = Field(
        description="Is cheaper than each of `against` by `saves`, and loses less than `margin`."
    )
    margin: Margin = Field(description="As a share of items: 0.005 is half a point.")
    cost: Literal["layer_forwards", "position_forwards"] = Field(
        description="layer_forwards: what a GPU pays for few sequences at once; "
        "position_forwards: what large batches pay."
    )
    saves: Annotated[float, Field(ge=0, lt=1)] = Field(
        description="Least share of each control's cost that it saves."
    )


class Faster(_OfSeveral):
    """It takes less than a share of each control's seconds."""

    kind: Literal["faster"] = Field(
        description="Takes less than `ratio` of the seconds of each of `against` (speed.json)."
    )
    batch: Annotated[int, Field(ge=1)] = Field(
        description="Sequences decoded at once, one of `batch_sizes` of `speed`."
    )
    ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        description="Seconds per answer over those of the control."
    )


def kind(value: Any) -> str | None:
    """Return the kind of a claim, by which its class is chosen."""
    found = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return found if isinstance(found, str) else None


Claim = Annotated[
    Annotated[NonInferior, Tag("noninferior")]
    | Annotated[Equivalent, Tag("equivalent")]
    | Annotated[Better, Tag("better")]
    | Annotated[Frontier, Tag("frontier")]
    | Annotated[Faster, Tag("faster")],
    Discriminator(kind),
]


class Planned(StrictModel):
    """What was planned before the runs."""

    n: Annotated[int, Field(ge=1)] = Field(description="Items of each config.")
    power: Annotated[float, Field(gt=0, lt=1)] = Field(
        description="Probability that each claim is confirmed if it is as true as was assumed "
        "(`fastdllm power`)."
    )
    source: Text = Field(
        alias="from", description="Where the assumed share of items that differ comes from."
    )

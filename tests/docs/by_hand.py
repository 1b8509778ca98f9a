"""Figures by formulas written here, from JSON and Markdown alone: nothing of fastdllm is used."""

from __future__ import annotations

import atexit
import base64
import json
import math
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from tests.support.committed import ROOT as PROJECT
from tests.support.committed import unpack_committed


def committed_or_at_hand() -> Path:
    """The folder of what is committed; without git, the project as it is."""
    folder = Path(tempfile.mkdtemp(prefix="fastdllm-committed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    is_there = unpack_committed(folder, "artifacts", "experiments", "README.md")
    return folder if is_there else PROJECT


ROOT = committed_or_at_hand()
ARTIFACTS = ROOT / "artifacts"
CONTROLS = "03_controls"
NUMBER = r"([+-]?[\d,.]+)"
# Plain decoding as it is published.
PLAIN = {
    "threshold": 0.9,
    "small_block_size": 8,
    "use_block_cache": True,
    "reuse_k": 1,
    "lookahead_depth": 0,
    "temperature": 0.0,
}


class Run:
    """One published run, from its JSON."""

    def __init__(self, path: Path) -> None:
        values = json.loads(path.read_text(encoding="utf-8"))
        self.experiment, self.config = path.parts[-4], path.parts[-2]
        self.n = values["items"]["n"]
        bits = np.unpackbits(
            np.frombuffer(base64.b64decode(values["items"]["correct_bits"]), dtype=np.uint8)
        )
        self.right = bits[: self.n].astype(int)
        answers = values["eval_params"].get("n_answers", values["eval_params"]["n_requests"])
        self.layers = values["passes"]["layer_forwards_computed"] / answers
        positions = values.get("position_forwards")
        self.positions = None if positions is None else positions / answers
        self.tokens = values["throughput"]["tokens_generated"]
        self.processor_share = values["throughput"].get("processor_share")
        self.computation = values["computation"]
        origin = values.get("same_as")
        self.decoded = (origin["experiment"], origin["config"]) if origin else path.parts[-4:-1:2]
        self.settings = values["decides"]

    @property
    def accuracy(self) -> float:
        return 100 * self.right.mean()

    @property
    def is_plain(self) -> bool:
        return all(self.settings[f"decoding.{name}"] == value for name, value in PLAIN.items())


def is_same(a: Run, b: Run) -> bool:
    return a.computation == b.computation or a.decoded == b.decoded


@cache
def runs(task: str) -> dict[tuple[str, str], Run]:
    """The published runs of a task by experiment and config."""
    found = [Run(path) for path in sorted(ARTIFACTS.glob(f"*/{task}/*/summary.json"))]
    return {(run.experiment, run.config): run for run in found}


@cache
def baseline(task: str) -> Run:
    """Plain decoding; a policy without parameters may still decide otherwise."""
    names = ("00_baseline", CONTROLS, "05_confirm")
    return next(
        run
        for name in names
        for run in runs(task).values()
        if run.experiment == name and run.is_plain
    )


@cache
def controls(task: str) -> list[Run]:
    """One run of each computation among the controls."""
    distinct: list[Run] = []
    for run in runs(task).values():
        if run.experiment == CONTROLS and not any(is_same(run, other) for other in distinct):
            distinct.append(run)
    return distinct


@dataclass(frozen=True)
class Section:
    """What the README of an experiment says of one task, and the runs it is about."""

    experiment: str
    task: str
    lines: tuple[str, ...]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of its table by heading."""
        lines = [line for line in self.lines if line.startswith("|")]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]

    @property
    def listed(self) -> list[Run]:
        """One run of each row."""
        return [self.run(names_in(row["configuration"])[0]) for row in self.rows]

    @property
    def baseline(self) -> Run:
        return baseline(self.task)

    @property
    def controls(self) -> list[Run]:
        return controls(self.task)

    def run(self, config: str) -> Run:
        return runs(self.task)[self.experiment, config]

    def control_of(self, run: Run) -> Run:
        """The most accurate control of no higher cost, else the cheapest."""
        others = [control for control in self.controls if not is_same(control, run)]
        affordable = [control for control in others if control.layers <= run.layers]
        if affordable:
            return max(affordable, key=lambda control: (control.accuracy, -control.layers))
        return min(others, key=lambda control: control.layers)


def answer(experiment: str) -> list[str]:
    """The lines of a README between its markers."""
    text = (ROOT / f"experiments/{experiment}/README.md").read_text(encoding="utf-8")
    return text.partition("<!-- answer: begin")[2].partition("<!-- answer: end")[0].splitlines()[1:]


def sections() -> list[Section]:
    """All parts of all READMEs that are about a task."""
    found = []
    for path in sorted((ROOT / "experiments").glob("[0-9]*/README.md")):
        lines: dict[str, list[str]] = {}
        task = ""
        for line in answer(path.parent.name):
            if begun := re.match(r"\*\*([a-z_]+)\*\*, `", line):
                task = begun[1]
            if task:
                lines.setdefault(task, []).append(line)
        found += [Section(path.parent.name, task, tuple(own)) for task, own in lines.items()]
    return found


def names_in(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def score(n: int, lost: int, gained: int, difference: float) -> float:
    """Tango (1998): how far the items are from a difference, its likelihood maximised by search."""
    low, high = max(0.0, -difference), (1 - difference) / 2
    same = n - lost - gained

    def minus_likelihood(q: float) -> float:
        rest = 1 - 2 * q - difference
        parts = ((lost, q), (gained, q + difference), (same, rest))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in parts if count)

    q = optimize.minimize_scalar(
        minus_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    variance = n * (2 * q + difference * (1 - difference))
    return (gained - lost - n * difference) / math.sqrt(max(variance, 1e-12))


@cache
def tango(n: int, lost: int, gained: int) -> tuple[float, float]:
    """The 95 % interval of a difference, in points."""
    value, z = (gained - lost) / n, stats.norm.ppf(0.975)
    low = optimize.brentq(lambda d: score(n, lost, gained, d) - z, -0.9999, value - 1e-9, xtol=1e-7)
    high = optimize.brentq(lambda d: score(n, lost, gained, d) + z, value + 1e-9, 0.9999, xtol=1e-7)
    return 100 * low, 100 * high


def counts(a: Run, b: Run) -> tuple[int, int, int]:
    """Items, and how many only `a`, and only `b`, has right."""
    return (
        a.n,
        int(((a.right == 1) & (b.right == 0)).sum()),
        int(((b.right == 1) & (a.right == 0)).sum()),
    )


def close(printed: str | float, value: float, digits: int = 1) -> None:
    """The printed figure is the value, rounded."""
    assert (
        abs(float(str(printed).replace(",", "")) - value)
        <= 0.5 * 10**-digits + 1e-6 * 10**-digits + 2e-4
    ), (printed, value)

"""Grids on a real SLURM under every fault of a cluster, again and again in random order.

`python -m benchmarks.faults` needs SLURM's packages (tests/slurm/packages.py installs them as root)
and takes two minutes for each repetition on two processors. A repetition is one grid of nine runs:
six are hit by a fault each, and its Snakemake is killed once.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.record import record
from tests.slurm.lab import Lab
from tests.slurm.packages import why_absent
from tests.slurm.projects import CONFIGS, make_project, make_reference
from tests.slurm.trial import EVERY_FAULT, MAIN_KILLED, Trial, run_trial

COMMAND = "python -m benchmarks.faults"
REPETITIONS = 20


def main(arguments: Sequence[str]) -> int:
    """Run the repetitions, print a table, and keep the figures where nothing failed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--seed", type=int, default=0, help="of the orders")
    options = parser.parse_args(arguments)
    if reason := why_absent():
        sys.stderr.write(f"{reason}\n")
        return 2
    trials, failures = [], 0
    orders = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lab = Lab.start()
        try:
            reference = make_reference(folder / "reference", lab)
            answers = {config: reference.answers(config) for config in CONFIGS}
            for number in range(1, options.repetitions + 1):
                faults = orders.sample(EVERY_FAULT, len(EVERY_FAULT))
                say(f"{number}: {', '.join(faults)}")
                try:
                    trial = run_trial(make_project(folder / str(number), lab), faults, answers)
                    lab.clear()
                except Exception:  # this trial counts as failed; the next may work
                    failures += 1
                    say(traceback.format_exc())
                    lab.stop()
                    lab = Lab.start()
                else:
                    trials.append(trial)
                    failures += has_failed(trial)
                    say(f"{'FAILED' if has_failed(trial) else 'passed'}: {in_words(trial)}")
        except KeyboardInterrupt:
            say("stopped; what was measured so far:")
        finally:
            lab.stop()
    say(table(trials, failures))
    if trials and not failures:
        record("faults", command=COMMAND, figures=figures(trials))
    return 1 if failures else 0


def say(text: str) -> None:
    """Print a line at once; repetitions take minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def has_failed(trial: Trial) -> bool:
    """Whether anything is missing, wrong, lost, decoded twice, done by two jobs, or unreported."""
    counts = trial.lost.total() + trial.twice.total()
    never_reported = None in trial.named_s.values()
    return bool(trial.missing or trial.wrong or counts or trial.doubles or never_reported)


def in_words(trial: Trial) -> str:
    """One repetition in a line."""
    named = ", ".join(
        f"{fault} {'never' if seconds is None else f'{seconds:.0f} s'}"
        for fault, seconds in trial.named_s.items()
    )
    return (
        f"{trial.calls} calls, {trial.seconds:.0f} s, missing {trial.missing}, wrong {trial.wrong},"
        f" lost {trial.lost.total()}, twice {trial.twice.total()}, doubles {sorted(trial.doubles)};"
        f" told after: {named}"
        + "".join(f"; {f}: {trial.told[f]}" for f, s in trial.named_s.items() if s is None)
    )


def table(trials: Sequence[Trial], failures: int) -> str:
    """All repetitions, fault by fault."""
    lines = [
        "| fault | repetitions | run complete | chunks lost | finished twice | told after |",
        "|---|---|---|---|---|---|",
    ]
    for fault in EVERY_FAULT:
        lost, twice, complete = 0, 0, 0
        for trial in trials:
            hit = CONFIGS if fault == MAIN_KILLED else [trial.victims[fault]]
            lost += sum(trial.lost[config] for config in hit)
            twice += sum(trial.twice[config] for config in hit)
            complete += not set(hit) & {*trial.missing, *trial.wrong}
        cells = (fault, len(trials), complete, lost, twice, reported_after(trials, fault))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    doubles = sum(bool(trial.doubles) for trial in trials)
    lines.append(f"\n{failures} repetitions failed; a run had two jobs at a time in {doubles}")
    return "\n".join(lines)


def reported_after(trials: Sequence[Trial], fault: str) -> str:
    """How soon `fastdllm status` reported a fault."""
    seconds = [trial.named_s[fault] for trial in trials if fault in trial.named_s]
    known = [one for one in seconds if one is not None]
    if not known:
        return "-"
    never = f", {len(seconds) - len(known)} never" if len(known) < len(seconds) else ""
    return f"{median(known):.0f} s, at most {max(known):.0f} s{never}"


def figures(trials: Sequence[Trial]) -> dict[str, str]:
    """What the table of the project shows."""
    complete = sum(not trial.missing and not trial.wrong for trial in trials)
    lost, twice = (sum(getattr(t, key).total() for t in trials) for key in ("lost", "twice"))
    reported = {
        fault: reported_after(trials, fault) for fault in EVERY_FAULT if fault != MAIN_KILLED
    }
    return {
        f"grids of nine runs under {len(EVERY_FAULT)} faults": f"{complete} of {len(trials)} "
        f"complete and right, {lost} chunks lost, {twice} finished twice",
        **{
            f"`fastdllm status` reports a run: {f}": f"after {words}"
            for f, words in reported.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

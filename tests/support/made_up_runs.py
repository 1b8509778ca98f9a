"""Made-up runs that look like real ones: five experiments, items of graded difficulty, real costs.

All figures follow from the settings, so that a test can say what a report must show.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastdllm.records import summary as s
from fastdllm.records.speed_record import Sitting, SpeedRecord
from fastdllm.statistics.intervals import wilson_interval
from fastdllm.statistics.measured_speed import estimates_of
from tests.support.fakes import fake_sitting

N_ITEMS, LAYERS = 600, 14
EDGES = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0]
HARDWARE = {
    "cpu": s.Hardware(device="cpu", name="AMD EPYC 7763", threads=2),
    "gpu": s.Hardware(device="cuda", name="NVIDIA H100 80GB HBM3"),
}
# experiment, config, share right, layer-forwards per answer, what differs from plain decoding
Config = tuple[str, str, float, float, dict[str, Any]]


def configs() -> Iterator[Config]:
    """The grid of the five experiments, with accuracies like those measured on tiny models."""
    for k, right, cost in ((1, 0.957, 130.0), (2, 0.575, 116.5), (3, 0.352, 108.0)):
        for subset in ("first", "middle", "last"):
            given = {"reuse_k": k, "layer_subset": subset}
            yield "00_baseline", f"k{k}_{subset}", right, cost, given
    for index, tau in enumerate((0.02, 0.05, 0.1, 0.2, 0.4)):
        for most in (1, 3):
            right = 0.955 - 0.012 * index**2 - 0.01 * most
            given = {"policy_parameters.tau_skip": tau, "policy_parameters.max_reuses": most}
            cost = 128.0 - 3.1 * index - 2.2 * most
            yield "01_adaptive_skip", f"tau{tau}_m{most}", right, cost, given
    for k in (2, 3):
        for index, subset in enumerate(("first", "middle", "last", "3_8", "5_11")):
            given = {"reuse_k": k, "layer_subset": subset, "policy_parameters.mode": "delta"}
            right = 0.70 + 0.05 * index - 0.09 * (k - 2)
            yield "02_delta_reuse", f"delta_k{k}_{subset}", right, 127.0 - 3.5 * k + index, given
    for threshold, right, cost in (
        *((1.0, 0.962, 318.0), (0.95, 0.960, 146.0), (0.9, 0.957, 130.0), (0.8, 0.938, 117.0)),
        *((0.7, 0.905, 109.0), (0.6, 0.871, 103.0), (0.5, 0.802, 98.0)),
    ):
        yield "03_controls", f"t{threshold}", right, cost, {"threshold": threshold}
    for size, right, cost in ((4, 0.962, 176.0), (16, 0.945, 112.0), (32, 0.93, 106.0)):
        yield "03_controls", f"sub{size}", right, cost, {"small_block_size": size}
    yield "03_controls", "no_block_cache", 0.958, 143.0, {"use_block_cache": False}
    for depth in (1, 3):
        for threshold in (0.9, 0.95, 0.98):
            for size in (4, 8, 16):
                given = {
                    "lookahead_depth": depth,
                    "lookahead_threshold": threshold,
                    "small_block_size": size,
                }
                right = 0.963 - 0.006 * (threshold == 0.9) - 0.001 * size
                cost = 96.0 - 3 * depth + 60 * (threshold - 0.9) + 12 / size
                yield "04_lookahead", f"d{depth}_t{threshold}_s{size}", right, cost, given


def runs(
    *, tasks: tuple[str, ...] = ("word_problems", "choice_problems"), repeat: int = 1
) -> list[s.Summary]:
    """All configs on all tasks; for a large report, `repeat` of each under other names."""
    summaries = []
    for task in tasks:
        decoded: dict[str, s.Summary] = {}
        for index, config in enumerate(configs()):
            for copy in range(repeat):
                summaries.append(_run(task, config, seed=(index, copy), decoded=decoded))
    return summaries


def _run(
    task: str, config: Config, *, seed: tuple[int, int], decoded: dict[str, s.Summary]
) -> s.Summary:
    experiment, name, right, cost, given = config
    index, copy = seed
    name = f"{name}_{copy}" if copy else name
    defaults = {"reuse_k": 1, "threshold": 0.9, "small_block_size": 8, "use_block_cache": True}
    decides: dict[str, Any] = {"model_digest": "160eb05e4dab20c2" * 4, "task": task}
    decides |= {f"decoding.{key}": value for key, value in defaults.items()}
    decides |= {k if k.startswith("policy") else f"decoding.{k}": v for k, v in given.items()}
    is_generation = task == "word_problems"
    same = "choice" if not is_generation else _computation(given, copy)
    if same in decoded:
        first = decoded[same]
        origin = s.SameAs(
            experiment=first.experiment,
            task=task,
            config=first.config,
            fingerprint=first.fingerprint,
        )
        changed = {"experiment": experiment, "config": name, "decides": decides}
        changed |= {"same_as": origin, "fingerprint": f"{index:032x}{copy:032x}"}
        return first.model_copy(update=changed)
    chance = random.Random(f"{task}{same}")
    shares = random.Random(task)
    strength = right if is_generation else 0.99
    bits = []
    for _ in range(N_ITEMS):
        luck = shares.random()
        bits.append((luck if chance.random() < 0.94 else chance.random()) < strength)
    n_right = sum(bits)
    run = s.Summary(
        experiment=experiment,
        task=task,
        config=name,
        timestamp="2026-11-25T19:54:07+00:00",
        fingerprint=f"{index:032x}{copy:032x}",
        decides=decides,
        computation=same,
        accuracy=n_right / N_ITEMS,
        metrics=[
            s.Metric(
                metric="exact_match" if is_generation else "acc",
                filter="final-number" if is_generation else "none",
                value=n_right / N_ITEMS,
                interval=wilson_interval(n_right, N_ITEMS),
                interval_method="wilson",
                n=N_ITEMS,
                higher_is_better=True,
                primary=True,
            )
        ],
        items=s.Items(n=N_ITEMS, correct_bits=s.pack_bits(bits)),
        peak_memory=s.PeakMemory(gib=0.4, kind="process_resident"),
        load_time_s=0.03,
        warm_up_s=0.2,
        resumed=False,
        dtype="float32",
        hardware=[HARDWARE["cpu"]],
        git=s.Git(commit="e896f4a5bef1710a614268f5f33bbe44253f857d", dirty=index == 9),
        environment={"python": "3.11.7", "torch": "2.13.0+cpu", "lm_eval": "0.4.13"},
        model_args={"model_path": "models/tiny"},
        eval_params={
            "n_items": N_ITEMS,
            "n_requests": N_ITEMS,
            "chunk_size": 200,
            "batch_size": 32 if is_generation else 64,
        },
    )
    if is_generation:
        on_gpu = experiment == "04_lookahead" and given["small_block_size"] == 16
        run = run.model_copy(update=_measured(cost + 0.15 * copy, given, on_gpu=on_gpu))
    decoded[same] = run
    return run


def speeds(summaries: list[s.Summary]) -> list[SpeedRecord]:
    """A measurement of plain decoding, the best look-ahead and a control, which is 0.81 of it."""
    names = ("00_baseline/k1_first", "d3_t0.95_s4", "03_controls/t0.7")
    computations = {
        name: next(r.computation for r in summaries if r.config == name.rpartition("/")[2])
        for name in names
    }
    spec = {
        "fingerprint": "s" * 64,
        "baseline": names[0],
        "batch_sizes": [1, 32],
        "runs": dict.fromkeys(names),
    }
    sittings = []
    for number in (1, 2, 3):
        values = fake_sitting(spec, number)
        del values["fingerprint"]
        sittings.append(Sitting.model_validate(values))
    return [
        SpeedRecord(
            experiment="04_lookahead",
            task="word_problems",
            fingerprint="s" * 64,
            decides={"computations": computations},
            baseline=names[0],
            estimates=estimates_of(sittings, names[0]),
            failed_checks=[],
            sittings=sittings,
        )
    ]


def _computation(given: dict[str, Any], copy: int) -> str:
    """Runs of equal text are one computation: in output mode the subset has no effect."""
    if "policy_parameters.mode" not in given and "reuse_k" in given:
        given = {"reuse_k": given["reuse_k"]} if given["reuse_k"] > 1 else {}
    plain = {"threshold": 0.9}
    return json.dumps([{k: v for k, v in given.items() if plain.get(k) != v}, copy])


def _measured(cost: float, given: dict[str, Any], *, on_gpu: bool) -> dict[str, Any]:
    forwards = cost / LAYERS
    tokens = 19_300
    seconds = N_ITEMS * cost * (0.4e-5 if on_gpu else 6.5e-5)
    counts = [0, 2, 3, 5, 8, 20, 60, 120, 300, 700, 1600, 1500, 3900, 10_900]
    if given.get("reuse_k", 1) > 1:
        counts = [900, 1100, 1300, *counts[3:]]
    return {
        "hardware": [HARDWARE["gpu" if on_gpu else "cpu"]],
        "throughput": s.Throughput(
            tokens_generated=tokens,
            total_time_s=round(seconds, 4),
            tokens_per_s=round(tokens / seconds, 2),
            chunks=[(tokens // 3, seconds / 3 * (0.95 + 0.05 * i)) for i in range(3)],
        ),
        "tokens_per_forward": round(tokens / (N_ITEMS * forwards), 4),
        "passes": s.Passes(
            prefill=457,
            full_block=int(N_ITEMS * forwards * 0.6),
            sub_block=int(N_ITEMS * forwards * 0.3),
            commit=526,
            reused=695 * (given.get("reuse_k", 1) - 1),
            layer_forwards_computed=int(N_ITEMS * cost),
            layer_forwards_skipped=9730 * (given.get("reuse_k", 1) - 1),
        ),
        "confidences": s.Confidences(edges=EDGES, counts=counts),
        "latency_s": s.Latency(p50=0.26, p95=0.39),
        "truncation_rate": 0.005,
    }


def write_samples(results: Path, summaries: list[s.Summary]) -> None:
    """The samples and summary of each decoded generation run, as the workflow leaves them."""
    for run in summaries:
        if run.same_as is not None or run.passes is None or run.items is None:
            continue
        folder = results / run.experiment / run.task / run.config
        s.write_summary(folder / "summary.json", run)
        lines = [
            json.dumps(_sample(run, item, right))
            for item, right in enumerate(s.unpack_bits(run.items))
        ]
        (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")


def _sample(run: s.Summary, item: int, right: bool) -> dict[str, Any]:
    a, b = 10 + item % 50, 3 + item % 7
    total = a + b if right else a + b + 1 + item % 3
    answer = f"Then she has {a}+{b}={total} lamps.\n#### {total}"
    ids = [ord(letter) % 97 for letter in answer]
    return {
        "task": run.task,
        "item": item,
        "prompt": f"<|im_start|>user\nRuth has {a} lamps. She finds {b} lamps. How many lamps "
        "does Ruth have now?<|im_end|>\n<|im_start|>assistant\n",
        "target": str(a + b),
        "correct": right,
        "answer": answer,
        "parsed": str(total),
        "tokens": len(ids),
        "token_ids": ids,
        "committed_at": [1 + place // 6 for place in range(len(ids))],
        "finish_reason": "stop",
    }


def sensitivity() -> dict[str, Any]:
    """A sensitivity run with rising damage to the front of the model, and gaps at the end."""
    steps = 12
    shape = [(layer, step) for layer in range(LAYERS) for step in range(steps)]
    grid = [[0.0] * steps for _ in range(LAYERS)]
    for layer, step in shape:
        grid[layer][step] = round(0.3 / (1 + step) * (1 + (LAYERS - layer) / LAYERS), 4)
    changed: list[list[float | None]] = [[v / 3 for v in row] for row in grid]
    for row in changed:
        row[-1] = None
    return {
        "schema_version": 1,
        "model": "models/tiny",
        "model_digest": "160eb05e4dab20c2" * 4,
        "n_items": 200,
        "layers": LAYERS,
        "steps": steps,
        "input_change": grid,
        "delta_change": [[v * 1.7 for v in row] for row in grid],
        "token_changed": changed,
        "passes": [200 - 14 * step for step in range(steps)],
        "spans": [
            {
                "layers": [first, first + width],
                "saving": round(width / LAYERS / 2, 3),
                "damage": round(width * 0.008 + (LAYERS - first) * 0.002, 4),
            }
            for width in (2, 4, 6)
            for first in (0, 4, 8)
        ],
        "git": {"commit": "e896f4a5bef1710a614268f5f33bbe44253f857d", "dirty": False},
        "data": "calibration.jsonl",
        "data_digest": "5f" * 32,
        "decoding": {},
        "dtype": "float32",
        "hardware": "AMD EPYC 7763",
    }

"""Memory and time of loading a checkpoint of 1.9 GB, over the model and over reading its files.

`python -m benchmarks.loading` writes one with random weights in the layout of the 7B, reads its
files into the page cache, and loads it in processes of their own. It needs 8 GB of memory. Times
are those of the processor, which other processes on the machine change least.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

COMMAND = "python -m benchmarks.loading"
LAYOUT, HIDDEN, LAYERS = "7b", 1792, 7
DTYPES = ("float32", "bfloat16", "float16")
ROUNDS = 3


def main() -> None:
    """Measure and record, or with the folder of a checkpoint, measure one loading and print it."""
    if len(sys.argv) > 1:
        folder, form, dtype = sys.argv[1:]
        sys.stdout.write(json.dumps(loaded(Path(folder), form, dtype)))
        return
    from benchmarks.record import record

    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        size = ["--hidden-size", str(HIDDEN), "--layers", str(LAYERS)]
        subprocess.run(
            [sys.executable, "-m", "scripts.random_checkpoint", LAYOUT, folder, *size], check=True
        )
        for form, dtype in [(form, dtype) for form in ("fused", "plain") for dtype in DTYPES]:
            command = [sys.executable, "-m", "benchmarks.loading", folder, form, dtype]
            runs = [json.loads(subprocess.check_output(command)) for _ in range(ROUNDS)]
            peak = max(run["peak"] / run["model"] for run in runs)
            load_s, read_s = (median(run[key] for run in runs) for key in ("load", "read"))
            figures[f"loading 1.9 GB, {dtype}, {form}"] = (
                f"peak {peak:.2f} times the model; {load_s:.1f} CPU seconds, "
                f"{load_s / read_s:.1f} times reading the files"
            )
    record("loading", command=COMMAND, figures=figures)


def loaded(folder: Path, form: str, dtype: str) -> dict[str, float]:
    """Load once: bytes of the peak above the base and of the model, and CPU seconds."""
    from fastdllm.machine.threads import spin_briefly

    spin_briefly()  # as commands do, before torch is imported
    from fastdllm.machine.process import reset_peak_resident
    from fastdllm.model.config import EMBEDDED_MODEL
    from fastdllm.model.loading import load_model, load_plain_model

    load = load_model if form == "fused" else load_plain_model
    load(EMBEDDED_MODEL, device="cpu", dtype=dtype)  # imports, and kernels for their first use
    files = list(folder.glob("*.safetensors"))
    read_s = min(_cpu_s(lambda: [file.read_bytes() for file in files]) for _ in range(ROUNDS))
    reset_peak_resident()
    base = resident("VmRSS")
    models = []
    load_s = _cpu_s(lambda: models.append(load(folder, device="cpu", dtype=dtype)))
    stored = sum(file.stat().st_size for file in files)
    return {
        "peak": resident("VmHWM") - base,
        "model": stored * models[0].dtype.itemsize / 2,
        "load": load_s,
        "read": read_s,
    }


def _cpu_s(work: Callable[[], object]) -> float:
    before = os.times()
    work()
    after = os.times()
    return after.user + after.system - before.user - before.system


def resident(key: str) -> int:
    """Bytes that this process holds (VmRSS), or the most that it held (VmHWM)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()

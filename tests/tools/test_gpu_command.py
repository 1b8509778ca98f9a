"""`python -m benchmarks.gpu`, rehearsed without a GPU; what is wrong with a machine is one line."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from importlib.metadata import distribution, requires
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import command, machine
from benchmarks.gpu.gpu_tests import Rows, files_with_gpu_tests
from benchmarks.gpu.machine import FOR_TESTS, NEEDED, card_notices, card_state, look_around
from benchmarks.gpu.parts import MACHINE, NAMES, NOT_HERE, PARTS, ROOT, Outcome, Part, Runner
from benchmarks.gpu.work import HOMES
from fastdllm.common.errors import UserError
from fastdllm.tools.doctor.gpu import Build, Gpu

# What the 1.5B shows is the same code as what the 7B does. Time enough for the busiest of machines.
REHEARSED = [name for name in NAMES if not name.startswith("1.5b")]
REHEARSAL = ("-m", "benchmarks.gpu", "--device", "cpu", "--small", "--minutes", "60")
# Run by Python when it starts, where it is on the path: only what the folder holds is installed.
FEW_PACKAGES = """
import sys
sys.path[:] = [place for place in sys.path if not place.endswith("-packages")] + [%r]
"""


def normal(name):
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_their_own_needs(names):
    """Packages, and those that they need."""
    found, open_ends = set(), {normal(name) for name in names}
    while open_ends:
        found.add(name := open_ends.pop())
        needs = [Requirement(need) for need in requires(name) or ()]
        needed = {normal(n.name) for n in needs if n.marker is None or n.marker.evaluate()}
        open_ends |= needed - found
    return found


def install_few(folder, names):
    """Fill a folder with what these packages have installed here."""
    folder.mkdir()
    for installed in map(distribution, names):
        for first in {file.parts[0] for file in installed.files} - {"..", "__pycache__"}:
            (folder / first).unlink(missing_ok=True)
            (folder / first).symlink_to(installed.locate_file(first))


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    """Output and record of a rehearsal with only the packages that are asked for."""
    folder = tmp_path_factory.mktemp("rehearsal")
    packages = folder / "packages"
    install_few(packages, with_their_own_needs((*NEEDED, *FOR_TESTS)))
    assert not (packages / "transformers").exists()
    (folder / "sitecustomize.py").write_text(FEW_PACKAGES % str(packages))
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, *REHEARSAL, "--json", folder / "gpu.json"]
        + [word for name in REHEARSED for word in ("--part", name)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "HOME": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done, json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_a_rehearsal_runs_every_part_without_a_gpu_and_with_few_packages(rehearsal):
    _, record = rehearsal
    states = {name: part["state"] for name, part in record["parts"].items()}
    assert states == dict.fromkeys(REHEARSED, "done") | {
        "tests": "not measured",
        "tiny-pairs": "not measured",
    }
    assert record["parts"]["tests"]["reason"].endswith("needs a CUDA GPU; none here")
    assert "transformers is missing" in record["parts"]["tiny-pairs"]["reason"]
    rows = {name: part["rows"] for name, part in record["parts"].items()}
    for name in ("golden", "half", "memory", "graphs"):
        checks = [row["holds"] for row in rows[name] if "holds" in row]
        assert checks
        assert all(checks), rows[name]
    assert len(rows["tests"]) == 3
    assert [row["batch"] for row in rows["7b"][1:]] == [1, 8]
    assert all(row["share_of_floor"] > 0 and row["tokens_per_s"] > 0 for row in rows["7b"][1:])
    assert len(rows["7b-pairs"]) == 6
    assert {row["slots_at_first"] for row in rows["memory"][1:]} == {4, 2}


@pytest.mark.slow
def test_its_record_names_the_machine_and_no_figure_as_one_of_a_real_model(rehearsal):
    done, record = rehearsal
    assert record["is_rehearsal"]
    assert "figures" not in record
    assert "7b (narrow), batch 8" in done.stdout
    assert {"hardware", "versions", "decoder_code", "half_precision"} <= record["machine"].keys()
    assert record["machine"]["versions"]["torch"]
    assert not {"driver", "cuda", "mig"} & record["machine"].keys(), "of a GPU only"
    assert record["notices"] == [record["notices"][0]]
    assert "HOME='/nowhere' cannot be written" in record["notices"][0]


A_ROW = """
import json, sys, time
name, rows = sys.argv[1:3]
def row(holds):
    with open(rows, "a") as file:
        file.write(json.dumps({"what": name, "result": "words", "holds": holds}) + chr(10))
row(name != "wrong")
if name == "hangs":
    time.sleep(1000)
if name == "fails":
    raise RuntimeError("the device is gone")
if name == "absent":
    sys.stderr.write("no room for it")
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_part_that_hangs_or_fails_costs_no_other_and_its_rows_are_kept(tmp_path):
    program = tmp_path / "part.py"
    program.write_text(A_ROW)
    parts = [Part(name, "", 1000) for name in ("hangs", "fails", "absent", "wrong", "last")]
    # What is promised to its followers is not the first one's: it gets five seconds.
    runner = Runner(options=(), total_s=4005, program=(sys.executable, str(program)))
    outcomes = {o.part.name: o for o in runner.run_all(parts, time.monotonic())}
    assert {name: len(o.rows) for name, o in outcomes.items()} == dict.fromkeys(outcomes, 1)
    states = [o.state for o in outcomes.values()]
    assert states == ["failed", "failed", "not measured", "done", "done"]
    assert [o.is_right for o in outcomes.values()] == [False, False, True, False, True]
    assert re.match(r"stopped after 5 s", outcomes["hangs"].reason)
    assert outcomes["fails"].reason == "exit code 1: RuntimeError: the device is gone"
    assert outcomes["fails"].record()["said"][-1] == "RuntimeError: the device is gone"
    assert outcomes["absent"].reason == "no room for it"
    assert "reason" not in outcomes["last"].record()
    late = runner.run(parts[-1], 0.0)
    assert (late.state, late.is_right) == ("not measured", True)


def test_the_parts_fit_the_time_and_each_has_a_home():
    assert set(HOMES) == {*NAMES, MACHINE.name}
    assert sum(part.kept_s for part in (MACHINE, *PARTS)) <= 9 * 60 - 30
    assert NOT_HERE not in (0, 1, 2)


def test_all_tests_that_are_marked_are_found():
    assert ROOT / "tests" / "engine" / "test_fixed_shapes.py" in files_with_gpu_tests()


def test_tests_become_rows():
    rows = []
    work = SimpleNamespace(tell=lambda what, result, **more: rows.append((what, result, more)))
    plugin = Rows(work)

    def report(when, outcome, words=None):
        flags = {name: name == outcome for name in ("passed", "failed", "skipped")}
        longrepr = ("file", 1, words) if outcome == "skipped" else words
        return SimpleNamespace(
            nodeid="f.py::test", when=when, duration=1, longrepr=longrepr, **flags
        )

    for each in (
        report("setup", "passed"),
        report("call", "passed"),
        report("call", "failed", "a\nE wrong"),
        report("setup", "failed", "E no CUDA"),
        report("setup", "skipped", "Skipped: too old"),
    ):
        plugin.pytest_runtest_logreport(each)
    assert rows == [
        ("test", "passed in 1.0 s", {"holds": True}),
        ("test", "failed (call): E wrong", {"holds": False}),
        ("test", "failed (setup): E no CUDA", {"holds": False}),
        ("test", "skipped: too old", {}),
    ]


def line_of(capsys, *words):
    code = command.main(list(words))
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    return captured.err


def test_what_is_missing_is_one_line_with_the_command_that_installs_it(
    capsys, monkeypatch, tmp_path
):
    to = ("--json", str(tmp_path / "gpu.json"))
    monkeypatch.setattr(machine, "NEEDED", (*NEEDED, "absent_package"))
    line = line_of(capsys, *to)
    assert f"{sys.executable} lacks absent_package: {sys.executable} -m pip install" in line
    assert re.search(
        r"install pydantic==[\d.]+ rich==", machine.how_to_install(["pydantic", "rich"])
    )
    monkeypatch.setattr(machine, "NEEDED", NEEDED)
    assert "unknown part 'gold'; did you mean 'golden'?" in line_of(capsys, "--part", "gold", *to)
    found = {"torch": "2.11.0+cu130", "pydantic": "1.10.2"}
    monkeypatch.setattr(machine, "version", found.get)
    assert "pydantic 1.10.2 is too old: 2.0 or newer is needed" in line_of(capsys, *to)
    found["torch"] = "2.9.1"
    assert "torch 2.9.1 is too old: 2.11 or newer is needed" in line_of(capsys, *to)
    assert "--device cpu is a rehearsal" in line_of(capsys, "--device", "cpu", *to)
    assert "cannot write" in line_of(capsys, "--json", "/proc/gpu.json")


@pytest.mark.slow
def test_a_gpu_that_is_not_there_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    line = line_of(capsys, "--json", str(tmp_path / "gpu.json"))
    assert "CUDA_VISIBLE_DEVICES='' hides every GPU; with another Python" in line


def test_an_older_python_can_read_what_tells_it_so():
    text = (ROOT / "benchmarks" / "gpu" / "__main__.py").read_text(encoding="utf-8")
    body = ast.parse(text, feature_version=(3, 6)).body
    assert [ast.unparse(node).partition("\n")[0] for node in body[1:3]] == [
        "import sys",
        "if sys.version_info < (3, 11):",
    ]


@pytest.mark.parametrize(
    ("variables", "gpus", "line"),
    [
        ({"CUDA_VISIBLE_DEVICES": ""}, [], "CUDA_VISIBLE_DEVICES='' hides every GPU"),
        ({}, [], "nvidia-smi lists none here; on a cluster, ask for one"),
        (
            {},
            [Gpu("NVIDIA A100", 80.0, "470.1", 8.0)],
            "NVIDIA A100: driver 470.1 (CUDA up to 11.4), torch 2.13.0+cu130 for CUDA 13.0; the "
            "driver is too old",
        ),
    ],
)
def test_why_torch_sees_no_gpu_is_said(monkeypatch, variables, gpus, line):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "read_gpus", lambda: gpus)
    monkeypatch.setattr(machine, "driver_cuda", lambda: "11.4")
    monkeypatch.setattr(machine, "torch_build", lambda: Build("2.13.0+cu130", "13.0"))
    assert line in machine.why_no_gpu()


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Write an nvidia-smi that prints a line for a query of the second card."""

    def write(line):
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\ncase "$*" in *--id=1*) echo "{line}";; *) exit 9;; esac\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")

    return write


def test_a_card_that_others_use_is_said_and_what_it_does_not_report_is_absent(smi):
    smi("37, 12544, [N/A], 1980, 1980, 700.00")
    card = card_state("cuda:1")
    assert card == {
        "busy_percent": 37,
        "memory_used_mib": 12544,
        "sm_clock_mhz": 1980,
        "most_sm_clock_mhz": 1980,
        "power_limit_w": 700,
    }
    assert "in use by others (37 % busy, 12.2 GiB taken)" in card_notices(card)[0]
    assert card_notices({"busy_percent": 0, "memory_used_mib": 4}) == []
    assert card_state("cuda:7") == {}
    assert card_state("cuda:0") == {}, "nvidia-smi fails"


def test_variables_that_mislead_are_taken_from_the_parts(monkeypatch):
    for name in machine.MISLEADING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1")
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")
    found = look_around("cpu")
    assert found.removed == ["TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"]
    assert found.notices[-1].startswith("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE is ignored here")


def test_without_a_place_for_temporary_files_nothing_starts(monkeypatch):
    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(UserError, match="No usable temporary directory found; export TMPDIR="):
        look_around("cpu")


def test_a_row_that_does_not_hold_makes_the_part_wrong():
    rows = [{"what": "a", "result": "b"}, {"what": "c", "result": "d", "holds": False}]
    assert Outcome(MACHINE, "done", 1.0, rows[:1]).is_right
    assert not Outcome(MACHINE, "done", 1.0, rows).is_right

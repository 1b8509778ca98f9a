"""Code that is not that of the plan, or not that of the folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.user_code import forget_imported, policy_code_digest
from fastdllm.runs.attempts import attempt, read_attempts
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.shards import parse_shard
from fastdllm.runs.spec import RunSpec, read_spec
from fastdllm.runs.stopping import Stop, Stopped
from fastdllm.version import DECODER_VERSION
from fastdllm.workflow.project.digests import FileDigests, check_sources, digest_of
from tests.support.forks import ROOT, run_snakemake
from tests.support.run_project import PATIENCE_S, silent, start_fastdllm


@pytest.fixture
def other_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code of its own; the code that runs here is this repository's."""
    folder = tmp_path / "other"
    (folder / "fastdllm").mkdir(parents=True)
    shutil.copy(ROOT / "fastdllm" / "version.py", folder / "fastdllm")
    shutil.copy(ROOT / "Snakefile", folder)
    shutil.copytree(ROOT / "profiles", folder / "profiles")
    shutil.copytree(ROOT / "rules", folder / "rules")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("command", ["status", "table", "aggregate", "plan --task a"])
def test_a_command_refuses_the_folder_of_another_clone(
    other_clone: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"fastdllm: the code that runs is {ROOT}/fastdllm, not {other_clone}")


@pytest.mark.slow
def test_snakemake_refuses_the_folder_of_another_clone(other_clone: Path) -> None:
    done = run_snakemake("-n", "--cores", "1", folder=other_clone)
    assert done.returncode == 2
    assert "the code that runs is" in done.stderr and "Traceback" not in done.stderr


def test_an_attempt_records_its_code(tmp_path: Path) -> None:
    with attempt(tmp_path):
        pass
    (recorded,) = read_attempts(tmp_path)
    assert recorded.decoder_version == DECODER_VERSION
    assert recorded.commit is None or len(recorded.commit.partition("+")[0]) == 40


def test_a_job_that_restarts_with_another_decoder_ends(
    make_spec: Callable[..., Path],
    make_plan_on_disk: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    evaluation = Evaluation(
        read_spec(spec), spec.parent, silent(), partial(check_sources, digests=FileDigests())
    )
    monkeypatch.setattr("fastdllm.workflow.project.digests.DECODER_VERSION", DECODER_VERSION + 1)
    with pytest.raises(UserError, match=f"decoder version {DECODER_VERSION}, and this code has"):
        evaluation.evaluate()
    assert not [path.name for path in spec.parent.iterdir() if "answers" in path.name]


def test_code_that_is_replaced_while_a_job_loads_its_model_ends_it(
    make_spec: Callable[..., Path],
    make_plan_on_disk: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_plan_on_disk()
    spec = make_spec()
    version_file = tmp_path / "version.py"
    shutil.copy(ROOT / "fastdllm" / "version.py", version_file)
    monkeypatch.setattr("fastdllm.workflow.project.digests.VERSION_FILE", version_file)

    def check_then_pull(spec: RunSpec) -> None:
        check_sources(spec, FileDigests())
        version_file.write_text(f"DECODER_VERSION = {DECODER_VERSION + 1}\n")

    with pytest.raises(UserError, match=f"and this code has {DECODER_VERSION + 1}; type the same"):
        Evaluation(read_spec(spec), spec.parent, silent(), check_then_pull).evaluate()
    assert chunks_of(spec.parent / "answers.jsonl") == []
    assert not (spec.parent / "summary.json").exists()


class PreemptedAfter(Stop):
    """SIGTERM comes when so many chunks are decoded."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.left = chunks

    def check_between(self) -> None:
        if self.left == 0:
            self.handle(signal.SIGTERM)
        self.left -= 1
        super().check_between()


def chunks_of(answers: Path) -> list[int]:
    records = [json.loads(line) for line in answers.read_text().splitlines()]
    return [record["index"] for record in records if record["record"] == "chunk"]


@pytest.mark.parametrize("first", ["whole", "1/2"])
def test_chunks_of_another_decoder_version_are_kept_aside_and_not_mixed_in(
    make_spec: Callable[..., Path],
    make_plan_on_disk: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: str,
) -> None:
    make_plan_on_disk()
    path = make_spec()
    check = partial(check_sources, digests=FileDigests())

    def evaluation(**options: Stop) -> Evaluation:
        return Evaluation(read_spec(path), path.parent, silent(), check, **options)

    if first == "whole":
        with pytest.raises(Stopped, match="with 2 of 4 chunks done"):
            evaluation(stop=PreemptedAfter(2)).evaluate()
        before = path.parent / "answers.jsonl"
    else:
        evaluation().evaluate_shard(parse_shard(first))
        before = path.parent / "shards" / "1-of-2.jsonl"
    old = before.read_text()
    assert len(chunks_of(before)) == 2

    new = DECODER_VERSION + 1
    version_file = tmp_path / "version.py"
    version_file.write_text(f"DECODER_VERSION = {new}\n")
    monkeypatch.setattr("fastdllm.workflow.project.digests.VERSION_FILE", version_file)
    for user in ("workflow.project.digests", "runs.attempts"):
        monkeypatch.setattr(f"fastdllm.{user}.DECODER_VERSION", new)
    # SLURM starts the job again before Snakemake has planned the run again.
    with pytest.raises(UserError, match=f"planned with decoder version {DECODER_VERSION}"):
        evaluation().evaluate()
    assert before.read_text() == old

    spec = json.loads(path.read_text())
    spec["decides"]["decoder_version"] = new
    path.write_text(json.dumps({**spec, "fingerprint": digest_of(spec["decides"])}))
    if first == "whole":
        summary = evaluation().evaluate().summary
    else:
        assert evaluation().evaluate_shard(parse_shard("2/2")).run is None, "the old ones lack"
        run = evaluation().evaluate_shard(parse_shard(first)).run
        assert run is not None
        summary = run.summary
    assert summary.decides["decoder_version"] == new
    answers = path.parent / "answers.jsonl"
    assert json.loads(answers.read_text().splitlines()[0])["decides"]["decoder_version"] == new
    assert chunks_of(answers) == [0, 1, 2, 3]
    (aside,) = path.parent.glob(f"**/{before.stem}.{spec['fingerprint'][:8]}.*.jsonl")
    assert aside.read_text() == old, "nothing that was decoded is lost"
    versions = [attempt.decoder_version for attempt in read_attempts(path.parent)]
    assert versions == [DECODER_VERSION, *[new] * (len(versions) - 1)]


def test_a_policy_edited_within_a_second_is_not_taken_from_a_cache(tmp_path: Path) -> None:
    path = tmp_path / "generation_functions.py"
    text = "from fastdllm.policy import Policy\nclass Mine(Policy):\n    speed = 1\n"
    digests, speeds = set(), []
    for version in (text, text.replace("speed = 1", "speed = 2")):
        path.write_text(version)
        os.utime(path, (0, 0))
        digests.add(policy_code_digest(path))
        speeds.append(vars(load_policy(path))["speed"])
    assert (len(digests), speeds) == (2, [1, 2])


@pytest.mark.usefixtures("project")
def test_a_helper_edited_within_a_second_is_not_taken_from_a_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fastdllm.tasks.lm_eval_tasks import load_task

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    task, helper = Path("tasks/sums.yaml"), Path("tasks/helpers.py")
    task.write_text(task.read_text().replace('"{{question}}"', "!function helpers.asked"))
    asked = []
    for word in ("One", "Two"):
        helper.write_text(f"def asked(doc):\n    return '{word}: ' + doc['question']\n")
        os.utime(helper, (0, 0))
        (leaf,) = load_task("sums").leaves.values()
        asked.append(leaf.doc_to_text(leaf.eval_docs[0]))
        # The next one is loaded in another process.
        del sys.modules[str(helper.resolve().with_suffix(""))]
    assert asked == ["One: What is 0 + 1? ", "Two: What is 0 + 1? "]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("index", [0, 3])
def test_an_item_that_a_helper_refuses_is_named_by_its_place(
    make_plan_on_disk: Callable[..., Any], index: int
) -> None:
    task = Path("tasks/sums.yaml")
    task.write_text(task.read_text().replace('"{{question}}"', "!function helpers.asked"))
    Path("tasks/helpers.py").write_text(
        "def asked(doc):\n"
        f"    if doc['answer'] == '{index}':\n"
        "        raise ValueError('no number')\n"
        "    return doc['question']\n"
    )
    place = (
        f"sums.jsonl, line {index + 1}: task 'sums', item {index}: doc_to_text fails: ValueError"
    )
    with pytest.raises(UserError, match=re.escape(f"{place}: no number")):
        make_plan_on_disk()


@pytest.mark.parametrize(
    "statement",
    ["from tasks.common import f", "from tasks import common", "import common, json"],
)
def test_a_module_of_the_project_that_a_helper_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.chdir(tmp_path)
    helper, common, deeper = (Path(f"tasks/{name}.py") for name in ("helper", "common", "deeper"))
    helper.parent.mkdir()
    helper.write_text(f"{statement}\n")
    alone = policy_code_digest(helper)
    common.write_text("from tasks.helper import *\nfrom tasks.deeper import X\n")
    digests = {alone, policy_code_digest(helper)}
    for text in ("X = 1\n", "X = 2\n", '"""A docstring."""\nX = 2  # the same\n'):
        deeper.write_text(text)
        digests.add(policy_code_digest(helper))
    assert len(digests) == 4


@pytest.mark.parametrize("sibling", ["b", "a"])
def test_each_policy_has_its_own_module_of_a_name_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sibling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    text = (
        "import sys\nfrom pathlib import Path\n"
        "from fastdllm.policy import Policy\n"
        "sys.path.insert(0, str(Path(__file__).parent))\nfrom schedule_of_mine import LEVEL\n"
        "class Mine(Policy):\n    level = LEVEL\n"
    )
    for name, level in (("a", 0.91), ("b", 0.05)):
        Path(name).mkdir()
        Path(name, "policy.py").write_text(text)
        Path(name, "schedule_of_mine.py").write_text(f"LEVEL = {level}\n")
    assert load_policy("a/policy.py").level == 0.91
    module = Path("a/schedule_of_mine.py")
    before = module.stat()
    module.write_text("LEVEL = 0.33\n")
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert load_policy(f"{sibling}/policy.py").level == {"a": 0.33, "b": 0.05}[sibling]
    del sys.modules["schedule_of_mine"]


def test_modules_in_folders_of_folders_are_forgotten_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("of_mine/deep/b.py", "of_mine/a.py"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("LEVEL = 1\n")
    Path("one.py").write_text("from of_mine.a import LEVEL\n")
    Path("two.py").write_text("from of_mine import a\nfrom of_mine.deep.b import LEVEL\n")
    for file in ("two.py", "one.py", "two.py"):
        exec(Path(file).read_text())
        forget_imported(Path(file))
        assert [name for name in sys.modules if name.startswith("of_mine")] == []


def test_two_helpers_of_a_task_may_not_import_different_modules_of_one_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, "utils.py").write_text("from constants_of_mine import STEP\n")
        Path(name, "constants_of_mine.py").write_text("STEP = 1\n")
    from fastdllm.tasks import lm_eval_tasks

    with pytest.raises(UserError, match=r"b/utils\.py: imports constants_of_mine from b/const"):
        lm_eval_tasks.forget_helpers([Path("a/utils.py"), Path("b/utils.py")])


@pytest.mark.slow
def test_a_file_named_like_a_library_is_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("json", "pydantic", "rich", "yaml"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not the library')\n")
    done = start_fastdllm("status", cwd=tmp_path)
    out, err = done.communicate(timeout=PATIENCE_S)
    assert (done.returncode, out) == (2, "")
    assert err.startswith("fastdllm: workflow_config.yaml: no such file") and err.count("\n") == 1

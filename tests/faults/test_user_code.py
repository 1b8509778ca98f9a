"""Modules of the user that a policy or task helper imports: each counts, or is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastdllm.common.errors import UserError
from fastdllm.decoding.policy_files import load_policy
from fastdllm.decoding.user_code import policy_code_digest
from fastdllm.runs.attempts import read_attempts
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.spec import read_spec
from fastdllm.workflow.project.digests import FileDigests, check_sources
from tests.support.run_project import silent

POLICY = Path("experiments/trial/generation_functions.py")
HEAD = "import importlib, sys\nfrom fastdllm.policy import Policy\n"
MINE = "class Mine(Policy):\n    level = LEVEL\n"
ELSEWHERE = "sys.path.insert(0, {folder!r})\n"
LAZY = """
class Mine(Policy):
    def accept(self, predictions, states):
        level = importlib.import_module("levels_of_mine").LEVEL
        return self.accepted_above(level, predictions)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, whose modules Python finds, and has not imported in another test."""
    for name in [name for name in sys.modules if "_of_mine" in name]:
        del sys.modules[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


@pytest.mark.parametrize(
    ("statement", "others", "edited"),
    [
        ("import lib", {"lib/__init__.py": "from . import k"}, "lib/k.py"),
        ("import lib.deep.j", {"lib/deep/j.py": "from ..k import LEVEL"}, "lib/k.py"),
        ("import lib.k", {"lib/k.py": ""}, "lib/__init__.py"),
        ("from fastdllm.helper import LEVEL", {}, "fastdllm/helper.py"),
        ("import lib.a", {"experiments/trial/lib/a.py": "import k"}, "experiments/trial/k.py"),
    ],
    ids=["from-dot", "from-dots", "parent", "in-fastdllm", "beside-the-policy"],
)
def test_a_module_counts_however_a_statement_names_it(
    statement: str, others: dict[str, str], edited: str
) -> None:
    write({str(POLICY): statement, **others})
    digests = {policy_code_digest(POLICY)}
    for level in (1, 2):
        write({edited: f"LEVEL = {level}\n"})
        digests.add(policy_code_digest(POLICY))
    assert len(digests) == 3


def test_the_interface_of_policies_does_not_count_as_their_code() -> None:
    write({str(POLICY): HEAD + "from fastdllm.settings import DecodingSettings\n"})
    alone = policy_code_digest(POLICY)
    write({f"fastdllm/{name}.py": "new = 1\n" for name in ("__init__", "policy", "settings")})
    assert policy_code_digest(POLICY) == alone


@pytest.mark.parametrize("place", ["project", "lib", "outside"])
@pytest.mark.parametrize(
    "statement",
    [
        "from levels_of_mine import LEVEL\n",
        "LEVEL = importlib.import_module('levels_of_mine').LEVEL\n",
        "LEVEL = __import__('levels_of_mine').LEVEL\n",
    ],
    ids=["import", "importlib", "built-in"],
)
def test_a_policy_with_a_module_that_does_not_count_is_refused(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, place: str, statement: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    where = {"project": folder, "lib": folder / "lib", "outside": outside}[place]
    write({str(where / "levels_of_mine.py"): "LEVEL = 0.9\n"})
    write({str(POLICY): HEAD + ELSEWHERE.format(folder=str(where)) + statement + MINE})
    if place == "project" and "from" in statement:
        assert load_policy(POLICY).level == 0.9
        del sys.modules["levels_of_mine"]
        return
    for _ in range(2):  # as for the next run of a pack
        with pytest.raises(UserError, match=r"functions\.py: takes code from /.*/levels_of"):
            load_policy(POLICY)
    assert "levels_of_mine" not in sys.modules


def test_a_policy_of_modules_that_count_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    write({"space_of_mine/k.py": "from pathlib import Path\ndef level():\n    return 0.9\n"})
    write({"space_of_mine/j/__init__.py": "from ..k import level\nLEVEL = level()\n"})
    script = "sys.modules['__mp_main__'] = sys.modules['__main__']\n"  # as multiprocess does
    text = "import torch\nfrom space_of_mine.j import LEVEL, level\n"
    write({str(POLICY): HEAD + text + script + MINE, "script.py": ""})
    monkeypatch.delitem(sys.modules, "__mp_main__", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "script.py", raising=False)
    for _ in range(2):
        assert load_policy(POLICY).level == 0.9
    sys.modules.pop("__mp_main__")


OTHER = Path("experiments/00_other/generation_functions.py")
BY_ITS_FILE = """
import importlib.util
file = "experiments/00_other/generation_functions.py"
spec = importlib.util.spec_from_file_location("other", file)
other = importlib.util.module_from_spec(spec)
spec.loader.exec_module(other)
"""
LOADED = """
from fastdllm.decoding.policy_files import load_policy
Other = load_policy("experiments/00_other/generation_functions.py")
"""


@pytest.mark.parametrize(
    "text",
    [
        BY_ITS_FILE + "class Mine(other.Other):\n    pass\n",
        BY_ITS_FILE + "Other = other.Other\ndel other\nclass Mine(Other):\n    pass\n",
        BY_ITS_FILE + "f = other.f\ndel other\nclass Mine(Policy):\n    level = f()\n",
        LOADED + "class Mine(Other):\n    pass\n",
    ],
    ids=["module", "class", "function", "policy"],
)
def test_a_policy_of_code_that_is_loaded_by_its_file_is_refused(text: str) -> None:
    accept = "    def accept(self, predictions, states):\n        return predictions.masked\n"
    write({str(OTHER): f"{HEAD}def f():\n    return 1\n\n\nclass Other(Policy):\n{accept}"})
    write({str(POLICY): HEAD + text})
    load_policy(OTHER)
    for _ in range(2):
        with pytest.raises(UserError, match=r"functions\.py: takes code from .*00_other/gener"):
            load_policy(POLICY)


def test_a_policy_that_imports_one_while_it_decides_is_refused(
    project: Path, make_spec: Callable[..., Path], make_plan_on_disk: Callable[..., Any]
) -> None:
    make_plan_on_disk()
    write({str(POLICY): HEAD + LAZY, "levels_of_mine.py": "LEVEL = 0.9\n"})
    spec = make_spec()
    check = partial(check_sources, digests=FileDigests())
    evaluation = Evaluation(read_spec(spec), spec.parent, silent(), check)
    for _ in range(2):
        with pytest.raises(UserError, match=r"takes code from /.*/levels_of_mine\.py"):
            evaluation.evaluate()
    assert not list(project.rglob("summary.json"))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("untracked", ["levels_of_mine.py", "tasks.of.mine/sums.jsonl", "notes.py"])
def test_a_result_by_a_file_that_git_does_not_track_is_dirty(
    make_spec: Callable[..., Path],
    make_plan_on_disk: Callable[..., Any],
    untracked: str,
) -> None:
    data, task = Path("tasks.of.mine/sums.jsonl"), Path("tasks/sums.yaml")
    write(
        {str(data): Path("tasks/data/sums.jsonl").read_text(), "levels_of_mine.py": "LEVEL = 1\n"}
    )
    task.write_text(task.read_text().replace("tasks/data/sums.jsonl", str(data)))
    write({str(POLICY): HEAD + "from levels_of_mine import LEVEL\n" + MINE})
    write({"levels_of_mine.py": "LEVEL = 1\n"})
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (["init"], ["add", ".", f":(exclude){untracked}"], ["commit", "-m", "first"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    make_plan_on_disk()
    spec = make_spec()
    check = partial(check_sources, digests=FileDigests())
    summary = Evaluation(read_spec(spec), spec.parent, silent(), check).evaluate().summary
    assert summary.git is not None and summary.git.dirty == (untracked != "notes.py")
    (attempt,) = read_attempts(spec.parent)
    assert str(attempt.commit).endswith("+changes") == summary.git.dirty


@pytest.mark.parametrize("is_lazy", [False, True])
def test_a_helper_with_a_module_that_does_not_count_is_refused_at_plan(
    project: Path, make_plan_on_disk: Callable[..., Any], is_lazy: bool
) -> None:
    task, found = project / "tasks/sums.yaml", "importlib.import_module('words_of_mine')"
    task.write_text(task.read_text().replace('"{{question}}"', "!function helper_of_mine.asked"))
    helper = f"import importlib\nwords = {found}\ndef asked(doc):\n    return words.ASK"
    if is_lazy:
        helper = f"import importlib\ndef asked(doc):\n    return {found}.ASK"
    write({"tasks/helper_of_mine.py": helper + " + doc['question']\n"})
    write({"words_of_mine.py": "ASK = 'Tell me: '\n"})
    for _ in range(2):
        with pytest.raises(UserError, match=r"helper_of_mine\.py: takes code from /.*/words_of"):
            make_plan_on_disk()

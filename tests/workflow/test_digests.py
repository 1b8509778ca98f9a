"""The digest of a task: every file that decides its items counts; one that is missing is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastdllm.common.errors import UserError
from fastdllm.tasks.task_files import find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.digests import FileDigests, digest_of, task_digest, task_digests

FILES = {
    "data/test.jsonl": '{"q": 1}\n',
    "data/more/train.jsonl": '{"q": 2}\n',
    "tasks/json_base.yaml": "dataset_path: json\ntest_split: test\n",
    "tasks/other_base.yaml": "dataset_path: csv\n",
    "tasks/leaf_file.yaml": "task: leaf\ntag: many\ndataset_path: json\n"
    "dataset_kwargs: {data_files: {test: data/test.jsonl}}\n",
    "tasks/utils.py": "def clean(items):\n    return items\n",
}
DATA_FILES = "dataset_kwargs: {data_files: {test: data/test.jsonl}}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        write(name, text)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def digest(task: str) -> str:
    return task_digest(TaskSource(write("tasks/words.yaml", task)), FileDigests())


READS_TEST = {
    "data_files": "task: words\ndataset_path: json\n" + DATA_FILES,
    "data_files with a pattern": "task: words\ndataset_path: json\n"
    "dataset_kwargs: {data_files: data/**}\n",
    "a file in an archive": "task: words\ndataset_path: json\n"
    "dataset_kwargs: {data_files: 'zip://x.jsonl::data/test.jsonl'}\n",
    "data_files in data_dir": "task: words\ndataset_path: json\n"
    "dataset_kwargs: {data_dir: data, data_files: test.jsonl}\n",
    "the builder in an included file": "include: json_base.yaml\ntask: words\n" + DATA_FILES,
    "the builder in the last of several": "include: [other_base.yaml, json_base.yaml]\n"
    "task: words\n" + DATA_FILES,
    "data_dir": "task: words\ndataset_path: json\ndataset_kwargs: {data_dir: data}\n",
    "a folder": "task: words\ndataset_path: data\n",
    "a folder, of which only a part is named": "task: words\ndataset_path: data\n"
    "dataset_kwargs: {data_files: more/*.jsonl}\n",
    "a member by its name": "group: words\ntask: [leaf]\n",
    "a member by its tag": "group: words\ntask: [many]\n",
    "a member with changes": "group: words\ntask: [{task: leaf, num_fewshot: 1}]\n",
    "a member of its own": "group: words\ntask: [{task: own, dataset_path: json, "
    "dataset_kwargs: {data_files: data/test.jsonl}}]\n",
    "a group in a group": "group: words\ntask: [{group: inner, task: [leaf]}]\n",
    "members that share the data of the group": "group: words\ntask: [new]\ndataset_path: json\n"
    + DATA_FILES,
}


@pytest.mark.parametrize("task", READS_TEST.values(), ids=READS_TEST)
def test_data_counts_however_it_is_named(task: str) -> None:
    before = digest(task)
    assert digest(f"# a comment\n{task}") == before
    write("data/test.jsonl", '{"q": "changed"}\n')
    assert digest(task) != before


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("task: words\ndataset_path: gsm8k\n", "gsm8k"),
        ("include: json_base.yaml\ntask: words\ndataset_path: openai/gsm8k\n", "openai/gsm8k"),
        ("task: words\ndataset_path: hf://datasets/a/b\n", "hf://datasets/a/b"),
        (
            "task: words\ndataset_path: json\ndataset_kwargs: {data_files: 'https://host/x.json'}\n",
            "https://host/x.json",
        ),
        ("group: words\ntask: [leaf, {task: other, dataset_path: a/b}]\n", "dataset_path: a/b"),
    ],
)
def test_data_from_elsewhere_is_refused_with_what_to_do(task: str, named: str) -> None:
    with pytest.raises(UserError) as refused:
        digest(task)
    line = str(refused.value)
    assert line.startswith("tasks/words.yaml: ") and f"{named}: " in line
    assert "comes by metadata.source (tasks/README.md; fastdllm new-task NAME" in line


def test_a_task_may_make_its_own_data() -> None:
    digest("task: words\ncustom_dataset: !function utils.clean\ndataset_path: json\n")
    digest("task: words\nclass: !function utils.clean\n")


def test_the_way_a_file_is_named_leaves_the_digest_of_a_plain_task_as_it_was() -> None:
    # The published results carry such digests; a change here makes all of them stale.
    values = {
        "task": "words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "data/test.jsonl"}},
    }
    data = FileDigests().of(Path("data/test.jsonl"))
    expected = digest_of([["test.jsonl", data], ["words.yaml", digest_of(values)]])
    assert digest(READS_TEST["data_files"]) == expected


def test_an_edit_counts_though_size_and_date_stay() -> None:
    file, digests = Path("data/test.jsonl"), FileDigests()
    write(file, "{}")
    before, dates = digests.of(file), file.stat()
    write(file, "[]")
    os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    assert digests.of(file) != before


def swap(first: str, second: str) -> None:
    texts = Path(first).read_text(), Path(second).read_text()
    write(first, texts[1])
    write(second, texts[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda: swap("data/test.jsonl", "data/more/train.jsonl"),
        lambda: write("data/validation.jsonl", "{}"),
        lambda: Path("data/test.jsonl").rename("data/valid.jsonl"),
        lambda: Path("data/more/train.jsonl").unlink(),
    ],
)
def test_the_names_in_a_data_folder_count(change: Callable[[], object]) -> None:
    before = digest(READS_TEST["a folder"])
    change()
    assert digest(READS_TEST["a folder"]) != before


def test_files_of_one_name_may_not_be_exchanged() -> None:
    task = "task: words\ndataset_path: json\ndataset_kwargs: {data_files: [a/x.json, b/x.json]}\n"
    write("a/x.json", "{}")
    write("b/x.json", '{"q": 1}')
    before = digest(task)
    swap("a/x.json", "b/x.json")
    assert digest(task) != before


def test_what_datasets_never_reads_does_not_count() -> None:
    before = digest(READS_TEST["a folder"])
    write("data/.DS_Store", "x")
    write("data/.ipynb_checkpoints/test.jsonl", "x")
    write("data/__pycache__/x.pyc", "x")
    assert digest(READS_TEST["a folder"]) == before


def test_a_folder_that_links_to_itself_is_read_once() -> None:
    before = digest(READS_TEST["a folder"])
    Path("data/loop").symlink_to(Path("data").resolve())
    assert digest(READS_TEST["a folder"]) == before
    shutil.copytree("data/more", "elsewhere")
    write("elsewhere/train.jsonl", "{}")
    Path("data/linked").symlink_to(Path("elsewhere").resolve())
    linked = digest(READS_TEST["a folder"])
    assert linked != before
    write("elsewhere/train.jsonl", '{"q": 3}')
    assert digest(READS_TEST["a folder"]) != linked


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("include: json_base.yaml\ntask: words\n" + DATA_FILES, "tasks/json_base.yaml"),
        (READS_TEST["a member by its name"], "tasks/leaf_file.yaml"),
    ],
)
def test_the_yaml_files_behind_a_task_count(task: str, file: str) -> None:
    before = digest(task)
    write(file, f"{FILES[file]}num_fewshot: 2\n")
    assert digest(task) != before


def test_helpers_count_and_may_lie_in_a_folder() -> None:
    task = READS_TEST["data_files"] + "process_docs: !function helpers.deep.clean\n"
    write("tasks/helpers/deep.py", FILES["tasks/utils.py"])
    before = digest(task)
    write("tasks/helpers/deep.py", FILES["tasks/utils.py"] + "# a comment\n")
    assert digest(task) == before
    write("tasks/helpers/deep.py", FILES["tasks/utils.py"].replace("items", "docs"))
    assert digest(task) != before


def test_a_definition_has_all_but_data_comments_and_options() -> None:
    def definition(task: str) -> str:
        source = TaskSource(write("tasks/words.yaml", task))
        return task_digests(find_task_files(source), FileDigests()).definition

    task = READS_TEST["data_files"] + "process_docs: !function utils.clean\nmetadata: {version: 1"
    before = definition(task + "}")
    write("data/test.jsonl", '{"q": 7}\n')
    assert definition(f"# mine\n{task}, options: {{chunk_size: 7}}}}") == before
    assert definition(task + ", n_items: 2}") != before
    write("tasks/utils.py", FILES["tasks/utils.py"].replace("items", "docs"))
    assert definition(task + "}") != before


def test_keys_of_several_kinds_can_be_digested() -> None:
    task = READS_TEST["data_files"] + "metadata: {1: one, two: 2, yes: 3}\n"
    assert digest(task) == digest(task)


PROBLEMS = [
    ("dataset_path: json\ndataset_kwargs: {data_files: data/x.json}", "data/x.json: no such file"),
    ("dataset_path: json\ndataset_kwargs: {data_files: data/*.csv}", "data/*.csv: no such file"),
    ("dataset_path: json\ndataset_kwargs: {data_dir: dato}", "data_dir: dato: no such folder"),
    ("dataset_path: data\ndataset_kwargs: {data_dir: x}", "data_dir: x: no such folder"),
    ("dataset_path: data/mor", "data/mor: no such folder"),
    ("dataset_path: ./dato", "./dato: no such folder"),
    ("dataset_path: empty", "empty: holds no file"),
    ("dataset_path: json", "needs dataset_kwargs.data_files or dataset_kwargs.data_dir"),
    ("include: nothing.yaml", "tasks/nothing.yaml: no such file; the file that tasks/words.yaml"),
    ("include: words.yaml", "words.yaml is included twice"),
    ("include: [json_base.yaml, json_base.yaml]", "json_base.yaml is included twice"),
    ("include: {a: b}", "include: {'a': 'b'} is not allowed"),
    ("process_docs: !function util.clean", "tasks/util.py"),
    ("process_docs: !function latin.clean", "tasks/latin.py"),
]


@pytest.mark.parametrize(("task", "says"), PROBLEMS)
def test_what_is_named_but_missing_is_one_line(task: str, says: str) -> None:
    Path("empty").mkdir()
    Path("tasks/latin.py").write_bytes(b"x = '\xe9'\n")
    with pytest.raises(UserError) as caught:
        digest(f"task: words\n{task}\n")
    assert says in str(caught.value)
    assert "tasks/" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("group: words\ntask: [laef]\n", "unknown task 'laef'; did you mean 'leaf'?"),
        ("group: words\ntask: [words]\n", "contains itself"),
        ("group: words\ntask: [broken]\n", "tasks/broken.yaml, line 2: not valid YAML"),
        ("group: words\ntask: [3]\n", "3 is not allowed"),
    ],
)
def test_a_member_that_cannot_be_found_is_one_line(group: str, says: str) -> None:
    write("tasks/broken.yaml", "task: [broken\n")
    with pytest.raises(UserError) as caught:
        digest(group)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)

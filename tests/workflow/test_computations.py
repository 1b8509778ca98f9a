"""Which runs are the same computation: by the settings alone, across experiments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fastdllm.common.errors import UserError
from fastdllm.policy import PassKind, Policy
from fastdllm.settings import DecodingSettings
from fastdllm.tasks.task_files import TaskFiles, find_task_files
from fastdllm.tasks.task_source import TaskSource
from fastdllm.workflow.project.computations import is_generating_task, is_likelihood_task
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.project.selection import Selection
from tests.support.small_project import NINE, REUSE, add_experiment, edit

PLAIN = """\
from pydantic import Field

from fastdllm.policy import PLAIN, Computation, Policy
from fastdllm.validation import StrictModel

class Plain(Policy):
    class Parameters(StrictModel):
        margin: float = 0.0
        note: str = ""

    @classmethod
    def computation(cls, settings, parameters):
        return PLAIN if parameters.margin == 0 else Computation(ignored=frozenset({"note"}))
"""


def classes(task: str = "words") -> dict[str, list[str]]:
    """experiment/config of the runs of a task, by class, in order."""
    groups: dict[str, list[str]] = {}
    for run in load_project().runs:
        if run.task == task:
            groups.setdefault(run.computation, []).append(f"{run.experiment}/{run.config}")
    return groups


def members(name: str) -> list[str]:
    return next(group for group in classes().values() if name in group)


def the(name: str) -> Run:
    return next(r for r in load_project().runs if f"{r.task}/{r.experiment}/{r.config}" == name)


@pytest.mark.usefixtures("project")
def test_output_reuse_is_three_computations_and_likelihoods_are_one() -> None:
    add_experiment("reuse", NINE, REUSE)
    edit("tasks/choices.yaml", "task: choices", "task: choices\noutput_type: multiple_choice")
    reuse_names = [[n for n in group if n.startswith("reuse/")] for group in classes().values()]
    assert sorted(map(len, reuse_names)) == [0, 0, 3, 3, 3], "the other two are the demo's own"
    assert [len(group) for group in classes("choices").values()] == [11], "of both experiments"


@pytest.mark.usefixtures("project")
def test_a_plain_config_is_the_same_in_each_experiment() -> None:
    add_experiment("reuse", NINE, REUSE)
    add_experiment(
        "plain",
        "grids:\n"
        "- {grid: {margin: [0, 0.1], note: [a, b]}, config_name: 'm{margin}_{note}'}\n"
        "- {grid: {threshold: [0.9, 0.8]}, config_name: 't{threshold}'}\n"
        "- {grid: {lookahead_threshold: [0.9, 0.98]}, config_name: 'l{lookahead_threshold}'}\n"
        "- grid: {lookahead_threshold: [0.9, 0.98]}\n"
        "  config_name: 'ahead{lookahead_threshold}'\n"
        "  decoding: {lookahead_depth: 1}\n",
        PLAIN,
    )
    assert members("reuse/k1_first") == [
        *(f"reuse/k1_{subset}" for subset in ("first", "middle", "last")),
        *(f"plain/{config}" for config in ("m0_a", "m0_b", "t0.9", "l0.9", "l0.98")),
    ]
    assert members("plain/m0.1_a") == ["plain/m0.1_a", "plain/m0.1_b"], "an ignored parameter"
    for alone in ("plain/t0.8", "plain/ahead0.9", "plain/ahead0.98"):
        assert members(alone) == [alone]


@pytest.mark.usefixtures("project")
def test_what_a_class_above_says_does_not_count() -> None:
    policy = "from fastdllm.policy import OutputReuse\n\nclass Mine(OutputReuse):\n"
    policy += "    def accept(self, predictions, states):\n        return predictions.masked\n"
    add_experiment("mine", NINE, policy)
    assert len(classes()) == 2 + 9


SILENT = """\
from fastdllm.policy import Policy

class Silent(Policy):
    def accept(self, predictions, states):
        return predictions.confidence > self.settings.lookahead_threshold
"""


@pytest.mark.usefixtures("project")
def test_of_a_policy_that_says_nothing_everything_counts() -> None:
    grid = "grid: {lookahead_threshold: [0.9, 0.5]}\nconfig_name: 'l{lookahead_threshold}'\n"
    add_experiment("silent", grid, SILENT)
    spans = "grid: {layer_subset: [first, [1, 7]], reuse_k: [2]}\nconfig_name: '{layer_subset}'\n"
    add_experiment("spans", spans, SILENT)
    groups = [group for group in classes().values() if not group[0].startswith("demo/")]
    assert [len(group) for group in groups] == [1, 1, 1, 1]


@pytest.mark.usefixtures("project")
def test_a_named_span_is_the_range_that_it_stands_for() -> None:
    policy = PLAIN.replace("PLAIN if parameters.margin == 0 else ", "")
    spans = "grid: {layer_subset: [first, [1, 7], [1, 6]], reuse_k: [2]}\n"
    add_experiment("spans", spans + "config_name: '{layer_subset}'\n", policy)
    assert members("spans/first") == ["spans/first", "spans/1-7"], "of 14 layers"
    assert members("spans/1-6") == ["spans/1-6"]


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_a_window_ends_with_the_block(size: int) -> None:
    """What makes depths one computation: the plain policy looks at the same positions."""

    def windows(depth: int) -> list[tuple[int, int]]:
        settings = DecodingSettings(small_block_size=size, lookahead_depth=depth)
        plain = Policy(settings, Policy.Parameters(), 14)
        states = [
            SimpleNamespace(sub_block=start // size, predicted=(start, until))
            for start in range(0, 32, size)
            for until in range(start + size, 33, size)
        ]
        kinds = (PassKind.FULL_BLOCK, PassKind.SUB_BLOCK)
        return [plain.window(state, kind) for state in states for kind in kinds]  # type: ignore[arg-type]

    last = 32 // size - 1
    assert windows(last + 1) == windows(last) == windows(9)
    assert last == 0 or windows(last - 1) != windows(last)


@pytest.mark.usefixtures("project")
def test_look_ahead_ends_with_the_block() -> None:
    grid = "grid: {lookahead_depth: [0, 1, 3, 7], small_block_size: [4, 16, 32]}\n"
    name = "config_name: 'd{lookahead_depth}_sb{small_block_size}'\n"
    add_experiment("ahead", grid + name, PLAIN)
    groups = [group for group in classes().values() if group[0].startswith("ahead/")]
    assert [[name.removeprefix("ahead/") for name in group] for group in groups] == [
        ["d0_sb4"],
        ["d0_sb16"],
        ["d0_sb32", "d1_sb32", "d3_sb32", "d7_sb32"],
        ["d1_sb4"],
        ["d1_sb16", "d3_sb16", "d7_sb16"],
        ["d3_sb4"],
        ["d7_sb4"],
    ]


@pytest.mark.usefixtures("project")
def test_a_block_cache_means_nothing_where_the_sub_block_is_the_block() -> None:
    grid = "grid: {use_block_cache: [true, false], small_block_size: [16, 32]}\n"
    name = "config_name: 'c{use_block_cache}_sb{small_block_size}'\n"
    add_experiment("cache", grid + name, PLAIN)
    groups = [group for group in classes().values() if group[0].startswith("cache/")]
    assert [len(group) for group in groups] == [1, 2, 1]
    assert groups[1] == ["cache/ctrue_sb32", "cache/cfalse_sb32"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8"),
        ("workflow_config.yaml", "chunk_size: 2", "num_fewshot: 2"),
        ("workflow_config.yaml", "float32", "bfloat16"),
        ("workflow_config.yaml", "{threshold: 0.9}", "{threshold: 0.9, seed: 1}"),
        ("workflow_config.yaml", "{threshold: 0.9}", "{threshold: 0.9, small_block_size: 16}"),
        ("tasks/words.yaml", "{{q}}", "Q: {{q}}"),
        ("models/tiny/model.safetensors", "weights", "others!"),
        ("experiments/demo/generation_functions.py", "True", "False"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_touches_the_tokens_makes_another_computation(file: str, old: str, new: str) -> None:
    before = the("words/demo/k1_first").computation
    edit(file, old, new)
    assert the("words/demo/k1_first").computation != before


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("threshold: 0.9", "threshold: 0.8", True),
        ("threshold: 0.9", "threshold: 0.9, small_block_size: 4, seed: 3", True),
        ("threshold: 0.9", "block_size: 64", False),
        ("threshold: 0.9", "mask_id: 3", False),
        ("threshold: 0.9", "stop_token: 3", False),
        ("  choices:", "  choices: {likelihood_mode: published}", False),
    ],
)
@pytest.mark.usefixtures("project")
def test_of_likelihoods_only_what_scoring_reads_counts(old: str, new: str, is_same: bool) -> None:
    edit("tasks/choices.yaml", "task: choices", "task: choices\noutput_type: multiple_choice")
    before = the("choices/demo/k1_first")
    edit("workflow_config.yaml", old, new)
    after = the("choices/demo/k1_first")
    assert (after.computation == before.computation) == is_same
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return PLAIN, 1", "must return a fastdllm.policy.Computation"),
        ("return Computation(ignored=frozenset({'magrin'}))", "did you mean 'margin'"),
        ("return parameters.magrin", "AttributeError"),
        ("raise SystemExit", "computation: SystemExit"),
        ("return Computation(ignored=['note'])", "must be a frozenset of names, not ['note']"),
        ("return Computation(ignored='note')", "must be a frozenset of names, not 'note'"),
    ],
)
@pytest.mark.usefixtures("project")
def test_a_policy_that_says_nonsense_is_named(body: str, says: str) -> None:
    policy = PLAIN.replace(PLAIN.splitlines()[-1].strip(), body)
    add_experiment("plain", "config_name: plain\n", policy)
    with pytest.raises(UserError, match=r"generation_functions\.py: config plain") as caught:
        load_project()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def in_folder_of_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the data of tasks in d/."""
    monkeypatch.chdir(folder)
    Path("d").mkdir()
    Path("d/items.jsonl").write_text("{}\n")


def a_group(keys: str, **members: str) -> TaskFiles:
    """A group of the given keys, beside tasks of the given names."""
    Path("g.yaml").write_text(f"group: g\n{keys}\n")
    for name, more in members.items():
        Path(f"{name}.yaml").write_text(f"task: {name}\ndataset_path: d\n{more}\n")
    return find_task_files(TaskSource(Path("g.yaml")))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"t": "output_type: multiple_choice"}, True),
        ({"t": "output_type: loglikelihood"}, True),
        ({"t": "output_type: generate_until"}, False),
        ({"t": ""}, False),
        ({"t": "output_type: multiple_choice\nclass: Mine"}, False),
        ({"t": "include: base.yaml", "base": "output_type: multiple_choice"}, True),
        ({"t": "include: base.yaml", "base": ""}, False),
        (
            {
                "t": "include: base.yaml\noutput_type: generate_until",
                "base": "output_type: multiple_choice",
            },
            False,
        ),
        (
            {
                "t": "include: base.yaml\noutput_type: multiple_choice",
                "base": "output_type: generate_until",
            },
            False,
        ),
    ],
)
def test_a_task_is_of_likelihoods_when_every_file_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: bool
) -> None:
    in_folder_of_data(tmp_path, monkeypatch)
    for name, text in files.items():
        task = "" if name == "base" else f"task: {name}\ndataset_path: d\n"
        Path(f"{name}.yaml").write_text(f"{task}{text}\ndescription: x\n")
    assert is_likelihood_task(find_task_files(TaskSource(Path("t.yaml")))) is expected


@pytest.mark.usefixtures("project")
def test_the_mode_of_likelihoods_counts_where_there_may_be_some() -> None:
    of_default = the("words/demo/k1_first")
    # In results from before another mode became the default.
    assert of_default.decides["likelihood_mode"] == "published"
    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 2, likelihood_mode: published")
    with pytest.raises(UserError, match="likelihood_mode has no effect"):
        load_project()
    edit("tasks/words.yaml", "task: words", "task: words\noutput_type: multiple_choice")
    published = the("words/demo/k1_first")
    edit("workflow_config.yaml", ", likelihood_mode: published", "")
    assert the("words/demo/k1_first").fingerprint != published.fingerprint


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("task: [c]", True),
        ("task: [a, c]", False),
        ("task: [{task: new, dataset_path: d}]", True),
        ("task: [{task: new, output_type: multiple_choice, dataset_path: d}]", False),
        ("task: [{group: inner, task: [{task: new, output_type: loglikelihood}]}]", False),
        ("output_type: multiple_choice\ntask: [c]", False),
        ("task: [python]", False),
    ],
)
def test_a_group_generates_when_no_member_asks_for_likelihoods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, expected: bool
) -> None:
    in_folder_of_data(tmp_path, monkeypatch)
    files = a_group(group, a="output_type: multiple_choice", c="", python="class: Mine")
    assert is_generating_task(files) is expected


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("task: [a, b]", True),
        ("task: [a, c]", False),
        ("task: [{task: new, output_type: multiple_choice, dataset_path: d}]", True),
        ("task: [{task: new, dataset_path: d}]", False),
        ("task: [{task: a, output_type: generate_until}]", False),
        ("task: [{group: inner, task: [a, b]}]", True),
        ("task: [{group: inner, task: [a, c]}]", False),
        ("output_type: multiple_choice\ntask: [{group: inner, task: [{task: new}]}]", True),
        ("output_type: multiple_choice\ndataset_path: d\ntask: [new]", True),
        ("output_type: multiple_choice\ntask: [{task: n, output_type: generate_until}]", False),
        ("output_type: generate_until\ntask: [{task: new, output_type: multiple_choice}]", False),
        ("task: [a, fresh]\ndataset_path: d", False),
    ],
)
def test_a_group_is_of_likelihoods_when_every_member_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, expected: bool
) -> None:
    in_folder_of_data(tmp_path, monkeypatch)
    kinds = {"a": "multiple_choice", "b": "loglikelihood", "c": "generate_until"}
    files = a_group(group, **{name: f"output_type: {kind}" for name, kind in kinds.items()})
    assert is_likelihood_task(files) is expected


@pytest.mark.usefixtures("project")
def test_a_limit_makes_another_computation_and_the_spec_tells_it() -> None:
    run = the("words/demo/k1_first")
    assert run.spec()["run"]["computation"] == run.computation
    assert "computation" not in run.decides
    limited = load_project(Selection(limit=1)).runs
    assert not {r.computation for r in limited} & {r.computation for r in load_project().runs}

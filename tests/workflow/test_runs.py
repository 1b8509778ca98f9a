"""Runs and fingerprints: what counts as a change, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdllm.common.errors import UserError
from fastdllm.common.paths import check_task_name, split_task_folder, task_folder
from fastdllm.workflow.project.digests import digest_of
from fastdllm.workflow.project.runs import load_project
from fastdllm.workflow.project.selection import Selection
from fastdllm.workflow.status.run_status import what_changed
from tests.support.small_project import edit

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))


def fingerprints() -> dict[str, str]:
    return {f"{run.task} {run.config}": run.fingerprint for run in load_project().runs}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("workflow_config.yaml", "model:", "# a comment\nmodel:"),
        ("workflow_config.yaml", "dtype: float32", "dtype: float32, device: cpu"),
        ("workflow_config.yaml", "decoding:", "bootstrap_iters: 7\ndecoding:"),
        ("workflow_config.yaml", "decoding:", "allow_code_execution: true\ndecoding:"),
        ("workflow_config.yaml", "chunk_size: 2", "chunk_size: 2, batch_size: 7"),
        (
            "workflow_config.yaml",
            "chunk_size: 2",
            "chunk_size: 2, only_where_named: false",
        ),
        ("experiments/demo/experiment.yaml", "title: Demo", "title: Another title"),
        (
            "experiments/demo/generation_functions.py",
            "keeps_proposals = True",
            "keeps_proposals = (True)",
        ),
        ("experiments/demo/generation_functions.py", "Docstring of the class.", "Another."),
        ("tasks/words.yaml", "task: words", "task:    'words'   # a comment"),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_decides_no_answer_changes_no_fingerprint(file: str, old: str, new: str) -> None:
    before = fingerprints()
    edit(file, old, new)
    assert fingerprints() == before


@pytest.mark.usefixtures("project")
def test_a_task_that_is_run_only_where_named_is_left_to_those_who_name_it() -> None:
    before = fingerprints()
    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 2, only_where_named: true")
    assert fingerprints() == {k: v for k, v in before.items() if not k.startswith("words ")}
    edit("experiments/demo/experiment.yaml", "title: Demo", "title: Demo\ntasks: [words]")
    assert fingerprints() == {k: v for k, v in before.items() if k.startswith("words ")}


@pytest.mark.usefixtures("project")
def test_a_batch_size_reaches_the_spec_but_neither_the_plan_nor_the_identity() -> None:
    before = load_project()
    edit("workflow_config.yaml", "chunk_size: 2", "chunk_size: 2, batch_size: 7")
    after = load_project()
    assert [plan.spec() for plan in after.plans] == [plan.spec() for plan in before.plans]
    sizes = {run.task: run.spec()["run"]["batch_size"] for run in after.runs}
    assert sizes == {"words": 7, "choices": "auto"}
    assert all("batch_size" not in run.decides for run in after.runs)


@pytest.mark.parametrize(
    ("file", "old", "new", "n_changed"),
    [
        ("workflow_config.yaml", "threshold: 0.9", "threshold: 0.8", 4),
        ("workflow_config.yaml", "chunk_size: 2", "chunk_size: 4", 2),
        ("workflow_config.yaml", "float32", "bfloat16", 4),
        ("experiments/demo/generation_functions.py", "True", "False", 4),
        ("tasks/words.yaml", "{{q}}", "Q: {{q}}", 2),
        ("tasks/data/choices.jsonl", "2", "3", 2),
        ("models/tiny/model.safetensors", "weights", "others!", 4),
    ],
)
@pytest.mark.usefixtures("project")
def test_what_decides_answers_changes_exactly_those_fingerprints(
    file: str, old: str, new: str, n_changed: int
) -> None:
    before = fingerprints()
    edit(file, old, new)
    after = fingerprints()
    assert sum(after[name] != before[name] for name in before) == n_changed


@pytest.mark.usefixtures("project")
def test_a_damaged_digest_memory_is_only_slower() -> None:
    before = fingerprints()
    Path("results/.digests.json").write_text('{"models')
    assert fingerprints() == before
    assert json.loads(Path("results/.digests.json").read_text())


@pytest.mark.usefixtures("project")
def test_a_digest_memory_that_cannot_be_written_stops_nothing() -> None:
    before = fingerprints()
    shutil.rmtree("results")
    Path("results").write_text("a file where the folder would be")
    assert fingerprints() == before


@given(st.dictionaries(st.text(max_size=4), PLAIN), st.dictionaries(st.text(max_size=4), PLAIN))
def test_the_changes_told_lead_from_old_to_new(old: dict, new: dict) -> None:
    changes = what_changed(old, new)
    if digest_of(old) == digest_of(new):
        assert [change.key for change in changes] == ["fingerprint"]
    else:
        for change in changes:
            if change.key in old or change.key in new:
                assert (old.get(change.key), new.get(change.key)) == (change.old, change.new)


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,12}", fullmatch=True), st.integers(1, 10**6))
def test_a_task_folder_can_be_split_again(task: str, limit: int) -> None:
    try:
        check_task_name(task)
    except ValueError:
        return
    assert split_task_folder(task_folder(task, limit)) == (task, limit)
    assert split_task_folder(task_folder(task, None)) == (task, None)


SIMPLE = """\
grid:
  reuse_k: [1, 2]
  layer_subset: [first]
config_name: "k{reuse_k}_{layer_subset}"
"""
GRIDS = """\
decoding: {threshold: 0.8, top_p: 0.5}
grids:
  - grid: {reuse_k: [1, 2], layer_subset: [[3, 8], first]}
    config_name: "k{reuse_k}_{layer_subset}"
  - grid: {threshold: [1.0]}
    config_name: "t{threshold}"
    decoding: {top_p: 0.7, threshold: 0.1}
  - config_name: plain
    decoding: {seed: 3}
"""


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("grid", "kwargs", "says"),
    [
        ('"x{max_new_tokens}", grid: {max_new_tokens: [8, 96]}', "{}", "max_gen_toks"),
        ("one, grid: {max_new_tokens: [96]}", "{}", "max_gen_toks"),
        ("one, grid: {top_p: [0.5]}", "{top_p: 0.8}", "top_p"),
        ("one}]\ndecoding: {max_new_tokens: 96}\n#", "{}", "max_gen_toks"),
        ('"x{temperature}", grid: {temperature: [0, 1]}', "{do_sample: false}", "do_sample: false"),
        ('"x{temperature}", grid: {temperature: [0.8]}', "{temperature: 0.0}", "temperature"),
        ('"x{top_p}", grid: {top_p: [0.5, 0.9]}', "{top_p: 0.8}", "top_p"),
        ("hot, decoding: {temperature: 0.8}", "{do_sample: false}", "do_sample: false"),
    ],
)
def test_no_experiment_gives_a_setting_that_a_task_overrules(
    grid: str, kwargs: str, says: str
) -> None:
    edit("experiments/demo/experiment.yaml", SIMPLE, f"grids: [{{config_name: {grid}}}]\n")
    path = Path("tasks/words.yaml")
    path.write_text(f"{path.read_text()}generation_kwargs: {kwargs}\n")
    with pytest.raises(UserError, match=f"has no effect on task 'words', .* give {says}, which"):
        load_project()
    edit("workflow_config.yaml", "  words: {chunk_size: 2}\n", "")
    path = Path("tasks/choices.yaml")
    path.write_text(f"{path.read_text()}output_type: multiple_choice\n")
    assert load_project().runs


@pytest.mark.usefixtures("project")
def test_several_grids_merge_their_own_settings_and_name_their_own_configs() -> None:
    edit("experiments/demo/experiment.yaml", SIMPLE, GRIDS)
    settings_of = {
        run.config: [run.decides[f"decoding.{key}"] for key in ("threshold", "top_p", "seed")]
        for run in load_project().runs
        if run.task == "words"
    }
    assert settings_of == {
        **{f"k{k}_{span}": [0.8, 0.5, 0] for k in (1, 2) for span in ("3-8", "first")},
        "t1.0": [1.0, 0.7, 0],
        "plain": [0.8, 0.5, 3],
    }


@pytest.mark.usefixtures("project")
def test_a_range_of_layers_is_the_same_after_json() -> None:
    edit("experiments/demo/experiment.yaml", "[first]", "[[3, 8]]")
    for run in load_project().runs:
        stored = json.loads(json.dumps(run.decides))
        assert stored == run.decides
        assert digest_of(stored) == run.fingerprint
        assert what_changed(stored, run.decides)[0].key == "fingerprint", "no setting differs"
        assert run.decides["decoding.layer_subset"] == [3, 8]


MISTAKES = [
    ("workflow_config.yaml", "experiments: [demo]", "experiments: [dmo]", "did you mean 'demo'"),
    ("workflow_config.yaml", "  words:", "  wrods:", "did you mean 'words'"),
    ("workflow_config.yaml", "chunk_size: 2", "chunksize: 2", "did you mean 'chunk_size'"),
    ("workflow_config.yaml", "chunk_size: 2", "chunk_size: 0", "greater than or equal to 1"),
    ("workflow_config.yaml", "chunk_size: 2", "batch_size: 0", "0 is not allowed; it should be at"),
    ("workflow_config.yaml", "chunk_size: 2", "batch_size: all", "'all' is not allowed; it should"),
    ("workflow_config.yaml", "chunk_size: 2", "batch_size: 2.5", "be at least 1, or auto"),
    ("workflow_config.yaml", "chunk_size: 2", "batch_size: yes", "true is not allowed; it should"),
    ("workflow_config.yaml", "threshold: 0.9", "threshold: 1.9", "less than or equal to 1"),
    ("workflow_config.yaml", "float32", "float23", "'float32'"),
    ("workflow_config.yaml", "models/tiny", "models/tinny", "did you mean 'models/tiny'"),
    ("workflow_config.yaml", "{threshold: 0.9}", "{threshold: 0.9", "line"),
    ("workflow_config.yaml", "  choices:", "  words:", "given twice"),
    ("experiments/demo/experiment.yaml", "  reuse_k", "  reuse_q", "did you mean 'reuse_k'"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{resue_k}", "did you mean 'reuse_k'"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}_", "k_", "two configs"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "../k{reuse_k}", "cannot be a name"),
    ("experiments/demo/experiment.yaml", "grid:", "baseline: k1\ngrid:", "unknown key 'baseline'"),
    ("experiments/demo/experiment.yaml", "  layer_subset: [first]\n", "", "'layer_subset'"),
    ("experiments/demo/experiment.yaml", "[1, 2]", "[]", "at least one value"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{reuse_k:{foo}}", "{reuse_k}"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{reuse_k:>4}", "{reuse_k}"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{reuse_k!r}", "{reuse_k}"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{reuse_k.real}", "{reuse_k}"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{reuse_k[0]}", "{reuse_k}"),
    ("experiments/demo/experiment.yaml", "k{reuse_k}", "k{}", "{reuse_k}"),
    (
        "experiments/demo/experiment.yaml",
        "[1, 2]",
        "[[1], 2]",
        "[1] is not allowed; it should",
    ),
    ("experiments/demo/experiment.yaml", "[1, 2]", "[[[1]], 2]", "text, null or a list"),
    ("experiments/demo/experiment.yaml", "[1, 2]", "[yes, 2]", "reuse_k: true is not allowed"),
    ("experiments/demo/experiment.yaml", "  reuse_k:", "  1: [1]\n  reuse_k:", "key 1 "),
    (
        "experiments/demo/experiment.yaml",
        "title:",
        "policy: other/policy.py\ntitle:",
        "letters, digits, '_', '.' and '-'",
    ),
    (
        "experiments/demo/experiment.yaml",
        "[first]",
        "[[3, 8, 9]]",
        "layer_subset: [3, 8, 9] is not allowed; it should be first, middle, last, or",
    ),
    ("experiments/demo/experiment.yaml", "[first]", "[[3, 15]]", "ends after the 14 layers"),
    ("experiments/demo/experiment.yaml", "title:", "replicate: 3\ntitle:", "be true or false"),
    (
        "experiments/demo/experiment.yaml",
        'config_name: "k{reuse_k}_{layer_subset}"\n',
        "",
        "config_name is required (with grid), or grids",
    ),
    (
        "experiments/demo/experiment.yaml",
        "grid:",
        "grids: [{config_name: a}]\ngrid:",
        "grids stands in place of grid and config_name",
    ),
    *(
        ("experiments/demo/experiment.yaml", SIMPLE, f"grids:\n{grids}", says)
        for grids, says in (
            ("- {grid: {reuse_q: [1]}, config_name: a}\n", "grids.0.grid: unknown key 'reuse_q'"),
            ("- {config_name: a}\n- {grid: {a: []}, config_name: b}\n", "grids.1.grid.a: needs"),
            ("- {config_name: a}\n- {config_name: a}\n", "grids.1.config_name: 'a' gives two"),
            ("- {config_name: '{q}'}\n", "grids.0.config_name: unknown grid key 'q'"),
            ("- {grid: {}}\n", "grids.0.config_name: this key is required"),
            ("- {config_nam: a}\n", "did you mean 'config_name'"),
            ("- {config_name: a, decoding: {treshold: 1}}\n", "did you mean 'threshold'"),
            ("  []\n", "grids: [] is not allowed; it should not be empty"),
        )
    ),
    ("workflow_config.yaml", "float32", "float32, device: gpu", "auto, cpu, cuda or cuda:N"),
    ("workflow_config.yaml", "{chunk_size: 2}", "7", "tasks.words: 7 is not allowed; it should"),
    ("workflow_config.yaml", "threshold: 0.9", "threshold: yes", "threshold: true is not allowed"),
    ("experiments/demo/generation_functions.py", "class", "raise SystemExit\nclass", "SystemExit"),
    ("experiments/demo/generation_functions.py", "class", "exit('no')\nclass", "SystemExit: no"),
    ("tasks/words.yaml", '"{{q}}"', "{{q}}", "line 5"),
    (
        "experiments/demo/generation_functions.py",
        "class Demo(Policy)",
        "class Demo",
        "one subclass",
    ),
    ("models/tiny/config.json", "14", "1", "layers"),
    ("models/tiny/config.json", "32", "16", "give the setting block_size"),
    ("models/tiny/config.json", ', "bd_size": 32', "", "does not say which block size"),
    ("tasks/words.yaml", "data/words", "data/wordz", "no such file"),
]


@pytest.mark.parametrize(("file", "old", "new", "says"), MISTAKES)
@pytest.mark.usefixtures("project")
def test_a_mistake_names_its_file_in_one_line(file: str, old: str, new: str, says: str) -> None:
    edit(file, old, new)
    with pytest.raises(UserError) as caught:
        load_project()
    message = str(caught.value)
    assert "\n" not in message
    assert says in message
    assert (
        Path(file).parent.name in message or "workflow_config" in message or "experiment" in message
    )


@pytest.mark.usefixtures("project")
def test_a_model_without_weights_is_refused() -> None:
    Path("models/tiny/model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        load_project()


@pytest.mark.parametrize("limit", [0, -1, "ten", 1.5, True])
def test_a_limit_counts_items(limit: object) -> None:
    with pytest.raises(UserError, match="limit"):
        Selection.from_options({"limit": limit})


@pytest.mark.parametrize("key", ["experiment", "task", "config", "limit", "restore"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_word_without_a_value_selects_nothing_by_accident(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"selection: {key}: is given without a value"):
        Selection.from_options({key: value})


@pytest.mark.usefixtures("project")
def test_a_policy_may_still_be_interrupted_while_it_is_imported() -> None:
    edit("experiments/demo/generation_functions.py", "class", "raise KeyboardInterrupt\nclass")
    with pytest.raises(KeyboardInterrupt):
        load_project()


@pytest.mark.usefixtures("project")
def test_a_selection_keeps_only_what_is_named() -> None:
    options = {"task": "words, choices", "config": "k2_first", "limit": 5}
    runs = load_project(Selection.from_options(options)).runs
    assert [str(run.folder) for run in runs] == [
        "results/demo/words_limit_5/k2_first",
        "results/demo/choices_limit_5/k2_first",
    ]

"""Prompts: what a chat template leaves out or cannot write, and the token that begins a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.model.tokenizer import conversation_text, load_tokenizer, prompt_ids
from fastdllm.tasks.planning import PlanOptions, make_plan
from fastdllm.tasks.task_source import TaskSource
from tests.support.run_project import CHAT_TEMPLATE

BOS, BOS_TEXT = 253, "<|im_start|>"
QUESTION = "What is 0 + 1? "


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """A copy of the model, to be changed."""
    return shutil.copytree(model_folder, tmp_path / "copy")


def write_template(folder: Path, template: Any) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def plan(folder: Path, task: str = "sums", *, chat: bool = True, **model: int) -> Any:
    options = PlanOptions(
        task=TaskSource.named(task),
        limit=None,
        chunk_size=4,
        num_fewshot=None,
        apply_chat_template=chat,
        **{"max_positions": 4096, "vocab_size": 256, **model},
    )
    return make_plan(load_tokenizer(str(folder)), options)


BROKEN = [
    ("{% for %}", "fails with TemplateSyntaxError: Expected an expression"),
    ("{{ raise_exception('no system role') }}", "fails with TemplateError: no system role"),
    ("{{ messages[0].name.text }}", "fails with UndefinedError"),
    ("{{ 1 / 0 }}", "fails with ZeroDivisionError"),
    ("{% include 'x' %}", "fails with TypeError"),
    ("{{ ''.__class__.__mro__ }}", "fails with SecurityError"),
    ("<|im_start|>assistant\n", "leaves out what the user says"),
    ("{% if false %}x{% endif %}", "leaves out what the user says"),
    ("{{ messages[0].content[:4] }}", "leaves out what the user says"),
    (5, "chat_template: 5 is not allowed; it should be text"),
    (True, "chat_template: True is not allowed; it should be text"),
    ("", "has no chat template"),
    ([{"name": "tools", "template": "x"}], "has no chat template"),
    ([5], "no usable tokenizer"),
]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("template", "says"), BROKEN)
def test_a_template_that_writes_no_question_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], template: Any, says: str
) -> None:
    write_template(folder, template)
    assert main(["generate", QUESTION, "--model", str(folder)]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert says in printed.err
    with pytest.raises(UserError) as caught:
        plan(folder)
    assert says in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.usefixtures("project")
def test_a_description_or_an_example_that_a_template_drops_is_refused(folder: Path) -> None:
    with Path("tasks/sums.yaml").open("a") as stream:
        stream.write('description: "Add the numbers."\n')
    assert "Add the numbers." in plan(folder).requests[0].args[0]
    only_user = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    write_template(folder, only_user)
    with pytest.raises(UserError, match="leaves out what the system says"):
        plan(folder)
    no_answers = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"
    write_template(folder, no_answers)
    turns = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "two"}]
    with pytest.raises(UserError, match="leaves out what the assistant says"):
        conversation_text(load_tokenizer(str(folder)), [*turns, *turns[:1]])
    short = [{"role": "user", "content": "1 + 1"}, {"role": "assistant", "content": "1"}]
    with pytest.raises(UserError, match="leaves out what the"):
        conversation_text(load_tokenizer(str(folder)), [*short, *turns[:1]])
    # Some write the description into the last question.
    last = "{% for m in messages[1:] %}{% if loop.last %}{{ messages[0].content }}{% endif %}"
    write_template(folder, last + "{{ m.content }}{% endfor %}")
    assert plan(folder).requests[0].args[0] == "Add the numbers." + QUESTION
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}"
    write_template(folder, refusing + CHAT_TEMPLATE)
    with pytest.raises(UserError, match="fails with TemplateError: none"):
        plan(folder)


@pytest.mark.usefixtures("project")
def test_a_template_that_writes_the_date_is_refused(folder: Path) -> None:
    write_template(folder, "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE)
    with pytest.raises(UserError, match="writes the date"):
        plan(folder)


@pytest.mark.usefixtures("project")
def test_of_named_templates_the_default_one_is_taken(folder: Path) -> None:
    expected = plan(folder)
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    write_template(folder, named)
    assert plan(folder) == expected


def add_bos(folder: Path) -> None:
    """Let the tokenizer begin each text with BOS, as many do."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    bos = {"SpecialToken": {"id": BOS_TEXT, "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, text],
        "pair": [bos, text, second],
        "special_tokens": {BOS_TEXT: {"id": BOS_TEXT, "ids": [BOS], "tokens": [BOS_TEXT]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"bos_token": BOS_TEXT}))


def letters(text: str) -> tuple[int, ...]:
    """The ids of the tokenizer of the tests, which has a token per letter."""
    return tuple(map(ord, text))


@pytest.mark.usefixtures("project")
def test_the_token_that_begins_a_text_is_written_once(folder: Path) -> None:
    plain = load_tokenizer(str(folder))
    add_bos(folder)
    tokenizer = load_tokenizer(str(folder))
    assert tokenizer("A")["input_ids"] == [BOS, ord("A")]
    for chat in (True, False):
        by_hand = prompt_ids(tokenizer, QUESTION, chat_template=chat)
        of_run = plan(folder, chat=chat).requests[0].prompt_ids
        assert by_hand == of_run
        # The template of the tests begins with BOS itself.
        without = prompt_ids(plain, QUESTION, chat_template=chat)
        assert by_hand == (without if chat else (BOS, *letters(QUESTION)))
    write_template(folder, "{{ messages[-1].content }}")
    assert prompt_ids(load_tokenizer(str(folder)), QUESTION) == (BOS, *letters(QUESTION))


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("chat", [True, False])
def test_the_context_of_an_option_begins_with_it_once(folder: Path, *, chat: bool) -> None:
    before = plan(folder, "choices", chat=chat).requests
    add_bos(folder)
    after = plan(folder, "choices", chat=chat).requests
    start = () if chat else (BOS,)
    assert [r.prompt_ids for r in after] == [start + r.prompt_ids for r in before]
    assert [r.target_ids for r in after] == [r.target_ids for r in before]


@pytest.mark.usefixtures("project")
def test_a_token_that_the_model_lacks_is_refused_at_plan(folder: Path) -> None:
    line = r"item sums:0: 't' is token 116, but the model knows 116; its tokenizer\.json is another"
    with pytest.raises(UserError, match=line):
        plan(folder, vocab_size=116, chat=False)


@pytest.mark.parametrize("task", ["sums", "choices"])
def test_the_mask_token_in_a_prompt_is_refused_at_plan(
    folder: Path, project: Path, task: str
) -> None:
    data = project / f"tasks/data/{task}.jsonl"
    data.write_text(data.read_text().replace("? ", "|<MASK>|? ", 1))
    with pytest.raises(UserError, match=rf"item {task}:0: its text holds '\|<MASK>\|', the mask"):
        plan(folder, task, mask_id=255)


OTHER = CHAT_TEMPLATE.replace("assistant", "model")


@pytest.mark.parametrize(
    ("in_config", "is_said"),
    [
        (CHAT_TEMPLATE, False),
        (CHAT_TEMPLATE + "\n", False),
        (None, False),
        ([{"name": "tools", "template": OTHER}, 5], False),
        (OTHER, True),
        ([{"name": "default", "template": OTHER}], True),
    ],
)
def test_of_two_templates_that_differ_the_one_that_counts_is_said(
    folder: Path, in_config: Any, capsys: pytest.CaptureFixture[str], *, is_said: bool
) -> None:
    in_file = (folder / "chat_template.jinja").read_text()
    write_template(folder, in_config)
    (folder / "chat_template.jinja").write_text(in_file)
    assert load_tokenizer(str(folder)).chat_template == CHAT_TEMPLATE
    said = f"fastdllm: {folder}: the chat template in tokenizer_config.json is not used, but that"
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(said) for line in lines] == [True] * is_said


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("options", ["{chunk_size: 3}", ""], ids=["others", "none"])
def test_whether_a_template_writes_the_prompts_has_to_be_chosen(
    folder: Path, model_folder: Path, options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, planned = Path("workflow_config.yaml"), Path("results/_plans/sums/plan.json")
    chosen = config.read_text()
    assert "sums: {chunk_size: 3, apply_chat_template: true}" in chosen
    silent = chosen.replace("{chunk_size: 3, apply_chat_template: true}", options)
    config.write_text(silent)
    assert main(["plan", "--task", "sums"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "task 'sums': the model has a chat template; give the task apply_chat_template" in line
    assert not planned.exists()
    for answer in ("true", "false"):
        config.write_text(
            chosen.replace("apply_chat_template: true", f"apply_chat_template: {answer}")
        )
        assert main(["plan", "--task", "sums"]) == 0
    (folder / "chat_template.jinja").unlink()
    config.write_text(silent.replace(str(model_folder), str(folder)))
    assert main(["plan", "--task", "sums"]) == 0
    assert json.loads(planned.read_text())["apply_chat_template"] is False

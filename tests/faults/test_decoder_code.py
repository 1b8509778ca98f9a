"""Code of the decoder, edited without a new DECODER_VERSION while a run is not finished."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastdllm.cli import main
from fastdllm.common.errors import UserError
from fastdllm.runs import decoder_code
from fastdllm.runs.decoder_code import code_digest, imported_as_digested
from fastdllm.runs.evaluation import Evaluation
from fastdllm.runs.shards import parse_shard
from fastdllm.runs.spec import read_spec
from fastdllm.runs.stopping import Stopped
from fastdllm.tools.estimate.estimates import Estimates
from fastdllm.workflow.project.digests import FileDigests, check_sources
from fastdllm.workflow.project.runs import Run, load_project
from fastdllm.workflow.status.run_status import inspect
from tests.faults.test_code import PreemptedAfter, chunks_of
from tests.support.run_project import silent


@pytest.fixture
def run(make_spec: Callable[..., Path], make_plan_on_disk: Callable[..., Path]) -> Path:
    """A run of four chunks."""
    make_plan_on_disk()
    return make_spec()


def decoder_is(monkeypatch: pytest.MonkeyPatch, digest: str) -> None:
    """Pretend that the process has other code."""
    for user in (
        *("runs.evaluation", "runs.answer_sources"),
        *("workflow.status.run_progress", "tools.estimate.finished_chunks"),
    ):
        monkeypatch.setattr(f"fastdllm.{user}.code_digest", lambda: digest)


def evaluation_of(path: Path, notes: list[str], **options: Any) -> Evaluation:
    display = silent()
    display.note = notes.append  # type: ignore[method-assign]
    check = partial(check_sources, digests=FileDigests())
    return Evaluation(read_spec(path), path.parent, display, check, **options)


@pytest.mark.parametrize("recorded", ["old", None])
def test_chunks_of_edited_code_are_kept_aside_until_it_is_back(
    run: Path, monkeypatch: pytest.MonkeyPatch, recorded: str | None
) -> None:
    notes: list[str] = []
    decoder_is(monkeypatch, "old")
    with pytest.raises(Stopped, match="with 2 of 4 chunks done"):
        evaluation_of(run, notes, stop=PreemptedAfter(2)).evaluate()
    answers = run.with_name("answers.jsonl")
    if recorded is None:  # by a version that recorded no digest
        answers.write_text(answers.read_text().replace(', "code_digest": "old"', "", 1))
    old = answers.read_text()
    decoder_is(monkeypatch, "new")
    with pytest.raises(Stopped, match="with 1 of 4 chunks done"):
        evaluation_of(run, notes, stop=PreemptedAfter(1)).evaluate()
    (aside,) = run.parent.glob("answers.*.jsonl")
    assert aside.read_text() == old
    (note,) = notes
    assert note.startswith(f"earlier answers are kept in {aside}: decoded by other code than this ")
    assert note.endswith("; with that code, this command uses them again")
    if recorded is not None:
        decoder_is(monkeypatch, "old")
        with pytest.raises(Stopped, match="with 3 of 4 chunks done"):
            evaluation_of(run, notes, stop=PreemptedAfter(1)).evaluate()
        decoder_is(monkeypatch, "new")
    summary = evaluation_of(run, notes).evaluate().summary
    assert (chunks_of(answers), summary.code_digest) == ([0, 1, 2, 3], "new")


@pytest.mark.parametrize("recorded", ["old", None])
def test_what_other_code_decoded_to_the_end_is_scored_and_not_decoded_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, recorded: str | None
) -> None:
    decoder_is(monkeypatch, "old")
    first = evaluation_of(run, []).evaluate().summary
    assert first.code_digest == "old"
    answers, summary = run.with_name("answers.jsonl"), run.with_name("summary.json")
    if recorded is None:
        answers.write_text(answers.read_text().replace(', "code_digest": "old"', "", 1))
    before = answers.read_text()
    decoder_is(monkeypatch, "new")
    monkeypatch.setattr("fastdllm.runs.evaluation.load_engine", None)
    for again in (Evaluation.evaluate, Evaluation.finish):
        summary.unlink()
        found = again(evaluation_of(run, [])).summary
        assert (found.code_digest, found.items) == (recorded, first.items)
    assert answers.read_text() == before


def how_far(run: Run) -> tuple[str, int | None]:
    """What status says of a run, and the items that an estimate takes for left."""
    return inspect(run).reason, Estimates.load([run]).estimate(run, gpu=None).items_left


@pytest.fixture
def project_run(make_plan_on_disk: Callable[..., Path]) -> Run:
    """A run of the project of ten items in four chunks."""
    make_plan_on_disk()
    run = load_project().runs[0]
    run.folder.mkdir(parents=True)
    run.spec_path.write_text(json.dumps(run.spec()))
    return run


def test_what_other_code_decoded_of_an_unfinished_run_does_not_count_as_done(
    project_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder_is(monkeypatch, "old")
    with pytest.raises(Stopped, match="with 2 of 4 chunks done"):
        evaluation_of(project_run.spec_path, [], stop=PreemptedAfter(2)).evaluate()
    assert how_far(project_run) == (
        "stopped by SIGTERM; 6 of 10 items; the same command resumes",
        4,
    )
    decoder_is(monkeypatch, "new")
    told = (
        "stopped by SIGTERM; 0 of 10 items, 6 by other code do not count; the same command resumes"
    )
    assert how_far(project_run) == (told, 10)
    decoder_is(monkeypatch, "old")
    evaluation_of(project_run.spec_path, []).evaluate()
    project_run.summary_path.unlink()
    decoder_is(monkeypatch, "new")
    assert how_far(project_run) == ("", 0), "only the score is missing"


def test_what_other_code_decoded_of_some_shards_does_not_count_as_done(
    project_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder_is(monkeypatch, "old")
    evaluation_of(project_run.spec_path, []).evaluate_shard(parse_shard("1/2"))
    assert how_far(project_run) == ("6 of 10 items; the same command resumes", 4)
    decoder_is(monkeypatch, "new")
    with pytest.raises(Stopped, match="with 1 of 2 chunks done"):
        part = evaluation_of(project_run.spec_path, [], stop=PreemptedAfter(1))
        part.evaluate_shard(parse_shard("2/2"))
    told = (
        "stopped by SIGTERM; 3 of 10 items, 6 by other code do not count; the same command resumes"
    )
    assert how_far(project_run) == (told, 7)
    for shard in ("1/2", "2/2"):
        evaluation_of(project_run.spec_path, []).evaluate_shard(parse_shard(shard))
    assert inspect(project_run).reason == "not yet copied to artifacts/"


@pytest.mark.parametrize("then", ["the other shard", "the whole run"])
def test_shards_of_two_codes_are_not_merged(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], then: str
) -> None:
    notes: list[str] = []
    decoder_is(monkeypatch, "old")
    evaluation_of(run, notes).evaluate_shard(parse_shard("1/2"))
    old = run.with_name("shards") / "1-of-2.jsonl"
    before = old.read_text()
    decoder_is(monkeypatch, "new")
    if then == "the whole run":
        outcome = evaluation_of(run, notes).evaluate()
    else:
        assert evaluation_of(run, notes).evaluate_shard(parse_shard("2/2")).run is None
        assert main(["finish", str(run)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "chunks 0, 2 have no answers by this code, and those by other code (comm" in line
        assert line.endswith(
            f"are not mixed in; this decodes more: fastdllm eval {run} --shard 1/2"
        )
        assert not run.with_name("summary.json").exists()
        assert old.read_text() == before
        part = evaluation_of(run, []).evaluate_shard(parse_shard("1/2"))
        assert part.run is not None and part.n_decoded == 2
        (old,) = old.parent.glob("1-of-2.*.jsonl")
        outcome = part.run
    (note,) = notes
    assert note.startswith(f"{run.parent}/shards/1-of-2.jsonl is not used: decoded by other code")
    assert outcome.summary.code_digest == "new"
    assert old.read_text() == before, "nothing that was decoded is lost"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the same files, of one line each, that is digested in its place."""
    copy = tmp_path / "fastdllm"
    shutil.copytree(
        decoder_code.PACKAGE,
        copy,
        ignore=shutil.ignore_patterns("__pycache__"),
        copy_function=lambda _, new: Path(new).write_text("LIMIT = 0\n"),
    )
    monkeypatch.setattr(decoder_code, "PACKAGE", copy)
    return copy


def test_the_digest_of_the_decoder_is_of_the_code_that_decides(package: Path) -> None:
    digest: Callable[[], str] = vars(code_digest)["__wrapped__"]
    before = digest()
    for name, text, counts in (
        ("policy.py", "# a comment\n", False),
        ("report/page.py", "LIMIT = 1\n", False),
        ("decoding/rules.py", "LIMIT = 1\n", True),
        ("runs/chunk_engine.py", "LIMIT = 1\n", True),
        ("engine/new.py", "", True),
    ):
        with (package / name).open("a") as stream:
            stream.write(text)
        assert (digest() != before) == counts, name
        before = digest()


def test_code_that_is_edited_while_it_is_imported_is_refused(package: Path) -> None:
    with imported_as_digested():
        (package / "cli.py").touch()
    edited = package / "policy.py"
    message = f"{edited}: edited while this process started; type the command again"
    with pytest.raises(UserError, match=message), imported_as_digested():
        edited.write_text(edited.read_text() + "\nLIMIT = 1\n")

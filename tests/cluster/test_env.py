"""The environment: described as it is, packed, and unpacked by jobs; with a small real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastdllm import launch
from fastdllm.cluster.archive import NotUnpacked, pack, unpack
from fastdllm.cluster.build import caches, record
from fastdllm.cluster.venv import READY, UNFINISHED, damaged_files, problems, read_record
from fastdllm.common.errors import UserError
from tests.support.run_project import PATIENCE_S

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that asks for one package, and beside it an environment that has it."""
    folder = tmp_path_factory.mktemp("made")
    project, venv = folder / "project", folder / "scratch" / "venv-0123456789ab"
    project.mkdir()
    (project / "pyproject.toml").write_text('[project]\ndependencies = ["Good_Thing>=1"]\n')
    (project / "constraints.txt").write_text("good-thing==1.5\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    packages = next(venv.glob("lib/python3*/site-packages"))
    (packages / "fastdllm.pth").write_text(f"{ROOT}\n")
    (packages / "good_thing.py").write_text("x = 1\n")
    metadata = packages / "good_thing-1.5.dist-info"
    metadata.mkdir()
    (metadata / "RECORD").write_text(
        "good_thing.py,sha256=x,6\ngood_thing-1.5.dist-info/RECORD,,\n"
        "../../../bin/python,sha256=x,1\n"
    )
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both that a test may spoil; the project is the current folder."""
    shutil.copytree(made, tmp_path / "made", symlinks=True)
    project = tmp_path / "made" / "project"
    monkeypatch.chdir(project)
    record(str(venv_of(project)))
    return project


def venv_of(project: Path) -> Path:
    return project.parent / "scratch" / "venv-0123456789ab"


def launched(project: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(venv_of(project) / "bin" / "python"), "-m", "fastdllm.launch", *arguments],
        cwd=project,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_whole_environment_has_no_problem(project: Path) -> None:
    assert problems(venv_of(project), project) == []
    built = read_record(venv_of(project))
    assert built is not None
    assert built.packages == ("good_thing-1.5",)
    assert damaged_files(venv_of(project)) == []


def test_what_is_wrong_with_an_environment_is_said(project: Path, tmp_path: Path) -> None:
    venv = venv_of(project)
    (project / "constraints.txt").write_text("good-thing==1.6\n")
    assert problems(venv, project) == [
        "pyproject.toml or constraints.txt changed since it was built",
        "good-thing 1.5 instead of 1.6",
    ]
    metadata = next(venv.glob("lib/*/site-packages/good_thing-1.5.dist-info"))
    shutil.rmtree(metadata)
    assert any("no longer there" in problem for problem in problems(venv, project))
    other = shutil.copytree(project, tmp_path / "other")
    assert any("code of another folder" in problem for problem in problems(venv, other))
    (venv / UNFINISHED).touch()
    assert problems(venv, project) == ["its installation was interrupted"]
    assert problems(tmp_path, project) == [f"{tmp_path} is not a virtual environment"]


def test_a_file_that_was_purged_is_found_and_the_environment_built_anew(project: Path) -> None:
    venv = venv_of(project)
    next(venv.glob("lib/*/site-packages/good_thing.py")).unlink()
    done = launched(project, "env", "--check")
    assert done.returncode == 2
    assert "good_thing.py: missing or changed" in done.stderr
    assert (venv / UNFINISHED).exists()
    assert not (venv / READY).exists()


def test_a_command_runs_from_the_unpacked_copy(project: Path, tmp_path: Path) -> None:
    packed = pack(venv_of(project))
    node = tmp_path / "node"
    node.mkdir()
    used = {"FASTDLLM_ENV_ARCHIVE": str(packed.path), "TMPDIR": str(node)}
    done = launched(project, "env", **used)
    assert done.returncode == 0, done.stderr
    copy = node / f"fastdllm-env-{os.getuid()}" / venv_of(project).name
    assert done.stdout.splitlines()[0] == f"environment  {copy}"
    assert f"the environment is {copy}, ready in" in done.stderr
    # Where the original is gone, what is unpacked still starts.
    version = subprocess.run(
        [str(copy / "bin" / "python"), "-m", "fastdllm", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert version.stdout.startswith("fastdllm ")


SESSION = """\
source "$VENV/bin/activate"
type -P python script
source <(python -m fastdllm env --local)
echo "$VIRTUAL_ENV"
type -P python script
script
"""


def test_an_interactive_session_works_in_a_copy_on_its_node(project: Path, tmp_path: Path) -> None:
    venv, node = venv_of(project), tmp_path / "node"
    node.mkdir()
    script = venv / "bin" / "script"
    script.write_text(f"#!{venv}/bin/python\nimport sys\nprint(sys.prefix)\n")
    script.chmod(0o755)
    caches(str(venv), str(tmp_path / "scratch"))
    # Scripts name the environment as it was called when it was built, here by its first place.
    activate = venv / "bin" / "activate"
    built_at = re.search('^VIRTUAL_ENV="(.+)"', activate.read_text(), flags=re.M)
    assert built_at is not None
    activate.write_text(activate.read_text().replace(built_at[1], str(venv)))
    pack(venv)
    done = subprocess.run(
        ["bash", "-c", SESSION],
        cwd=project,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(node), "VENV": str(venv)},
        capture_output=True,
        text=True,
        check=False,
    )
    copy = node / f"fastdllm-env-{os.getuid()}" / venv.name
    before = [f"{venv}/bin/python", str(script)]
    after = [str(copy), f"{copy}/bin/python", f"{copy}/bin/script", str(copy)]
    assert done.stdout.splitlines() == before + after, done.stderr
    assert f"the environment is {copy}, ready in" in done.stderr
    assert f". {copy}/fastdllm-env.sh" in (copy / "bin/activate").read_text()


def test_without_an_archive_a_session_keeps_its_environment(project: Path, tmp_path: Path) -> None:
    done = launched(project, "env", "--local", TMPDIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no archive yet; write it once, with fastdllm env --pack" in done.stderr
    pack(venv_of(project))
    done = launched(project, "env", "--local")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fastdllm: the environment's archive: TMPDIR is not set\n"


def test_without_the_variable_the_environment_itself_is_used(project: Path) -> None:
    done = launched(project, "env", TMPDIR=str(project))
    assert done.stdout.splitlines()[0] == f"environment  {venv_of(project)}"
    assert done.stderr == ""


def test_a_run_keeps_the_environment_that_it_began_with(project: Path, tmp_path: Path) -> None:
    link = tmp_path / ".venv"
    link.symlink_to(venv_of(project))
    done = subprocess.run(
        [str(link / "bin" / "python"), "-m", "fastdllm.launch", "env"],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == f"environment  {venv_of(project)}", "not through the link"


def test_jobs_of_one_node_unpack_once(project: Path, tmp_path: Path) -> None:
    packed = pack(venv_of(project))
    remains = tmp_path / f"fastdllm-env-{os.getuid()}" / f"{venv_of(project).name}.part"
    remains.mkdir(parents=True, mode=0o700)
    remains.parent.chmod(0o700)
    (remains / "of a killed one").touch()
    command = [str(venv_of(project) / "bin" / "python"), "-m", "fastdllm.launch", "--version"]
    environment = {"FASTDLLM_ENV_ARCHIVE": str(packed.path), "TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            command,
            env={**environment, "PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(6)
    ]
    copy = remains.with_name(venv_of(project).name)
    for process in processes:
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert f"the environment is {copy}" in err, "nobody fell back"
    assert not remains.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("no TMPDIR", "TMPDIR is not set"),
        ("TMPDIR gone", "no folder TMPDIR here"),
        ("full", "GiB that are needed"),
        ("damaged", "cannot unpack it"),
        ("older", "is older than the environment"),
        ("missing", "does not exist"),
        ("another", "is not that of"),
        ("open", "can be written by others"),
    ],
)
def test_where_it_cannot_be_unpacked_the_original_is_used(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: str,
    says: str,
) -> None:
    venv = venv_of(project)
    archive = pack(venv).path
    node = tmp_path / "node"
    node.mkdir()
    variables = {"FASTDLLM_ENV_ARCHIVE": str(archive), "TMPDIR": str(node)}
    if spoil == "no TMPDIR":
        del variables["TMPDIR"]
    elif spoil == "TMPDIR gone":
        node.rmdir()
    elif spoil == "full":
        text = (venv / ".fastdllm-env.json").read_text()
        built = read_record(venv)
        assert built is not None
        text = text.replace(f'"bytes": {built.bytes}', f'"bytes": {10**16}')
        (venv / ".fastdllm-env.json").write_text(text)
        archive = pack(venv).path
    elif spoil == "damaged":
        archive.write_bytes(archive.read_bytes()[:-2000])
    elif spoil == "older":
        os.utime(archive, (0, 0))
    elif spoil == "missing":
        archive.unlink()
    elif spoil == "another":
        archive = archive.rename(archive.with_name(f"venv-else{''.join(archive.suffixes)}"))
        variables["FASTDLLM_ENV_ARCHIVE"] = str(archive)
    elif spoil == "open":
        (node / f"fastdllm-env-{os.getuid()}").mkdir()
        (node / f"fastdllm-env-{os.getuid()}").chmod(0o777)
    started = []
    monkeypatch.setattr(os, "execv", lambda _, command: started.append(command))
    monkeypatch.setattr(sys, "prefix", str(venv))
    monkeypatch.delenv("TMPDIR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    launch.main(["env"])
    assert started == [[str(venv / "bin/python"), "-m", "fastdllm", "env"]]
    message = capsys.readouterr().err
    assert says in message
    assert len(message.splitlines()) == 1
    remains = [path.name for path in node.glob("*/*")] if node.exists() else []
    assert remains in ([], ["lock"])


def test_a_node_without_zstd_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv = venv_of(project)
    archive = venv.with_name(venv.name + ".tar.zst")
    archive.touch()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotUnpacked, match="no zstd on this node"):
        unpack(archive, venv, project)


def test_an_environment_that_is_not_whole_is_not_packed(project: Path) -> None:
    (venv_of(project) / READY).unlink()
    with pytest.raises(UserError, match="incomplete, so it is not packed"):
        pack(venv_of(project))

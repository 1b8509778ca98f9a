"""Everything but the front ends works without the packages of the extra `chat`."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

from fastdllm.commands.chat import _check_packages
from fastdllm.common.errors import UserError
from tests.support.small_project import ROOT
from tests.test_layers import modules

# The import names of what the extra installs.
PACKAGES = {
    "prompt-toolkit": "prompt_toolkit",
    "fastapi": "fastapi",
    "gradio": "gradio",
    "prometheus-client": "prometheus_client",
    "uvicorn": "uvicorn",
}
# The modules and packages of ours that need them.
NEEDS_THEM = ("chat.line_input", "endpoint", "web")


def test_the_packages_are_those_of_the_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(PACKAGES) <= set(project["optional-dependencies"]["chat"])
    assert not set(PACKAGES) & set(project["dependencies"])


@pytest.mark.slow
def test_no_other_module_imports_them() -> None:
    needs = re.compile(rf"({'|'.join(map(re.escape, NEEDS_THEM))})(\..*)?|__main__")
    names = [name for name in modules() if not needs.fullmatch(name)]
    code = f"""
import importlib, sys
for package in {list(PACKAGES.values())}:
    sys.modules[package] = None  # importing it fails
import fastdllm
for name in {names}:
    importlib.import_module("fastdllm." + name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_only_the_page_imports_gradio() -> None:
    """Not so the endpoint, which shares the other packages with it."""
    imports = re.compile(r"^\s*(from|import) gradio\b", re.MULTILINE)
    users = {name for name, path in modules().items() if imports.search(path.read_text())}
    assert users
    assert {name.partition(".")[0] for name in users} == {"web"}


def test_a_missing_package_is_said_with_how_to_install_it(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    with pytest.raises(UserError, match=r"no module prompt_toolkit.*install.*\[chat\]"):
        _check_packages()

"""The commands of docs/endpoint.md, run as they stand there, at a free port."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fastdllm.endpoint.exchange import MOST_BODY_BYTES, UPLOAD_S
from fastdllm.endpoint.served import TIMEOUT_S
from fastdllm.settings import DecodingSettings
from tests.endpoint.running import LIMIT_S, Running

PAGE = Path("docs/endpoint.md").read_text()
SHELL = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.M | re.S))
PYTHON = "".join(re.findall(r"^```py\n(.*?)^```", PAGE, flags=re.M | re.S))


@pytest.mark.slow
def test_the_curl_commands_have_answers(server: Running) -> None:
    commands = re.findall(r"^curl .*?(?=^curl |^lm_eval |\Z)", SHELL, flags=re.M | re.S)
    answers = [
        subprocess.run(
            [*shlex.split(command.replace(":8000", f":{server.port}")), "-sS"],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=True,
        ).stdout
        for command in commands
    ]
    models, chat, stream = answers
    assert json.loads(models)["data"][0]["id"] == "tiny"
    assert "#### 21" in json.loads(chat)["choices"][0]["message"]["content"]
    assert stream.endswith("data: [DONE]\n\n")


@pytest.mark.slow
def test_the_python_has_an_answer(server: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PYTHON.replace(":8000", f":{server.port}")],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "#### 52" in done.stdout
    assert float(done.stdout.split()[-1]) > 1


def test_the_page_names_the_limits_of_the_code() -> None:
    assert f"{MOST_BODY_BYTES // 2**20} MiB" in PAGE
    assert f"within {UPLOAD_S:g} s" in PAGE
    assert f"({TIMEOUT_S:g})" in PAGE
    named = set(re.findall(r"`([a-z_]+)`", PAGE))
    assert {"threshold", "reuse_k", "layer_subset"} <= named & DecodingSettings.model_fields.keys()

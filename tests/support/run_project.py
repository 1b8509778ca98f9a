"""A whole small project in a temporary folder: a random model, a tokenizer, two tasks, one run.

The model is the golden 6-layer one (random weights), the tokenizer has one token per character, so
every test decodes for real, in milliseconds. What it answers is noise, but always the same noise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The fixtures, which a folder of tests takes over in its conftest.py.
__all__ = [
    "a_summary",
    "make_plan_on_disk",
    "make_spec",
    "model_folder",
    "project",
    "quiet_offline_lm_eval",
    "running",
    "tokenizer",
]

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN_MODEL = REPOSITORY / "tests" / "golden" / "m6"
STOP, MASK = 254, 255
# Ends a hang of what a test started; it takes seconds, on a busy machine some more.
PATIENCE_S = 600.0
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if not loop.last or m.role != 'assistant' %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SUMS_YAML = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/data/sums.jsonl}}
test_split: test
fewshot_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<|im_end|>"], max_gen_toks: 24, do_sample: false}
filter_list:
  - name: number
    filter:
      - {function: regex, regex_pattern: "(\\\\d)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1, primary_metric: "exact_match,number"}
"""

CHOICES_YAML = """\
task: choices
dataset_path: json
dataset_kwargs: {data_files: {test: tasks/data/choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["A", "B", "C"]
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
metadata: {version: 1}
"""


@pytest.fixture(scope="session", autouse=True)
def quiet_offline_lm_eval() -> Iterator[None]:
    """What the commands set up before lm-eval is imported, for the tests that import it here."""
    from fastdllm.tasks.lm_eval_setup import lm_eval_environment

    with lm_eval_environment(offline=True, private_cache=True):
        yield


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model with a character tokenizer beside it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    vocabulary = {chr(code): code for code in [10, *range(32, 127)]}
    vocabulary |= {f"<unused{i}>": i for i in range(253) if i not in vocabulary.values()}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = ["<|im_start|>", "<|im_end|>", "|<MASK>|"]
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=CHAT_TEMPLATE
    )
    assert fast.convert_tokens_to_ids(special) == [253, STOP, MASK]
    fast.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(GOLDEN_MODEL / name)
    return folder


@pytest.fixture(scope="session")
def tokenizer(model_folder: Path) -> Any:
    from fastdllm.model.tokenizer import load_tokenizer

    return load_tokenizer(str(model_folder))


@pytest.fixture
def project(tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's root, which is also the working directory of the test."""
    sums = [{"question": f"What is {i} + {i + 1}? ", "answer": str(i)} for i in range(10)]
    write_lines(tmp_path / "tasks/data/sums.jsonl", sums)
    choices = [{"question": f"{i}: Which is {'ABC'[i % 3]}? ", "label": i % 3} for i in range(8)]
    write_lines(tmp_path / "tasks/data/choices.jsonl", choices)
    (tmp_path / "tasks/sums.yaml").write_text(SUMS_YAML)
    (tmp_path / "tasks/choices.yaml").write_text(CHOICES_YAML)
    experiment = tmp_path / "experiments/trial"
    experiment.mkdir(parents=True)
    (experiment / "experiment.yaml").write_text(
        "title: Trial\nquestion: Does it run?\nconfig_name: plain\n"
    )
    (experiment / "generation_functions.py").write_text(
        "from fastdllm.policy import Policy\n\n\nclass Plain(Policy):\n    pass\n"
    )
    (tmp_path / "workflow_config.yaml").write_text(
        f"model: {{path: {model_folder}, dtype: float32, device: cpu}}\n"
        "experiments: [trial]\n"
        "tasks:\n"
        "  sums: {chunk_size: 3, apply_chat_template: true}\n"
        "  choices: {chunk_size: 6, apply_chat_template: true}\n"
        "bootstrap_iters: 0\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_spec(project: Path, model_folder: Path) -> Callable[..., Path]:
    """Write the spec.json of one run as the workflow does; returns its path."""
    from fastdllm.decoding.user_code import policy_code_digest
    from fastdllm.settings import DecodingSettings
    from fastdllm.tasks.task_source import TaskSource
    from fastdllm.version import DECODER_VERSION
    from fastdllm.workflow.project.digests import FileDigests, digest_of, model_digest, task_digest

    policy_file = Path("experiments/trial/generation_functions.py")

    def write(
        task: str = "sums",
        *,
        chunk_size: int | None = None,
        batch_size: int | str = "auto",
        likelihood_mode: str = "published",
        **decoding: Any,
    ) -> Path:
        settings = DecodingSettings(**{"max_new_tokens": 24, **decoding})
        chunk_size = chunk_size or {"sums": 3, "choices": 6}[task]
        decides = {
            "model": "local",
            "model_digest": model_digest(model_folder, FileDigests()),
            "policy_digest": policy_code_digest(policy_file),
            "task_digest": task_digest(TaskSource.named(task), FileDigests()),
            "task": task,
            "dtype": "float32",
            "chunk_size": chunk_size,
            "num_fewshot": None,
            "apply_chat_template": True,
            "likelihood_mode": likelihood_mode,
            "limit": None,
            "policy": "Plain",
            "decoder_version": DECODER_VERSION,
            **{f"decoding.{key}": value for key, value in settings.model_dump().items()},
        }
        spec = {
            "schema_version": 1,
            "experiment": "trial",
            "task": task,
            "config": "plain",
            "limit": None,
            "fingerprint": digest_of(decides),
            "decides": decides,
            "run": {
                "model_path": str(model_folder),
                "policy_file": str(policy_file),
                "plan_folder": f"results/_plans/{task}",
                "task_file": f"tasks/{task}.yaml",
                "device": "cpu",
                "bootstrap_iters": 0,
                "batch_size": batch_size,
            },
        }
        path = project / "results" / "trial" / task / "plain" / "spec.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(spec))
        return path

    return write


@pytest.fixture
def make_plan_on_disk(project: Path, tokenizer: Any) -> Callable[..., Any]:
    """Plan a task of the project into results/_plans and return the plan."""
    from fastdllm.tasks.plan import write_plan
    from fastdllm.tasks.planning import PlanOptions, make_plan
    from fastdllm.tasks.task_source import TaskSource

    def plan(task: str = "sums", **options: Any) -> Any:
        values = {"sums": 3, "choices": 6}
        made = make_plan(
            tokenizer,
            PlanOptions(
                **{
                    "task": TaskSource.named(task),
                    "limit": None,
                    "chunk_size": values.get(task, 4),
                    "num_fewshot": None,
                    "apply_chat_template": True,
                    "max_positions": 4096,
                    "vocab_size": 256,
                    **options,
                }
            ),
        )
        write_plan(project / "results/_plans" / task, made, made_from="{}\n")
        return made

    return plan


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[str]]]:
    """The processes that a test starts: those that it leaves behind, by a failure, are killed."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()  # also one that is frozen
        process.communicate()


def start_fastdllm(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """Start `fastdllm ...` as a process of its own, with one thread."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "fastdllm", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def silent() -> Any:
    """A display that shows nothing, and remembers its notes."""

    class Silent:
        def __init__(self) -> None:
            self.notes: list[str] = []

        def show(self, numbers: object) -> None: ...

        def note(self, text: str) -> None:
            self.notes.append(text)

        def close(self, numbers: object) -> None: ...

    return Silent()


@pytest.fixture
def a_summary() -> Any:
    """A made-up generation run over five items on a CPU."""
    from fastdllm.records import summary as s

    return s.Summary(
        experiment="00_baseline",
        task="word_problems",
        config="k1_first",
        timestamp="2026-01-01T00:00:00+00:00",
        fingerprint="f" * 64,
        decides={"decoding.reuse_k": 1, "decoding.layer_subset": None},
        accuracy=0.8,
        metrics=[
            s.Metric(
                metric="exact_match",
                filter="number",
                value=0.8,
                interval=(0.3755, 0.9638),
                interval_method="wilson",
                n=5,
                higher_is_better=True,
                primary=True,
            )
        ],
        items=s.Items(n=5, correct_bits=s.pack_bits([True, True, False, True, True])),
        throughput=s.Throughput(tokens_generated=1000, total_time_s=0.81, tokens_per_s=1234.5),
        tokens_per_forward=3.5,
        passes=s.Passes(
            prefill=5,
            full_block=20,
            sub_block=30,
            commit=5,
            reused=10,
            layer_forwards_computed=300,
            layer_forwards_skipped=100,
        ),
        latency_s=s.Latency(p50=0.4, p95=0.6),
        truncation_rate=0.0,
        peak_memory=s.PeakMemory(gib=0.5, kind="process_resident"),
        load_time_s=0.2,
        warm_up_s=0.1,
        resumed=False,
        dtype="float32",
        hardware=[s.Hardware(device="cpu", name="a CPU", threads=1)],
        git=s.Git(commit="c" * 40, dirty=False),
        environment={"python": "3.11.7"},
        model_args={"model_path": "models/tiny"},
        eval_params={"n_items": 5, "n_requests": 5, "chunk_size": 64, "batch_size": 32},
    )

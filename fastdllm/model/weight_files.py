"""The weights in a checkpoint's files: checked by their headers, then each read when it is needed.

Files are read, not mapped: a model goes on after its files are deleted, and one that is cut off
while it is read is an error, not the end of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from fastdllm.common.errors import UserError
from fastdllm.model.checkpoint import WEIGHT_INDEX, read_header, weight_files, weight_map
from fastdllm.model.config import ModelConfig

# The tensors with a row for each token.
VOCABULARY = HEAD, EMBEDDING = ("lm_head.weight", "model.embed_tokens.weight")

# As they are named in a file's header.
STORED = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F64": torch.float64,
}
# Of a weight, so many numbers are read at a time: little memory, and in a processor's cache until
# they are checked and converted.
NUMBERS_AT_A_TIME = 2**22

# Training leaves no zeros in this many places of a row side by side. A hole of 4 KB, a page of a
# file, holds at least one part of this length of a row, in two bytes each.
ZEROS_IN_A_ROW = 1024
# Nor so many rows side by side; a single one may be that of a neuron that died.
ROWS_OF_A_HOLE = 4


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a weight lies: from byte `start` of an open file."""

    file: Path
    stream: FileIO
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightFiles:
    """The open weight files of a checkpoint, and what lies in them: `stored`, by name.

    Raises:
        UserError: a file is missing, broken or quantized, or contradicts the index.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored: dict[str, Stored] = {}
        placed = weight_map(folder)
        with ExitStack() as opened:
            for file in weight_files(folder):
                stream = opened.enter_context(_opened(file))
                for name, found in _stored_in(file, stream):
                    if placed is not None and placed.get(name) != file.name:
                        raise UserError(
                            f"{folder / WEIGHT_INDEX}: places {name} in "
                            f"{placed.get(name, 'no file')}, but it is in {file.name}; fetch the "
                            "checkpoint again"
                        )
                    if name in self.stored:
                        raise UserError(
                            f"{file}: tensor {name} is also in {self.stored[name].file.name}; keep "
                            "one of the two files"
                        )
                    self.stored[name] = found
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.close()

    def parts(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the rows of a weight, some at a time: the number of the first, and the rows.

        They are as stored, [rows, ...], and valid until the next ones are read.

        Raises:
            UserError: the file ends too early, or cannot be read.
        """
        found = self.stored[name]
        of_row = math.prod(found.shape[1:])
        step = max(NUMBERS_AT_A_TIME // max(of_row, 1), 1)
        buffer = torch.empty(min(step, found.shape[0]) * of_row, dtype=found.dtype)
        for first in range(0, found.shape[0], step):
            count = min(step, found.shape[0] - first)
            part = buffer[: count * of_row]
            _read(found, first * of_row, part)
            yield first, part.view(count, *found.shape[1:])

    def has_other_head(self) -> bool:
        """Whether there is a head that is not the embedding."""
        if not self.stored.keys() >= set(VOCABULARY):
            return False
        head, embedding = (self.stored[name] for name in VOCABULARY)
        if head.shape != embedding.shape:
            return True
        pairs = zip(self.parts(HEAD), self.parts(EMBEDDING), strict=True)
        return not all(torch.equal(one.double(), two.double()) for (_, one), (_, two) in pairs)


class FileWeights:
    """`Weights` of a model on `device` in `dtype`, from open files.

    expected: the shape of each weight of the model.

    Raises:
        UserError: a weight is missing, has another shape, or is none of this model.
    """

    def __init__(
        self,
        files: WeightFiles,
        config: ModelConfig,
        expected: Mapping[str, Sequence[int]],
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config, self.device, self.dtype = config, device, dtype
        self._files, self._expected = files, expected
        for name, found in files.stored.items():
            # A tied head repeats the embedding, and inverse frequencies are computed.
            if name not in expected and (name == HEAD or name.endswith("rotary_emb.inv_freq")):
                continue
            if name not in expected:
                raise UserError(
                    f"{found.file}: unexpected tensor {name}; config.json describes another model"
                )
            if found.shape != tuple(expected[name]):
                raise UserError(
                    f"{found.file}: tensor {name} has shape {list(found.shape)}, "
                    f"but config.json says {list(expected[name])}"
                )
        missing = sorted(set(expected) - set(files.stored))
        if missing:
            raise UserError(
                f"{files.folder}: tensor {missing[0]} is missing from the checkpoint"
                + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
            )

    def shape(self, name: str) -> Sequence[int]:
        """Return the shape of a weight."""
        return self._expected[name]

    def write(self, name: str, out: Tensor) -> None:
        """Read a weight into `out`.

        Raises:
            UserError: the file ends too early, or parts of the weight are only zeros.
        """
        zeros = ZeroRows(name, rows=out.shape[0] if out.dim() > 1 else 1)
        for first, part in self._files.parts(name):
            out[first : first + len(part)].copy_(part)
            zeros.look_at(part if part.dim() > 1 else part[None], first)
        if count := zeros.of_holes():
            raise UserError(
                f"{self._files.stored[name].file}: tensor {name} holds only zeros in {count} "
                "row(s), or in long parts of them, as after an interrupted download; fetch it "
                "again (rows that were pruned are not supported)"
            )


class ZeroRows:
    """The rows of a weight that are zero, whole or in a long part; of a vector, all is one row."""

    def __init__(self, name: str, *, rows: int) -> None:
        self._name, self._rows = name, rows
        self._whole: list[int] = []
        self._in_part = 0

    def look_at(self, rows: Tensor, first: int) -> None:
        """Look at `rows` [n, width], the first of which is row `first` of the weight."""
        # The maximum is many times faster than asking for zeros, which few rows need then; of two
        # bytes as integers faster still, where that of zeros, 0 or -0, is not positive either.
        bits = rows.view(torch.int16) if rows.dtype.itemsize == 2 else rows
        count = -(-rows.shape[1] // ZEROS_IN_A_ROW)
        peaks = torch.stack([part.amax(dim=1) for part in bits.tensor_split(count, dim=1)], dim=1)
        suspects = (peaks <= 0).any(dim=1).nonzero().flatten()
        if not len(suspects):
            return
        parts = rows[suspects].tensor_split(count, dim=1)
        zero = torch.stack([~part.any(dim=1) for part in parts], dim=1)  # [suspects, parts]
        is_whole = zero.all(dim=1)
        self._whole += (suspects[is_whole] + first).tolist()
        self._in_part += int((zero.any(dim=1) & ~is_whole).sum())

    def of_holes(self) -> int:
        """Count the rows that a hole in the file made zero.

        None of them are whole rows that stand alone, as those of neurons that died in training, or
        that are of embedding or head, as those of tokens that nobody uses; and whole biases: some
        models have none.
        """
        whole = self._whole
        pairs = zip(whole, whole[ROWS_OF_A_HOLE - 1 :], strict=False)
        has_run = any(last - first < ROWS_OF_A_HOLE for first, last in pairs)
        is_hole = (has_run and self._name not in VOCABULARY) or len(whole) == self._rows
        if is_hole and not self._name.endswith(".bias"):
            return self._in_part + len(whole)
        return self._in_part


def _opened(file: Path) -> FileIO:
    try:
        return file.open("rb", buffering=0)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _stored_in(file: Path, stream: FileIO) -> Iterator[tuple[str, Stored]]:
    try:
        header = read_header(stream)
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: not a whole safetensors file ({error}); fetch it again") from None
    for name, tensor in header.items():
        kind = STORED.get(tensor.dtype)
        if kind is None:
            raise UserError(
                f"{file}: tensor {name} holds {tensor.dtype}; quantized weights are not "
                "supported; give the model in bfloat16, float16 or float32"
            )
        if tensor.stop - tensor.start != math.prod(tensor.shape) * kind.itemsize:
            raise UserError(
                f"{file}: not a whole safetensors file ({name} has {tensor.stop - tensor.start} "
                f"bytes, which is not {list(tensor.shape)} {tensor.dtype}); fetch it again"
            )
        yield name, Stored(file, stream, tensor.start, tensor.shape, kind)


def _read(found: Stored, first: int, part: Tensor) -> None:
    """Fill `part` [n] with the numbers of a weight from number `first` on."""
    rest = memoryview(part.view(torch.uint8).numpy())  # type: ignore[arg-type]
    try:
        found.stream.seek(found.start + first * found.dtype.itemsize)
        while rest:
            count = found.stream.readinto(rest)
            if not count:
                raise UserError(f"{found.file}: ends while it is read; fetch it again")
            rest = rest[count:]
    except OSError as error:
        raise UserError(f"{found.file}: cannot be read ({error.strerror})") from None

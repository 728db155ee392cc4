"""A model as one file that runs without ktb: ONNX, or a torch.export program.

Inputs are named after the modalities. They are (1, C, H, W) float32 as the model takes them (normalised), and the
output is "logits" (1, K, H, W); or what sensors give, and the output is "mask" (H, W), class ids. What a program needs
to know besides, classes, colours, preparation, stands in the file's metadata. A file is only written when it answers as
the model does.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from ktb.data.arrays import Array
from ktb.errors import CheckpointError, ConfigError, first_line
from ktb.export.raw import RawModel
from ktb.models.layers.plain_or_fast import plain_forms
from ktb.models.segmentor import KTBSegmentor

STEP = 32
"""Height and width of a file with dynamic size are multiples of this."""

LARGEST = 4096
TOLERANCE = 1e-4
OPSET = 18
METADATA = "ktb"
"""Key of the JSON text in ONNX's metadata and in the extra files of a torch.export program."""

SHARE = 1e-3
"""Of pixels whose class may differ between a file that prepares its frames itself and ktb. Where two classes are all
but equally likely, the order of additions decides."""

_Run = Callable[[tuple[Tensor, ...]], Tensor]
_Compared = TypeVar("_Compared")


class _ByPosition(nn.Module):
    """The model with one argument per modality, as exporters want it.

    With a dynamic size the arguments are reshaped so that the tracer knows their sides as 32·n: all the sizes derived
    from them then divide without a remainder, and none of them is fixed.
    """

    def __init__(self, model: KTBSegmentor, *, dynamic: bool) -> None:
        super().__init__()
        self.model = model
        self.dynamic = dynamic

    def forward(self, *streams: Tensor) -> Tensor:
        if self.dynamic:
            streams = tuple(_in_steps(x) for x in streams)
        logits: Tensor = self.model(dict(zip(self.model.modalities, streams, strict=True)), side=False).logits
        return logits


def _in_steps(x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    rows, columns = h // STEP, w // STEP
    return x.reshape(b, c, rows, STEP, columns, STEP).reshape(b, c, rows * STEP, columns * STEP)


def export(model: KTBSegmentor, file: Path, size: tuple[int, int], *, dynamic: bool) -> list[tuple[str, float]]:
    """Write `model` as `file`, ONNX for .onnx and torch.export for .pt2.

    Args:
        model: in evaluation mode, float32, on the CPU. It is not changed; what its PEFT method can fold into the
            backbone is folded in the file.
        file: where to; what is there is replaced when all went well.
        size: height and width; with `dynamic` only the example that is traced.
        dynamic: any height and width that are multiples of 32, from 64 to 4096.

    Returns:
        what was compared, size → largest difference of logits.

    Raises:
        ConfigError: another suffix, a size that cannot be dynamic, onnx or onnxruntime missing.
        CheckpointError: the file would not give the model's logits, or can't be written; nothing is left behind.
    """
    if min(size) < 1:
        raise ConfigError(f"size {size[0]}x{size[1]}: expected at least 1x1")
    if dynamic and (any(n % STEP for n in size) or min(size) < 2 * STEP or max(size) > LARGEST):
        raise ConfigError(
            f"size {size[0]}x{size[1]}: with a dynamic size, height and width are multiples of {STEP} from "
            f"{2 * STEP} to {LARGEST}; other sizes can be exported as fixed ones"
        )
    return _write(
        file,
        _ByPosition(model.merged(), dynamic=dynamic),
        _inputs(model, size, 0),
        _metadata(model, size, dynamic=dynamic),
        lambda run: _compare(model, run, size, file, dynamic=dynamic),
        shapes=_dynamic_shapes(len(model.modalities)) if dynamic else None,
    )


def export_raw(
    raw: RawModel, file: Path, frames: Sequence[Mapping[str, Array]], expected: Callable[[Mapping[str, Array]], Array]
) -> float:
    """Write a model that takes what sensors give and answers with class ids, as `export` does.

    Args:
        raw: the model, in evaluation mode, float32, on the CPU.
        file: where to; what is there is replaced when all went well.
        frames: modality → array; on these the file is compared.
        expected: the class ids (H, W) of a frame.

    Returns:
        the share of pixels with another class id than expected, at most `SHARE`.

    Raises:
        ConfigError, CheckpointError: as `export`.
    """

    def compare(run: _Run) -> float:
        shares = []
        for frame in frames:
            arrays = tuple(torch.from_numpy(frame[name]) for name in raw.sensors)
            shares.append(float((_answer(run, arrays, file, "a frame").numpy() != expected(frame)).mean()))
        if not max(shares) <= SHARE:
            raise CheckpointError(
                f"{file}: not written: {max(shares):.2%} of a frame's pixels get another class than from ktb itself "
                f"(at most {SHARE:.1%})"
            )
        return float(np.mean(shares))

    example = tuple(torch.from_numpy(frames[0][name]) for name in raw.sensors)
    about = {**_about(raw.model), **raw.described(), "size": list(raw.size)}
    return _write(file, raw, example, about, compare)


def _write(
    file: Path,
    module: nn.Module,
    example: tuple[Tensor, ...],
    metadata: Mapping[str, Any],
    compare: Callable[[_Run], _Compared],
    *,
    shapes: Any = None,
) -> _Compared:
    """Trace, write next to `file`, compare, and only then put it in its place."""
    kinds = {".onnx": _onnx, ".pt2": _program}
    if file.suffix not in kinds:
        raise ConfigError(f"{file}: expected a file called .onnx (ONNX) or .pt2 (torch.export)")
    if file.suffix == ".onnx":
        require_onnx()
    with new_file(file) as partial, _quiet():
        run = kinds[file.suffix](_traced(module, example, shapes), partial, metadata)
        return compare(run)


def require_onnx() -> None:
    """Check that what ONNX needs is installed.

    Raises:
        ConfigError: something is not.
    """
    if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]:
        raise ConfigError(f"{', '.join(missing)} not installed, which ONNX needs: pip install 'ktb[export]'")


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """A path to write to, in a folder of its own; what is there takes the place of `file` when the block ends well.

    Args:
        file: where to.

    Raises:
        CheckpointError: nothing can be written there.
    """
    if file.is_dir() or not file.parent.is_dir():
        raise CheckpointError(f"{file}: can't be written: " + ("it is a folder" if file.is_dir() else "no such folder"))
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
            partial = Path(folder) / file.name
            yield partial
            shutil.move(partial, file)
    except OSError as error:
        raise CheckpointError(f"{file}: can't be written ({error.strerror})") from None


def _inputs(model: KTBSegmentor, size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, c, *size, generator=generator) for c in model.config["modalities"].values())


def _dynamic_shapes(count: int) -> Any:
    sides = {
        2 + i: STEP * torch.export.Dim(f"{name}_{STEP}", min=2, max=LARGEST // STEP) for i, name in enumerate("hw")
    }
    return {"streams": tuple(dict(sides) for _ in range(count))}


def _traced(module: nn.Module, example: tuple[Tensor, ...], shapes: Any) -> torch.export.ExportedProgram:
    with torch.no_grad(), _sizes_may_be_one(), _sizes_of_timm(), plain_forms():
        return torch.export.export(module.eval(), example, dynamic_shapes=shapes)


@contextmanager
def _sizes_may_be_one() -> Iterator[None]:
    """Let the tracer decide nothing by the sizes of the example, such as whether a view happens to be contiguous."""
    from torch.fx.experimental import _config

    before = _config.backed_size_oblivious
    _config.backed_size_oblivious = True
    try:
        yield
    finally:
        _config.backed_size_oblivious = before


@contextmanager
def _sizes_of_timm() -> Iterator[None]:
    """Let timm compute with sizes in a way that the tracer can follow, with the same results.

    Rotary embeddings of DINOv3 take `float(size)`, which would make the example's size a constant of the file. Padding
    "same", as of EfficientNet, rounds a quotient, over which the tracer takes many minutes; in whole numbers it sees at
    once that the sizes divide.
    """
    from timm.layers import padding, pos_embed_sincos

    def same(x: int, kernel_size: int, stride: int, dilation: int) -> int:
        return max((-(-x // stride) - 1) * stride + (kernel_size - 1) * dilation + 1 - x, 0)

    with (
        patch.object(padding, "get_same_padding", same),
        patch.object(pos_embed_sincos, "float", torch.sym_float, create=True),
    ):
        yield


def _onnx(program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> _Run:
    names, output = list(metadata["inputs"]), metadata["output"]["name"]
    converted = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=names, output_names=[output], verbose=False
    )
    assert converted is not None
    converted.model.metadata_props[METADATA] = json.dumps(metadata)
    converted.save(file, external_data=False)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised as well
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run([output], arrays)[0])

    return run


def _program(program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> _Run:
    content = io.BytesIO()  # on a full disk torch.export.save itself ends the whole process
    torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata)})
    file.write_bytes(content.getbuffer())
    # Guards say for which sizes the trace's strides hold, not for which its numbers do; those are compared.
    loaded = torch.export.load(file).module(check_guards=False)

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            answer: Tensor = loaded(*inputs)
        return answer

    return run


def _compare(
    model: KTBSegmentor, run: _Run, size: tuple[int, int], file: Path, *, dynamic: bool
) -> list[tuple[str, float]]:
    """Three sizes, or three draws of the one size; raises where the logits differ."""
    sizes = _other_sizes(size) if dynamic else [size] * 3
    compared = []
    for seed, (h, w) in enumerate(sizes, start=1):
        inputs = _inputs(model, (h, w), seed)
        with torch.no_grad():
            expected = model(dict(zip(model.modalities, inputs, strict=True)), side=False).logits
        found = _answer(run, inputs, file, f"{h}x{w}")
        same = found.shape == expected.shape
        difference = float((found - expected).abs().max()) if same else float("inf")
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{file}: not written: at {h}x{w} its logits differ from the model's by {difference:.1e} (at most "
                f"{TOLERANCE:.0e})"
            )
        compared.append((f"{h}x{w}", difference))
    return compared


def _answer(run: _Run, inputs: tuple[Tensor, ...], file: Path, what: str) -> Tensor:
    try:
        return run(inputs)
    except Exception as error:  # the runtimes raise kinds of their own
        raise CheckpointError(f"{file}: not written: it fails at {what} ({first_line(error)})") from None


def _other_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The size itself, a smaller and a flatter one."""
    h, w = size
    smaller = tuple(max(2, n // STEP // 2) * STEP for n in size)
    return [(h, w), (smaller[0], smaller[1]), (max(2 * STEP, h - STEP), min(LARGEST, w + STEP))]


def _metadata(model: KTBSegmentor, size: tuple[int, int], *, dynamic: bool) -> dict[str, Any]:
    height_width: Any = {"multiple_of": STEP, "min": 2 * STEP, "max": LARGEST} if dynamic else list(size)
    return {
        **_about(model),
        "inputs": {m: {"channels": c} for m, c in model.config["modalities"].items()},
        "output": {"name": "logits"},
        "size": height_width,
    }


def _about(model: KTBSegmentor) -> dict[str, Any]:
    """What a program has to know of any file of a model."""
    told = ("dataset", "classes", "palette", "modalities", "preparation")
    return {"num_classes": model.num_classes, **{k: model.about[k] for k in told if k in model.about}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about their own insides; what matters is compared afterwards."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels: Sequence[int] = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

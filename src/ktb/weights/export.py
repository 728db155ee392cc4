"""A model as one file that runs without ktb: ONNX, or a torch.export program.

Inputs are named after the modalities, (1, C, H, W) float32 as the model takes them (normalised); the output is
"logits" (1, K, H, W). What a program needs to know besides, classes, colours, normalisation, stands in the file's
metadata. A file is only written when it gives the model's own logits on random inputs.
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
from typing import Any

import torch
from torch import Tensor, nn

from ktb.errors import CheckpointError, ConfigError, first_line
from ktb.models.layers.forms import plain_forms
from ktb.models.segmentor import KTBSegmentor

STEP = 32
"""Height and width of a file with dynamic size are multiples of this."""

LARGEST = 4096
TOLERANCE = 1e-4
OPSET = 18
METADATA = "ktb"
"""Key of the JSON text in ONNX's metadata and in the extra files of a torch.export program."""

_Run = Callable[[tuple[Tensor, ...]], Tensor]


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
        model: in evaluation mode, float32, on the CPU.
        file: where to; what is there is replaced when all went well.
        size: height and width; with `dynamic` only the example that is traced.
        dynamic: any height and width that are multiples of 32, from 64 to 4096.

    Returns:
        what was compared, size → largest difference of logits.

    Raises:
        ConfigError: another suffix, a size that cannot be dynamic, onnx or onnxruntime missing.
        CheckpointError: the file would not give the model's logits, or can't be written; nothing is left behind.
    """
    kinds = {".onnx": _onnx, ".pt2": _program}
    if file.suffix not in kinds:
        raise ConfigError(f"{file}: expected a file called .onnx (ONNX) or .pt2 (torch.export)")
    if min(size) < 1:
        raise ConfigError(f"size {size[0]}x{size[1]}: expected at least 1x1")
    if dynamic and (any(n % STEP for n in size) or min(size) < 2 * STEP or max(size) > LARGEST):
        raise ConfigError(
            f"size {size[0]}x{size[1]}: with a dynamic size, height and width are multiples of {STEP} from "
            f"{2 * STEP} to {LARGEST}; other sizes can be exported as fixed ones"
        )
    if file.suffix == ".onnx" and (missing := [n for n in ("onnx", "onnxscript", "onnxruntime") if not find_spec(n)]):
        raise ConfigError(f"{', '.join(missing)} not installed, which ONNX needs: pip install 'ktb[export]'")
    if file.is_dir() or not file.parent.is_dir():
        raise CheckpointError(f"{file}: can't be written: " + ("it is a folder" if file.is_dir() else "no such folder"))
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder, _quiet():
        partial = Path(folder) / file.name
        program = _traced(model, _inputs(model, size, 0), dynamic=dynamic)
        try:
            run = kinds[file.suffix](program, partial, _metadata(model, size, dynamic=dynamic))
            compared = _compare(model, run, size, file, dynamic=dynamic)
            shutil.move(partial, file)
        except OSError as error:
            raise CheckpointError(f"{file}: can't be written ({error.strerror})") from None
    return compared


def _inputs(model: KTBSegmentor, size: tuple[int, int], seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, c, *size, generator=generator) for c in model.config["modalities"].values())


def _traced(model: KTBSegmentor, example: tuple[Tensor, ...], *, dynamic: bool) -> torch.export.ExportedProgram:
    shapes: Any = None
    if dynamic:
        least, most = 2, LARGEST // STEP
        sides = {2 + i: STEP * torch.export.Dim(f"{name}_{STEP}", min=least, max=most) for i, name in enumerate("hw")}
        shapes = {"streams": tuple(dict(sides) for _ in example)}
    with torch.no_grad(), _sizes_may_be_one(), plain_forms():
        return torch.export.export(_ByPosition(model, dynamic=dynamic).eval(), example, dynamic_shapes=shapes)


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


def _onnx(program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> _Run:
    names = list(metadata["inputs"])
    converted = torch.onnx.export(
        program, dynamo=True, opset_version=OPSET, input_names=names, output_names=["logits"], verbose=False
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
        return torch.from_numpy(session.run(["logits"], arrays)[0])

    return run


def _program(program: torch.export.ExportedProgram, file: Path, metadata: Mapping[str, Any]) -> _Run:
    content = io.BytesIO()  # on a full disk torch.export.save itself ends the whole process
    torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata)})
    file.write_bytes(content.getbuffer())
    # Guards say for which sizes the trace's strides hold, not for which its numbers do; those are compared.
    loaded = torch.export.load(file).module(check_guards=False)

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = loaded(*inputs)
        return logits

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
        try:
            found = run(inputs)
        except Exception as error:  # the runtimes raise kinds of their own
            raise CheckpointError(f"{file}: not written: it fails at {h}x{w} ({first_line(error)})") from None
        same = found.shape == expected.shape
        difference = float((found - expected).abs().max()) if same else float("inf")
        if not difference <= TOLERANCE:
            raise CheckpointError(
                f"{file}: not written: at {h}x{w} its logits differ from the model's by {difference:.1e} (at most "
                f"{TOLERANCE:.0e})"
            )
        compared.append((f"{h}x{w}", difference))
    return compared


def _other_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    """The size itself, a smaller and a flatter one."""
    h, w = size
    smaller = tuple(max(2, n // STEP // 2) * STEP for n in size)
    return [(h, w), (smaller[0], smaller[1]), (max(2 * STEP, h - STEP), min(LARGEST, w + STEP))]


def _metadata(model: KTBSegmentor, size: tuple[int, int], *, dynamic: bool) -> dict[str, Any]:
    about = model.about
    height_width: Any = {"multiple_of": STEP, "min": 2 * STEP, "max": LARGEST} if dynamic else list(size)
    return {
        "inputs": {m: {"channels": c} for m, c in model.config["modalities"].items()},
        "size": height_width,
        "num_classes": model.num_classes,
        **{k: about[k] for k in ("dataset", "classes", "palette", "modalities", "preparation") if k in about},
    }


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

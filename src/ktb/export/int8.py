"""Static quantisation of an ONNX file: weights and activations of its heavy operations as 8-bit numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ktb.data.arrays import Array

HEAVY = ("Conv", "MatMul", "Gemm")
"""What is computed with 8-bit numbers where one side is a weight. Attention's own products, softmax and normalisation
stay float32: docs/models.md#export says what was measured."""


def quantise(source: Path, target: Path, frames: Iterable[Mapping[str, Array]]) -> int:
    """Write a file's int8 form.

    Weights are signed with a scale per output channel, activations unsigned with the range that they have over the
    frames.

    Args:
        source: a float32 file.
        target: where to; in a folder where a file beside it is in nobody's way.
        frames: inputs of the file, such as it will get.

    Returns:
        how many operations are quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    folded = target.with_name(f"folded-{target.name}")
    with _quiet():
        quant_pre_process(source, folded, skip_symbolic_shape=True)  # batch norms become part of their convolutions
        graph = onnx.load(folded).graph
        weights = {tensor.name for tensor in graph.initializer}
        heavy = [n.name for n in graph.node if n.op_type in HEAVY and not weights.isdisjoint(n.input[:2])]
        quantize_static(
            folded,
            target,
            _reader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(HEAVY),
            nodes_to_quantize=heavy,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    small = onnx.load(target)
    del small.metadata_props[:]
    small.metadata_props.extend(onnx.load(source, load_external_data=False).metadata_props)
    onnx.save(small, target)
    folded.unlink()
    return len(heavy)


def _reader(frames: Iterable[Mapping[str, Array]]) -> object:
    """The frames in the form in which ONNX Runtime asks for them: one by one, then None."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Frames(CalibrationDataReader):
        def __init__(self) -> None:
            self._frames = iter(frames)

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self._frames, None)

    return Frames()


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime advises on its own steps by the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

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

CLIPPING = ("Clip", "Relu")
"""What costs nothing after these: 8-bit numbers are clipped to their range anyway. As float32 numbers of their own they
would have to be converted twice."""

REARRANGE = ("Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""What makes weights of stored tensors, those of several modalities one tensor for example, and nothing larger."""


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

    folded = target.with_name(f"folded-{target.name}")
    with _quiet():
        _prepare(source, folded)
        graph = onnx.load(folded).graph
        weights = {tensor.name for tensor in graph.initializer}
        heavy = [n for n in graph.node if n.op_type in HEAVY and not weights.isdisjoint(n.input[:2])]
        results = {n.output[0] for n in heavy}
        clipping = [n for n in graph.node if n.op_type in CLIPPING and n.input[0] in results]
        quantize_static(
            folded,
            target,
            _reader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=[*HEAVY, *CLIPPING],
            nodes_to_quantize=[n.name for n in heavy + clipping],
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


def _prepare(source: Path, target: Path) -> None:
    """Make all weights constants, batch norms part of their convolutions, and the shapes of all tensors known.

    ONNX Runtime's folding of constants is left out: it writes tables that a few operations expand, such as a window's
    distances for all windows, in full. A session does so in memory when it opens the file.
    """
    import onnx
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxscript.optimizer import fold_constants

    model = onnx.load(source)
    largest = sum(tensor.ByteSize() for tensor in model.graph.initializer)
    fold_constants(
        model,
        input_size_limit=largest,
        output_size_limit=largest,
        should_fold=lambda node: node.op_type in REARRANGE,
    )
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
    )
    quant_pre_process(target, target, skip_optimization=True, skip_symbolic_shape=True)


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

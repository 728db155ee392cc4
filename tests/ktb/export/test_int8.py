"""What quantisation writes, operation by operation; the scores of whole files are in jobs/test_device_files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ktb.export.file import export
from ktb.export.int8 import CLIPPING, HEAVY, quantise
from ktb.export.session import OnnxFile
from ktb.models.segmentor import KTBSegmentor
from tests.ktb.export.test_file import small
from tests.ktb.models.backbones.members import member

pytestmark = pytest.mark.slow


def int8_of(model: KTBSegmentor, folder: Path) -> tuple[onnx.GraphProto, onnx.GraphProto]:
    """The graphs of a model's file before and after; with int8 its logits are close."""
    source, target = folder / "float32.onnx", folder / "int8.onnx"
    export(model, source, (96, 160), dynamic=False)
    exact = OnnxFile(source)
    frames = [exact.example(None, seed) for seed in range(3)]
    assert quantise(source, target, frames) > 20
    expected, found = exact(frames[0]), OnnxFile(target)(frames[0])
    assert 0 < np.abs(found - expected).mean() < 0.2 * expected.std()
    return onnx.load(source).graph, onnx.load(target).graph


def float_constants(graph: onnx.GraphProto) -> list[int]:
    """Bytes of the tensors stored in float32, but those of a few numbers."""
    stored = [numpy_helper.to_array(t).nbytes for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    return [size for size in stored if size > 2048]


def test_no_table_is_written_in_full(tmp_path: Path) -> None:
    """A window's distances and masks are small; of all windows together they are larger than the weights."""
    before, after = map(float_constants, int8_of(small(), tmp_path))
    assert set(after) <= set(before)
    assert sum(after) < 0.6 * sum(before)


def test_weights_of_several_modalities_are_quantised(tmp_path: Path) -> None:
    """They are stored apart, and multiplied as one tensor."""
    _, after = int8_of(small(), tmp_path)
    stored = {t.name for t in after.initializer}
    made_by = {name: node for node in after.node for name in node.output}
    quantised = 0
    for node in after.node:
        if node.op_type in HEAVY and (weight := made_by.get(node.input[1])) is not None:
            quantised += weight.op_type == "DequantizeLinear" and weight.input[0] in stored
            assert weight.op_type not in ("Concat", "Unsqueeze")
    assert quantised > 20


def test_clipping_takes_no_conversions(tmp_path: Path) -> None:
    """Of EfficientNet-Lite's blocks: an 8-bit convolution hands its result on as it is."""
    model = KTBSegmentor(member("tf_efficientnet_lite0"), {"rgb": 3}, 4, head={"width": 8}, side_head=None).eval()
    before, after = int8_of(model, tmp_path)
    read_by = {name: node for node in before.node for name in node.input}
    clipped = [n for n in before.node if n.op_type == "Conv" and read_by[n.output[0]].op_type in CLIPPING]
    assert len(clipped) > 20
    made_by = {name: node for node in after.node for name in node.output}
    for node in after.node:
        if node.op_type == "QuantizeLinear" and (source := made_by.get(node.input[0])) is not None:
            assert source.op_type not in CLIPPING

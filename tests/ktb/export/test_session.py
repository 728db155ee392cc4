"""ONNX files that ktb has not written are looked at, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ktb.cli.model import main
from ktb.errors import CheckpointError, ConfigError
from ktb.export.session import OnnxFile


def foreign(path: Path, shape: list[int | str], kind: int = TensorProto.FLOAT, told: str | None = None) -> Path:
    """A file that gives back what it gets."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if told is not None:
        helper.set_model_props(model, {"ktb": told})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (["N", 3, "H", "W"], (1, 3, 40, 56)),
        ([2, 3, 40, "W"], (2, 3, 40, 56)),
        (["N", "C", "H", "W"], (1, 1, 40, 56)),
        (["H", "W"], (40, 56)),
        ([2, 3, 40, 56], (2, 3, 40, 56)),
    ],
)
def test_a_file_of_another_program_takes_what_its_shape_says(
    shape: list[int | str], expected: tuple[int, ...], tmp_path: Path
) -> None:
    file = OnnxFile(foreign(tmp_path / "a.onnx", shape))
    example = file.example((40, 56))
    assert example["x"].shape == expected
    np.testing.assert_array_equal(file(example), example["x"])


@pytest.mark.parametrize("told", ["{", "[1]", "3", "null", '"text"'])
def test_what_another_program_says_of_it_is_left_alone(told: str, tmp_path: Path) -> None:
    file = OnnxFile(foreign(tmp_path / "a.onnx", [4, 4], told=told))
    assert file.about == {}
    assert not file.takes_frames


def test_a_size_is_asked_for_and_compared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes any size; say which with --size HxW"):
        OnnxFile(foreign(tmp_path / "a.onnx", ["N", 3, "H", "W"])).example(None)
    with pytest.raises(ConfigError, match=r"--size 40x56: .* takes x as \[1, 3, 40, 40\] only"):
        OnnxFile(foreign(tmp_path / "b.onnx", [1, 3, 40, 40])).example((40, 56))


def test_what_cannot_be_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = foreign(tmp_path / "whole.onnx", [64, 64]).read_bytes()
    for name, content, message in (
        ("cut.onnx", whole[:-40], "not a file that ONNX Runtime can run"),
        ("text.onnx", b"version https://git-lfs", "not a file that ONNX Runtime can run"),
        ("empty.onnx", b"", "not a file that ONNX Runtime can run"),
    ):
        (tmp_path / name).write_bytes(content)
        assert main(["info", "--onnx", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1, said
    whole_numbers = OnnxFile(foreign(tmp_path / "int.onnx", [4, 4], TensorProto.INT64))
    with pytest.raises(CheckpointError, match="cannot be run"):
        whole_numbers(whole_numbers.example(None))
    for folder in (tmp_path, tmp_path / "nothing.onnx"):
        with pytest.raises(CheckpointError, match="no such file"):
            OnnxFile(folder)

"""An ONNX file in ONNX Runtime: run it, time it, look at what is in it."""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Array, Size
from ktb.errors import CheckpointError, ConfigError, first_line
from ktb.export.file import METADATA, require_onnx

_TYPES: dict[str, type[Any]] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16}


class OnnxFile:
    """An exported model.

    Args:
        path: the file.
        threads: that compute; None: one per core.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: it cannot be read.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        require_onnx()
        import onnxruntime

        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; check the path")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        if threads is not None:
            options.intra_op_num_threads = threads
        self.path = path
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises kinds of its own
            raise CheckpointError(f"{path}: not a file that ONNX Runtime can run ({first_line(error)})") from None
        self.inputs = {i.name: (_TYPES.get(i.type, np.float32), list(i.shape)) for i in self._session.get_inputs()}
        self.outputs = {o.name: (o.type, list(o.shape)) for o in self._session.get_outputs()}
        told = self._session.get_modelmeta().custom_metadata_map.get(METADATA)
        self.about = _told(told)

    @property
    def takes_frames(self) -> bool:
        """Whether it takes what sensors give, and answers with class ids."""
        return bool(self.about.get("prepared_in_graph"))

    def __call__(self, arrays: Mapping[str, Array]) -> Array:
        """The first output for some arrays, one per input.

        Raises:
            CheckpointError: it fails.
        """
        try:
            found: Array = self._session.run(None, dict(arrays))[0]
        except Exception as error:  # as above
            raise CheckpointError(f"{self.path}: cannot be run ({first_line(error)})") from None
        return found

    def example(self, size: Size | None, seed: int = 0) -> dict[str, Array]:
        """Random arrays for every input.

        Args:
            size: (height, width) of a file that takes any.
            seed: of the numbers.

        Raises:
            ConfigError: the size is missing, or another than the file's.
        """
        rng = np.random.default_rng(seed)
        arrays: dict[str, Array] = {}
        for name, (kind, shape) in self.inputs.items():
            free = [axis for axis in shape if not isinstance(axis, int)]
            if free and size is None:
                raise ConfigError(f"{self.path}: takes any size; say which with --size HxW")
            sides = [*[1] * (len(shape) - 2), *(size or ())]  # also where the batch may have any number
            whole = [axis if isinstance(axis, int) else sides[place] for place, axis in enumerate(shape)]
            if size is not None and not free and list(size) != whole[-2:] and list(size) != whole[:2]:
                raise ConfigError(f"--size {size[0]}x{size[1]}: {self.path} takes {name} as {shape} only")
            if kind is np.float32:
                arrays[name] = rng.standard_normal(whole, dtype=np.float32)
            else:
                arrays[name] = rng.integers(0, np.iinfo(kind).max, whole, dtype=kind)
        return arrays

    def seconds(self, arrays: Mapping[str, Array], repeat: int) -> list[float]:
        """How long it takes, after one run that does not count."""
        self(arrays)
        found = []
        for _ in range(repeat):
            start = time.perf_counter()
            self(arrays)
            found.append(time.perf_counter() - start)
        return found


def _told(text: str | None) -> dict[str, Any]:
    """What a file says of itself; empty where it is not ktb that has written it."""
    try:
        told = json.loads(text or "{}")
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def interleaved(files: Mapping[str, OnnxFile], arrays: Mapping[str, Array], repeat: int) -> dict[str, float]:
    """Median seconds of several files that take turns, so that what else the machine does hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(repeat):
        for name, file in files.items():
            seconds[name] += file.seconds(arrays, 1)
    return {name: statistics.median(found) for name, found in seconds.items()}


def operations(path: Path) -> dict[str, tuple[int, int]]:
    """Kind of operation → how many there are in a file, and how many of them compute with 8-bit numbers."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    dequantised = {out for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    total: Counter[str] = Counter()
    small: Counter[str] = Counter()
    for node in graph.node:
        total[node.op_type] += 1
        small[node.op_type] += len(node.input) > 1 and all(name in dequantised for name in node.input[:2])
    return {kind: (number, small[kind]) for kind, number in total.most_common()}

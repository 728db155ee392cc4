"""A disk that fills up under every writer: one error that names the file, and nothing half-written."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from ktb.data.spec import DatasetSpec
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.hha import Camera
from ktb.data.tools.hha_files import HHAJob, convert_hha
from ktb.data.tools.prepare.conversion import Conversion, convert
from ktb.engine.callbacks.metrics_file import MetricsFile
from ktb.engine.callbacks.panel_drawing import Panel, write_panels
from ktb.engine.checkpoint_files import AtomicIO
from ktb.errors import KTBError
from ktb.export.file import export
from ktb.jobs.results import write_per_image
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.outputs import npz_file
from ktb.run_folder.files import write_json
from ktb.sweeps.folder import SweepFolder
from ktb.weights.bundle import save_bundle
from ktb.weights.files import save_tensors
from tests.ktb.slow import slow_unless

LIMIT = 2000
"""Bytes that fit on the disk."""


@contextmanager
def full() -> Iterator[None]:
    """As if the disk were full for any file beyond `LIMIT`: the system then says "File too large"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def model() -> KTBSegmentor:
    arch = SwinArch(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4)
    return KTBSegmentor(FrozenSwin(arch), {"rgb": 3, "depth": 3}, 2, head={"width": 8}, side_head={"width": 8}).eval()


def noise(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def probabilities(folder: Path) -> None:
    with npz_file(folder / "p.npz", "p", (64, 64, 4), "stamp") as file:
        file.write(bytes(2 * 64 * 64 * 4))


def panels(folder: Path) -> None:
    ids = np.zeros((64, 64), np.uint8)
    panel = Panel("a", {}, {}, {"rgb": noise(64, 64, 3)}, ids, ids, {})
    write_panels(folder, [("random", panel)], DatasetSpec("x", ("a", "b"), ((0, 0, 0), (9, 9, 9)), {}))


TENSORS = {"a": torch.zeros(10_000)}
WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda folder: write_json(folder / "result.json", {"a": "x" * 5000}),
    "table of images": lambda folder: write_per_image(folder, [{"id": "x" * 5000, "miou": 0.5}]),
    "metrics": lambda folder: _metrics(folder),
    "sweep": lambda folder: SweepFolder(folder).save("x" * 5000),
    "checkpoint": lambda folder: AtomicIO().save_checkpoint(TENSORS, folder / "last.ckpt"),
    "torch": lambda folder: save_tensors(TENSORS, folder / "x.pth"),
    "safetensors": lambda folder: save_tensors(TENSORS, folder / "x.safetensors"),
    "bundle": lambda folder: save_bundle(model(), folder / "bundle"),
    "torch.export": lambda folder: export(model(), folder / "x.pt2", (64, 64), dynamic=False),
    "fixture": lambda folder: make_fixture("mcubes", folder / "new", layout="16bit", size=(64, 64)),
    "probabilities": probabilities,
    "panels": panels,
}


def _metrics(folder: Path) -> None:
    file = MetricsFile(folder)
    file.log_metrics({"x" * 5000: 1.0}, 1)
    file.save()


@pytest.mark.parametrize("writer", slow_unless(lambda writer: writer != "torch.export", WRITERS))
def test_a_full_disk_is_an_error_that_names_the_file(writer: str, tmp_path: Path) -> None:
    with full(), pytest.raises((KTBError, OSError)) as caught:
        WRITERS[writer](tmp_path)
    error = caught.value
    assert "File too large" in str(error) or "No space left" in str(error)
    named = error.filename if isinstance(error, OSError) else str(error)
    assert str(tmp_path) in str(named)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


def test_a_picture_or_array_of_a_data_set_is_reported_as_failed(tmp_path: Path) -> None:
    jobs = {"a.png": noise(64, 64, 3), "b.npy": np.zeros((64, 64))}
    for name, content in jobs.items():
        with full():
            outcome = convert(Conversion(tmp_path, (name,), dict, {name: content}))
        assert outcome.state == "failed"
        assert outcome.message.startswith(f"{tmp_path / name}: ")
        assert "File too large" in outcome.message or "No space left" in outcome.message
    assert list(tmp_path.iterdir()) == []


def test_an_encoded_depth_map_is_reported_as_failed(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.random.default_rng(0).uniform(1000, 3000, (64, 64)))
    job = HHAJob(tmp_path / "d.npy", None, tmp_path / "out.png", 1e-3, Camera(60.0, 60.0, 32.0, 32.0, None))
    with full():
        outcome = convert_hha(job)
    assert outcome.state == "failed"
    assert outcome.message == f"{tmp_path / 'out.png'}: File too large"
    assert [file.name for file in tmp_path.iterdir()] == ["d.npy"]


def test_rows_that_no_longer_fit_leave_the_table_of_metrics_whole(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    for step in range(20):
        file.log_metrics({"loss": 0.5}, step)
    file.save()
    before = file.path.read_bytes()
    file.log_metrics({"loss": "x" * 5000}, 20)
    with full(), pytest.raises(KTBError, match="metrics.csv: can't be written"):
        file.save()
    assert file.path.read_bytes() == before

"""From files to masks in a folder: what the model is given, and at which size."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image

from ktb.cli import predict as predict_cli
from ktb.data.label_size import LabelSize, LabelSizes
from ktb.data.label_size import measure as measure_label_size
from ktb.data.samples import FileSamples
from ktb.data.sets.mcubes import MARGIN
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.jobs.build import build_data
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.folder import FolderPredictor, LoadedPicture
from ktb.predict.outputs import Outputs
from ktb.predict.pairing import PictureFiles
from ktb.predict.reading import PictureReader
from ktb.predict.tiled_model import TiledModel
from tests.ktb.data.test_label_size import data_set
from tests.ktb.jobs.saved import FIXTURE_CASES
from tests.ktb.jobs.test_train import configured


@pytest.mark.parametrize("short_side", [None, 32])
def test_pictures_are_resized_to_the_size_of_labels_as_in_training(tmp_path: Path, short_side: int | None) -> None:
    """The model is given what evaluation gives it, the result has the picture's own size."""
    data = data_set(tmp_path, [(20, 30), (20, 30)])
    rgb = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    for split in ("train", "val"):
        Image.fromarray(rgb).save(tmp_path / split / "rgb" / "0.png")
    data.short_side = short_side
    expected = data.dataset("val")[0]["inputs"]
    sizes = LabelSizes(rgb=LabelSize(scale=0.5), depth=LabelSize(scale=1.0))
    model = cast(KTBSegmentor, torch.nn.Identity())
    reader = PictureReader(TiledModel(model, data, short_side=short_side), label_sizes=sizes)
    work = FolderPredictor(reader, Outputs(tmp_path / "out", data.spec), {})
    files = {m: (tmp_path / "val" / m / "0.png",) for m in ("rgb", "depth")}
    loaded = work.load(PictureFiles("0", files), overwrite=False)
    assert isinstance(loaded, LoadedPicture), loaded
    for name, x in expected.items():
        assert torch.equal(loaded.read.inputs[name][0], x), name
    assert loaded.read.size == (40, 60)
    np.testing.assert_array_equal(loaded.read.backdrop, rgb)


@pytest.mark.parametrize(("name", "layout", "setting"), [c for c in FIXTURE_CASES if "unnormalised" not in c[2]])
def test_files_are_read_as_in_evaluation(name: str, layout: str, setting: str, tmp_path: Path) -> None:
    make_fixture(name, tmp_path / "data", layout=layout, counts=dict.fromkeys(FIXTURES[name][2], 1), size=(40, 56))
    streams = {"mcubes": "[rgb,aolp,dolp,nir]", "deliver": "[rgb,depth,event,lidar]"}.get(name)
    more = [f"modality.streams={streams}"] if streams else []
    settings = [f"dataset={name}", f"dataset.root={tmp_path / 'data'}", f"dataset.{setting}", *more]
    data = build_data(configured("train", settings))
    expected = data.dataset(data.spec.report_split)[0]["inputs"]
    samples = data._samples[data.spec.report_split]
    assert isinstance(samples, FileSamples)
    files = {m: tuple(samples.root / f for f in samples.entries[0].files[m]) for m in expected}
    model = TiledModel(cast(KTBSegmentor, torch.nn.Identity()), data, short_side=data.short_side)
    work = FolderPredictor(PictureReader(model), Outputs(tmp_path, data.spec), {})
    loaded = work.load(PictureFiles("x", files), overwrite=False)
    assert isinstance(loaded, LoadedPicture), loaded
    for modality, x in expected.items():
        found = loaded.read.inputs[modality][0]
        if name == "mcubes":  # training drops a margin at the left, and evaluates on a square
            y, left = ((n - min(x.shape[-2:])) // 2 for n in (found.shape[-2], found.shape[-1] - MARGIN))
            found = found[:, y : y + x.shape[-2], MARGIN + left : MARGIN + left + x.shape[-1]]
        assert torch.equal(found, x), modality


def tiny_model() -> KTBSegmentor:
    arch = SwinArch(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4), window_size=7)
    torch.manual_seed(0)
    return KTBSegmentor(FrozenSwin(arch), {"rgb": 3, "depth": 3}, 2, head={"width": 8}).eval()


def test_the_checkpoint_says_how_large_labels_were_or_a_line_says_that_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path / "data", [(80, 120)])
    model = tiny_model()
    monkeypatch.setattr(predict_cli, "_open", lambda arguments: (Path("x.ckpt"), {}, data, model))
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        TiledModel,
        "input_size",
        lambda self, size: seen.append(size) or size,  # type: ignore[func-returns-value]
    )
    folders = [f"--{m}={tmp_path / 'data/val' / m}" for m in ("rgb", "depth")]

    def call(out: str, *more: str) -> str:
        assert predict_cli.main(["x.ckpt", *folders, "--out", str(tmp_path / out), "--device", "cpu", *more]) == 0
        assert np.array(Image.open(tmp_path / out / "index/0.png")).shape == (40, 60)
        return capsys.readouterr().out

    line = "x.ckpt: does not say how large the labels were to which its training resized the pictures"
    assert line in call("old")
    assert seen.pop() == (40, 60)
    model.about["label_size"] = measure_label_size(data, "train")
    assert line not in call("new")
    assert seen.pop() == (80, 120)
    assert line not in call("native", "--short-side", "native")  # the user's word counts
    assert seen.pop() == (40, 60)

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
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.folder import FolderPredictor, LoadedPicture
from ktb.predict.outputs import Outputs
from ktb.predict.pairing import PictureFiles
from ktb.predict.predictor import Predictor
from tests.ktb.data.test_label_size import data_set


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
    work = FolderPredictor(
        Predictor(model, data, short_side=short_side), Outputs(tmp_path / "out", data.spec), {}, label_sizes=sizes
    )
    files = {m: (tmp_path / "val" / m / "0.png",) for m in ("rgb", "depth")}
    loaded = work.load(PictureFiles("0", files), overwrite=False)
    assert isinstance(loaded, LoadedPicture), loaded
    for name, x in expected.items():
        assert torch.equal(loaded.inputs[name][0], x), name
    assert loaded.size == (40, 60)
    np.testing.assert_array_equal(loaded.backdrop, rgb)


def tiny_model() -> KTBSegmentor:
    arch = SwinArch(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 4), window_size=7)
    torch.manual_seed(0)
    return KTBSegmentor(FrozenSwin(arch), {"rgb": 3, "depth": 3}, 2, head_dim=8).eval()


def test_the_checkpoint_says_how_large_labels_were_or_a_line_says_that_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path / "data", [(80, 120)])
    model = tiny_model()
    monkeypatch.setattr(predict_cli, "_open", lambda arguments: (Path("x.ckpt"), {}, data, model))
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        Predictor,
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

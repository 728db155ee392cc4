"""Models out of files: published checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ktb.errors import CheckpointError, ConfigError
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.parts import in_full
from ktb.models.segmentor import PARTS
from ktb.weights.backbone import load_backbone
from ktb.weights.checkpoint import KTBSegmentor, load_model, load_published
from ktb.weights.files import read_file
from ktb.weights.older import upgraded_config
from ktb.weights.tensor_names import (
    to_published,
)
from tests.ktb.reference import filled_state, load_json

ARCH = SwinArch(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in filled_state(load_json("mini.json")).items()}


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model_state_dict": s, "epoch": 3}])
def test_published_file_and_back(published: dict[str, Tensor], tmp_path: Path, wrap: object) -> None:
    file = tmp_path / "published.pth"
    index = {"backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": torch.zeros(36, 36)}
    torch.save(wrap({**published, **index}), file)  # type: ignore[operator]
    model = load_published(file, ("rgb", "thermal"))
    assert not model.training
    older = {"arch": {**ARCH.to_dict(), "mlp_ratio": 4.0}, "head_dim": 64, "side_head_dim": 32}
    described = upgraded_config({**older, "modalities": {"rgb": 3, "thermal": 3}, "num_classes": 7})
    assert {k: v if k not in PARTS else in_full(v) for k, v in described.items()} == model.config
    assert (model.config["head"]["width"], model.config["side_head"]["width"]) == (64, 32)
    assert model.config["backbone"] == FrozenSwin(ARCH).spec()
    back = to_published(model.state_dict(), ("rgb", "thermal"))
    assert back.keys() == published.keys()
    assert all(torch.equal(back[k], published[k]) for k in published)


def test_unknown_and_missing_names_are_listed(published: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"1 missing: decode_head\.linear_pred\.bias"):
        load_published({k: v for k, v in published.items() if k != "decode_head.linear_pred.bias"})
    with pytest.raises(CheckpointError, match=r"1 unknown: backbone\.surprise"):
        load_published({**published, "backbone.surprise": torch.zeros(1)})
    wrong = {**published, "backbone.MPGBlocks.1.U_fc1.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"prompts\.1\.up\.bias \(3,\) \(expected \(64,\)\)"):
        load_published(wrong)
    with pytest.raises(CheckpointError, match=r"expected a published checkpoint.*found names like a"):
        load_published({"a": torch.zeros(1)})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_wherever_they_come_from(
    published: dict[str, Tensor], tmp_path: Path, value: float
) -> None:
    """A published file, a bundle, a checkpoint of ours, a backbone; and none is written."""
    name = "decode_head.linear_pred.bias"
    spoilt = published[name].clone()
    spoilt[1] = value
    with pytest.raises(CheckpointError, match=r"holds weights that are NaN or infinite, head\.predict\.bias, as a"):
        load_published({**published, name: spoilt})
    model = load_published(published)
    model.save_pretrained(tmp_path / "bundle")
    tensors = load_file(tmp_path / "bundle" / "model.safetensors")
    with safe_open(tmp_path / "bundle" / "model.safetensors", "pt") as file:
        about = file.metadata()
    tensors["head.norm.running_var"][0] = value
    save_file(tensors, tmp_path / "bundle" / "model.safetensors", metadata=about)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: holds weights .*, head\.norm\.running_var, as"):
        load_model(tmp_path / "bundle")
    torch.save({"ktb": {}, "state_dict": {"model.a": torch.ones(2), "model.b": spoilt}}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: holds weights that are NaN or infinite, model\.b, as a"):
        read_file(tmp_path / "last.ckpt")
    backbone = {k: v for k, v in published.items() if k.startswith("backbone.")}
    backbone["backbone.stages.0.blocks.0.norm1.weight"] = torch.full((32,), value)
    torch.save(backbone, tmp_path / "swin.pth")
    with pytest.raises(CheckpointError, match=r"swin\.pth: holds weights .*, layers\.0\.blocks\.0\.norm1\.weight, as"):
        load_backbone(FrozenSwin(ARCH).spec(), str(tmp_path / "swin.pth"), name="swin")
    with torch.no_grad():
        model.head.predict.bias[0] = value
    with pytest.raises(CheckpointError, match=r"not written: the model: holds weights .*, head\.predict\.bias, as"):
        model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("value", [3, b"x", ["a"], ""])
def test_arguments_that_are_no_paths_are_one_line(value: object) -> None:
    for call in (
        lambda: load_model(value),  # type: ignore[arg-type]
        lambda: load_model("run", weights=value),  # type: ignore[arg-type]
        lambda: KTBSegmentor.from_pretrained(value),  # type: ignore[arg-type]
        lambda: load_published(value),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="expected a path|is empty"):
            call()
    with pytest.raises(ConfigError, match="^modalities=3: expected two names"):
        load_published({}, modalities=3)  # type: ignore[arg-type]

"""Base weights in every naming, and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from ktb.errors import CheckpointError
from ktb.models.backbones.base import Backbone
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.backbone import OPENMMLAB_SWIN_B, load_backbone
from ktb.weights.tensor_names import (
    backbone_to_timm,
    merging_to_openmmlab,
)

ARCH = SwinArch(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6)


def spec(arch: SwinArch) -> dict[str, Any]:
    """What a configuration says of such a Swin."""
    return {"_target_": "ktb.models.backbones.swin.FrozenSwin", **arch.to_dict()}


def timm_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    swin = SwinTransformer(
        img_size=96, embed_dim=32, depths=ARCH.depths, num_heads=ARCH.num_heads, window_size=6, num_classes=10,
        always_partition=True,
    )  # fmt: skip
    return swin.state_dict()


def microsoft_state() -> dict[str, Tensor]:
    """The naming of the original repository: patch merging at the end of the stage before, index buffers stored."""
    state = {}
    for k, v in timm_state().items():
        if ".downsample." in k:
            stage = int(k.split(".")[1])
            k = k.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        state[k.replace("head.fc.", "head.")] = v
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4, 36, 36)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(36, 36, dtype=torch.long)
    return state


def openmmlab_state() -> dict[str, Tensor]:
    state = {}
    for k, v in microsoft_state().items():
        if k.startswith(("head.", "norm.")) or "attn_mask" in k:
            continue
        if ".downsample." in k:
            v = merging_to_openmmlab(v)
        k = (
            k.replace("layers.", "stages.")
            .replace(".attn.", ".attn.w_msa.")
            .replace("patch_embed.proj", "patch_embed.projection")
        )
        k = k.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")
        state[f"backbone.{k}"] = v
    state["backbone.norm3.weight"] = torch.ones(256)
    return state


def transformers_state() -> dict[str, Tensor]:
    """SwinForImageClassification of Hugging Face: query, key and value apart, patch merging at the end of a stage."""
    parts = {
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    state = {}
    for k, v in microsoft_state().items():
        k = k.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        k = k.replace("patch_embed.norm", "embeddings.norm").replace("layers.", "encoder.layers.")
        for ours, theirs in parts.items():
            k = k.replace(f".{ours}.", f".{theirs}.")
        k = k.replace(".attn.relative", ".attention.self.relative")
        if ".attn.qkv." in k:
            for name, part in zip(("query", "key", "value"), v.chunk(3), strict=True):
                state["swin." + k.replace(".attn.qkv.", f".attention.self.{name}.")] = part
        elif k.startswith("head."):
            state[k.replace("head.", "classifier.")] = v
        elif "attn_mask" not in k:
            state[f"swin.{'layernorm.' + k[5:] if k.startswith('norm.') else k}"] = v
    return state


def swin_model_state() -> dict[str, Tensor]:
    """SwinModel alone has neither the prefix nor a classifier."""
    return {k.removeprefix("swin."): v for k, v in transformers_state().items() if not k.startswith("classifier")}


def segmentor_state() -> dict[str, Tensor]:
    """A model of ktb that holds its backbone, such as a run on random weights."""
    backbone = FrozenSwin(ARCH)
    backbone.load_state_dict({k: v for k, v in timm_state().items() if k.startswith(("patch_embed.", "layers."))})
    model = KTBSegmentor(backbone, ("rgb", "depth"), 3, head={"width": 16}, side_head={"width": 16})
    return {f"model.{k}": v for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    ("naming", "wrap"),
    [
        (timm_state, None),
        (microsoft_state, "model"),
        (openmmlab_state, "state_dict"),
        (transformers_state, None),
        (swin_model_state, None),
        (segmentor_state, "state_dict"),
    ],
)
def test_backbone_namings(tmp_path: Path, naming: object, wrap: str | None) -> None:
    state = naming()  # type: ignore[operator]
    file = tmp_path / "swin.pth"
    torch.save({wrap: state} if wrap else state, file)
    backbone = load_backbone(spec(ARCH), str(file), name="own")
    expected = {k: v for k, v in timm_state().items() if k.startswith(("patch_embed.", "layers."))}
    found = backbone.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert not any(p.requires_grad for p in backbone.parameters())


def test_backbone_of_another_size_or_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "swin.pth"
    torch.save(timm_state(), file)
    wide = SwinArch(embed_dim=48, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6)
    with pytest.raises(CheckpointError, match=r"swin\.pth: does not fit this model.*of another shape"):
        load_backbone(spec(wide), str(file), name="own")
    torch.save({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(
        CheckpointError, match=r"not a Swin backbone in timm, Microsoft, OpenMMLab or Hugging Face naming.*conv"
    ):
        load_backbone(spec(ARCH), str(file), name="own")
    with pytest.raises(CheckpointError, match="not a Swin backbone"):
        backbone_to_timm({"conv.weight": torch.zeros(1)})


class Own(Backbone):
    """Of the user's own, whose names begin like those of a whole model."""

    channels = strides = prompt_channels = (4, 8, 16, 32)
    adapter_channels = ((), (), (), ())

    def __init__(self) -> None:
        super().__init__()
        self.config = {}
        self.backbone = nn.Linear(2, 3)
        self.requires_grad_(False)

    def blocks(self, stage: int) -> list[nn.Module]:
        return []

    def never(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("only its names are looked at")

    entry_for = embed = enter = stage = never


@pytest.mark.parametrize("prefix", ["", "backbone.", "model.backbone."])
def test_own_names_alone_and_within_a_checkpoint(tmp_path: Path, prefix: str) -> None:
    weights = {k: torch.randn_like(v) for k, v in Own().state_dict().items()}
    others = {"model.head.weight": torch.zeros(1)} if prefix else {}
    torch.save({"state_dict": {f"{prefix}{k}": v for k, v in weights.items()} | others}, tmp_path / "own.pth")
    backbone = load_backbone({"_target_": f"{__name__}.Own"}, str(tmp_path / "own.pth"), name="own")
    assert backbone.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in backbone.state_dict().items())


def test_without_a_network_the_error_says_which_file_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nmore lines")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(CheckpointError) as error:
        load_backbone(spec(ARCH), "hub", name="swin_b", timm_name="swin_base_patch4_window12_384.ms_in22k")
    message = str(error.value)
    assert "\n" not in message
    for part in ("couldn't connect", "backbone.weights=", "swin_base_patch4_window12_384.ms_in22k", OPENMMLAB_SWIN_B):
        assert part in message
    with pytest.raises(CheckpointError, match=r"own is not on timm's hub; pass backbone\.weights=FILE"):
        load_backbone(spec(ARCH), "hub", name="own")

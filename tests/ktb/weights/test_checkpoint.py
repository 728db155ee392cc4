from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.backbone import OPENMMLAB_SWIN_B, load_backbone
from ktb.weights.checkpoint import load_model, load_published
from ktb.weights.files import read_file, read_state_dict
from ktb.weights.naming import (
    backbone_to_timm,
    from_published,
    merging_from_openmmlab,
    merging_to_openmmlab,
    to_published,
)
from ktb.weights.states import fingerprint
from tests.ktb.reference import filled_state, load_json

ARCH = SwinArch(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=6)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in filled_state(load_json("mini.json")).items()}


def test_patch_merging_order_by_definition() -> None:
    """Published inputs are ordered c·4 + row·2 + col, timm's (col·2 + row)·C + c."""
    channels = 5
    values = torch.empty(2, 4 * channels)
    expected = torch.empty(2, 4 * channels)
    for c in range(channels):
        for row in range(2):
            for col in range(2):
                values[:, c * 4 + row * 2 + col] = 100 * c + 10 * row + col
                expected[:, (col * 2 + row) * channels + c] = 100 * c + 10 * row + col
    assert torch.equal(merging_from_openmmlab(values), expected)
    assert torch.equal(merging_to_openmmlab(expected), values)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model_state_dict": s, "epoch": 3}])
def test_published_file_and_back(published: dict[str, Tensor], tmp_path: Path, wrap: object) -> None:
    file = tmp_path / "published.pth"
    index = {"backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": torch.zeros(36, 36)}
    torch.save(wrap({**published, **index}), file)  # type: ignore[operator]
    model = load_published(file, ("rgb", "thermal"))
    assert not model.training
    assert model.config == {
        "arch": {**ARCH.to_dict(), "mlp_ratio": 4.0},
        "modalities": {"rgb": 3, "thermal": 3},
        "num_classes": 7,
        "head_dim": 64,
        "side_head_dim": 32,
        "prompts": True,
        "fusion": "dscf",
        "side_heads": True,
    }
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
        load_backbone(ARCH, str(tmp_path / "swin.pth"), name="swin")
    with torch.no_grad():
        model.head.predict.bias[0] = value
    with pytest.raises(CheckpointError, match=r"not written: the model: holds weights .*, head\.predict\.bias, as"):
        model.save_pretrained(tmp_path / "other")
    assert not (tmp_path / "other").exists()


class Evil:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_pickles_with_code_are_refused_and_not_run(tmp_path: Path, form: str) -> None:
    file, trace = tmp_path / "evil.pth", tmp_path / "executed"
    if form == "torch":
        torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Evil(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(Evil(trace)))
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused") as error:
        load_published(file)
    assert not trace.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"<html>not found</html>", b"\0" * 99, b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".ckpt"])
def test_damaged_files_are_one_clear_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"weights{suffix}") as error:
        read_state_dict(file)
    assert "\n" not in str(error.value)
    assert "refused" not in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such checkpoint file"):
        read_state_dict(tmp_path / "nowhere.pth")


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
    model = KTBSegmentor(backbone, ("rgb", "depth"), 3, head_dim=16, side_head_dim=16)
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
    backbone = load_backbone(ARCH, str(file), name="own")
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
        load_backbone(wide, str(file), name="own")
    torch.save({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(
        CheckpointError, match=r"not a Swin backbone in timm, Microsoft, OpenMMLab or Hugging Face naming.*conv"
    ):
        load_backbone(ARCH, str(file), name="own")
    with pytest.raises(CheckpointError, match="not a Swin backbone"):
        backbone_to_timm({"conv.weight": torch.zeros(1)})


def test_without_a_network_the_error_says_which_file_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub\nmore lines")

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(CheckpointError) as error:
        load_backbone(ARCH, "hub", name="swin_b", timm_name="swin_base_patch4_window12_384.ms_in22k")
    message = str(error.value)
    assert "\n" not in message
    for part in ("couldn't connect", "backbone.weights=", "swin_base_patch4_window12_384.ms_in22k", OPENMMLAB_SWIN_B):
        assert part in message
    with pytest.raises(CheckpointError, match=r"own is not on timm's hub; pass backbone\.weights=FILE"):
        load_backbone(ARCH, "hub", name="own")


def test_fingerprint_follows_values_and_names() -> None:
    torch.manual_seed(0)
    swin = FrozenSwin(ARCH)
    first = fingerprint(swin)
    assert first == fingerprint(swin)
    with torch.no_grad():
        swin.patch_embed.proj.bias[3] += 1e-6
    assert fingerprint(swin) != first


def test_published_translation_covers_swin_b() -> None:
    names = load_json("swin_b.json")["state_dict"]
    with torch.device("meta"):
        state = {k: torch.empty(tuple(s)) for k, s in names.items()}
    ours = from_published(state, ("rgb", "depth"))
    assert len(ours) == len(names)
    assert not any(k.startswith(("decode_head", "backbone.stages", "backbone.MPG", "backbone.Deform")) for k in ours)

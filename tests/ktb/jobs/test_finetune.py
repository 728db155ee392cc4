"""Fine-tuning: what is taken of another model is its values by name, the rest is as it was, and both are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ktb import load_model
from ktb.data.spec import ModalitySpec
from ktb.engine.module import SegmentationModule
from ktb.engine.optim import published
from ktb.errors import CheckpointError, ConfigError
from ktb.jobs import finetune
from ktb.losses.pixel import PixelLoss
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.backbone import load_backbone
from ktb.weights.bundle import save_bundle
from ktb.weights.states import fingerprint
from ktb.weights.tensor_names import to_published
from tests.ktb.jobs.test_train import train

NANO = SwinArch(embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), window_size=8, mlp_ratio=2.0, drop_path=0.0)
TWO = ["test=false", "trainer.max_epochs=1", "dataset.train=2", "trainer.limit_val_batches=0"]


def built(modalities: dict[str, int], classes: int, seed: int, *, weights: str = "bundled") -> KTBSegmentor:
    """All trained values random, so that equality says something."""
    torch.manual_seed(seed)
    backbone = load_backbone(FrozenSwin(NANO).spec(), weights, name="swin_nano")
    model = KTBSegmentor(backbone, modalities, classes, head={"width": 16}, side_head={"width": 16})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter)
    return model


def stored(model: KTBSegmentor, file: Path, classes: list[str], **about: Any) -> Path:
    """A checkpoint as `ktb-train` writes it."""
    trained = {k for k, p in model.named_parameters() if not p.requires_grad and k.startswith("backbone.")}
    state = {f"model.{k}": v for k, v in model.state_dict().items() if k not in trained}
    backbone = {"name": "swin_nano", "timm_name": None, "weights": "bundled", "sha256": fingerprint(model.backbone)}
    content = {"ktb": {"model": model.config, "classes": classes, "backbone": backbone, **about}, "state_dict": state}
    torch.save(content, file)
    return file


def specs(*names: str, **options: Any) -> tuple[ModalitySpec, ...]:
    return tuple(ModalitySpec(name, **options) for name in names)


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """Also where their number is the same."""
    old = built({"rgb": 3, "depth": 3}, 3, seed=0)
    new = built({"rgb": 3, "depth": 3}, 3, seed=1)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    source = finetune.read(stored(old, tmp_path / "a.ckpt", ["road", "car", "sky"]), ["rgb", "depth"])
    summary = finetune.start_from(source, new, classes=["sky", "road", "pothole"], modalities=specs("rgb", "depth"))
    ours, theirs = new.state_dict(), old.state_dict()
    heads = [k for k in ours if ".predict." in k]
    assert len(heads) == 6
    for k in heads:
        assert torch.equal(ours[k][0], theirs[k][2])
        assert torch.equal(ours[k][1], theirs[k][0])
        assert torch.equal(ours[k][2], before[k][2])
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k not in heads)
    assert (summary["classes_taken"], summary["classes_new"]) == (["sky", "road"], ["pothole"])
    assert summary["classes_left_out"] == ["car"]
    assert summary["tensors_fresh"] == 0
    said = finetune.describe(summary)
    assert "classes: taken sky, road; new, freshly initialised: pothole; left out: car" in said


def test_modalities_are_matched_by_name(tmp_path: Path) -> None:
    """Their order and what stands beside them do not count; blocks of one modality are moved whole."""
    old = built({"rgb": 3, "depth": 1}, 2, seed=0)
    new = built({"thermal": 1, "depth": 1, "rgb": 3}, 2, seed=1)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    about = {"modalities": [{"name": "depth", "scale": 65535.0, "mean": [0.0], "std": [1.0]}]}
    source = finetune.read(stored(old, tmp_path / "a.ckpt", ["a", "b"], **about), ["rgb", "depth"])
    summary = finetune.start_from(
        source, new, classes=["a", "b"], modalities=specs("thermal", "depth", "rgb", scale=5000.0)
    )
    ours, theirs = new.state_dict(), old.state_dict()
    pairs = {0: None, 1: 1, 2: 0}
    for k, blocks in (
        ("peft.prompts.1.project.weight", 1),
        ("fusion.2.fuse.0.weight", 1),
        ("fusion.3.weight.2.bias", 0),
    ):
        for i, j in pairs.items():
            block = ours[k].unflatten(blocks, (3, -1)).select(blocks, i)
            expected = before[k].unflatten(blocks, (3, -1)).select(blocks, i)
            if j is not None:
                expected = theirs[k].unflatten(blocks, (2, -1)).select(blocks, j)
            assert torch.equal(block, expected), (k, i)
    for k in ("peft.adapters.0.1.down.{}.weight", "peft.prompts.0.gamma.{}", "side_heads.{}.predict.bias"):
        assert torch.equal(ours[k.format("depth")], theirs[k.format("depth")])
        assert torch.equal(ours[k.format("thermal")], before[k.format("thermal")])
    assert torch.equal(ours["patch_embeds.depth.proj.weight"], theirs["patch_embeds.depth.proj.weight"])
    assert (summary["modalities_taken"], summary["modalities_new"]) == (["depth", "rgb"], ["thermal"])
    assert summary["normalised_otherwise"] == ["depth: scale was 65535.0, here 5000.0"]
    assert "depth: scale was 65535.0, here 5000.0" in finetune.describe(summary)


def test_of_another_size_is_fresh_and_said(tmp_path: Path) -> None:
    old = built({"rgb": 3, "depth": 1}, 2, seed=0)
    new = built({"rgb": 3, "depth": 2}, 2, seed=1)
    source = finetune.read(stored(old, tmp_path / "a.ckpt", ["a", "b"]), ["rgb", "depth"])
    summary = finetune.start_from(source, new, classes=["a", "b"], modalities=specs("rgb", "depth"))
    assert summary["other_shape"] == ["patch_embeds.depth.proj.weight"]
    assert "patch_embeds.depth.proj.weight" in finetune.describe(summary)


def test_published_files_and_bundles(tmp_path: Path) -> None:
    old = built({"rgb": 3, "thermal": 3}, 4, seed=0)
    torch.save(to_published(old.state_dict(), ("rgb", "thermal")), tmp_path / "published.pth")
    source = finetune.read(tmp_path / "published.pth", ["rgb", "depth"])
    assert source.backbone_weights == str(tmp_path / "published.pth")
    new = built({"rgb": 3, "depth": 3}, 4, seed=1)
    summary = finetune.start_from(source, new, classes=list("abcd"), modalities=specs("rgb", "depth"))
    assert (summary["tensors_fresh"], summary["class_names_known"]) == (0, False)
    named = {k.replace("thermal", "depth"): v for k, v in old.state_dict().items()}
    assert all(torch.equal(v, named[k]) for k, v in new.state_dict().items())
    fewer = built({"rgb": 3, "depth": 3}, 3, seed=1)
    summary = finetune.start_from(source, fewer, classes=list("abc"), modalities=specs("rgb", "depth"))
    assert (summary["classes_new"], summary["other_shape"]) == (["a", "b", "c"], [])
    assert summary["tensors_fresh"] == 6  # weight and bias of three predictors

    stored(old, tmp_path / "a.ckpt", list("abcd"))
    save_bundle(load_model(tmp_path / "a.ckpt"), tmp_path / "bundle")
    new = built({"rgb": 3, "thermal": 3}, 4, seed=1)
    source = finetune.read(tmp_path / "bundle", ["rgb", "thermal"])
    finetune.start_from(source, new, classes=list("abcd"), modalities=specs("rgb", "thermal"))
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())


def test_frozen_norms_of_a_published_file_are_kept(tmp_path: Path) -> None:
    """They are not trained here, yet no backbone's file has them either."""
    old = built({"rgb": 3, "thermal": 3}, 2, seed=0)
    old.norms["rgb"][1].weight.data.uniform_()  # type: ignore[index, union-attr]
    torch.save(to_published(old.state_dict(), ("rgb", "thermal")), tmp_path / "published.pth")
    new = built({"rgb": 3, "thermal": 3}, 2, seed=1)
    source = finetune.read(tmp_path / "published.pth", ["rgb", "thermal"])
    finetune.start_from(source, new, classes=["a", "b"], modalities=specs("rgb", "thermal"))
    module = SegmentationModule(
        new, PixelLoss(), modalities=specs("rgb", "thermal"), classes=["a", "b"], optim=published(1e-3, 0.0), seed=0
    )
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    norms = [k for k in checkpoint["state_dict"] if "norms." in k]
    assert norms == ["model.norms.rgb.1.weight"]
    assert torch.equal(checkpoint["state_dict"][norms[0]], old.state_dict()["norms.rgb.1.weight"])


def test_what_cannot_work_is_one_line(tmp_path: Path) -> None:
    old = built({"rgb": 3, "depth": 3}, 2, seed=0)
    file = stored(old, tmp_path / "a.ckpt", ["a", "b"])
    source = finetune.read(file, ["rgb"])
    with pytest.raises(CheckpointError, match=r"window_size is 8, here 7\); choose its own with backbone=swin_nano$"):
        finetune.check_backbone(source, {**FrozenSwin(NANO).spec(), "window_size": 7}, "mine")
    new = built({"rgb": 3, "depth": 3}, 2, seed=1, weights="random")
    with pytest.raises(CheckpointError, match=r"other backbone weights than these; set backbone.weights=bundled$"):
        finetune.start_from(source, new, classes=["a", "b"], modalities=specs("rgb", "depth"))
    torch.save({f"layers.{i}": torch.ones(2) for i in range(3)}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"weights of a backbone alone are given as backbone\.weights=FILE$"):
        finetune.read(tmp_path / "b.pth", ["rgb"])
    with pytest.raises(CheckpointError, match="no such checkpoint or run folder"):
        finetune.read(tmp_path / "none", ["rgb"])


@pytest.mark.slow
def test_a_run_starts_from_another_and_is_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Learning rate 0 shows the start; a continued run goes on from its own weights, not from the other's."""
    train(tmp_path / "first", *TWO, "seed=1")
    first = load_model(tmp_path / "first").state_dict()
    train(tmp_path / "second", *TWO, f"init_from={tmp_path / 'first'}", "optim.lr=1e-30", "optim.weight_decay=0")
    second = load_model(tmp_path / "second").state_dict()
    statistics = [k for k in first if "running" in k or "num_batches" in k]
    assert all(torch.allclose(first[k], second[k], rtol=0, atol=1e-20) for k in first if k not in statistics)
    assert "modalities: taken rgb, depth" in capsys.readouterr().out
    result = json.loads((tmp_path / "second" / "result.json").read_text())
    assert result["init_from"]["tensors_fresh"] == 0
    file = tmp_path / "first" / "checkpoints" / "last.ckpt"
    assert result["init_from"]["file"] == str(file)
    assert f"init_from: {file}" in (tmp_path / "second" / "config.yaml").read_text()

    file.unlink()  # not looked at again
    again = [*TWO, "ckpt_path=auto", "trainer.max_epochs=2", "optim.lr=1e-30", f"init_from={tmp_path / 'first'}"]
    result = train(tmp_path / "second", *again)
    assert "starting from" not in capsys.readouterr().out
    assert (result["steps"], result["init_from"]["file"]) == (2, str(file))
    third = load_model(tmp_path / "second").state_dict()
    counted = next(k for k in statistics if "num_batches" in k)
    assert [int(state[counted]) for state in (first, second, third)] == [1, 2, 3]
    with pytest.raises(ConfigError, match="says what a run starts from, and that of .* has started from"):
        train(tmp_path / "second", *TWO, "ckpt_path=last", "init_from=elsewhere")


@pytest.mark.parametrize("timm_name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
@pytest.mark.slow
def test_backbones_of_timm(tmp_path: Path, timm_name: str) -> None:
    """Whose statistics and options stand in a checkpoint though the configuration says nothing of them."""
    backbone = ["backbone=timm", f"backbone.timm_name={timm_name}", "backbone.weights=random", *TWO]
    train(tmp_path / "first", *backbone)
    again = [*backbone[:2], *TWO, f"init_from={tmp_path / 'first'}"]
    assert train(tmp_path / "second", *again)["init_from"]["tensors_fresh"] == 0
    first, second = (load_model(tmp_path / name) for name in ("first", "second"))
    assert fingerprint(first.backbone) == fingerprint(second.backbone)
    remedy = f"choose its own with backbone=timm backbone.timm_name={timm_name}$"
    with pytest.raises(CheckpointError, match=rf"is another one .* \(mean is .*, here \[0.1, 0.2, 0.3\].*{remedy}"):
        train(tmp_path / "third", *again, "++backbone.mean=[0.1,0.2,0.3]", "++backbone.std=[1,1,1]")


@pytest.mark.slow
def test_a_random_backbone_is_taken_along(tmp_path: Path) -> None:
    train(tmp_path / "first", *TWO, "backbone.weights=random")
    train(tmp_path / "second", *TWO, f"init_from={tmp_path / 'first'}", "seed=2")
    first, second = (load_model(tmp_path / name) for name in ("first", "second"))
    assert fingerprint(first.backbone) == fingerprint(second.backbone)
    with pytest.raises(CheckpointError, match="other backbone weights than these"):
        train(tmp_path / "third", *TWO, f"init_from={tmp_path / 'first'}", "backbone.weights=bundled")


@pytest.mark.slow
def test_the_same_command_continues_a_run_with_the_backbone_it_took_along(tmp_path: Path) -> None:
    """Also where it names the group that the backbone's weights are a setting of, as every job of a sweep does."""
    train(tmp_path / "first", *TWO, "backbone.weights=random")
    again = [*TWO, "backbone=swin_nano", f"init_from={tmp_path / 'first'}", "ckpt_path=auto"]
    train(tmp_path / "second", *again)
    before = load_model(tmp_path / "second")
    assert train(tmp_path / "second", *again, "trainer.max_epochs=2")["steps"] == 2
    after = load_model(tmp_path / "second")
    assert (
        fingerprint(before.backbone)
        == fingerprint(after.backbone)
        != fingerprint(load_backbone(FrozenSwin(NANO).spec(), "bundled", name="swin_nano"))
    )
    for given in ("backbone.weights=bundled", "++backbone.weights=bundled"):
        with pytest.raises(CheckpointError):
            train(tmp_path / "second", *again, "trainer.max_epochs=3", given)
        with pytest.raises(CheckpointError, match="other backbone weights than these"):
            train(tmp_path / "third", *TWO, f"init_from={tmp_path / 'first'}", given)

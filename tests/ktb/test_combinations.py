"""What every model does, whatever it is made of: any backbone, PEFT method, fusion block and head, for one modality or
several. A member of the groups is found by its file; a new one needs no line here."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
import yaml
from PIL import Image
from torch import Tensor

from ktb import Predictor
from ktb.cli.model import main as ktb_model
from ktb.config.compose import conf_dir
from ktb.engine.checkpoint_content import without_frozen
from ktb.errors import KTBError
from ktb.export.file import export
from ktb.export.session import OnnxFile
from ktb.jobs.build import build_data
from ktb.jobs.provenance import provenance
from ktb.models.peft.full import Full
from ktb.models.profile import flops, parameters
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.bundle import save_bundle
from ktb.weights.checkpoint import load_model
from ktb.weights.files import read_state_dict
from ktb.weights.states import fingerprint
from tests.ktb.combinations import (
    BACKBONES,
    COMBINATIONS,
    EACH,
    MODALITIES,
    OFFERED,
    Combination,
    build,
    built,
    images,
    settings,
    small_backbone,
)
from tests.ktb.jobs.test_train import configured
from tests.ktb.models.backbones.members import ALL

every = pytest.mark.parametrize("one", COMBINATIONS, ids=str)


def logits(model: KTBSegmentor, x: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(x).logits


def test_every_pair_of_parts_is_among_them() -> None:
    lists = (BACKBONES, OFFERED["peft"], OFFERED["fusion"], OFFERED["head"], tuple(MODALITIES))
    for (i, first), (j, second) in itertools.combinations(enumerate(lists), 2):
        assert {(one[i], one[j]) for one in COMBINATIONS} == set(itertools.product(first, second))
    assert len(COMBINATIONS) < 1.5 * len(BACKBONES) * len(OFFERED["peft"])


@pytest.mark.parametrize("name", OFFERED["backbone"])
def test_every_backbone_on_offer_has_a_small_one_of_its_kind(name: str) -> None:
    """The same class of ktb's, and the same file of timm's."""
    offered = yaml.safe_load((conf_dir() / "backbone" / f"{name}.yaml").read_text())
    if offered["timm_name"] in (None, "???") or offered["_target_"].endswith("FrozenSwin"):
        assert "swin" in BACKBONES
        return
    entry = timm.models.model_entrypoint(offered["timm_name"].partition(".")[0])
    kinds = {timm.models.model_entrypoint(small.partition(".")[0]).__module__ for small in ALL}
    assert entry.__module__ in kinds


@every
def test_any_size_and_a_gradient_for_all_that_is_trained(one: Combination) -> None:
    model = build(one)
    assert logits(model, images(model, 1, 45, 70)).shape == (1, 5, 45, 70)
    out = model.train()(images(model, 2, 32, 32))
    assert out.logits.shape == (2, 5, 32, 32)
    assert {m: z.shape for m, z in out.side.items()} == dict.fromkeys(model.modalities, (2, 5, 32, 32))
    (
        out.logits.square().mean() + sum(z.square().mean() for z in out.side.values()) + sum(out.losses.values())
    ).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
        assert p.grad is None or p.grad.isfinite().all(), name


@every
def test_what_is_declared_is_trained_and_nothing_else_moves(one: Combination) -> None:
    model = build(one).train()
    frozen = ("norms.", "fused_norms.") if isinstance(model.peft, Full) else ("norms.", "fused_norms.", "backbone.")
    declared = {n for n, _ in model.named_parameters() if not n.startswith(frozen)}
    if "rgb" not in model.modalities:  # nothing passes the backbone's own entry
        entry = {id(p) for layer in model.backbone.own_entry() for p in layer.parameters()}
        assert entry
        declared -= {n for n, p in model.named_parameters() if id(p) in entry}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == declared
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    out = model(images(model, 2, 32, 32))
    (out.logits.square().mean() + sum(z.square().mean() for z in out.side.values())).backward()
    optimizer.step()
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    statistics = {n for n in before if n.startswith(("fusion.", "head.", "side_heads.")) and n not in declared}
    assert moved == declared | statistics


@every
def test_without_a_modality_it_answers_as_with_it_masked(one: Combination) -> None:
    model = built(one)
    x = images(model, 2, 32, 40)
    for missing in model.modalities if len(x) > 1 else ():
        rest = {m: v for m, v in x.items() if m != missing}
        masked = torch.tensor([[m == missing] * 2 for m in model.modalities])
        with torch.no_grad():
            assert torch.equal(logits(model, rest), model(x, masked=masked).logits)
            of_one = model(x, masked=masked & torch.tensor([True, False])).logits
        assert torch.allclose(of_one[0], logits(model, rest)[0], atol=1e-4)
        assert torch.allclose(of_one[1], logits(model, x)[1], atol=1e-4)
        assert not torch.allclose(of_one[0], logits(model, x)[0], atol=1e-4)


@every
def test_it_can_be_copied_described_and_shipped(one: Combination, tmp_path: Path) -> None:
    model = built(one)
    x = images(model, 1, 33, 47)
    expected = logits(model, x)
    described = KTBSegmentor.from_config(json.loads(json.dumps(model.config))).eval()
    described.load_state_dict(model.state_dict())
    assert torch.equal(logits(described, x), expected)
    save_bundle(model, tmp_path / "bundle")
    shipped = load_model(tmp_path / "bundle")
    assert torch.equal(logits(shipped, x), expected)
    assert shipped.config == model.config
    copied = copy.deepcopy(described)
    for p in itertools.chain(described.parameters(), described.buffers()):
        p.data.zero_()
    assert torch.equal(logits(copied, x), expected)


@every
def test_what_a_checkpoint_leaves_out_is_the_backbone_as_it_was(one: Combination) -> None:
    """What training has not moved, and what new weights of the same file bring along: nothing else."""
    model = built(one)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    kept = {name.removeprefix("model."): value for name, value in without_frozen(state, model).items()}
    fresh = KTBSegmentor.from_config(model.config).eval()
    fresh.backbone.load_state_dict(model.backbone.state_dict())
    # The entries of other modalities have their own copies of what the backbone's holds.
    missing, unexpected = fresh.load_state_dict(kept, strict=False)
    assert not unexpected
    assert all(name.startswith(("backbone.", "norms.", "fused_norms.")) for name in missing)
    x = images(model, 1, 33, 47)
    assert torch.equal(logits(fresh, x), logits(model, x))


@pytest.mark.parametrize("name", BACKBONES)
def test_what_lora_has_learned_is_folded_into_any_backbone(name: str) -> None:
    one = next(one for one in COMBINATIONS if one.backbone == name and one.peft == "lora")
    model = built(one)
    merged = model.merged()
    assert list(merged.peft.parameters()) == []
    assert merged.backbone.state_dict().keys() == model.backbone.state_dict().keys()
    x = images(model, 1, 45, 70)
    expected, found = logits(model, x), logits(merged, x)
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    unmerged = model.backbone.state_dict()
    assert any(not torch.equal(value, unmerged[key]) for key, value in merged.backbone.state_dict().items())


@every
def test_it_is_counted_in_full(one: Combination) -> None:
    model = built(one)
    parts = parameters(model)
    assert sum(part["total"] for part in parts) == sum(p.numel() for p in model.parameters())
    assert sum(part["trained"] for part in parts) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert flops(model, (64, 64)) > 0


@every
def test_half_precision(one: Combination) -> None:
    model = build(one)
    x = images(model, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, side=True)
        rounded = out.logits
    (out.logits.float().square().mean() + sum(z.float().square().mean() for z in out.side.values())).backward()
    exact = logits(model, x)
    assert (rounded.detach().float() - exact).norm() < 0.1 * exact.norm()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("name", ["swin", "vit_small_patch16_dinov3", "convnext_atto"])
def test_half_precision_of_sensors_with_many_channels(name: str, channels: int) -> None:
    """For which PyTorch's own convolution in bfloat16 is wrong on some CPUs."""
    backbone = small_backbone(name)
    entry = backbone.entry_for(channels)
    images = torch.rand(1, channels, 64, 64)
    with torch.no_grad():
        expected = backbone.embed(images, entry).map
        with torch.autocast("cpu", torch.bfloat16):
            found = backbone.embed(images, entry).map
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group in ("peft", "fusion", "head") for name in OFFERED[group]]
)
def test_a_setting_that_can_be_none_is_told_when_the_model_is_built(group: str, name: str) -> None:
    """Or does no harm: nothing fails later, and nothing with an error of somebody else's."""
    part = settings(group, name)
    part.pop("side", None)
    model = {"head": {"width": 8}, "side_head": None}
    refused: list[str] = []
    for key, value in itertools.product(part.keys() - {"_target_"}, (0, -1, 1.5, [1], [1, 1, 1], "x")):
        given: dict[str, Any] = {**model, group: {**part, key: value}}
        try:
            built = KTBSegmentor(small_backbone("swin"), {"rgb": 3, "polar": 4}, 3, **given).eval()
        except (KTBError, ValueError) as error:
            refused.append(str(error))
        else:
            assert logits(built, images(built, 1, 33, 57)).isfinite().all(), (key, value)
    assert not [text for text in refused if "\n" in text]


def test_every_part_is_among_those_that_are_compiled() -> None:
    lists = (BACKBONES, OFFERED["peft"], OFFERED["fusion"], OFFERED["head"], tuple(MODALITIES))
    for i, names in enumerate(lists):
        assert {one[i] for one in EACH} == set(names)


@pytest.mark.slow
@pytest.mark.parametrize("one", EACH, ids=str)
def test_it_compiles_without_a_break(one: Combination) -> None:
    """In training too, with side heads and their gradients."""
    torch.compiler.reset()  # a limit on how often one function is compiled counts over all tests
    model = build(one)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend="eager")
    x = images(model, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(compiled(x).logits, model(x).logits, atol=1e-5)
    model.train()
    out = compiled(images(model, 2, 32, 32))
    assert set(out.side) == set(model.modalities)
    (out.logits.square().mean() + sum(z.square().mean() for z in out.side.values())).backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name


@pytest.mark.slow
@pytest.mark.parametrize("one", EACH, ids=str)
def test_it_is_exported_and_compared(one: Combination, tmp_path: Path) -> None:
    compared = export(built(one), tmp_path / "model.onnx", (64, 96), dynamic=False)
    assert len(compared) == 3
    assert all(difference <= 1e-4 for _, difference in compared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("tf_efficientnet_lite0", ".pt2"),  # padding that depends on the size
        ("vit_small_patch16_dinov3", ".onnx"),  # positions that do
        ("resnet18", ".onnx"),
    ],
)
def test_it_is_exported_for_images_of_any_size(name: str, suffix: str, tmp_path: Path) -> None:
    model = built(next(one for one in EACH if one.backbone == name))
    compared = export(model, tmp_path / f"model{suffix}", (64, 96), dynamic=True)
    assert [size for size, _ in compared] == ["64x96", "64x64", "64x128"]
    assert all(difference <= 1e-4 for _, difference in compared)


def saved_with_data(one: Combination, folder: Path) -> tuple[KTBSegmentor, Path]:
    """The model of a combination as a bundle, and the frames of its sensors, which the bundle says how to prepare."""
    channels = MODALITIES[one.modalities]
    rng = np.random.default_rng(0)
    for name, count in channels.items():
        (folder / name).mkdir(parents=True)
        for i in range(2):
            frame = rng.integers(0, 256, (64, 96, count)[: 2 if count == 1 else 3]).astype(np.uint8)
            tifffile.imwrite(folder / name / f"{i}.tif", frame, photometric="rgb" if name == "rgb" else "minisblack")
    (folder / "label").mkdir()
    for i in range(2):
        Image.fromarray(rng.integers(0, 5, (64, 96)).astype(np.uint8)).save(folder / "label" / f"{i}.png")
    files = {m: f"{{files: '{m}/*.tif'{f', channels: {c}' if c != 3 else ''}}}" for m, c in channels.items()}
    cfg = configured(
        "train",
        [
            "dataset=folder", f"dataset.root={folder}", "dataset.classes=[a,b,c,d,e]", "dataset.num_workers=0",
            "dataset.splits={train: 0.5, val: 0.5}", "dataset.label={files: 'label/*.png'}", "run_dir=unused",
            f"dataset.modalities={{{', '.join(f'{m}: {text}' for m, text in files.items())}}}",
            f"modality.streams=[{','.join(channels)}]",
        ],
    )  # fmt: skip
    data = build_data(cfg)
    model = build(one, modalities={m.name: m.channels for m in data.modalities})  # of one stored channel three are made
    model.about = provenance(cfg, data, fingerprint(model.backbone))
    del model.about["backbone"]  # the bundle has to hold these weights
    save_bundle(model, folder / "bundle", run_config=model.about["config"])
    return model, folder / "bundle"


@pytest.mark.slow
@pytest.mark.parametrize("one", EACH, ids=str)
def test_every_subcommand_of_ktb_model_takes_it(
    one: Combination, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """info, bundle, convert and export; a file that takes frames answers as ktb.Predictor does."""
    model, bundle = saved_with_data(one, tmp_path / "data")
    x = images(model, 1, 33, 57)
    expected = logits(model, x)

    assert ktb_model(["info", str(bundle), "--json", "--no-measure", "--size", "64x96"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert report["parameters"]["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report["sizes"][0]["flops"] == flops(model, (64, 96))

    assert ktb_model(["bundle", str(bundle), str(tmp_path / "again")]) == 0
    assert torch.equal(logits(load_model(tmp_path / "again"), x), expected)
    assert ktb_model(["convert", str(bundle), str(tmp_path / "whole.safetensors"), "--to", "ktb"]) == 0
    assert torch.equal(logits(load_model(tmp_path / "whole.safetensors"), x), expected)
    assert ktb_model(["convert", str(bundle), str(tmp_path / "timm.safetensors"), "--to", "timm"]) == 0
    backbone = read_state_dict(tmp_path / "timm.safetensors")
    assert {f"model.{k}" for k in backbone} == set(model.backbone.state_dict()) or one.backbone == "swin"
    assert ktb_model(["convert", str(bundle), str(tmp_path / "published.pth"), "--to", "published"]) == 2
    assert not (tmp_path / "published.pth").exists()

    file = tmp_path / "raw.onnx"
    assert ktb_model(["export", str(bundle), str(file), "--size", "64x96", "--raw"]) == 0
    rng = np.random.default_rng(1)
    shapes = {m: (64, 96) if c == 1 else (64, 96, c) for m, c in MODALITIES[one.modalities].items()}
    frame = {m: rng.integers(0, 256, shape).astype(np.uint8) for m, shape in shapes.items()}
    mask = Predictor(bundle, device="cpu")(frame)
    assert len(np.unique(mask)) > 1
    assert (OnnxFile(file)(frame) != mask).mean() <= 1e-3

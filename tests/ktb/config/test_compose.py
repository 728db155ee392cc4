"""Every member of the configuration that is shipped composes, and is what the paper says."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from omegaconf import OmegaConf

from ktb.config.checks import check
from ktb.config.compose import compose, conf_dir, groups
from ktb.data.spec import ModalitySpec
from ktb.engine.robustness import cases
from tests.ktb.config.composed import OWN_DATA, composed

CONF = conf_dir()
GROUPS = groups("train")

ZOO = {  # docs/method.md#recipe: data set, modality, backbone, published mIoU and its split
    "nyu_swin_b": ("nyu", "rgb_d", "swin_b", 59.0, "test"),
    "nyu_swin_l": ("nyu", "rgb_d", "swin_l", 59.9, "test"),
    "sunrgbd_swin_b": ("sunrgbd", "rgb_d", "swin_b", 53.7, "test"),
    "sunrgbd_swin_l": ("sunrgbd", "rgb_d", "swin_l", 55.0, "test"),
    "mfnet_swin_b": ("mfnet", "rgb_t", "swin_b", 59.9, "test"),
    "mfnet_swin_l": ("mfnet", "rgb_t", "swin_l", 59.2, "test"),
    "pst900_swin_b": ("pst900", "rgb_t", "swin_b", 87.6, "test"),
    "pst900_swin_l": ("pst900", "rgb_t", "swin_l", 88.7, "test"),
    "mcubes_rgb_n_swin_b": ("mcubes", "rgb_n", "swin_b", 53.8, "test"),
    "mcubes_rgb_dolp_swin_b": ("mcubes", "rgb_dolp", "swin_b", 54.5, "test"),
    "mcubes_rgb_a_swin_b": ("mcubes", "rgb_a", "swin_b", 53.7, "test"),
    "deliver_rgb_e_swin_b": ("deliver", "rgb_e", "swin_b", 58.4, "val"),
}
RECIPES = {  # docs/method.md#recipe: epochs, learning rate, weight decay, pixel loss
    "nyu": (400, 4e-4, 0.01, "ce"),
    "sunrgbd": (300, 4e-4, 0.01, "ce"),
    "mfnet": (200, 8e-5, 5e-4, "ce"),
    "pst900": (200, 6e-4, 0.01, "ce"),
    "mcubes": (500, 6e-5, 0.01, "ohem"),
    "deliver": (200, 2e-4, 0.01, "ce"),
}
STREAMS = {
    "d": "depth", "t": "thermal", "a": "aolp", "n": "nir", "e": "event", "l": "lidar", "dolp": "dolp", "rgb": "rgb",
    "depth": "depth", "thermal": "thermal", "aolp": "aolp", "nir": "nir", "event": "event", "lidar": "lidar",
}  # fmt: skip


NEEDED = {"folder": OWN_DATA, "timm": ["backbone.timm_name=resnet18"]}
"""Member → what has to be said with it."""


@pytest.mark.parametrize(
    ("group", "member"),
    [(group, member) for group, members in GROUPS.items() if group != "experiment" for member in members],
)
def test_every_member_composes_and_passes_the_checks(group: str, member: str) -> None:
    cfg = composed(f"{group}={member}", "run_dir=runs/here", *NEEDED.get(member, ()))
    check(cfg)
    if group in ("dataset", "backbone", "peft", "fusion", "head", "loss", "optim", "schedule"):
        assert cfg[group].name == ("resnet18" if member == "timm" else member)
    if group == "logger":
        assert cfg.logger.csv.save_dir == "runs/here", "metrics.csv is always written"


@pytest.mark.parametrize(
    ("member", "runs"),
    [("emm", 1 + 2 * 6), ("rmm", 1 + 3 * 6), ("nm", 1 + 3), ("all", 1 + 2 * 6 + 3 * 6 + 3)],
)
def test_robustness_of_three_modalities(member: str, runs: int) -> None:
    cfg = composed("checkpoint=x", f"robustness={member}", name="eval")
    check(cfg)
    assert cfg.robustness.name == member
    settings = OmegaConf.to_container(cfg.robustness)
    assert isinstance(settings, dict)
    assert len(cases({str(k): v for k, v in settings.items()}, [ModalitySpec(m) for m in "abc"])) == runs


@pytest.mark.parametrize("member", [m for m in GROUPS["modality"] if m != "default"])
def test_modality_is_named_after_its_streams(member: str) -> None:
    modality = OmegaConf.load(CONF / "modality" / f"{member}.yaml")
    assert modality.name == member
    rgb, _, others = member.rpartition("_")
    names = [others] if others in STREAMS else list(others)
    streams = [STREAMS[name] for name in ([rgb, *names] if rgb else names)]
    if "aolp" in streams:  # polarisation has an angle and a degree: beside "a", "d" is no depth
        streams = [name.replace("depth", "dolp") for name in streams]
    assert list(modality.streams) == streams


@pytest.mark.parametrize("member", [m for m in GROUPS["backbone"] if re.fullmatch("swin_[^n].*", m)])
def test_backbone_is_the_timm_model_it_names(member: str) -> None:
    b = OmegaConf.load(CONF / "backbone" / f"{member}.yaml")
    with torch.device("meta"):
        model = timm.create_model(b.timm_name)
    block = model.layers[0].blocks[0]
    assert model.default_cfg["num_classes"] == 21841, "ImageNet-22k weights"
    assert b.embed_dim == model.embed_dim
    assert list(b.depths) == [len(layer.blocks) for layer in model.layers]
    assert list(b.num_heads) == [layer.blocks[0].attn.num_heads for layer in model.layers]
    assert (b.window_size, b.window_size) == block.window_size
    assert int(b.embed_dim * b.mlp_ratio) == block.mlp.fc1.out_features


def test_swin_b_is_the_papers() -> None:
    b = composed("backbone=swin_b").backbone
    assert (b.embed_dim, list(b.depths), list(b.num_heads)) == (128, [2, 2, 18, 2], [4, 8, 16, 32])
    assert (b.window_size, b.mlp_ratio, b.drop_path, b.head_dim, b.side_head_dim) == (12, 4, 0.3, 512, 256)


ABLATIONS: dict[str, dict[str, object]] = {
    "full": {},
    "without_prompts": {"peft.prompts": False},
    "without_adapters": {"peft.adapters": False},
    "without_dscf": {"fusion": {"name": "sum", "_target_": "ktb.models.fusion.simple.PlainSum"}},
    "without_masking": {"loss.masking": False},
    "without_self_teaching": {"loss.side_weight": 0.0},
    "without_mmst": {"loss.name": "ce"},
    "first_alone": {"dataset.streams": ["rgb"]},
    "second_alone": {"dataset.streams": ["depth"]},
    "fusion_concat": {"fusion.name": "concat"},
    "fusion_cmx": {"fusion.name": "cmx"},
    "peft_none": {"peft.name": "none"},
    "peft_lora": {"peft.name": "lora"},
    "peft_full": {"peft.name": "full"},
}
"""Ablation → what is other than in the paper's model."""


def test_the_model_zoo_has_its_twelve_rows() -> None:
    assert {name for name in GROUPS["experiment"] if not name.startswith("ablation_")} == set(ZOO)
    assert {name.removeprefix("ablation_") for name in GROUPS["experiment"]} - set(ZOO) == set(ABLATIONS)
    assert len(ZOO) == 12


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_changes_what_its_name_says_and_nothing_else(name: str) -> None:
    full, cfg = composed("run_dir=x"), composed(f"experiment=ablation_{name}", "run_dir=x")
    check(full)
    check(cfg)
    alone = name.endswith("_alone")
    expected = {"robustness.name": None if alone else "emm", **ABLATIONS[name]}
    found = {key: OmegaConf.select(cfg, key) for key in expected}
    plain = {k: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for k, v in found.items()}
    assert plain == expected
    changed = {key.partition(".")[0] for key in expected} - {"dataset", "robustness"}
    for group in ("backbone", "peft", "fusion", "head", "loss", "optim", "trainer"):
        same = OmegaConf.to_container(cfg[group]) == OmegaConf.to_container(full[group])
        assert same == (group not in changed), group


@pytest.mark.parametrize("name", ZOO)
def test_experiment_is_its_row_of_the_zoo(name: str) -> None:
    dataset, modality, backbone, miou, split = ZOO[name]
    raw = OmegaConf.load(CONF / "experiment" / f"{name}.yaml")
    chosen = {key: value for item in raw.defaults for key, value in item.items()}
    assert chosen == {
        "override /dataset": dataset,
        "override /modality": modality,
        "override /backbone": backbone,
    }
    assert raw.published == {"miou": miou, "split": split, "source": "Keep the Balance (CVPR 2025), model zoo"}


@pytest.mark.parametrize("name", [name for name, row in ZOO.items() if row[0] in GROUPS["dataset"]])
def test_experiment_composes_with_the_published_recipe(name: str) -> None:
    cfg = composed(f"experiment={name}")
    check(cfg)
    dataset, modality, backbone, miou, _ = ZOO[name]
    epochs, lr, weight_decay, pixel_loss = RECIPES[dataset]
    assert (cfg.dataset.name, cfg.modality.name, cfg.backbone.name) == (dataset, modality, backbone)
    assert (cfg.trainer.max_epochs, cfg.optim.lr, cfg.optim.weight_decay) == (epochs, lr, weight_decay)
    assert (cfg.schedule.warmup_epochs, cfg.schedule.warmup_ratio, cfg.schedule.power) == (10, 0.1, 0.9)
    assert (cfg.optim.name, cfg.schedule.name) == ("adamw", "poly")
    assert (cfg.loss.name, cfg.loss.pixel_loss, cfg.loss.side_weight) == ("self_teaching", pixel_loss, 0.01)
    assert (cfg.dataset.batch_size, cfg.seed, cfg.trainer.precision) == (4, 3407, "32-true")
    assert cfg.published.miou == miou
    assert composed(f"experiment={name}", "checkpoint=x.pth", name="eval").dataset == cfg.dataset


def test_default_run_is_the_embedded_demo() -> None:
    cfg = composed("run_dir=x")
    assert (cfg.dataset.name, cfg.backbone.name, cfg.backbone.weights) == ("synthetic", "swin_nano", "bundled")
    assert (cfg.loss.name, cfg.fusion.name, cfg.peft.prompts) == ("self_teaching", "dscf", True)
    assert cfg.ckpt_path is None
    assert cfg.published is None


def test_nothing_is_put_into_the_working_directory_but_the_run() -> None:
    """Hydra's own folders and log file are off: the run folder is the one place of results."""
    cfg = compose("train", ["run_dir=x"], with_hydra=True)
    assert cfg.hydra.run.dir == "."
    assert cfg.hydra.output_subdir is None
    assert list(cfg.hydra.job_logging.handlers) == ["console"]

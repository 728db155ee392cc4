"""The configuration: every shipped member composes, values that cannot work are refused, saved runs are merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from ktb.config import compose as config
from ktb.data.spec import DatasetSpec, ModalitySpec
from ktb.engine.robustness import cases
from ktb.errors import ConfigError, DataError

CONF = config.conf_dir()
GROUPS = config.groups("train")

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
OWN_DATA = (  # what dataset=folder leaves to the user
    "dataset.modalities={rgb: {files: rgb/*.png}, red_edge: {files: re/*.tif}}",
    "dataset.label={files: label/*.png}",
    "dataset.classes=[crop, weed]",
    "dataset.splits={train: 0.8, val: 0.2}",
)
STREAMS = {
    "d": "depth", "t": "thermal", "a": "aolp", "n": "nir", "e": "event", "l": "lidar", "dolp": "dolp", "rgb": "rgb",
    "depth": "depth", "thermal": "thermal", "aolp": "aolp", "nir": "nir", "event": "event", "lidar": "lidar",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_hydra_left_over() -> Iterator[None]:
    yield
    GlobalHydra.instance().clear()


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose(name, overrides=list(overrides))


# ------------------------------------------------------------------------------------------------ what is shipped


@pytest.mark.parametrize(
    ("group", "member"),
    [(group, member) for group, members in GROUPS.items() if group != "experiment" for member in members],
)
def test_every_member_composes_and_passes_the_checks(group: str, member: str) -> None:
    cfg = composed(f"{group}={member}", "run_dir=runs/here", *(OWN_DATA if member == "folder" else ()))
    config.check(cfg)
    if group in ("dataset", "backbone", "loss"):
        assert cfg[group].name == member
    if group == "logger":
        assert cfg.logger.csv.save_dir == "runs/here", "metrics.csv is always written"


@pytest.mark.parametrize(
    ("member", "runs"),
    [("emm", 1 + 2 * 6), ("rmm", 1 + 3 * 6), ("nm", 1 + 3), ("all", 1 + 2 * 6 + 3 * 6 + 3)],
)
def test_robustness_of_three_modalities(member: str, runs: int) -> None:
    cfg = composed("checkpoint=x", f"robustness={member}", name="eval")
    config.check(cfg)
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


@pytest.mark.parametrize("member", [m for m in GROUPS["backbone"] if m != "swin_nano"])
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


def test_the_model_zoo_has_its_twelve_rows() -> None:
    assert set(GROUPS["experiment"]) == set(ZOO)
    assert len(ZOO) == 12


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
    config.check(cfg)
    dataset, modality, backbone, miou, _ = ZOO[name]
    epochs, lr, weight_decay, pixel_loss = RECIPES[dataset]
    assert (cfg.dataset.name, cfg.modality.name, cfg.backbone.name) == (dataset, modality, backbone)
    assert (cfg.trainer.max_epochs, cfg.optim.lr, cfg.optim.weight_decay) == (epochs, lr, weight_decay)
    assert (cfg.optim.warmup_epochs, cfg.optim.warmup_ratio, cfg.optim.power) == (10, 0.1, 0.9)
    assert (cfg.loss.name, cfg.loss.pixel_loss, cfg.loss.side_weight) == ("self_teaching", pixel_loss, 0.01)
    assert (cfg.dataset.batch_size, cfg.seed, cfg.trainer.precision) == (4, 3407, "32-true")
    assert cfg.published.miou == miou
    assert composed(f"experiment={name}", "checkpoint=x.pth", name="eval").dataset == cfg.dataset


def test_default_run_is_the_embedded_demo() -> None:
    cfg = composed("run_dir=x")
    assert (cfg.dataset.name, cfg.backbone.name, cfg.backbone.weights) == ("synthetic", "swin_nano", "bundled")
    assert (cfg.loss.name, cfg.model.fusion, cfg.model.prompts) == ("self_teaching", "dscf", True)
    assert cfg.ckpt_path is None
    assert cfg.published is None


def test_nothing_is_put_into_the_working_directory_but_the_run() -> None:
    """Hydra's own folders and log file are off: the run folder is the one place of results."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("train", return_hydra_config=True, overrides=["run_dir=x"])
    assert cfg.hydra.run.dir == "."
    assert cfg.hydra.output_subdir is None
    assert list(cfg.hydra.job_logging.handlers) == ["console"]


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0", "optim.lr=0: expected above 0"),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1: expected 0 or more"),
        ("optim.warmup_ratio=2", "optim.warmup_ratio=2: expected 0 or more, at most 1"),
        ("dataset.batch_size=0", "dataset.batch_size=0: expected 1 or more"),
        ("dataset.batch_size=many", "dataset.batch_size=many: expected a number"),
        ("backbone.drop_path=1.5", "backbone.drop_path=1.5: expected 0 or more, at most 1"),
        ("seed=-1", "seed=-1: expected 0 or more, at most 4.29497e+09"),
        ("model.fusion=dcsf", "model.fusion=dcsf: expected dscf or sum: did you mean 'dscf'?"),
        ("model.head_init=tiny", "model.head_init=tiny: expected published or small"),
        ("loss.class_weights=2", "loss.class_weights=2: expected auto, or one number per class: [1, 2.5, 6]"),
        ("loss.class_weights=[1,many]", "loss.class_weights=[1, 'many']: expected auto, or one number per class"),
        ("loss.class_weights=[1,-2]", "loss.class_weights=[1, -2]: expected numbers of 0 or more, not all 0"),
        ("loss.class_weights=[0,0]", "loss.class_weights=[0, 0]: expected numbers of 0 or more, not all 0"),
        ("loss.pixel_loss=focal", "loss.pixel_loss=focal: expected ce or ohem"),
        ("modality.streams=[]", "modality.streams is empty"),
        ("modality.streams=[rgb,depth,rgb]", "modality.streams=[rgb, depth, rgb]: 'rgb' appears more than once"),
        ("backbone.depths=[2,2]", "backbone.depths=[2, 2], num_heads=[1, 2, 4, 8]: expected one entry per stage, 4"),
        ("optim.power=???", "optim.power must be given: optim.power=..."),
        ("optim.lr=${dataset.recipe.rate}", "optim.lr: "),
    ],
)
def test_values_that_cannot_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(composed("run_dir=x", override))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_continuing_and_overwriting_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="overwrite=true starts anew but ckpt_path=last continues"):
        config.check(composed("run_dir=x", "overwrite=true", "ckpt_path=last"))


@pytest.mark.parametrize("dataset", ["nyu", "sunrgbd", "mfnet", "pst900", "mcubes", "deliver", "synthetic"])
@pytest.mark.parametrize("loss", ["ce", "ohem", "self_teaching", "self_teaching_ohem"])
def test_built_in_data_sets_have_no_class_weights_and_the_published_start(dataset: str, loss: str) -> None:
    cfg = composed("run_dir=x", f"dataset={dataset}", f"loss={loss}")
    assert cfg.loss.class_weights is None
    assert cfg.model.head_init == "published"


def test_own_data_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"^dataset.label, dataset.splits must be given: dataset.label=..."):
        config.check(composed("run_dir=x", "dataset=folder", OWN_DATA[0], OWN_DATA[2]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.scoring=natives", "eval.scoring=natives: expected native or published: did you mean 'native'?"),
        ("panels=-1", "panels=-1: expected 0 or more"),
    ],
)
def test_values_of_an_evaluation(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(composed("checkpoint=x", override, name="eval"))
    assert str(caught.value) == message


def test_an_evaluation_needs_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"^no checkpoint given: ktb-eval checkpoint=RUN_FOLDER"):
        config.check(composed(name="eval"))


@pytest.mark.parametrize("value", ["runs/a-b_1", "/my runs/x", "sweeps/seed=1,lr=2", "1", "null", "[a", "a:b/c"])
def test_a_value_survives_being_written_as_an_override(value: str) -> None:
    assert composed(config.as_override("run_dir", value)).run_dir == value


# ------------------------------------------------------------------------------------------------ building


def test_instantiate_builds_and_passes_errors_on() -> None:
    node = OmegaConf.create({"_target_": "ktb.data.spec.DatasetSpec", "name": "x", "classes": ["a"]})
    spec = config.instantiate(node, palette=((1, 2, 3),), modalities={})
    assert isinstance(spec, DatasetSpec)
    assert spec.num_classes == 1
    with pytest.raises(DataError, match="^broken list$"):
        config.instantiate(OmegaConf.create({"_target_": f"{__name__}.Raises"}))


class Raises:
    def __init__(self) -> None:
        raise DataError("broken list")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "ktb.data.nowhere.Data"}, r"^_target_=ktb.data.nowhere.Data cannot be imported: "),
        ({"_target_": "ktb.errors.KTBErrors"}, r"^_target_=ktb.errors.KTBErrors cannot be imported: "),
        ({"_target_": "pathlib.PurePath.match", "nme": 1}, r"^pathlib.PurePath.match: .*'nme'"),
        ({"name": "x"}, r"^no _target_ in \[name\]"),
    ],
)
def test_instantiate_says_what_cannot_be_built(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.instantiate(OmegaConf.create(node))


def test_targets_of_this_package_are_accepted() -> None:
    saved = OmegaConf.to_container(composed("loss=ce", "run_dir=x"), resolve=True)  # as a run's config is
    config.check_targets({"loss": saved["loss"]}, "file")  # type: ignore[index,call-overload]
    config.check_targets({"deep": [{"er": {"_target_": "ktb.data.spec.ModalitySpec"}}]}, "file")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ktb.jobs.train.os.system",  # through a module that ktb imports
        "ktb.weights.checkpoint.torch.load",
        "ktb.weights.checkpoint.Path",  # a class, but not of this package
        "ktb.cli.train.train",  # of this package, but not a class
        "ktb.nowhere.Thing",
        "ktbx.Thing",
        "ktb",
        "",
        7,
    ],
)
def test_foreign_targets_of_a_file_are_refused(target: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check_targets({"dataset": {"name": "x", "source": [{"_target_": target}]}}, "runs/x/config.yaml")
    assert str(caught.value).startswith(f"runs/x/config.yaml names dataset.source[0]._target_={target}, which is not")


@pytest.mark.parametrize(
    "node",
    [
        {"dataset": {"source": "${evil}"}, "evil": {"_target_": "os.system"}},
        {"dataset": {"_target_": "${evil}"}, "evil": "os.system"},
        {"dataset": {"list": ["\\${evil}"]}},  # an escaped reference comes alive when it is read once more
    ],
)
@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
def test_references_of_a_file_are_refused(node: dict[str, Any], wrap: Any) -> None:
    with pytest.raises(ConfigError, match=r"^file has a reference, dataset\.\S+=\S*\$\{evil\}: expected values only"):
        config.check_targets(wrap(node), "file")


# ------------------------------------------------------------------------------------------------ saved runs


def saved_run(tmp_path: Path, *overrides: str, **changes: Any) -> tuple[Path, DictConfig]:
    start = (f"run_dir={tmp_path}", "backbone=swin_t", "trainer=ddp", "trainer.precision=bf16-mixed", "seed=11")
    cfg = composed(*start, *overrides)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, force_add=True)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    return tmp_path, cfg


def test_merge_keeps_the_run_and_takes_the_evaluation(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, "eval=ms_flip", **{"dataset.batch_size": 7})
    saved = OmegaConf.load(run / "config.yaml")
    assert isinstance(saved, DictConfig)
    overrides = [f"checkpoint={run}", "split=val"]
    merged = config.merge_saved(saved, composed(*overrides, name="eval"), overrides)
    assert (merged.dataset.batch_size, merged.backbone.name, merged.loss.name) == (7, "swin_t", "self_teaching")
    assert (merged.checkpoint, merged.split, merged.run_dir, merged.eval.name) == (str(run), "val", None, "ms_flip")
    assert (merged.trainer.strategy, merged.trainer.devices) == ("auto", 1), "the machine is not the run's"
    assert merged.trainer.precision == "bf16-mixed", "but the arithmetic is"
    assert saved.run_dir == str(run), "the saved config is left as it was"
    with pytest.raises(Exception, match="not in struct"):
        merged.dataset.rooot = 1


def test_merge_of_a_run_on_own_data(tmp_path: Path) -> None:
    """The member on disk leaves values open, the run has them; and no logger of the file is ever built."""
    run, _ = saved_run(tmp_path, "dataset=folder", "modality=default", *OWN_DATA, "logger=all")
    overrides = [f"checkpoint={run}", "dataset.root=/elsewhere"]
    fresh = composed(*config.inherit(overrides), name="eval")
    config.check(fresh)
    merged = config.merge_saved(run_config(run), fresh, overrides)
    assert list(merged.modality.streams) == ["rgb", "red_edge"]
    assert (list(merged.dataset.classes), merged.dataset.root) == (["crop", "weed"], "/elsewhere")
    assert "logger" not in merged


def test_merge_checks_what_comes_out(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "dataset.eval_batch_size=0"]
    fresh = composed(*config.inherit(overrides), name="eval")
    with pytest.raises(ConfigError, match="^dataset.eval_batch_size=0: expected 1 or more$"):
        config.merge_saved(run_config(run), fresh, overrides)


def test_merge_sets_dotted_overrides(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "dataset.eval_batch_size=3", "trainer.precision=64-true", "+dataset.more=1"]
    merged = config.merge_saved(run_config(run), composed(*overrides, name="eval"), overrides)
    assert (merged.dataset.eval_batch_size, merged.dataset.more) == (3, 1)
    assert merged.trainer.precision == "64-true"
    assert merged.backbone.name == "swin_t"


def test_merge_replaces_a_chosen_group_whole(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, **{"dataset.only_here": 5, "dataset.batch_size": 7})
    overrides = [f"checkpoint={run}", "dataset=synthetic", "modality=rgb"]
    fresh = composed(*overrides, name="eval")
    merged = config.merge_saved(run_config(run), fresh, overrides)
    assert merged.dataset == OmegaConf.create(OmegaConf.to_container(fresh.dataset, resolve=True))
    assert "only_here" not in merged.dataset
    assert list(merged.modality.streams) == ["rgb"]


def test_merge_removes_a_deleted_key(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "~dataset.selection_split"]
    merged = config.merge_saved(run_config(run), composed(*overrides, name="eval"), overrides)
    assert "selection_split" not in merged.dataset


def test_merge_refuses_foreign_code_of_the_file_but_not_the_users(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, **{"dataset._target_": "os.system"})
    overrides = [f"checkpoint={run}"]
    with pytest.raises(ConfigError, match=r"^the checkpoint's config names dataset._target_=os.system"):
        config.merge_saved(run_config(run), composed(*overrides, name="eval"), overrides)
    overrides += ["dataset=synthetic", "++dataset._target_=mine.Data"]
    merged = config.merge_saved(run_config(run), composed(*overrides, name="eval"), overrides)
    assert merged.dataset._target_ == "mine.Data"


def test_merge_refuses_an_experiment(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    with pytest.raises(ConfigError, match="experiment= describes a published checkpoint"):
        config.merge_saved(run_config(run), composed("checkpoint=x", name="eval"), ["experiment=nyu_swin_b"])


def run_config(run: Path) -> DictConfig:
    saved = OmegaConf.load(run / "config.yaml")
    assert isinstance(saved, DictConfig)
    return saved


def test_the_run_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    file = run / "checkpoints" / "best.ckpt"
    file.touch()
    assert config.saved_config(run) == config.saved_config(file) == run / "config.yaml"
    lone = tmp_path / "elsewhere" / "published.pth"
    lone.parent.mkdir()
    lone.touch()
    assert config.saved_config(lone) is None


def test_an_evaluation_is_composed_with_the_groups_of_the_run(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, "modality=rgb_d")
    assert config.inherit([f"checkpoint={run}", "split=val"]) == [
        f"checkpoint={run}",
        "split=val",
        "dataset=synthetic",
        "modality=rgb_d",
        "backbone=swin_t",
        "eval=whole",
        "inherited=[dataset,modality,backbone,eval]",
    ]
    assert config.inherit([f"checkpoint={run}", "backbone=swin_s", "modality=rgb"])[3:] == [
        "dataset=synthetic",
        "eval=whole",
        "inherited=[dataset,eval]",
    ]


@pytest.mark.parametrize("overrides", [[], ["split=val"], ["checkpoint=nowhere.pth"], ["checkpoint=[broken"]])
def test_nothing_is_inherited_from_what_is_no_run(overrides: list[str]) -> None:
    assert config.inherit(overrides) == overrides


def test_a_sweep_over_runs_inherits_what_they_share(tmp_path: Path) -> None:
    first, _ = saved_run(tmp_path, "modality=rgb_d")
    second = tmp_path / "second"
    second.mkdir()
    saved_run(second, "modality=rgb_d", **{"backbone.name": "swin_s"})
    assert config.inherit([f"checkpoint={first},{second}"])[1:] == [
        "dataset=synthetic",
        "modality=rgb_d",
        "eval=whole",
        "inherited=[dataset,modality,backbone,eval]",
    ]


def resumed(saved: DictConfig, *overrides: str) -> DictConfig:
    return config.resume_saved(saved, composed(*overrides, "run_dir=r"), overrides)


def started(*overrides: str) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(composed(*overrides, "run_dir=r"), resolve=True))  # type: ignore[return-value]


def test_a_resumed_run_follows_references_as_a_new_one_would() -> None:
    saved = started("dataset=mfnet", "optim.weight_decay=0.3")
    kept = resumed(saved, "dataset.recipe.lr=1.0", "dataset.recipe.weight_decay=1.0", "seed=7")
    assert (kept.optim.lr, kept.optim.weight_decay, kept.dataset.seed) == (1.0, 0.3, 7)
    kept = resumed(saved, "modality=default")  # of the run's data set, not of the one composed here
    assert kept.dataset.streams == kept.modality.streams == ["rgb", "thermal"]
    assert resumed(saved, "modality.streams=[rgb]").dataset.streams == ["rgb"]
    assert config.differences(saved, resumed(saved)) == {}
    assert config.differences(saved, resumed(saved, "optim.lr=2")) == {"optim.lr": (saved.optim.lr, 2.0)}
    shorter = config.differences(saved, resumed(saved, "dataset.streams=[rgb]"))
    assert shorter == {"dataset.streams[1]": ("thermal", None)}


def test_a_reference_with_a_default_is_followed_too() -> None:
    own = ("dataset=folder", *OWN_DATA)
    weights = "dataset.recipe.class_weights"
    saved = started(*own)
    assert resumed(saved, *own, f"{weights}=[1,2]").loss.class_weights == [1, 2]
    assert resumed(saved, *own, f"{weights}=[1,2]", "loss.class_weights=[3,4]").loss.class_weights == [3, 4]
    assert resumed(started(*own, "loss.class_weights=[3,4]"), *own, f"{weights}=[1,2]").loss.class_weights == [3, 4]
    counted = started(*own, f"{weights}=auto")
    counted.loss.class_weights = [0.5, 1.5]  # as a run writes auto down
    assert resumed(counted, *own, f"{weights}=auto").loss.class_weights == [0.5, 1.5]
    assert resumed(counted, *own, f"{weights}=null").loss.class_weights is None
    builtin = resumed(started("dataset=mfnet"), "dataset=mfnet", f"+{weights}=auto")
    assert builtin.loss.class_weights == "auto"
    assert resumed(started("dataset=mfnet"), "loss=ce").loss.class_weights is None


def test_a_run_from_before_a_setting_keeps_what_refers_to_it_now() -> None:
    own = ("dataset=folder", *OWN_DATA)
    saved = started(*own, "backbone=swin_t", "dataset.recipe.lr=1e-4")
    del saved.backbone["lr"]
    kept = resumed(saved, *own)  # composed with another backbone, which has one
    assert (kept.dataset.recipe.lr, kept.optim.lr) == (1e-4, 1e-4)
    kept = resumed(saved, *own, "backbone=swin_b")
    assert kept.dataset.recipe.lr == kept.optim.lr == kept.backbone.lr == 4e-4
    assert resumed(saved, *own, "dataset.recipe.lr=3").optim.lr == 3


def test_a_setting_of_another_member_than_the_runs_is_refused() -> None:
    saved = started("dataset=mfnet")
    with pytest.raises(ConfigError, match=r"^dataset\.size: the run's dataset is 'mfnet', which has no such setting"):
        resumed(saved, "dataset.size=[64,64]")
    assert resumed(saved, "dataset.batch_size=3").dataset.batch_size == 3


def test_an_experiment_given_on_resume_counts_with_all_it_sets() -> None:
    saved = started("dataset=mfnet", "backbone=swin_b", "optim.power=2")
    kept = resumed(saved, "experiment=mfnet_swin_l", "optim.lr=1.0")
    assert (kept.backbone.name, kept.published.miou) == ("swin_l", 59.2)
    assert (kept.optim.power, kept.optim.lr) == (2, 1.0)  # not what the experiment sets; what the user said
    assert config.differences(saved, resumed(saved, "experiment=mfnet_swin_b")).keys() == {
        "published.miou", "published.split", "published.source",
    }  # fmt: skip


def test_what_a_class_does_not_take_is_one_line() -> None:
    node = OmegaConf.create({"_target_": "ktb.losses.pixel.PixelLoss", "kind": "mse"})
    with pytest.raises(ConfigError, match=r"^ktb\.losses\.pixel\.PixelLoss: pixel loss must be one of"):
        config.instantiate(node)
    node = OmegaConf.create(
        {"_target_": "ktb.data.sets.synthetic.SyntheticDataModule", "streams": ["rgb"], "stride": 3}
    )
    with pytest.raises(ConfigError, match=r"^ktb\.data\.sets\.synthetic\.SyntheticDataModule: .*'stride'") as error:
        config.instantiate(node)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path",
    [
        "/data/my set, v2",
        "/data/a=b (1)/[x] {y: z}",
        "/data/it's",
        '/data/a "b"',
        '/data/it\'s "b"',
        "/data/back\\slash, \\",
        "[x]/data",
        "2024",
        "true",
        "/data/plain set",
        "epoch=3-step=10.ckpt",
        "C:\\data, x",
    ],
)
def test_paths_need_no_quotes_of_their_own(path: str) -> None:
    for key in ("dataset.root", "run_dir"):
        (text,) = config.quoted_paths([f"{key}={path}"])
        with initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
            cfg = compose("train", overrides=["dataset=nyu", text])
        assert OmegaConf.select(cfg, key) == path
    for text in ('dataset.root="/a, b"', "dataset.root='/a, b'", "ckpt_path=null", "dataset.crop=[1,2]", "seed=1,2"):
        assert config.quoted_paths([text]) == [text]


# ------------------------------------------------------------------------------------------------ ~

AT_HOME = {
    "run_dir=~/runs/x": ["run_dir=/home/me/runs/x"],
    "dataset.root=~": ["dataset.root=/home/me"],
    "dataset.root=~/a,~/b": ["dataset.root=/home/me/a,/home/me/b"],
    "+x=[~/a, ~/b]": ["+x=[/home/me/a, /home/me/b]"],
    "dataset.splits={train: ~/t.txt, val: ~/v.txt}": ["dataset.splits={train: /home/me/t.txt, val: /home/me/v.txt}"],
    "dataset.root=choice(~/a,~/b)": ["dataset.root=choice(/home/me/a,/home/me/b)"],
    "run_dir=~/a=b": ["run_dir='/home/me/a=b'"],
    "run_dir='~/x'": ["run_dir='~/x'"],  # left to `check`
    "~logger": ["~logger"],
    "run_dir=a~b": ["run_dir='a~b'"],
}


@pytest.mark.parametrize("given", AT_HOME)
def test_a_home_in_a_setting_is_read_where_the_shell_has_left_it(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert config.at_home([given]) == AT_HOME[given]
    for text in config.at_home([given]):
        config._parse(text)


@pytest.mark.parametrize(
    "key",
    ["run_dir", "ckpt_path", "dataset.root", "backbone.weights", "dataset.splits.train", "dataset.label.files"],
)
def test_a_home_in_a_composed_setting(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = composed("run_dir=x", "dataset=folder", *OWN_DATA)
    OmegaConf.update(cfg, key, "~/there/it", force_add=True)
    cfg.dataset.classes = ["~/a class", "b"]
    config.check(cfg)
    assert OmegaConf.select(cfg, key) == "/home/me/there/it"
    assert cfg.dataset.classes == ["~/a class", "b"]


def test_a_home_in_the_variable_of_the_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("KTB_DATA", "~/data")
    cfg = composed("run_dir=x", "dataset=nyu")
    config.check(cfg)
    assert cfg.dataset.root == "/home/me/data/NYUDepthv2"


def test_a_home_in_the_settings_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        cfg = compose("eval", overrides=["checkpoint='~/runs/x'", "run_dir='~/scores'"])
    config.check(cfg)
    assert (cfg.checkpoint, cfg.run_dir) == ("/home/me/runs/x", "/home/me/scores")


def test_a_home_in_a_list_inside_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = composed("run_dir=x", "+dataset.roots=['~/a',b]")
    config.check(cfg)
    assert cfg.dataset.roots == ["/home/me/a", "b"]

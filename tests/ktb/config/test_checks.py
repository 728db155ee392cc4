"""Values that cannot work are refused in one line; `~` becomes the home that it means."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from ktb.config.checks import check
from ktb.config.compose import groups
from ktb.errors import ConfigError
from tests.ktb.config.composed import OWN_DATA, composed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=0", "optim.lr=0: expected above 0"),
        ("optim.lr=inf", "optim.lr=inf: expected above 0, and finite"),
        ("optim.lr=nan", "optim.lr=nan: is not a number"),
        ("peft.scale=nan", "peft.scale=nan: is not a number"),
        ("+fusion.mine=[1,nan]", "fusion.mine[1]=nan: is not a number"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan: is not a number"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1: expected 0 or more"),
        ("run_dir=", "run_dir is empty, which would mean the current folder; is a variable not set?"),
        ("init_from=' '", "init_from is empty, which would mean the current folder"),
        ("trainer.max_epochs=1.5", "trainer.max_epochs=1.5: expected a whole number"),
        ("dataset.batch_size=inf", "dataset.batch_size=inf: expected a whole number"),
        (
            "trainer.max_steps=0",
            "trainer.max_steps=0: nothing would be trained; expected 1 or more, or -1 for no limit",
        ),
        ("optim.weight_decay=-0.1", "optim.weight_decay=-0.1: expected 0 or more"),
        ("optim.warmup_ratio=2", "schedule.warmup_ratio=2: expected 0 or more, at most 1"),
        ("schedule.power=-1", "schedule.power=-1: expected 0 or more"),
        ("dataset.batch_size=0", "dataset.batch_size=0: expected 1 or more"),
        ("dataset.batch_size=many", "dataset.batch_size=many: expected a number"),
        ("backbone.drop_path=1.5", "backbone.drop_path=1.5: expected 0 or more, at most 1"),
        ("seed=-1", "seed=-1: expected 0 or more, at most 4294967295"),
        ("model.fusion=dcsf", "model.fusion=dcsf: expected dscf or sum: did you mean 'dscf'?"),
        ("head.init=tiny", "head.init=tiny: expected published or small"),
        ("loss.class_weights=2", "loss.class_weights=2: expected auto, balanced, or one number per class: [1, 2.5, 6]"),
        ("loss.class_weights=[1,many]", "loss.class_weights=[1, 'many']: expected auto, balanced, or one number per"),
        ("loss.class_weights=[1,-2]", "loss.class_weights=[1, -2]: expected numbers of 0 or more, not all 0"),
        ("loss.class_weights=[0,0]", "loss.class_weights=[0, 0]: expected numbers of 0 or more, not all 0"),
        ("loss.pixel_loss=focal", "loss.pixel_loss=focal: expected one of ce, ohem, dice, lovasz"),
        ("loss.pixel_loss={ce: 1, lovas: 1}", "loss.pixel_loss=lovas: expected one of ce, ohem, dice, lovasz: did you"),
        ("loss.pixel_loss={ce: many}", "loss.pixel_loss.ce=many: expected its weight in the sum, a number of 0 or"),
        ("loss.pixel_loss=[ce,dice]", "loss.pixel_loss=['ce', 'dice']: expected one of ce, ohem, dice, lovasz"),
        ("loss.label_smoothing=2", "loss.label_smoothing=2: expected 0 or more, at most 1"),
        ("modality.streams=[]", "modality.streams is empty"),
        ("modality.streams=[rgb,depth,rgb]", "modality.streams=[rgb, depth, rgb]: 'rgb' appears more than once"),
        ("backbone.depths=[2,2]", "backbone.depths=[2, 2], num_heads=[1, 2, 4, 8]: expected one entry per stage, 4"),
        ("schedule.power=???", "schedule.power must be given: schedule.power=..."),
        ("optim.lr=${dataset.recipe.rate}", "optim.lr: "),
    ],
)
def test_values_that_cannot_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(composed("run_dir=x", override))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["{ce: 1, dice: 0.5}", "{_target_: my_lab.Focal, gamma: 2}", "{ce: 1, focal: {_target_: my_lab.Focal}}", "lovasz"],
)
def test_pixel_losses_that_work(value: str) -> None:
    check(composed("run_dir=x", f"loss.pixel_loss={value}"))
    check(composed("run_dir=x", "loss=ce", f"loss.kind={value}", "loss.class_weights=balanced"))


def test_a_hole_may_be_what_is_not_a_number() -> None:
    depth = "dataset.modalities={depth: {files: d/*.npy, hole_value: nan}}"
    check(composed("run_dir=x", "dataset=folder", depth, *OWN_DATA[1:]))


def test_continuing_and_overwriting_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="overwrite=true starts anew but ckpt_path=last continues"):
        check(composed("run_dir=x", "overwrite=true", "ckpt_path=last"))


@pytest.mark.parametrize("dataset", ["nyu", "sunrgbd", "mfnet", "pst900", "mcubes", "deliver", "synthetic"])
@pytest.mark.parametrize("loss", groups("train")["loss"])
def test_built_in_data_sets_have_no_class_weights_and_the_published_start(dataset: str, loss: str) -> None:
    cfg = composed("run_dir=x", f"dataset={dataset}", f"loss={loss}")
    assert cfg.loss.class_weights is None
    assert cfg.head.init == "published"


def test_own_data_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"^dataset.label, dataset.splits must be given: dataset.label=..."):
        check(composed("run_dir=x", "dataset=folder", OWN_DATA[0], OWN_DATA[2]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("eval.scoring=natives", "eval.scoring=natives: expected native or published: did you mean 'native'?"),
        ("panels=-1", "panels=-1: expected 0 or more"),
    ],
)
def test_values_of_an_evaluation(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(composed("checkpoint=x", override, name="eval"))
    assert str(caught.value) == message


def test_an_evaluation_needs_a_checkpoint() -> None:
    with pytest.raises(ConfigError, match=r"^no checkpoint given: ktb-eval checkpoint=RUN_FOLDER"):
        check(composed(name="eval"))


@pytest.mark.parametrize(
    "key",
    ["run_dir", "ckpt_path", "dataset.root", "backbone.weights", "dataset.splits.train", "dataset.label.files"],
)
def test_a_home_in_a_composed_setting(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = composed("run_dir=x", "dataset=folder", *OWN_DATA)
    OmegaConf.update(cfg, key, "~/there/it", force_add=True)
    cfg.dataset.classes = ["~/a class", "b"]
    check(cfg)
    assert OmegaConf.select(cfg, key) == "/home/me/there/it"
    assert cfg.dataset.classes == ["~/a class", "b"]


def test_a_home_in_the_variable_of_the_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("KTB_DATA", "~/data")
    cfg = composed("run_dir=x", "dataset=nyu")
    check(cfg)
    assert cfg.dataset.root == "/home/me/data/NYUDepthv2"


def test_a_home_in_the_settings_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = composed("checkpoint='~/runs/x'", "run_dir='~/scores'", name="eval")
    check(cfg)
    assert (cfg.checkpoint, cfg.run_dir) == ("/home/me/runs/x", "/home/me/scores")


def test_a_home_in_a_list_inside_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    cfg = composed("run_dir=x", "+dataset.roots=['~/a',b]")
    check(cfg)
    assert cfg.dataset.roots == ["/home/me/a", "b"]


def test_a_mode_that_wandb_does_not_have() -> None:
    with pytest.raises(ConfigError, match="^logger.wandb.mode=onlin: expected one of online, offline, disabled"):
        check(composed("run_dir=x", "logger=wandb", "logger.wandb.mode=onlin"))
    check(composed("run_dir=x", "logger=wandb", "logger.wandb.mode=offline"))

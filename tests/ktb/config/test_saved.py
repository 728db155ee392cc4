"""A saved run with what the user overrode put over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ktb.config.checks import check
from ktb.config.saved import differences, inherit, merge_saved, saved_config
from ktb.config.trust import Trust
from ktb.errors import ConfigError
from tests.ktb.config.composed import OWN_DATA, composed, resumed, started


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
    merged = merge_saved(saved, composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
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
    fresh = composed(*inherit(overrides), name="eval")
    check(fresh)
    merged = merge_saved(run_config(run), fresh, overrides, Trust(), "x.ckpt")
    assert list(merged.modality.streams) == ["rgb", "red_edge"]
    assert (list(merged.dataset.classes), merged.dataset.root) == (["crop", "weed"], "/elsewhere")
    assert "logger" not in merged


def test_merge_checks_what_comes_out(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "dataset.eval_batch_size=0"]
    fresh = composed(*inherit(overrides), name="eval")
    with pytest.raises(ConfigError, match="^dataset.eval_batch_size=0: expected 1 or more$"):
        merge_saved(run_config(run), fresh, overrides, Trust(), "x.ckpt")


def test_merge_sets_dotted_overrides(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "dataset.eval_batch_size=3", "trainer.precision=64-true", "+dataset.more=1"]
    merged = merge_saved(run_config(run), composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
    assert (merged.dataset.eval_batch_size, merged.dataset.more) == (3, 1)
    assert merged.trainer.precision == "64-true"
    assert merged.backbone.name == "swin_t"


def test_an_override_with_null_counts_too(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, "+metrics.kappa._target_=mine.Kappa", **{"dataset.seed": 5})
    overrides = [f"checkpoint={run}", "dataset.seed=null", "+metrics.kappa=null"]
    merged = merge_saved(run_config(run), composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
    assert merged.dataset.seed is None
    assert merged.metrics == {"kappa": None}
    assert resumed(started("optim.lr=1.0", "save.every_n_minutes=3"), "save.every_n_minutes=null").save == {
        "every_n_steps": None, "every_n_minutes": None, "keep": 2,
    }  # fmt: skip


def test_merge_replaces_a_chosen_group_whole(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, **{"dataset.only_here": 5, "dataset.batch_size": 7})
    overrides = [f"checkpoint={run}", "dataset=synthetic", "modality=rgb"]
    fresh = composed(*overrides, name="eval")
    merged = merge_saved(run_config(run), fresh, overrides, Trust(), "x.ckpt")
    assert merged.dataset == OmegaConf.create(OmegaConf.to_container(fresh.dataset, resolve=True))
    assert "only_here" not in merged.dataset
    assert list(merged.modality.streams) == ["rgb"]


def test_merge_removes_a_deleted_key(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    overrides = [f"checkpoint={run}", "~dataset.selection_split"]
    merged = merge_saved(run_config(run), composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
    assert "selection_split" not in merged.dataset


def test_merge_refuses_foreign_code_of_the_file_but_not_the_users(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, **{"dataset._target_": "os.system"})
    overrides = [f"checkpoint={run}"]
    with pytest.raises(ConfigError, match=r"^x\.ckpt names dataset\._target_=os\.system.*: trust=os$"):
        merge_saved(run_config(run), composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
    overrides += ["dataset=synthetic", "++dataset._target_=mine.Data"]
    merged = merge_saved(run_config(run), composed(*overrides, name="eval"), overrides, Trust(), "x.ckpt")
    assert merged.dataset._target_ == "mine.Data"


def test_merge_refuses_an_experiment(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    with pytest.raises(ConfigError, match="experiment= describes a published checkpoint"):
        merge_saved(
            run_config(run),
            composed("checkpoint=x", name="eval"),
            ["experiment=nyu_swin_b"],
            Trust(),
            "x.ckpt: its configuration",
        )


def run_config(run: Path) -> DictConfig:
    saved = OmegaConf.load(run / "config.yaml")
    assert isinstance(saved, DictConfig)
    return saved


def test_the_run_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path)
    file = run / "checkpoints" / "best.ckpt"
    file.touch()
    assert saved_config(run) == saved_config(file) == run / "config.yaml"
    lone = tmp_path / "elsewhere" / "published.pth"
    lone.parent.mkdir()
    lone.touch()
    assert saved_config(lone) is None


def test_an_evaluation_is_composed_with_the_groups_of_the_run(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, "modality=rgb_d")
    assert inherit([f"checkpoint={run}", "split=val"]) == [
        f"checkpoint={run}",
        "split=val",
        "dataset=synthetic",
        "modality=rgb_d",
        "backbone=swin_t",
        "eval=whole",
        "inherited=[dataset,modality,backbone,eval]",
    ]
    assert inherit([f"checkpoint={run}", "backbone=swin_s", "modality=rgb"])[3:] == [
        "dataset=synthetic",
        "eval=whole",
        "inherited=[dataset,eval]",
    ]


@pytest.mark.parametrize("overrides", [[], ["split=val"], ["checkpoint=nowhere.pth"], ["checkpoint=[broken"]])
def test_nothing_is_inherited_from_what_is_no_run(overrides: list[str]) -> None:
    assert inherit(overrides) == overrides


def test_a_published_file_of_the_zoo_has_an_experiment() -> None:
    file = Path("somewhere", "nyu_swin_b.pth")
    asked = ["checkpoint=zoo:nyu_swin_b", "split=val"]
    assert inherit(asked, fetched=lambda _: file) == [*asked, "experiment=nyu_swin_b", "inherited=[experiment]"]
    assert inherit(["checkpoint=zoo:nyu_swin_b,zoo:nyu_swin_b"], fetched=lambda _: file)[1] == "experiment=nyu_swin_b"
    for other in (["checkpoint=zoo:nyu_swin_b,zoo:nyu_swin_l"], [*asked, "experiment=nyu_swin_l"]):
        assert inherit(other, fetched=lambda _: file) == other


def test_a_bundle_by_name_brings_the_configuration_that_was_fetched_with_it(tmp_path: Path) -> None:
    run, _ = saved_run(tmp_path, "modality=rgb_d")
    weights = run / "model.safetensors"
    weights.touch()
    for name in ("zoo:nyu_swin_b", "someone/model"):
        found = inherit([f"checkpoint={name}"], fetched={name: weights}.__getitem__)
        assert found[1:] == inherit([f"checkpoint={run}"])[1:]


def test_a_sweep_over_runs_inherits_what_they_share(tmp_path: Path) -> None:
    first, _ = saved_run(tmp_path, "modality=rgb_d")
    second = tmp_path / "second"
    second.mkdir()
    saved_run(second, "modality=rgb_d", **{"backbone.name": "swin_s"})
    assert inherit([f"checkpoint={first},{second}"])[1:] == [
        "dataset=synthetic",
        "modality=rgb_d",
        "eval=whole",
        "inherited=[dataset,modality,backbone,eval]",
    ]


def test_a_setting_of_another_member_than_the_runs_is_refused() -> None:
    saved = started("dataset=mfnet")
    with pytest.raises(ConfigError, match=r"^dataset\.size: the run's dataset is 'mfnet', which has no such setting"):
        resumed(saved, "dataset.size=[64,64]")
    assert resumed(saved, "dataset.batch_size=3").dataset.batch_size == 3


def test_an_experiment_given_on_resume_counts_with_all_it_sets() -> None:
    saved = started("dataset=mfnet", "backbone=swin_b", "schedule.power=2")
    kept = resumed(saved, "experiment=mfnet_swin_l", "optim.lr=1.0")
    assert (kept.backbone.name, kept.published.miou) == ("swin_l", 59.2)
    assert (kept.schedule.power, kept.optim.lr) == (2, 1.0)  # not what the experiment sets; what the user said
    assert differences(saved, resumed(saved, "experiment=mfnet_swin_b")).keys() == {
        "published.miou", "published.split", "published.source",
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"\xb6\x00\xff", b"a: [", b"- a", b"model:\n  type: EncoderDecoder\n"])
def test_a_configuration_that_no_run_has_written_is_passed_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.yaml").write_bytes(content)
    assert inherit([f"checkpoint={tmp_path}"]) == [f"checkpoint={tmp_path}"]

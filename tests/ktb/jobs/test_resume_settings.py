"""What is said on resume holds: settings by value, the place in the data sample by sample; or one line refuses it."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from omegaconf import OmegaConf

from ktb.data.module import RGBXDataModule
from ktb.data.samples import Samples
from ktb.engine.callbacks.saving import Saving
from ktb.engine.epochs import EpochPlan
from ktb.engine.module import SegmentationModule
from ktb.engine.schedules import Poly
from ktb.errors import CheckpointError, ConfigError, KTBError
from ktb.jobs import resume
from ktb.jobs.resume_settings import prepare
from tests.ktb.config.composed import OWN_DATA
from tests.ktb.jobs.test_train import configured, metric_rows, train
from tests.ktb.slow import slow_unless

QUICK = ["test=false", "trainer.log_every_n_steps=1", "trainer.limit_val_batches=1", "dataset.train=12"]


class Taken:
    """Every step of the trainings in a test: epoch, samples, and the learning rate it used."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, list[str], float]] = []
        self.stop_after = -1
        step = SegmentationModule.training_step

        def recorded(module: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
            self.steps.append((module.current_epoch, batch["id"], module.trainer.optimizers[0].param_groups[0]["lr"]))
            return step(module, batch, batch_idx)

        def stopped(saving: Saving, trainer: Any, *args: Any) -> None:
            if trainer.global_step == self.stop_after:
                saving._save_step(trainer, "between steps")
                raise SIGTERMException

        patch.setattr(SegmentationModule, "training_step", recorded)
        patch.setattr(Saving, "_stop_if_asked", lambda *_: None)
        begin = Saving.on_train_batch_start

        def start(saving: Saving, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx:
                stopped(saving, trainer)
            begin(saving, trainer, module, batch, batch_idx)

        patch.setattr(Saving, "on_train_batch_start", start)

    def samples(self, epoch: int) -> Counter[str]:
        return Counter(sample for at, ids, _ in self.steps for sample in ids if at == epoch)

    def rates(self) -> list[float]:
        return [rate for _, _, rate in self.steps]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def interrupted(taken: Taken, folder: Path, step: int, *options: str) -> Path:
    """A run stopped after so many optimiser steps."""
    taken.stop_after = step
    with pytest.raises(SIGTERMException):
        train(folder, *QUICK, *options)
    taken.stop_after = -1
    taken.steps.clear()
    return folder


def rate(step: int, *, epochs: int, steps: int, lr: float = 2e-3, **schedule: float) -> float:
    return lr * Poly(**{"warmup_epochs": 1, **schedule}).factor(step, epochs=epochs, steps_per_epoch=steps)


def optimizer_group(folder: Path) -> dict[str, Any]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["optimizer_states"][0]["param_groups"][0]


@pytest.mark.parametrize("group", ["schedule", "optim"])  # now, and in older sweeps
def test_optimiser_settings_take_effect(
    tmp_path: Path, taken: Taken, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    folder = interrupted(taken, tmp_path / "run", 7)  # 6 steps of 2 samples per epoch
    given = {"warmup_epochs": 0.5, "warmup_ratio": 0.3, "power": 2.0}
    options = ["ckpt_path=last", "trainer.max_epochs=3", "optim.lr=1e-6", "optim.weight_decay=0.5"]
    train(folder, *QUICK, *options, *(f"{group}.{key}={value}" for key, value in given.items()))
    expected = [rate(step, epochs=3, steps=6, lr=1e-6, **given) for step in range(7, 18)]
    assert taken.rates() == pytest.approx(expected, rel=1e-12)
    group = optimizer_group(folder)
    assert (group["initial_lr"], group["weight_decay"]) == (1e-6, 0.5)
    said = capsys.readouterr().out
    assert "in epoch 2 of 3, after 1 of 6 batches" in said
    assert "optim.lr=1e-06 (was 0.002)" in said
    assert "trainer.max_epochs=3 (was 2)" in said


@pytest.mark.parametrize(("old", "new"), slow_unless([(6, 2)].__contains__, [(1, 4), (4, 1), (3, 6), (6, 2)]))
def test_another_batch_size_after_an_epoch(tmp_path: Path, taken: Taken, old: int, new: int) -> None:
    folder = tmp_path / "run"
    train(folder, *QUICK, f"dataset.batch_size={old}", "trainer.max_epochs=1")
    taken.steps.clear()
    result = train(folder, *QUICK, "ckpt_path=last", f"dataset.batch_size={new}", "trainer.max_epochs=3")
    steps = 12 // new
    assert taken.rates() == pytest.approx([rate(i, epochs=3, steps=steps) for i in range(steps, 3 * steps)], rel=1e-12)
    for epoch in (1, 2):
        assert sorted(taken.samples(epoch).values()) == [1] * 12
    assert (result["epochs"], result["steps"]) == (3, 12 // old + 2 * steps)


@pytest.mark.parametrize(
    ("was", "stop", "now"),
    [
        pytest.param((2, 1), 3, (1, 1), marks=pytest.mark.slow),
        ((1, 1), 4, (2, 1)),
        pytest.param((2, 1), 3, (3, 1), marks=pytest.mark.slow),
        ((1, 2), 2, (4, 1)),  # batches, accumulated
        pytest.param((4, 1), 2, (2, 2), marks=pytest.mark.slow),
        ((4, 1), 2, (8, 1)),  # the epoch is over with that
    ],
)
def test_another_global_batch_within_an_epoch(
    tmp_path: Path, taken: Taken, was: tuple[int, int], stop: int, now: tuple[int, int]
) -> None:
    def options(batch: int, accumulate: int) -> list[str]:
        return [f"dataset.batch_size={batch}", f"trainer.accumulate_grad_batches={accumulate}"]

    folder = tmp_path / "run"
    taken.stop_after = stop
    with pytest.raises(SIGTERMException):
        train(folder, *QUICK, *options(*was))
    taken.stop_after = -1
    result = train(folder, *QUICK, *options(*now), "ckpt_path=last")
    size, (batch, accumulate) = was[0] * was[1] * stop, now
    assert set(taken.samples(0).values()) == {1}
    assert taken.samples(0).total() == size + (12 - size) // batch * batch
    assert taken.samples(1).total() == 12 // batch * batch
    per_epoch = math.ceil(12 // batch / accumulate)
    first = size // (batch * accumulate)
    expected = [rate(step, epochs=2, steps=per_epoch) for step in range(first, 2 * per_epoch)]
    before = stop * was[1]
    assert taken.rates()[before::accumulate] == pytest.approx(expected, rel=1e-12)
    assert (result["epochs"], result["steps"]) == (2, stop + len(expected))


@pytest.mark.slow
def test_limit_and_size_of_the_training_split(tmp_path: Path, taken: Taken) -> None:
    folder = tmp_path / "run"
    train(folder, *QUICK, "trainer.max_epochs=1")
    taken.steps.clear()
    train(folder, *QUICK, "ckpt_path=last", "trainer.limit_train_batches=2", "trainer.max_epochs=2")
    train(
        folder, *QUICK, "ckpt_path=last", "trainer.limit_train_batches=1.0", "dataset.train=8", "trainer.max_epochs=3"
    )
    expected = [rate(step, epochs=2, steps=2) for step in (2, 3)]
    expected += [rate(step, epochs=3, steps=4) for step in range(8, 12)]
    assert taken.rates() == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def stopped_in_an_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps an epoch after the third of them. Not to be changed."""
    with pytest.MonkeyPatch.context() as patch:
        return interrupted(Taken(patch), tmp_path_factory.mktemp("stopped") / "run", 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["dataset.batch_size=5"], "after 6 of its samples, which are no whole number of steps of a global batch of 5"),
        (["dataset.train=10"], r"another order now \(12 samples then, 10 now\)"),
        (["seed=1"], "another order now"),
        (["trainer.limit_train_batches=2"], "after 6 of its samples, but an epoch has 4 now"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(
    stopped_in_an_epoch: Path, taken: Taken, options: list[str], said: str
) -> None:
    folder = stopped_in_an_epoch
    before = (folder / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=said) as error:
        train(folder, *QUICK, *options, "ckpt_path=last")
    assert "\n" not in str(error.value)
    assert (folder / "config.yaml").read_text() == before
    assert not taken.steps


@pytest.mark.slow
def test_what_refers_to_a_setting_follows_it(tmp_path: Path, taken: Taken) -> None:
    """A saved configuration is resolved; its references count all the same, but not over a value of the user's own."""
    folder = tmp_path / "run"
    train(folder, *QUICK, "trainer.max_epochs=1", "optim.weight_decay=0.2")
    taken.steps.clear()
    train(folder, *QUICK, "ckpt_path=last", "dataset.recipe.lr=1e-5", "dataset.recipe.weight_decay=0.7", "seed=5")
    assert taken.rates() == pytest.approx([rate(step, epochs=2, steps=6, lr=1e-5) for step in range(6, 12)])
    assert optimizer_group(folder)["weight_decay"] == 0.2
    config = (folder / "config.yaml").read_text()
    assert config.count("seed: 5") == 2  # of draws and of the data


@pytest.mark.slow
def test_the_plan_is_the_one_lightning_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[EpochPlan] = []
    planned = EpochPlan.planned

    def noted(**options: Any) -> EpochPlan:
        plans.append(planned(**options))
        return plans[-1]

    monkeypatch.setattr(EpochPlan, "planned", noted)
    for limit in ("0.5", "2", "1.0"):
        train(
            tmp_path / limit, *QUICK, f"trainer.limit_train_batches={limit}", "dataset.train=11", "trainer.max_epochs=1"
        )
        content = torch.load(tmp_path / limit / "checkpoints" / "last.ckpt", weights_only=True)
        assert EpochPlan(**content["callbacks"]["Saving"]["plan"]) == plans.pop()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder, *QUICK, "trainer.max_epochs=1")
    return folder


def test_nothing_left_to_train(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    result = train(finished, *QUICK, "ckpt_path=last", "trainer.max_epochs=1")
    said = capsys.readouterr().out
    assert "nothing is left to train, its run has got to epoch 1 (trainer.max_epochs=1; a larger one trains on)" in said
    assert "nothing was trained" in said
    assert (result["status"], result["steps"]) == ("finished", 6)
    for options, text in (
        (["optim.lr=1e-5", "ckpt_path=last"], "so optim.lr=1e-05 would have no effect"),
        ([f"ckpt_path={finished / 'checkpoints' / 'best.ckpt'}", f"run_dir={tmp_path / 'new'}"], "init_from="),
    ):
        with pytest.raises(ConfigError, match=text) as error:
            train(finished, *QUICK, "trainer.max_epochs=1", *options)
        assert "\n" not in str(error.value)
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == files
    assert not (tmp_path / "new").exists()


def test_a_killed_training_cannot_end_earlier_than_it_has_got(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "result.json").unlink()
    file = folder / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["epoch"] = 5
    content["callbacks"]["Saving"].update(epoch=5, batch=2)
    torch.save(content, file)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(
        ConfigError, match=r"has got to epoch 5 .*; it can't end earlier than that any more: leave"
    ) as e:
        train(folder, *QUICK, "ckpt_path=last", "trainer.max_epochs=3")
    assert "\n" not in str(e.value)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == before


def test_settings_of_a_training_that_is_over_are_refused_also_before_its_test(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    (folder / "result.json").unlink()
    with pytest.raises(ConfigError, match=r"so optim.lr=1e-05 would have no effect; leave it out"):
        train(folder, *QUICK, "trainer.max_epochs=1", "ckpt_path=last", "optim.lr=1e-5", "dataset.eval_batch_size=2")
    assert not (folder / "result.json").exists()
    # What belongs to the test has an effect, and so may have what has ended the training.
    result = train(
        folder, *QUICK, "trainer.max_epochs=1", "ckpt_path=last", "dataset.eval_batch_size=2", "trainer.max_steps=4"
    )
    assert "only what follows the training is done" in capsys.readouterr().out
    assert (result["status"], result["steps"]) == ("finished", 6)


OTHER = {
    "classes": [{"classes": [f"class {i}" for i in range(10)]}, r"was trained for 10 classes \(class 0, .*init_from="],
    "a data set": [{"dataset": "mine"}, r"is on the data set 'mine', and here is 'synthetic'; .*init_from="],
    "no mean": [
        {"modalities": [{"name": "rgb", "mean": None}]},
        r"rgb was trained on with mean None, and is read with",
    ],
    "a scale": [
        {"modalities": [{"name": "rgb", "scale": 255.0}, {"name": "depth", "scale": 1.0}]},
        "depth was trained on with scale 1.0, and is read with",
    ],
}


@pytest.mark.parametrize("kind", OTHER)
def test_a_checkpoint_of_other_data_is_refused(finished: Path, tmp_path: Path, kind: str) -> None:
    changed, said = OTHER[kind]
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["ktb"].update(changed)
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=said) as error:
        train(tmp_path / "run", *QUICK, f"ckpt_path={tmp_path / 'other.ckpt'}", "trainer.max_epochs=2")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("head.init=small", "says how a run starts, and that of .* has started with published"),
        ("+dataset.recipe.head_init=small", "says how a run starts, and that of .* has started with published"),
        ("modality.streams=[rgb]", "was trained on rgb .3 channels., depth"),
        ("fusion=sum", "fusion is DSCF, here PlainSum"),
        ("backbone.drop_path=0.2", r"drop_path is 0.0, here 0.2$"),
        ("backbone.weights=random", "backbone.weights=bundled; pass those"),
        ("loss=ce", "side_head is MLPHead, here None"),
    ],
)
def test_settings_that_make_another_run_are_refused(finished: Path, option: str, said: str) -> None:
    before = (finished / "config.yaml").read_text()
    with pytest.raises(KTBError, match=said) as error:
        train(finished, *QUICK, "ckpt_path=last", "trainer.max_epochs=2", option)
    assert "\n" not in str(error.value)
    assert (finished / "config.yaml").read_text() == before


@pytest.mark.parametrize("option", ["limit_val_batches=0", "check_val_every_n_epoch=2"])
def test_steps_are_counted_on_with_validation_at_other_places(finished: Path, tmp_path: Path, option: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    result = train(folder, *QUICK, "trainer.max_epochs=2", "ckpt_path=last", f"trainer.{option}")
    rows = [row for row in metric_rows(folder) if "train/loss" in row]
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [(step // 6, step) for step in range(12)]
    assert (result["epochs"], result["steps"]) == (2, 12)


def test_checkpoints_of_older_versions_go_by_their_configuration(finished: Path, tmp_path: Path, taken: Taken) -> None:
    """They do not note the plan of their epochs."""
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    del content["callbacks"]["Saving"]["plan"]
    torch.save(content, tmp_path / "old.ckpt")
    options = ["trainer.max_epochs=2", "dataset.batch_size=4", f"ckpt_path={tmp_path / 'old.ckpt'}"]
    result = train(tmp_path / "new", *QUICK, *options, "trainer.check_val_every_n_epoch=2")
    assert taken.rates() == pytest.approx([rate(step, epochs=2, steps=3) for step in range(3, 6)], rel=1e-12)
    assert (result["epochs"], result["steps"]) == (2, 9)
    with pytest.raises(ConfigError, match="fast_dev_run tries a new run out"):
        train(tmp_path / "other", *QUICK, *options, "trainer.fast_dev_run=true")


@pytest.mark.slow
def test_scores_of_less_training_are_not_those_of_an_extended_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scored = tmp_path / "run", [option for option in QUICK if option != "test=false"]
    train(folder, *scored, "trainer.max_epochs=1")
    old = (folder / "result.json").read_text()

    def died(*args: Any, **options: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(L.Trainer, "test", died)
        with pytest.raises(MemoryError):
            train(folder, *scored, "trainer.max_epochs=2", "ckpt_path=last")
    assert not any((folder / name).exists() for name in ("result.json", "report.html", "per_image.csv"))
    (folder / "result.json").write_text(old)  # as older versions left it
    result = train(folder, *scored, "trainer.max_epochs=2", "ckpt_path=last")
    assert (json.loads(old)["steps"], result["steps"]) == (6, 12)
    assert json.loads((folder / "result.json").read_text())["steps"] == 12
    assert (folder / "per_image.csv").exists()


def test_settings_of_the_machine_leave_the_results_as_they_are(finished: Path) -> None:
    """So do those that the configuration of the run did not have yet, unless they are said."""
    before = (finished / "result.json").stat().st_mtime_ns
    machine = ["dataset.num_workers=1", "save.every_n_minutes=3", "save.keep=1", "trainer.devices=auto"]
    result = train(finished, *QUICK, "trainer.max_epochs=1", "ckpt_path=last", *machine)
    assert (result["steps"], (finished / "result.json").stat().st_mtime_ns) == (6, before)
    with pytest.raises(ConfigError, match="so schedule.power=2 would have no effect"):
        train(finished, *QUICK, "trainer.max_epochs=1", "ckpt_path=last", "optim.power=2", *machine)


class Told(RGBXDataModule):
    """Data that is only told where to start."""

    def __init__(self) -> None:
        pass

    def start_at(self, epoch: int, batch: int) -> None:
        pass

    def open_split(self, split: str) -> Samples:
        raise NotImplementedError


def continued(finished: Path, batch: int, before: list[str], *now: str) -> resume.Checkpoint:
    """What a checkpoint of a run with the settings `before` becomes when it is continued with `now`."""
    content = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    content["ktb"]["config"] = OmegaConf.to_yaml(configured("train", [*before, "run_dir=r"]), resolve=True)
    content["callbacks"]["Saving"].update(batch=batch, best_score=0.5)
    point = resume.Checkpoint(finished / "checkpoints" / "last.ckpt", content)
    cfg = resume._continued(configured("train", [*before, *now, "run_dir=r"]), point)
    prepare(point, cfg, Told(), EpochPlan(**point.position["plan"]), 1)
    return point


FOLDER = ["dataset=folder", *OWN_DATA]
LISTED = [*FOLDER[:-1], "dataset.splits={train: train.txt, val: val.txt}"]


@pytest.mark.parametrize(
    ("before", "now", "scored_otherwise", "another_order"),
    [
        (["dataset=mfnet"], "dataset.lists.val=other.txt", True, True),
        (["dataset=mfnet"], "dataset.lists.train=[train.txt,more.txt]", False, True),
        (["dataset=mfnet"], "dataset.eval_size=[240,320]", True, False),
        (["dataset=mfnet"], "dataset.seed=5", False, True),
        (["dataset=deliver"], "dataset.weather=[fog]", True, True),
        (["dataset=deliver"], "dataset.case=[normal]", True, True),
        (["dataset=deliver"], "dataset.depth_source=depth", True, True),
        (["dataset=nyu"], "dataset.missing=skip", True, True),
        (["dataset=pst900"], "dataset.thermal_source=thermal_raw", True, True),
        (FOLDER, "dataset.resize=label", True, True),
        (FOLDER, "dataset.max_gap=0.1", True, True),
        (FOLDER, "dataset.label.offset=1", True, True),
        (LISTED, "dataset.splits={train: train.txt, val: other.txt}", True, True),
        (FOLDER, "dataset.num_workers=3", False, False),
        (FOLDER, "dataset.root=/elsewhere", False, False),
        (FOLDER, "dataset.eval_batch_size=3", False, False),
        (FOLDER, "dataset.crop=[64,64]", False, False),
        (FOLDER, "dataset.recipe.lr=1.0", False, False),
    ],
)
def test_settings_that_change_the_samples(
    finished: Path, before: list[str], now: str, scored_otherwise: bool, another_order: bool
) -> None:
    now = f"+{now}" if "label.offset" in now else now
    place = continued(finished, 0, before, now).position
    assert place["best_score"] == (-math.inf if scored_otherwise else 0.5)
    if another_order:
        with pytest.raises(ConfigError, match="other samples or another order now"):
            continued(finished, 3, before, now)
    else:
        assert continued(finished, 3, before, now).position["batch"] == 3


@pytest.mark.parametrize(
    "option", ["dataset.split_seed=1", "dataset.splits.train=0.7", "dataset.splits={train: train.txt, val: val.txt}"]
)
def test_samples_that_are_dealt_out_anew_are_refused(finished: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=r"deals out the samples anew .* init_from=/") as error:
        continued(finished, 0, FOLDER, option)
    assert "\n" not in str(error.value)


def test_how_a_run_started_stays_what_it_was(finished: Path) -> None:
    """Also where the same command names the data set, which would have it otherwise today."""
    point = continued(finished, 0, [*FOLDER, "dataset.recipe.head_init=published"])
    cfg = resume._continued(configured("train", [*FOLDER, "run_dir=r"]), point)
    assert (cfg.head.init, cfg.dataset.recipe.head_init) == ("published", "published")
    assert not point.changed
    older = OmegaConf.create(point.content["ktb"]["config"])
    del older.head["init"], older.dataset.recipe["head_init"], older.dataset["resize"]
    point.content["ktb"]["config"] = OmegaConf.to_yaml(older)
    cfg = resume._continued(configured("train", [*FOLDER, "run_dir=r"]), point)
    assert "init" not in cfg.head
    point.position["batch"] = 3  # type: ignore[index]
    prepare(point, cfg, Told(), EpochPlan(**point.position["plan"]), 1)
    assert (point.position["batch"], point.position["best_score"]) == (3, 0.5)


def test_a_run_continued_elsewhere_keeps_out_of_another_run_s_folder(finished: Path, tmp_path: Path) -> None:
    occupied = tmp_path / "run"
    (occupied / "checkpoints").mkdir(parents=True)
    (occupied / "checkpoints" / "best.ckpt").write_text("of another run")
    options = ["trainer.max_epochs=2", "trainer.limit_val_batches=0", f"ckpt_path={finished / 'checkpoints/last.ckpt'}"]
    with pytest.raises(ConfigError, match=r"choose another run_dir, continue it with ckpt_path=last$"):
        train(occupied, *QUICK, *options)
    with pytest.raises(ConfigError, match=r"overwrite=true starts anew but ckpt_path=.* continues: give one of them"):
        train(occupied, *QUICK, *options, "overwrite=true")
    assert (occupied / "checkpoints" / "best.ckpt").read_text() == "of another run"
    result = train(tmp_path / "free", *QUICK, *options)
    assert (result["checkpoint"], result["steps"]) == ("checkpoints/last.ckpt", 12)
    assert (finished / "checkpoints" / "best.ckpt").exists()

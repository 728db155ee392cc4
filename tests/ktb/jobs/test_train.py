"""Whole jobs on tiny synthetic data: what they write, that evaluation repeats training's numbers, that resuming
equals never having stopped, and that mistakes are one line and leave nothing behind."""

from __future__ import annotations

import csv
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from ktb import load_model
from ktb.cli.run_command import run_command
from ktb.config.checks import check
from ktb.config.compose import compose
from ktb.data.balance import CLASS_WEIGHTS, count_pixels
from ktb.data.spec import normalize
from ktb.engine.module import SegmentationModule
from ktb.errors import CheckpointError, ConfigError, DataError, KTBError
from ktb.jobs import evaluate as evaluation
from ktb.jobs import train as training
from ktb.jobs.build import build_data
from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.scores import scores
from ktb.models.profile import flops
from ktb.weights.tensor_names import to_published

TINY = (
    "dataset.size=[40,48]",
    "dataset.train=6",
    "dataset.val=2",
    "dataset.test=3",
    "dataset.batch_size=2",
    "dataset.eval_batch_size=2",
    "trainer.max_epochs=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.num_sanity_val_steps=0",
)


def configured(name: str, overrides: list[str]) -> DictConfig:
    cfg = compose(name, overrides, with_hydra=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    check(cfg)
    return cfg


def train(run_dir: Path, *overrides: str) -> dict[str, Any]:
    return training.train(configured("train", [*TINY, f"run_dir={run_dir}", *overrides]))


def evaluate(checkpoint: Path, run_dir: Path, *overrides: str) -> dict[str, Any]:
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    return evaluation.evaluate(
        configured("eval", [f"checkpoint={checkpoint}", f"run_dir={run_dir}", *quiet, *overrides])
    )


def last_state(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def metric_rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v and k != "train/samples_per_s"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, train(folder)


def test_run_folder(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, result = finished
    assert {p.name for p in folder.iterdir()} == {
        "config.yaml", "result.json", "metrics.csv", "per_image.csv", "checkpoints", "panels", "panels.png",
        "report.html",
    }  # fmt: skip
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    shown = json.loads((folder / "panels" / "panels.json").read_text())["samples"]
    assert {p["file"] for s in shown for p in s["pictures"]} == {p.name for p in (folder / "panels").glob("*.png")}
    assert sorted(s["id"] for s in shown) == [f"test/{i:05d}" for i in range(3)]
    written = json.loads((folder / "result.json").read_text())
    assert written["metrics"] == result["metrics"]
    assert written["split"] == "test"
    assert written["steps"] == 6
    assert sum(map(sum, written["confusion_matrix"])) == 3 * 40 * 48
    steps = [int(row["step"]) for row in metric_rows(folder) if "train/loss" in row]
    assert len(steps) == 2  # epochs of 3 steps, logged once each


def test_checkpoints_hold_what_training_changed(finished: tuple[Path, dict[str, Any]]) -> None:
    model = load_model(finished[0])
    trained = {f"model.{n}" for n, p in model.named_parameters() if p.requires_grad}
    buffers = {f"model.{n}" for n, _ in model.named_buffers() if "running_" in n or "num_batches" in n}
    assert {k for k in last_state(finished[0]) if k.startswith("model.")} == trained | buffers


@pytest.mark.slow
def test_evaluation_repeats_the_printed_numbers(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = finished
    again = evaluate(folder, tmp_path / "eval")
    assert again["confusion_matrix"] == result["confusion_matrix"]
    assert again["metrics"] == result["metrics"]
    other = evaluate(folder, tmp_path / "val", "split=val")
    assert other["split"] == "val"
    assert sum(map(sum, other["confusion_matrix"])) == 2 * 40 * 48


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol",
    [
        ["eval=ms_flip", "eval.scales=[0.75,1.0]"],
        ["eval=sliding", "eval.window=[32,32]"],
        ["eval=published", "dataset.eval_size=32"],
    ],
)
def test_every_protocol_is_repeated_too(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, protocol: list[str]
) -> None:
    """What ktb-train scored with, ktb-eval scores with unless told otherwise; another way gives other numbers."""
    result = train(tmp_path / "run", *protocol, "trainer.max_steps=2")
    again = evaluate(tmp_path / "run", tmp_path / "eval")
    for key in ("protocol", "confusion_matrix", "metrics", "per_class"):
        assert again[key] == result[key]
    assert result["protocol"]["name"] == protocol[0].removeprefix("eval=")
    per_image = (tmp_path / "eval" / "per_image.csv").read_text()
    assert per_image == (tmp_path / "run" / "per_image.csv").read_text()
    rows = list(csv.DictReader(per_image.splitlines()))
    assert sum(int(row["labelled_pixels"]) for row in rows) == sum(map(sum, result["confusion_matrix"]))
    whole = evaluate(tmp_path / "run", tmp_path / "whole", "eval=whole")
    assert whole["confusion_matrix"] != result["confusion_matrix"]
    assert whole["protocol"]["description"] == "whole image, scored at the label's own size"


@pytest.mark.slow
def test_a_class_left_out_of_the_mean(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run_dir, trained = finished
    result = evaluate(run_dir, tmp_path / "e", "dataset.mean_without=[floor]", "robustness=nm")
    assert result["confusion_matrix"] == trained["confusion_matrix"]
    assert result["per_class"] == trained["per_class"]
    for mean, per_class in (("miou", "iou"), ("macc", "acc"), ("mf1", "f1"), ("mboundary_iou", "boundary_iou")):
        values = [row[per_class] for name, row in result["per_class"].items() if name != "floor"]
        known = [v for v in values if v is not None]
        assert result["metrics"][mean] == pytest.approx(sum(known) / len(known))
    assert result["metrics"]["pixel_acc"] == trained["metrics"]["pixel_acc"]
    assert result["protocol"]["mean_without"] == ["floor"]
    assert result["protocol"]["description"].endswith("means without floor")
    robustness = json.loads((tmp_path / "e" / "robustness.json").read_text())
    assert robustness["full"]["metrics"]["miou"] == pytest.approx(result["metrics"]["miou"])
    assert "means without floor" in (tmp_path / "e" / "report.html").read_text()
    with pytest.raises(ConfigError, match="mean_without: synthetic has no class 'flor'.*did you mean 'floor'"):
        evaluate(run_dir, tmp_path / "f", "dataset.mean_without=[flor]")


@pytest.mark.slow
def test_a_split_without_labels_gets_predictions_in_stored_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test pictures are those of val, so the predictions are those that val's matrix counts."""
    root, rng = tmp_path / "data", np.random.default_rng(0)
    pictures = {name: rng.integers(0, 256, (40, 48, 3), np.uint8) for name in ("t1", "t2", "v1", "v2")}
    pictures |= {"x/1": pictures["v1"], "x/2": pictures["v2"]}
    for name, picture in pictures.items():
        for kind in ("rgb", "label"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / f"rgb/{name}.png")
        if not name.startswith("x/"):
            Image.fromarray(np.where(picture[..., 0] < 128, 7, 300).astype(np.uint16)).save(root / f"label/{name}.png")
    for split, names in {"train": "t1 t2", "val": "v1 v2", "test": "x/1 x/2"}.items():
        (root / f"{split}.txt").write_text("\n".join(names.split()))
    data = [
        "dataset=folder", f"dataset.root={root}", "dataset.modalities={rgb: {files: 'rgb/**/*.png'}}",
        "dataset.label={files: 'label/**/*.png', map: {300: high, 7: low}}", "dataset.classes=[low,high]",
        "dataset.splits={train: train.txt, val: val.txt, test: test.txt}", "dataset.crop=[32,32]",
        "dataset.batch_size=2", "dataset.num_workers=0", *(t for t in TINY if t.startswith("trainer.")),
    ]  # fmt: skip
    result = training.train(configured("train", [*data, "trainer.max_epochs=1", f"run_dir={tmp_path / 'run'}"]))
    assert (result["split"], result["labels"], result["predictions"]) == ("test", False, "predictions")
    assert set(result["metrics"].values()) == {None}
    out = capsys.readouterr().out
    assert "test split has no labels, so there are no scores" in out
    assert str(tmp_path / "run/predictions") in out
    scored = evaluate(tmp_path / "run", tmp_path / "val", "split=val")
    assert "predictions" not in scored
    assert not (tmp_path / "val/predictions").exists()
    evaluate(tmp_path / "run", tmp_path / "test", "split=test")
    counts = {7: 0, 300: 0}
    for name in ("x/1", "x/2"):
        with Image.open(tmp_path / f"test/predictions/{name}.png") as image:
            ids = np.asarray(image)
        assert ids.shape == (40, 48)
        for value, count in zip(*np.unique(ids, return_counts=True), strict=True):
            counts[int(value)] += int(count)
        assert (tmp_path / f"run/predictions/{name}.png").read_bytes() == (
            tmp_path / f"test/predictions/{name}.png"
        ).read_bytes()
    assert list(counts.values()) == np.sum(scored["confusion_matrix"], axis=0).tolist()
    page = (tmp_path / "test/report.html").read_text()
    assert "no scores: the test split has no labels; predictions in stored ids" in page
    with pytest.raises(ConfigError, match="the test split of folder has no labels; choose another: split="):
        evaluate(tmp_path / "run", tmp_path / "r", "split=test", "robustness=nm")


@pytest.mark.slow
def test_sensors_that_fail(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = finished
    evaluate(folder, tmp_path / "a", "robustness=all", "robustness.emm.missing=[zeros,black,masked]")
    found = json.loads((tmp_path / "a" / "robustness.json").read_text())
    assert found["full"]["metrics"] == {k: v for k, v in result["metrics"].items() if k in found["full"]["metrics"]}
    assert (tmp_path / "a" / "robustness.png").stat().st_size > 10_000
    assert found["emm"]["zeros"]["runs"][1] == found["emm"]["black"]["runs"][1], "black depth is zeros"
    assert found["emm"]["zeros"]["runs"][0] != found["emm"]["black"]["runs"][0], "black RGB is not"

    model = load_model(folder)
    data = build_data(configured("train", [*TINY, "run_dir=unused"]))
    data.setup("test")
    counts = {name: ConfusionMatrix(10) for name in ("zeros", "masked", "side")}
    for batch in data.test_dataloader():
        x = normalize(batch["inputs"], data.modalities)
        with torch.inference_mode():
            logits = {
                "zeros": model({"rgb": torch.zeros_like(x["rgb"]), "depth": x["depth"]}).logits,
                "masked": model({"depth": x["depth"]}).logits,
                "side": model({"depth": x["depth"]}, side=True).side["depth"],
            }
        for name, metric in counts.items():
            metric.update(logits[name].argmax(1), batch["label"])
    miou = {name: scores(metric.compute())["miou"] for name, metric in counts.items()}
    for way in ("zeros", "masked"):
        without_rgb = found["emm"][way]["runs"][0]
        assert without_rgb["affected"] == ["rgb"]
        assert without_rgb["metrics"]["miou"] == pytest.approx(miou[way], abs=1e-12)
    assert without_rgb["side"]["depth"] == pytest.approx(miou["side"], abs=1e-12)

    evaluate(folder, tmp_path / "b", "robustness=all", "dataset.eval_batch_size=1")
    other = json.loads((tmp_path / "b" / "robustness.json").read_text())
    assert [other["rmm"], other["nm"]] == [found["rmm"], found["nm"]], "batches do not matter"


@pytest.mark.slow
def test_a_training_can_end_with_sensors_that_fail(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As ktb-eval scores them; and the training is the same."""
    result = train(tmp_path / "run", "robustness=emm")
    assert "missing (EMM, mIoU)" in capsys.readouterr().out
    assert result["metrics"] == finished[1]["metrics"]
    found = json.loads((tmp_path / "run" / "robustness.json").read_text())
    evaluate(finished[0], tmp_path / "eval", "robustness=emm", "seed=3407")
    expected = json.loads((tmp_path / "eval" / "robustness.json").read_text())
    assert [found[key] for key in ("full", "emm")] == [expected[key] for key in ("full", "emm")]
    assert "robustness" not in evaluate(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again" / "robustness.json").exists()
    # A run that is there already can have them added, without training; overwriting it removes them.
    train(tmp_path / "run", "robustness=nm", "ckpt_path=last")
    assert json.loads((tmp_path / "run" / "robustness.json").read_text()).keys() >= {"nm"}
    train(tmp_path / "run", "overwrite=true", "trainer.max_epochs=1", "test=false", "robustness=emm")
    assert not (tmp_path / "run" / "robustness.json").exists()
    with pytest.raises(ConfigError, match="a model of rgb alone cannot do without it"):
        train(tmp_path / "one", "robustness=emm", "modality=rgb")
    assert not (tmp_path / "one").exists()


def test_the_result_says_what_an_image_costs(finished: tuple[Path, dict[str, Any]]) -> None:
    model = load_model(finished[0])
    assert finished[1]["operations"] == {"size": [40, 48], "flops": flops(model, (40, 48))}
    assert finished[1]["operations"]["flops"] > 1e6


@pytest.mark.slow
def test_double_precision_reaches_its_result(tmp_path: Path) -> None:
    """Pictures and failing sensors make their inputs apart from Lightning's batches."""
    result = train(tmp_path / "a", "trainer.precision=64-true", "trainer.max_epochs=1")
    assert result["metrics"]["miou"] > 0
    assert (tmp_path / "a" / "panels" / "fusion.json").is_file()
    evaluate(tmp_path / "a", tmp_path / "b", "trainer.precision=64-true", "robustness=all")
    assert (tmp_path / "b" / "robustness.json").is_file()


def test_a_published_state_dict_of_the_same_model_scores_the_same(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = finished
    file = tmp_path / "published.pth"
    torch.save({"model_state_dict": to_published(load_model(folder).state_dict(), ("rgb", "depth"))}, file)
    data = [o for o in TINY if o.startswith("dataset.") and "batch" not in o]
    assert evaluate(file, tmp_path / "eval", *data)["confusion_matrix"] == result["confusion_matrix"]


def test_resuming_equals_never_stopping(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, "trainer.max_steps=2", "test=false")  # in the middle of the first epoch
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    (folder / "config.yaml").unlink()  # not needed: the checkpoint holds the configuration
    train(folder, "ckpt_path=last", "test=false", "trainer.max_steps=-1")
    ours, theirs = last_state(folder), last_state(finished[0])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    undisturbed = [row for row in metric_rows(finished[0]) if "test/miou" not in row]
    assert [r for r in metric_rows(folder) if "test/miou" not in r] == undisturbed


def test_notices_are_printed_after_the_scores(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setattr(
        "ktb.jobs.printed.notices", lambda found: [f"[b]class of {len(found.per_class)}: never predicted"]
    )
    evaluate(finished[0], tmp_path / "eval")
    assert "\nnote: [b]class of 10: never predicted\n" in capsys.readouterr().out.split("mIoU", 1)[1]


@pytest.mark.parametrize(("word", "rule"), CLASS_WEIGHTS.items())
def test_class_weights_become_numbers_that_a_resumed_run_keeps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, word: str, rule: Any
) -> None:
    folder = tmp_path / "run"
    train(folder, f"loss.class_weights={word}", "trainer.max_steps=1", "test=false")
    data = build_data(configured("train", [*TINY, "run_dir=x"]))
    expected = rule(count_pixels(data).counts)
    assert len(set(expected)) > 3
    assert OmegaConf.load(folder / "config.yaml").loss.class_weights == expected
    assert f"class weights: floor {expected[0]:g}, wall {expected[1]:g}, " in capsys.readouterr().out
    monkeypatch.setattr("ktb.jobs.build.count_pixels", None)  # the labels may be others by then
    train(folder, "ckpt_path=last", "trainer.max_steps=2", "test=false")
    assert OmegaConf.load(folder / "config.yaml").loss.class_weights == expected


def test_a_run_from_before_class_weights_and_small_heads_continues(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(folder, "trainer.max_steps=1", "test=false")
    file = folder / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    config = OmegaConf.create(content["ktb"]["config"])
    for group, key in (("loss", "class_weights"), ("head", "init"), ("backbone", "lr")):
        assert config[group].pop(key, None) in (None, "published", 2e-3)
    content["ktb"]["config"] = OmegaConf.to_yaml(config)
    torch.save(content, file)
    train(folder, "ckpt_path=last", "trainer.max_steps=2", "test=false")
    assert torch.load(file, weights_only=True)["global_step"] == 2


def test_class_weights_are_those_of_the_loss(tmp_path: Path) -> None:
    """A weight of 0 for all classes but one: the loss is that of its pixels alone."""
    rows = []
    for name, weights in (("equal", [3.0] * 10), ("one", [0.0] * 4 + [2.0] + [0.0] * 5), ("none", "null")):
        train(
            tmp_path / name,
            f"loss.class_weights={weights}",
            "trainer.max_steps=1",
            "trainer.log_every_n_steps=1",
            "test=false",
        )
        rows.append(float(next(r for r in metric_rows(tmp_path / name) if "train/loss" in r)["train/loss"]))
    assert rows[0] == pytest.approx(rows[2], rel=1e-6)
    assert abs(rows[1] - rows[0]) > 0.01


def behind(cause: OSError) -> RuntimeError:
    error = RuntimeError("the loader has failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda folder: PermissionError(errno.EACCES, "Permission denied", "/data/1.png"),
         "/data/1.png: Permission denied; change its rights, or choose another place"),
        (lambda folder: OSError(errno.ENOSPC, "No space left on device", f"{folder}/panels.png"),
         "{folder}/panels.png: can't be written (No space left on device); what was saved before is intact: "),
        (lambda folder: OSError(errno.EROFS, "Read-only file system"),
         "{folder}: can't be written (Read-only file system); what was saved before is intact: "),
        (lambda folder: behind(OSError(errno.EIO, "Input/output error", "/data/2.png")),
         "/data/2.png: Input/output error: the disk or network drive does not answer; "),
    ],
)  # fmt: skip
def test_a_fault_while_training_is_told_as_what_it_is(
    fault: Callable[[Path], Exception], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """A file that can't be read is no file that can't be written, and the cause behind an error is kept."""
    folder = tmp_path / "run"

    def training_step(*_: Any) -> None:
        raise fault(folder)

    monkeypatch.setattr(SegmentationModule, "training_step", training_step)
    assert run_command("ktb-train", lambda: bool(train(folder, "trainer.max_steps=1", "test=false"))) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("ktb-train: error: " + said.format(folder=folder))


def test_a_second_run_over_the_first(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"already holds a run; .*ckpt_path=last.*overwrite=true"):
        train(finished[0])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("of a run that was interrupted before its first checkpoint")
    train(folder, "test=false", "trainer.max_steps=1")
    (folder / "report.html").write_text("old")
    train(folder, "test=false", "trainer.max_steps=1", "overwrite=true")
    assert (folder / "report.html").read_text() != "old"
    assert (folder / "checkpoints" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        (["dataset=nyu", "dataset.root=/nowhere"], DataError, "/nowhere"),
        (["run_dir=/dev/null/run"], ConfigError, "can't write results here"),
        (["ckpt_path=last"], CheckpointError, "no checkpoint to continue from"),
        (["ckpt_path=/nowhere/a.ckpt"], CheckpointError, "/nowhere/a.ckpt: no such checkpoint"),
        (["backbone.weights=/nowhere/swin.pth"], CheckpointError, "/nowhere/swin.pth: no such checkpoint"),
        (["backbone=swin_t", "backbone.weights=bundled"], CheckpointError, "swin_t"),
        (["backbone.num_heads=[3,2,4,8]"], ConfigError, "must divide the channels"),
        (["dataset.batch_size=7"], DataError, "dataset.batch_size=6 or less"),
        (["loss.class_weights=[1,2]"], ConfigError, "loss.class_weights has 2 numbers, but synthetic has 10 classes ("),
        (["modality.streams=[rgb,thermal]"], ConfigError, "no modality 'thermal'"),
        (["trainer.devices=many"], ConfigError, "trainer"),
        (["trainer.limit_train_batches=0.001"], ConfigError, "limit_train_batches=0.001: leaves none of the "),
        (["trainer.limit_train_batches=0"], ConfigError, "limit_train_batches=0: leaves none of the "),
        (["trainer.overfit_batches=0.01"], ConfigError, "trainer.overfit_batches=0.01: leaves none of the "),
        (
            ["trainer.limit_val_batches=0.01"],
            ConfigError,
            "batches of val; expected a number of batches, or a share of",
        ),
        (["trainer.limit_test_batches=0.01", "test=true"], ConfigError, "batches of test; expected a number of"),
        (["trainer.val_check_interval=100"], ConfigError, "batches, so there would be no validation; expected so many"),
        (["trainer.val_check_interval=0"], ConfigError, "trainer.val_check_interval=0: expected a number of batches"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    tmp_path: Path, overrides: list[str], kind: type[KTBError], message: str
) -> None:
    folder = tmp_path / "run"
    data = TINY[4:] if any(o.startswith("dataset=") for o in overrides) else TINY
    with pytest.raises(kind) as error:
        training.train(configured("train", [*data, f"run_dir={folder}", *overrides]))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / "checkpoints").exists()
    assert not (folder / "result.json").exists()


def test_checkpoints_for_something_else(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trained on rgb \(3 channels\), depth \(3 channels\)"):
        evaluate(finished[0], tmp_path / "a", "modality=rgb")
    file = finished[0] / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match="another model: peft.prompts is True, here False"):
        train(tmp_path / "b", f"ckpt_path={file}", "peft.prompts=false")
    content = torch.load(file, weights_only=True)
    content["ktb"]["classes"] = ["road", "pothole", *content["ktb"]["classes"][2:]]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"was trained for 10 classes \(road, pothole.*synthetic has 10"):
        evaluate(tmp_path / "other.ckpt", tmp_path / "c")
    (tmp_path / "cut.ckpt").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: not a readable checkpoint"):
        evaluate(tmp_path / "cut.ckpt", tmp_path / "d")
    assert not any((tmp_path / name).exists() for name in "acd")


def test_a_foreign_logger_in_a_checkpoint_is_never_run(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    content = torch.load(finished[0] / "checkpoints" / "last.ckpt", weights_only=True)
    trace = tmp_path / "executed"
    config = OmegaConf.create(content["ktb"]["config"])
    config.logger = {"evil": {"_target_": "pathlib.Path.touch", "self": str(trace)}}
    content["ktb"]["config"] = OmegaConf.to_yaml(config)
    folder = tmp_path / "downloaded"
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    train(folder, f"ckpt_path={folder}", "test=false")
    assert not trace.exists()
    assert "evil" not in OmegaConf.load(folder / "config.yaml").logger


def test_another_backbone_than_in_training_is_refused(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    state = load_model(finished[0]).backbone.state_dict()
    state["patch_embed.proj.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"SHA-256.*pass the file used in training"):
        load_model(finished[0], weights=str(tmp_path / "other.pth"))


@pytest.mark.slow
def test_random_weights_are_kept_in_the_checkpoint(tmp_path: Path) -> None:
    result = train(tmp_path / "run", "backbone.weights=random", "trainer.max_steps=1", "loss=ce", "modality=rgb")
    assert any(k.startswith("model.backbone.") for k in last_state(tmp_path / "run"))
    assert evaluate(tmp_path / "run", tmp_path / "eval")["confusion_matrix"] == result["confusion_matrix"]


@pytest.mark.parametrize("modality", ["rgb", "depth"])
@pytest.mark.parametrize("loss", ["ohem", "self_teaching_ohem"])
def test_single_modalities_and_every_loss(tmp_path: Path, modality: str, loss: str) -> None:
    result = train(tmp_path / "run", f"modality={modality}", f"loss={loss}", "trainer.max_steps=1")
    assert result["modalities"] == [modality]
    assert result["metrics"]["miou"] is not None

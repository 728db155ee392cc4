"""Every data set, in its real layout, through `check`, one training epoch and a test, for every modality it offers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from ktb.config.compose import conf_dir
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.jobs.build import build_data
from ktb.jobs.train import train
from tests.ktb.jobs.test_train import configured
from tests.ktb.slow import slow_unless

OFFERED = {
    "nyu": {"rgb", "depth"},
    "sunrgbd": {"rgb", "depth"},
    "mfnet": {"rgb", "thermal"},
    "pst900": {"rgb", "thermal", "depth"},
    "mcubes": {"rgb", "aolp", "dolp", "nir"},
    "deliver": {"rgb", "depth", "event", "lidar"},
}
MODALITIES = {
    p.stem: yaml.safe_load(p.read_text())["streams"] for p in sorted((conf_dir() / "modality").glob("*.yaml"))
}
# Long and short names of one choice (thermal, t) are one job.
CHOICES = {tuple(streams): name for name, streams in reversed(MODALITIES.items()) if isinstance(streams, list)}
JOBS = [(d, name) for d in FIXTURES for streams, name in sorted(CHOICES.items()) if set(streams) <= OFFERED[d]]
LARGEST = {d: max((len(MODALITIES[m]), m) for of, m in JOBS if of == d)[1] for d in FIXTURES}.items()
"""Of every data set the choice with most modalities."""


def test_every_modality_of_every_data_set_can_be_chosen():
    for dataset, offered in OFFERED.items():
        single = {MODALITIES[m][0] for d, m in JOBS if d == dataset and len(MODALITIES[m]) == 1}
        assert single == offered
        pairs = {MODALITIES[m][1] for d, m in JOBS if d == dataset and len(MODALITIES[m]) == 2}
        assert pairs == offered - {"rgb"}
    assert {("mcubes", "rgb_adn"), ("deliver", "rgb_del")} <= set(JOBS)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny pictures: more threads only wait for each other (ten times the time on a busy machine)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("fixtures")
    return {
        name: make_fixture(name, base / name, counts=dict.fromkeys(splits, 2), size=(32, 32))
        for name, (_, _, splits) in FIXTURES.items()
    }


@pytest.mark.parametrize(("dataset", "modality"), slow_unless(LARGEST.__contains__, JOBS))
def test_check_one_epoch_and_a_test(dataset, modality, roots, tmp_path):
    overrides = [
        f"dataset={dataset}", f"modality={modality}", f"dataset.root={roots[dataset]}", f"run_dir={tmp_path / 'run'}",
        "trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "trainer.num_sanity_val_steps=0",
        "dataset.batch_size=2", "dataset.crop=[32,32]", "dataset.eval_size=32", "dataset.num_workers=0",
    ]  # fmt: skip
    cfg = configured("train", overrides)
    data = build_data(cfg)
    planned = open_splits(data)
    assert summarise(data, planned, map(look, planned.looks))["failures"] == []
    train(cfg)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "finished"
    assert result["steps"] == 1
    assert result["modalities"] == MODALITIES[modality]
    assert result["split"] == ("val" if dataset == "deliver" else "test")
    assert (tmp_path / "run" / "panels.png").stat().st_size > 0

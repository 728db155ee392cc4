"""A trained model and pictures for ktb-predict."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktb.cli import predict as predict_cli
from ktb.jobs.train import train
from tests.ktb.cli.predicting import SIZES, write_pairs
from tests.ktb.jobs.test_train import TINY, configured


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(configured("train", [*TINY, f"run_dir={folder}", "test=false", "trainer.max_steps=2"]))
    return folder


@pytest.fixture(scope="module")
def opened_once() -> Iterator[None]:
    """Composing a configuration and building a model takes a second, and each call below would do it again."""
    with pytest.MonkeyPatch.context() as patch:
        opened: dict[tuple[str, ...], Any] = {}

        def cached(arguments: argparse.Namespace, original: Any = predict_cli._open) -> Any:
            key = (arguments.checkpoint, *arguments.overrides)
            if key not in opened:
                opened[key] = original(arguments)
            return opened[key]

        patch.setattr(predict_cli, "_open", cached)
        yield


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs", SIZES)

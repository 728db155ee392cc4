"""A run that is killed and started again ends as if nothing had happened, wherever it was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ktb.engine.saving import Saving
from tests.ktb.test_run import last_state, metric_rows, train


class Killed(Exception):
    pass


RUNS = {
    "validation twice in an epoch": ["dataset.train=9", "trainer.val_check_interval=2"],
    "none, gradients accumulated": [
        "dataset.train=10",
        "trainer.limit_val_batches=0",
        "trainer.accumulate_grad_batches=2",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_killed_after_every_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Each process gets to one more checkpoint than the one before it."""
    options = ["save.every_n_steps=1", "test=false", "trainer.log_every_n_steps=1", *RUNS[kind]]
    train(tmp_path / "undisturbed", *options)
    save, moments = Saving._save, []

    def save_and_die(self: Saving, trainer: Any, moment: str, **kwargs: Any) -> None:
        save(self, trainer, moment, **kwargs)
        moments.append((trainer.global_step, moment))
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Saving, "_save", save_and_die)
        for _ in range(20):
            try:
                train(tmp_path / "killed", *options, "ckpt_path=auto")
                break
            except Killed:
                pass
    assert len(set(moments)) == len(moments) > 4
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "undisturbed"), moments
    ours, expected = last_state(tmp_path / "killed"), last_state(tmp_path / "undisturbed")
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[k], expected[k]) for k in expected), moments

"""What the progress bar says, and where there is none."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from ktb.engine.callbacks import progress as callbacks
from ktb.engine.callbacks.progress import Progress


def test_the_bar_counts_epochs_from_one():
    bar = Progress()
    bar._trainer = SimpleNamespace(max_epochs=2)
    assert [bar._get_train_description(epoch).rstrip() for epoch in (0, 1)] == ["Epoch 1/2", "Epoch 2/2"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_log_file_gets_no_bar(terminal, monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=terminal)
    monkeypatch.setattr(callbacks, "get_console", lambda: console)
    assert Progress().is_enabled == terminal

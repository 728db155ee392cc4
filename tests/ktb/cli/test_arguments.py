"""Help texts of the argparse commands."""

from __future__ import annotations

import re

import pytest

from ktb.cli import data as data_cli
from ktb.cli import model as model_cli
from ktb.cli import predict as predict_cli


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (data_cli.main, ["new"]),
        (data_cli.main, ["check"]),
        (data_cli.main, ["preview"]),
        (model_cli.main, ["info"]),
        (predict_cli.main, []),
    ],
)
def test_examples_are_not_wrapped(main, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert re.search(r"\n\nexample:\n  ktb-\w+ .{40,}\n$", capsys.readouterr().out)

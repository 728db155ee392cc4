"""Which files belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktb.predict.pairing import plan_csv


def test_homes_in_the_cells_of_a_table_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    table = tmp_path / "tables" / "t.csv"
    table.parent.mkdir()
    table.write_text("rgb,depth\n~/a/1.png,d/~/1.png\n~no_such_user/2.png,~/a/2.png\n", encoding="utf-8")
    first, second = plan_csv(table, ["rgb", "depth"])[0]
    assert first.files == {"rgb": (home / "a/1.png",), "depth": (table.parent / "d/~/1.png",)}
    assert second.files == {"rgb": (table.parent / "~no_such_user/2.png",), "depth": (home / "a/2.png",)}
    assert first.name == "a/1"

from __future__ import annotations

import pytest

from ktb.files import atomic_file


def test_atomic_file_leaves_the_old_or_the_new(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_midway():
        with atomic_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]

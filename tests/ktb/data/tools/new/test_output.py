"""The written configuration: it opens, and every guess has its reason."""

from __future__ import annotations

import pytest
import yaml

from ktb.data.tools.new.output import write_yaml
from ktb.errors import ConfigError, DataError
from tests.ktb.data.tools.new.folders import depth, guessed, modalities, rgb


def test_written_file(tmp_path):
    found = guessed(tmp_path / "my data", {"rgb": [rgb(i) for i in range(5)], "depth": [depth(i) for i in range(5)]})
    path = write_yaml(found, "mine", tmp_path / "conf")
    assert path == tmp_path / "conf/dataset/mine.yaml"
    text = path.read_text()
    written = yaml.safe_load(text)
    assert written["root"] == str(tmp_path / "my data")
    assert written["modalities"] == modalities(found)
    assert (written["classes"], written["splits"]) == (["class_0", "class_1"], {"train": 0.8, "val": 0.2})
    assert (written["crop"], written["batch_size"]) == ([32, 32], 4)
    assert "  # 0 in 2.9% of pixels and nothing near it" in text
    assert "# holes: mean (0 after normalisation" in text
    assert max(map(len, text.splitlines())) < 400
    with pytest.raises(DataError, match=r"mine.yaml: exists already"):
        write_yaml(found, "mine", tmp_path / "conf")
    with pytest.raises(ConfigError, match="'my data' cannot name a data set"):
        write_yaml(found, "my data", tmp_path / "conf")
    assert [p.name for p in path.parent.iterdir()] == ["mine.yaml"]

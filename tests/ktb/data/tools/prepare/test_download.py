"""Broken downloads and targets that cannot be are refused before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.io import savemat

from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.prepare.download import plan_download
from ktb.errors import ConfigError, DataError
from tests.ktb.data.tools.prepare.calls import SIZE, call


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "splits.mat").unlink(), r"splits.mat: no such file; expected the file with trainNdxs"),
        (lambda root: (root / "nyu_depth_v2_labeled.mat").rename(root / "nyu_depth_v2_Labeled.mat"),
         r"no such file; .* upper and lower case matter"),
        (lambda root: (root / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3 MAT-file" * 99),
         r"labeled.mat: is no readable HDF5 file .* download it again"),
        (lambda root: (root / "classMapping40.mat").write_bytes(b"not found"),
         r"classMapping40.mat: is no readable MATLAB file"),
        (lambda root: savemat(root / "classMapping40.mat", {"mapping": [1]}),
         r"has no variable 'mapClass', only mapping; expected the original file"),
        (lambda root: savemat(root / "classMapping40.mat", {"mapClass": np.arange(894)}),
         r"mapClass has 894 values from 0 to 893; expected 894 from 1 to 40"),
        (lambda root: savemat(root / "splits.mat", {"trainNdxs": [1, 2], "testNdxs": [2, 3]}),
         r"splits.mat: frames 1 to 3, 1 of them twice; expected each of 1 to 6 at most once"),
        (lambda root: savemat(root / "splits.mat", {"trainNdxs": [1, 7], "testNdxs": [2, 3]}), r"frames 1 to 7, 0 of"),
    ],
)  # fmt: skip
def test_broken_downloads_stop_before_anything_is_written(nyu, tmp_path, spoil, message):
    source, target = tmp_path / "download", tmp_path / "out"
    source.mkdir()
    for path in nyu[0].iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    spoil(source)
    with pytest.raises(DataError, match=message) as caught:
        plan_download("nyu", source, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_targets_that_cannot_be(nyu, tmp_path, capsys):
    source, _ = nyu
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    with pytest.raises(DataError, match="full: exists and was not begun by this command"):
        plan_download("nyu", source, tmp_path / "full")
    with pytest.raises(DataError, match="is the source itself"):
        plan_download("nyu", source, source)
    mfnet = make_fixture("mfnet", tmp_path / "mfnet", layout="rgba", size=SIZE)
    plan_download("mfnet", mfnet, tmp_path / "out")
    with pytest.raises(DataError, match=r"out/prepared.json: says that the folder was made from other files"):
        plan_download("nyu", source, tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing to prepare for 'pst900'; there is nyu, sunrgbd, mfnet"):
        plan_download("pst900", source, tmp_path / "new")
    assert call("prepare", "nyu", tmp_path / "nowhere", tmp_path / "new") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err

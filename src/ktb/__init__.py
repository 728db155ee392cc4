"""ktb: RGB+X semantic segmentation around "Keep the Balance" (CVPR 2025).

The names below are what other code imports; everything else may move. They load on first use, so that `import ktb`
and `ktb-train --help` do not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktb.jobs.predictor import Predictor
    from ktb.models.segmentor import SegOutput
    from ktb.weights.checkpoint import KTBSegmentor, load_model, load_published

    __version__: str

__all__ = ["KTBSegmentor", "Predictor", "SegOutput", "__version__", "load_model", "load_published"]

_HOMES = {
    "KTBSegmentor": "ktb.weights.checkpoint",
    "Predictor": "ktb.jobs.predictor",
    "SegOutput": "ktb.models.segmentor",
    "load_model": "ktb.weights.checkpoint",
    "load_published": "ktb.weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("ktb")
        except PackageNotFoundError:  # src/ on the path, not installed
            return "0+checkout"
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ktb' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

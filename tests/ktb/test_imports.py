"""Who may import whom: the lines that keep the model usable from a notebook and the data layer on its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
MODULES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}

ONLY_IN = {  # package → the only modules that may import it
    "hydra": ("ktb.cli", "ktb.config", "ktb.run", "hydra_plugins"),
    "omegaconf": ("ktb.cli", "ktb.config", "ktb.run", "ktb.resume", "hydra_plugins"),
    "wandb": ("ktb.engine.callbacks", "ktb.run", "ktb.report"),
}
OF_KTB = {  # part → what of ktb it may import
    "ktb.errors": (),
    "ktb.files": (),
    "ktb.data": ("ktb.data", "ktb.errors", "ktb.files"),
    # Of ktb.bundles only what save_pretrained and from_pretrained call, when they are called.
    "ktb.models": ("ktb.models", "ktb.errors", "ktb.bundles"),
    "ktb.engine": ("ktb.engine", "ktb.models", "ktb.data.spec", "ktb.data.pictures", "ktb.errors", "ktb.files"),
    "ktb.report": ("ktb.report", "ktb.data.spec", "ktb.errors", "ktb.files"),
}
OF_OTHERS = {  # part → what beside the standard library it may import
    "ktb.errors": (),
    "ktb.files": (),
    "ktb.models": ("torch", "timm"),
    "ktb.data.spec": ("torch",),
}


def imported(source: str, module: str) -> set[str]:
    """Dotted names that a module imports, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *([base] if base else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def below(name: str, parts: tuple[str, ...]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def violations(module: str, source: str) -> list[str]:
    found = []
    for name in sorted(imported(source, module)):
        top = name.partition(".")[0]
        if top in ONLY_IN and not below(module, ONLY_IN[top]):
            found.append(f"{module} imports {name}")
        for part, allowed in OF_KTB.items():
            if below(module, (part,)) and top == "ktb" and not below(name, allowed):
                found.append(f"{module} imports {name}")
        for part, allowed in OF_OTHERS.items():
            if below(module, (part,)) and top not in ("ktb", *sys.stdlib_module_names) and not below(name, allowed):
                found.append(f"{module} imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_side(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ktb.data.nyu", "from ktb.engine.losses import PixelLoss"),
        ("ktb.data.nyu", "from ktb import models"),
        ("ktb.data.nyu", "from ..models import swin"),
        ("ktb.models.swin", "import lightning as L"),
        ("ktb.models.swin", "def f():\n    from omegaconf import OmegaConf"),
        ("ktb.engine.module", "from ktb.data.base import RGBXDataModule"),
        ("ktb.engine.module", "import wandb.sdk"),
        ("ktb.data.spec", "import albumentations"),
        ("ktb.report.page", "from ktb.run import train"),
        ("ktb.data.folder", "if TYPE_CHECKING:\n    import hydra"),
    ],
)
def test_the_rules_would_notice(module: str, line: str) -> None:
    assert len(violations(module, line)) >= 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ktb.engine.callbacks", "import wandb"),
        ("ktb.engine.module", "from ktb.data.spec import Batch"),
        ("ktb.models.swin", "import math, torch.nn.functional as F"),
        ("ktb.run", "from omegaconf import OmegaConf"),
    ],
)
def test_the_rules_let_pass_what_is_meant(module: str, line: str) -> None:
    assert violations(module, line) == []


def test_importing_ktb_is_quick_and_its_names_load_on_use() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import ktb; seconds = time.perf_counter() - start;"
        "assert not {'torch', 'hydra', 'lightning', 'timm'} & set(sys.modules);"
        "assert {'KTBSegmentor', 'SegOutput', 'load_published', 'load_model', '__version__'} <= set(dir(ktb));"
        "assert ktb.KTBSegmentor.__module__ == ktb.SegOutput.__module__ == 'ktb.models.segmentor';"
        "assert ktb.load_published.__module__ == ktb.load_model.__module__ == 'ktb.checkpoints';"
        "assert not {'hydra', 'lightning', 'albumentations'} & set(sys.modules);"
        "print(seconds)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.5


def test_an_unknown_name_is_an_attribute_error() -> None:
    import ktb

    with pytest.raises(AttributeError, match="module 'ktb' has no attribute 'KTBSegmenter'"):
        _ = ktb.KTBSegmenter

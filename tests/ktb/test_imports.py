"""Who may import whom: the lines that keep the model usable from a notebook and the data layer on its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
MODULES = {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}

# The rooms of ktb from the ground up: each imports only itself and what stands before it.
ROOMS = (
    *("errors", "io", "run_folder", "models", "distributed", "data", "config", "weights", "export", "report"),
    *("metrics", "losses", "sweeps", "engine", "predict", "jobs", "cli"),
)
NOT_ABOVE = {  # modules that must do without some rooms below them → what of ktb they may import
    "ktb.models": ("ktb.models", "ktb.errors"),
    "ktb.data": ("ktb.data", "ktb.errors", "ktb.io"),
    "ktb.report": ("ktb.report", "ktb.run_folder", "ktb.config.moved", "ktb.errors", "ktb.io"),
}
ONLY_IN = {  # package → the only modules that may import it
    "hydra": ("ktb.cli", "ktb.config", "ktb.jobs", "hydra_plugins"),
    "omegaconf": ("ktb.cli", "ktb.config", "ktb.jobs", "hydra_plugins"),
    "wandb": ("ktb.engine.callbacks", "ktb.jobs", "ktb.report"),
}
OF_OTHERS = {  # module → what beside the standard library it may import
    "ktb.errors": (),
    "ktb.run_folder": (),
    "ktb.io": ("filelock",),
    "ktb.models": ("torch", "timm", "triton"),  # triton: one kernel, imported when it is used
    "ktb.data.spec": ("torch",),
    "ktb.config.moved": (),
}
PASSES = ("ktb.__version__",)
"""Names that are imported upwards."""
TOP = ("__init__", "__main__", "errors", "io")
"""The only modules beside the rooms."""


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


def room(name: str) -> int | None:
    """The floor of a dotted name; the package itself (what users import) and the plugins stand above all."""
    parts = name.split(".")
    if parts[0] == "hydra_plugins" or name == "ktb" or (parts[0] == "ktb" and parts[1] in ("__init__", "__main__")):
        return len(ROOMS)
    return ROOMS.index(parts[1]) if parts[0] == "ktb" and parts[1] in ROOMS else None


def violations(module: str, source: str) -> list[str]:
    found = []
    here = room(module)
    for name in sorted(imported(source, module)):
        top = name.partition(".")[0]
        if top in ONLY_IN and not below(module, ONLY_IN[top]):
            found.append(f"{module} imports {name}")
        if top in ("ktb", "hydra_plugins") and name not in PASSES:
            there = room(name)
            if here is None or there is None or there > here:
                found.append(f"{module} imports {name}")
            for part, allowed in NOT_ABOVE.items():
                if below(module, (part,)) and not below(name, allowed):
                    found.append(f"{module} imports {name}")
        for part, allowed in OF_OTHERS.items():
            if below(module, (part,)) and top not in ("ktb", *sys.stdlib_module_names) and not below(name, allowed):
                found.append(f"{module} imports {name}")
    return found


def graph() -> dict[str, set[str]]:
    """Module → the modules of ktb that it imports, also inside functions."""
    edges: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if module.startswith("ktb.") and not module.endswith("__init__"):
            names = imported(path.read_text(encoding="utf-8"), module)
            found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
            edges[module] = {name for name in found if name in MODULES and name != module}
    return edges


def test_no_module_imports_itself_by_way_of_others() -> None:
    edges = graph()
    open_, done = [], set()

    def visit(module: str) -> None:
        assert module not in open_, " → ".join([*open_[open_.index(module) :], module])
        if module not in done:
            open_.append(module)
            for other in sorted(edges.get(module, ())):
                visit(other)
            open_.pop()
            done.add(module)

    for module in edges:
        visit(module)


def test_every_module_has_a_room() -> None:
    package = SRC / "ktb"
    assert sorted(path.stem for path in package.glob("*.py")) == sorted(TOP)
    assert {path.parent.name for path in package.glob("*/__init__.py")} == set(ROOMS) - {"errors", "io"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if below(m, ("ktb.data",)) and not below(m, ("ktb.data.tools",))]
)
def test_data_sets_do_without_the_tools_for_them(module: str) -> None:
    names = imported(MODULES[module].read_text(encoding="utf-8"), module)
    assert [name for name in names if below(name, ("ktb.data.tools",))] == []


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_side(module: str) -> None:
    assert violations(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ktb.data.sets.nyu", "from ktb.losses.pixel import PixelLoss"),
        ("ktb.data.sets.nyu", "from ktb import models"),
        ("ktb.data.sets.nyu", "from ...models import swin"),
        ("ktb.models.backbones.swin", "import lightning as L"),
        ("ktb.models.backbones.swin", "def f():\n    from omegaconf import OmegaConf"),
        ("ktb.engine.module", "from ktb.jobs.train import train"),
        ("ktb.engine.module", "import wandb.sdk"),
        ("ktb.data.spec", "import albumentations"),
        ("ktb.report.page", "from ktb.jobs.train import train"),
        ("ktb.data.sets.folder", "if TYPE_CHECKING:\n    import hydra"),
    ],
)
def test_the_rules_would_notice(module: str, line: str) -> None:
    assert len(violations(module, line)) >= 1


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("ktb.engine.callbacks.panels", "import wandb"),
        ("ktb.engine.module", "from ktb.data.spec import Batch"),
        ("ktb.models.backbones.swin", "import math, torch.nn.functional as F"),
        ("ktb.jobs.train", "from omegaconf import OmegaConf"),
    ],
)
def test_the_rules_let_pass_what_is_meant(module: str, line: str) -> None:
    assert violations(module, line) == []


def test_importing_ktb_is_quick_and_its_names_load_on_use() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import ktb; seconds = time.perf_counter() - start;"
        "assert not {'torch', 'hydra', 'lightning', 'timm'} & set(sys.modules);"
        "assert {'KTBSegmentor', 'Predictor', 'SegOutput', 'load_published', 'load_model'} <= set(dir(ktb));"
        "assert '__version__' in dir(ktb);"
        "assert ktb.SegOutput.__module__ == 'ktb.models.segmentor';"
        "assert {ktb.KTBSegmentor.__module__, ktb.load_published.__module__, ktb.load_model.__module__} == "
        "{'ktb.weights.checkpoint'};"
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

"""A class by its dotted name: where it is found, and each way in which it cannot be had, in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktb.errors import PartError
from ktb.models.imports import imported_class


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory that is not on Python's path, as of a console script; nothing of it stays imported."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("lab_"):
            del sys.modules[name]


def refusal(target: str) -> str:
    with pytest.raises(PartError) as error:
        imported_class(target)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_or_package_in_the_working_directory_is_found(here: Path) -> None:
    (here / "lab_file.py").write_text("import lab_beside\nclass Mine(lab_beside.Base): pass\n")
    (here / "lab_beside.py").write_text("class Base: pass\n")
    (here / "lab_package" / "blocks").mkdir(parents=True)
    (here / "lab_package" / "__init__.py").touch()
    (here / "lab_package" / "blocks" / "sums.py").write_text("class Sum: pass\n")
    assert imported_class("lab_file.Mine").__mro__[1].__module__ == "lab_beside"
    assert imported_class("lab_package.blocks.sums.Sum").__name__ == "Sum"


def test_what_is_installed_goes_before_the_working_directory(here: Path) -> None:
    (here / "torchmetrics.py").write_text("raise SystemError('the file was read')\n")
    (here / "lab_own.py").write_text("import torchmetrics\nclass Metric(torchmetrics.Metric): pass\n")
    assert imported_class("torchmetrics.Metric").__name__ == "Metric"
    assert imported_class("lab_own.Metric").__mro__[1].__module__.startswith("torchmetrics.")


def test_what_is_not_there_is_told_from_what_fails(here: Path) -> None:
    (here / "lab_broken.py").write_text("import torch\nimport lab_nowhere\nclass Mine: pass\n")
    (here / "lab_wrong.py").write_text("class Mine:\n    def f(self:\n        pass\n")
    (here / "lab_ends.py").write_text("import sys\nsys.exit('usage: lab_ends.py FILE')\n")
    (here / "lab_fails.py").write_text("def start():\n    raise KeyError('no licence')\nstart()\n")
    (here / "lab_good").mkdir()
    (here / "lab_good" / "__init__.py").write_text("from pathlib import Path\nclass MyFusion: pass\nnumber = 3\n")
    (here / "lab_good" / "fusion.py").touch()
    assert refusal("lab_missing.Mine") == (
        f"there is no module lab_missing: it is not installed, and {here} has no lab_missing.py"
    )
    assert refusal("lab_broken.Mine") == (
        "lab_broken cannot be imported: ModuleNotFoundError: No module named 'lab_nowhere' "
        f"({here / 'lab_broken.py'}, line 2)"
    )
    assert refusal("lab_ends.Mine") == (
        f"lab_ends cannot be imported: SystemExit: usage: lab_ends.py FILE ({here / 'lab_ends.py'}, line 2)"
    )
    assert refusal("lab_wrong.Mine").startswith("lab_wrong cannot be imported: SyntaxError: ")
    assert refusal("lab_wrong.Mine").endswith(f"({here / 'lab_wrong.py'}, line 2)")
    assert refusal("lab_wrong.Mine").count("line 2") == 1
    assert refusal("lab_fails.Mine") == (
        f"lab_fails cannot be imported: KeyError: 'no licence' ({here / 'lab_fails.py'}, line 2)"
    )
    init = here / "lab_good" / "__init__.py"
    assert refusal("lab_good.MyFuson") == f"lab_good ({init}) has no class MyFuson; did you mean 'MyFusion'?"
    assert refusal("lab_good.fusions.Mine") == f"lab_good ({init}) has no module fusions; did you mean 'fusion'?"
    assert refusal("lab_good.number") == "lab_good.number is not a class but of type int"


@pytest.mark.parametrize("target", ["", "Mine", "lab.", ".Mine", "lab file.Mine", "../lab.Mine", "lab..Mine"])
def test_what_is_no_dotted_name(target: str) -> None:
    assert "is no dotted name of a class, such as my_lab.MyFusion" in refusal(target)


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "torch.load"])
def test_a_function_is_no_class(target: str) -> None:
    assert "is not a class but of type" in refusal(target)

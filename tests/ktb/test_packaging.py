"""What is shipped: the wheel holds configuration and weights, and its commands run from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def make(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """make, as from a shell: the tests themselves may be run by `make test`, which hands its settings on."""
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV")}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=check)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with the hatchling that is installed: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return next(folder.glob("ktb-*.whl"))


def test_wheel_holds_code_configuration_and_weights(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = subprocess.run(["git", "ls-files", "src", "conf"], cwd=ROOT, capture_output=True, text=True, check=False)
    expected = {
        path.replace("src/", "", 1) if path.startswith("src/") else f"ktb/{path}"
        for path in tracked.stdout.split()
        if (ROOT / path).exists()
    } or {f"ktb/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= names
    assert any(name.startswith("ktb/weights/") and name.endswith(".safetensors") for name in names)
    ours = ("ktb/", "hydra_plugins/ktb", "hydra_plugins/_ktb", f"ktb-{PROJECT['version']}.dist-info/")
    assert not [name for name in names if not name.startswith(ours)]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 8 * 2**20, "weights are at most 4 MB"


@pytest.mark.slow
def test_commands_of_an_installed_wheel_run_anywhere(wheel: Path, tmp_path: Path) -> None:
    """A virtual environment of its own, where the dependencies are seen but the checkout is not."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )
    site = next((home / "lib").glob("python3*/site-packages"))
    # A path in a .pth file adds that folder, but not what its own .pth files add: no editable install slips in.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "from ktb.config.compose import conf_dir; import ktb; print(ktb.__file__); print(conf_dir())"
    assert run(str(python), "-c", where).split() == [str(site / "ktb" / "__init__.py"), str(site / "ktb" / "conf")]
    assert "weights: bundled" in run(str(home / "bin" / "ktb-train"), "--cfg", "job")
    assert "checkpoint: runs/x" in run(str(home / "bin" / "ktb-eval"), "checkpoint=runs/x", "--cfg", "job")
    assert "_target_: hydra_plugins.ktb.PoolLauncher" in run(str(home / "bin" / "ktb-train"), "--cfg", "hydra")
    plugin = "import hydra_plugins.ktb; print(hydra_plugins.ktb.__file__)"
    assert run(str(python), "-c", plugin).split() == [str(site / "hydra_plugins" / "ktb.py")]
    report = "from ktb.report.page import _environment as e; print(e().get_template('page.html').filename)"
    assert run(str(python), "-c", report).split() == [str(site / "ktb" / "report" / "templates" / "page.html")]
    for command in PROJECT["scripts"]:
        assert run(str(home / "bin" / command), "--help")
    assert list(elsewhere.iterdir()) == []


def test_makefile_lists_its_targets() -> None:
    done = make()
    listed = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    phony = next(line for line in lines if line.startswith(".PHONY:")).split()[1:]
    assert listed == set(phony)
    assert {"demo", "test", "check"} <= listed


def test_what_is_installed_is_locked_unless_the_latest_is_asked_for(tmp_path: Path) -> None:
    """In an environment whose pip only writes down how it was called."""
    env = tmp_path / "env" / "bin"
    env.mkdir(parents=True)
    calls = tmp_path / "calls"
    for name in ("pip", "python"):
        (env / name).write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
        (env / name).chmod(0o755)

    def installs(*options: str) -> list[str]:
        calls.write_text("")
        make("setup", f"VENV={env.parent}", f"PYTHON={sys.executable}", *options)
        return [line.partition(" install ")[2] for line in calls.read_text(encoding="utf-8").splitlines()]

    locked = [
        "--require-hashes --requirement requirements/build.txt",
        "--require-hashes --no-build-isolation --requirement requirements/dev.txt",
        "--no-build-isolation --no-deps --editable .",
    ]
    latest = ["--upgrade --upgrade-strategy eager --editable .[dev]"]
    assert installs() == locked
    assert installs() == []
    assert installs("LATEST=1") == latest
    assert installs("LATEST=1") == []
    assert installs() == locked


def test_ci_runs_what_the_readme_says() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines.index("make test") < lines.index("make slow")
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    planned = make("-n", "test").stdout
    assert planned.index("ruff check") < planned.index("mypy") < planned.index("pytest")
    assert (planned.count("-m 'not slow'"), make("-n", "slow").stdout.count("-m slow")) == (1, 1)  # together, all


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'env'}", check=False)
    assert done.returncode != 0
    assert "Python >= 3.11 is needed" in done.stderr
    assert "is 3.9" in done.stderr
    assert not (tmp_path / "env").exists()

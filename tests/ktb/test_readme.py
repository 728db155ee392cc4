"""Every command of the README is one that ktb understands, and every file it points to exists."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ktb.cli.train_sweep import sweep_word
from ktb.config.compose import conf_dir

README = Path(__file__).parents[2] / "README.md"
HYDRA = ("ktb-train", "ktb-eval")


TRAINING = README.parent / "docs" / "training.md"


def commands(page: Path = README) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0].startswith("ktb-")]


def test_every_command_is_shown() -> None:
    shown = {words[0] for words in commands()}
    assert shown == {*HYDRA, "ktb-data", "ktb-predict", "ktb-model", "ktb-report"}


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).is_file()] == []


@pytest.mark.parametrize("words", [w for w in (*commands(), *commands(TRAINING)) if w[0] in HYDRA], ids=" ".join)
def test_settings_compose(words: list[str]) -> None:
    if words[1:] == ["--help"]:
        return
    overrides = [w for w in words[1:] if "=" in w]
    if "-m" in words:  # a sweep: its first job
        overrides = [f"{key}={values.split(',')[0]}" for key, _, values in (o.partition("=") for o in overrides)]
        overrides = [sweep_word(text) for text in overrides]
    assert overrides
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        compose(words[0].removeprefix("ktb-"), overrides=overrides)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] not in HYDRA], ids=" ".join)
def test_arguments_are_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is, the command gets as far as missing its input; a wrong argument would be argparse's exit."""
    monkeypatch.chdir(tmp_path)
    main = import_module(f"ktb.cli.{words[0].removeprefix('ktb-')}").main
    assert main(words[1:]) == 2
    assert re.search("no such|does not exist|no run", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []

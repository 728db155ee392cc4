"""Every ktb-train and ktb-eval command of the README composes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from ktb.cli import _sweep_word
from ktb.config import conf_dir

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True)) and words[0].startswith("ktb-")]


def test_there_are_commands() -> None:
    assert {words[0] for words in commands()} >= {"ktb-train", "ktb-eval"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_command(words: list[str]) -> None:
    overrides = [w for w in words[1:] if "=" in w]
    if "-m" in words:  # a sweep: its first job
        overrides = [f"{key}={values.split(',')[0]}" for key, _, values in (o.partition("=") for o in overrides)]
        overrides = [_sweep_word(text) for text in overrides]
    if words[0] in ("ktb-train", "ktb-eval") and overrides:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            compose(words[0].replace("ktb-", ""), overrides=overrides)
    else:
        assert words[1:] == ["--help"]

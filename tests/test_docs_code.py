"""Code and commands on the pages of docs/ and in its notebooks are ones that ktb understands."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from argparse import ArgumentParser
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktb.cli import data, model, predict
from ktb.cli.train_sweep import sweep_word
from ktb.config.checks import check
from ktb.config.compose import compose
from ktb.config.overrides import parse, values
from tests.test_docs import PAGES, ROOT, markdown
from tests.test_repository import TARGETS

PARSERS: dict[str, Callable[[], ArgumentParser]] = {
    "ktb-data": data._parser,
    "ktb-model": model._parser,
    "ktb-predict": predict._parser,
}
OF_USERS = ("clearing", "fields", "mine")
"""Data sets that the pages write or speak of; `folder` stands for them here."""
NEEDED = [
    "dataset.modalities={rgb: {files: a}}",
    "dataset.label={files: b}",
    "dataset.classes=[c]",
    "dataset.splits={d: e}",
]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, code) of a page's blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", markdown(page), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The words of every line of a terminal."""
    found = []
    for language, code in blocks(page):
        if language == "bash" or (language == "" and re.match(r"(ktb-|python |make )", code)):
            lines = code.replace("\\\n", " ").splitlines()
            found += [words for line in lines if (words := shlex.split(line, comments=True))]
    return found


EVERY = [(page, words) for page in PAGES for words in commands(page)]


def named(*programs: str) -> Any:
    chosen = [(page, words) for page, words in EVERY if words[0] in programs]
    assert chosen
    return pytest.mark.parametrize(
        ("page", "words"), chosen, ids=[f"{page.stem}: {' '.join(words)}" for page, words in chosen]
    )


def test_every_block_has_a_language_that_is_tested() -> None:
    languages = {language for page in PAGES for language, _ in blocks(page)}
    assert languages == {"", "bash", "python", "yaml"}
    programs = {words[0] for _, words in EVERY} - {
        "ktb-train",
        "ktb-eval",
        "ktb-report",
        *PARSERS,
        "python",
        "make",
        "pip",
    }
    others = {"export", "eval", "apt-get", "hf", "wandb", "CUDA_VISIBLE_DEVICES=0", "torchrun", "srun"}
    assert programs == others


@named("ktb-train", "ktb-eval")
def test_settings_compose(page: Path, words: list[str]) -> None:
    given = [word for word in words[1:] if "=" in word and not word.startswith("-")]
    if "-m" in words:  # a sweep: its first job
        given = [sweep_word(word) for word in given]
        swept = [o for o in map(parse, given) if o.is_sweep_override()]
        given = [word for word in given if not parse(word).is_sweep_override()]
        given += [f"{o.key_or_group}={several[0]}" for o in swept if (several := values(o))]
    own = [word for word in given if word.removeprefix("dataset=") in OF_USERS]
    given = [word for word in given if word not in own]
    # A name of the zoo brings its data set.
    given += [f"experiment={word.partition('zoo:')[2]}" for word in given if word.startswith("checkpoint=zoo:")]
    cfg = compose(words[0].removeprefix("ktb-"), [*(["dataset=folder", *NEEDED] if own else []), *given])
    check(cfg)


@named(*PARSERS)
def test_arguments_are_understood(page: Path, words: list[str]) -> None:
    _, rest = PARSERS[words[0]]().parse_known_args(words[1:])
    modalities = {"--rgb", "--depth", "--thermal"} if words[0] == "ktb-predict" else set()
    assert {word for word in rest if word.startswith("-")} <= modalities


@named("python", "make", "pip")
def test_other_commands(page: Path, words: list[str]) -> None:
    if words[0] == "make":
        assert set(words[1:]) <= TARGETS
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "optional-dependencies"
        ]
        assert set(re.findall(r"\[(\w+)\]", " ".join(words))) <= set(extras)
    elif words[1].startswith("scripts/"):
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_is_python_and_imports_what_there_is(page: Path) -> None:
    for language, code in blocks(page):
        if language == "python":
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ktb":
                    module = import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f"from {node.module} import {alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_yaml_is_yaml(page: Path) -> None:
    for language, code in blocks(page):
        if language == "yaml":
            assert yaml.safe_load(code)

"""The arguments of the argparse commands: their help, and homes (~) in every one that is a path."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktb.cli import data as data_cli
from ktb.cli import model as model_cli
from ktb.cli import predict as predict_cli
from ktb.cli import report as report_cli
from ktb.cli.arguments import config_dirs
from ktb.config.compose import conf_dir
from ktb.errors import ConfigError
from ktb.io import expanded


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (data_cli.main, ["new"]),
        (data_cli.main, ["check"]),
        (data_cli.main, ["preview"]),
        (model_cli.main, ["info"]),
        (predict_cli.main, []),
    ],
)
def test_examples_are_not_wrapped(main, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    assert re.search(r"\n\nexample:\n  ktb-\w+ .{40,}\n$", capsys.readouterr().out)


def options(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from options(sub)
        else:
            yield parser.prog, action


NO_PATHS = {
    "help", "overrides", "split", "unit", "camera", "name", "layout", "input", "backbone", "device", "command",
    "entity", "project", "url", "onto", "depth", "intensity", "labels", "aligned_depth", "translation_unit", "hole",
    "trust",
}  # fmt: skip
"""Free text that is no path; `overrides` and `input` are looked at part by part (`at_home`, `home`)."""
BY_FIND_CHECKPOINT = {("ktb-predict", "checkpoint"), ("ktb-model convert", "input")} | {
    (f"ktb-model {name}", "source") for name in ("info", "bundle", "export")
}


def parsers(monkeypatch: pytest.MonkeyPatch) -> list[argparse.ArgumentParser]:
    """Those of all argparse commands; ktb-report makes its own as it is called."""
    made: list[argparse.ArgumentParser] = []

    def seen(parser: argparse.ArgumentParser, *args: object) -> None:
        made.append(parser)
        raise SystemExit(0)

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", seen)
        for argv in (["x"], ["sweep", "x"], ["wandb"]):
            with pytest.raises(SystemExit):
                report_cli.main(argv)
    assert [parser.prog for parser in made] == ["ktb-report", "ktb-report sweep", "ktb-report wandb"]
    return [data_cli._parser(), model_cli._parser(), predict_cli._parser(), *made]


def test_a_home_is_understood_in_every_argument_that_is_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    for program, action in (found for parser in parsers(monkeypatch) for found in options(parser)):
        if action.nargs == 0 or action.choices or (program, action.dest) in BY_FIND_CHECKPOINT:
            continue
        if action.type is None and action.dest in NO_PATHS:
            continue
        assert action.type is not None, f"{program} {action.dest}: a path? then type=expanded or home"
        try:
            value = action.type("~/there")  # type: ignore[operator]
        except (argparse.ArgumentTypeError, ValueError):  # a number, a size, a list
            continue
        if value == ("~/there",):  # --write LIST
            continue
        assert str(value) == str(tmp_path / "there"), f"{program} {action.dest}"
        seen.append((program, action.dest))
    some = {
        ("ktb-data check", "out"), ("ktb-data hha", "source"), ("ktb-predict", "csv"), ("ktb-report", "runs"),
        ("ktb-model info", "base"), ("ktb-report sweep", "folder"), ("ktb-data new", "folder"),
    }  # fmt: skip
    assert some <= set(seen)
    assert len(seen) > 20


def test_a_home_that_there_is_not_stays_as_it_is() -> None:
    assert expanded("~no_such_user/x") == Path("~no_such_user/x")


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (data_cli.main, ["new", ""]),
        (data_cli.main, ["new", "x", "--label", " "]),
        (data_cli.main, ["align", "", "y"]),
        (data_cli.main, ["hha", "", "y", "--unit", "mm"]),
        (predict_cli.main, ["run", "--rgb", "x", "--out", ""]),
        (predict_cli.main, ["run", "--input", "rgb=", "--out", "y"]),
        (model_cli.main, ["export", "", "x.onnx", "--size", "64x64"]),
        (model_cli.main, ["bundle", "run", ""]),
        (report_cli.main, [""]),
        (report_cli.main, ["run", "--out", ""]),
    ],
)
def test_a_path_from_a_variable_that_is_not_set_is_not_the_current_folder(main, words, capsys):
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert "names nothing; is a variable of the shell not set?" in capsys.readouterr().err


def test_a_file_of_the_users_own_is_not_passed_over_for_one_of_ktb(tmp_path: Path) -> None:
    """Hydra would read ktb's, without a word."""
    (tmp_path / "fusion").mkdir()
    mine = tmp_path / "fusion" / "dscf.yaml"
    same = (conf_dir() / "fusion" / "dscf.yaml").read_text()
    mine.write_text(same.replace("\n", "\r\n"), newline="")
    (tmp_path / "fusion" / "gated.yaml").write_text("name: gated\n_target_: my_lab.Gated\n")
    assert config_dirs(tmp_path) == [tmp_path]
    mine.write_text("name: dscf\n_target_: my_lab.Better\n")
    with pytest.raises(ConfigError) as refused:
        config_dirs(tmp_path)
    assert str(refused.value) == (
        f"{mine}: ktb has a fusion/dscf.yaml of its own, which would be read in its place: call yours "
        "fusion/my_dscf.yaml and choose it with fusion=my_dscf"
    )
    mine.unlink()
    (tmp_path / "train.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=r"train\.yaml: ktb has a train\.yaml of its own, .* yours my_train\.yaml$"):
        config_dirs(tmp_path)


@pytest.mark.parametrize("closed", ["", "dataset", "dataset/mine.yaml"])
def test_a_part_of_ones_own_folder_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/mine.yaml").write_text("name: mine\n")
    assert config_dirs(tmp_path) == [tmp_path]
    # Root may read everything, so that taking rights away would show nothing.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path / closed)
    with pytest.raises(ConfigError, match=f"^{tmp_path / closed}: .*change its permissions"):
        config_dirs(tmp_path)

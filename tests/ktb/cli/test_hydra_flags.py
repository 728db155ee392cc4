"""Hydra's parser of flags is private to it: these tests fail where a release of Hydra changes it."""

from __future__ import annotations

import pytest

from ktb.cli.hydra_flags import config_dir, config_dir_flags, flags_parser


def test_hydras_parser_takes_its_flags_and_our_settings_in_any_order() -> None:
    given, unknown = flags_parser().parse_known_intermixed_args(["-m", "a=1", "--config-dir", "conf", "b=2", "--odd"])
    assert (given.multirun, given.config_dir, given.overrides, given.help) == (True, "conf", ["a=1", "b=2"], False)
    assert unknown == ["--odd"]


@pytest.mark.parametrize("argv", [["--config-dir", "my conf"], ["a=1", "-cd", "my conf"], ["-cd=my conf", "-m"]])
def test_the_config_dir_of_this_command_line_can_be_written_again(
    argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ktb-train", *argv])
    assert config_dir() == "my conf"
    assert config_dir_flags() == ["--config-dir", "my conf"]
    monkeypatch.setattr("sys.argv", ["ktb-train", "a=1"])
    assert (config_dir(), config_dir_flags()) == (None, [])

"""Overrides are read, quoted and completed as the user means them."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from ktb.config.overrides import as_override, at_home, parse, quoted_paths
from tests.ktb.config.composed import composed


@pytest.mark.parametrize("value", ["runs/a-b_1", "/my runs/x", "sweeps/seed=1,lr=2", "1", "null", "[a", "a:b/c"])
def test_a_value_survives_being_written_as_an_override(value: str) -> None:
    assert composed(as_override("run_dir", value)).run_dir == value


@pytest.mark.parametrize(
    "path",
    [
        "/data/my set, v2",
        "/data/a=b (1)/[x] {y: z}",
        "/data/it's",
        '/data/a "b"',
        '/data/it\'s "b"',
        "/data/back\\slash, \\",
        "[x]/data",
        "2024",
        "true",
        "/data/plain set",
        "epoch=3-step=10.ckpt",
        "C:\\data, x",
    ],
)
def test_paths_need_no_quotes_of_their_own(path: str) -> None:
    for key in ("dataset.root", "run_dir"):
        (text,) = quoted_paths([f"{key}={path}"])
        cfg = composed("dataset=nyu", text)
        assert OmegaConf.select(cfg, key) == path
    for text in ('dataset.root="/a, b"', "dataset.root='/a, b'", "ckpt_path=null", "dataset.crop=[1,2]", "seed=1,2"):
        assert quoted_paths([text]) == [text]


AT_HOME = {
    "run_dir=~/runs/x": ["run_dir=/home/me/runs/x"],
    "dataset.root=~": ["dataset.root=/home/me"],
    "dataset.root=~/a,~/b": ["dataset.root=/home/me/a,/home/me/b"],
    "+x=[~/a, ~/b]": ["+x=[/home/me/a, /home/me/b]"],
    "dataset.splits={train: ~/t.txt, val: ~/v.txt}": ["dataset.splits={train: /home/me/t.txt, val: /home/me/v.txt}"],
    "dataset.root=choice(~/a,~/b)": ["dataset.root=choice(/home/me/a,/home/me/b)"],
    "run_dir=~/a=b": ["run_dir='/home/me/a=b'"],
    "run_dir='~/x'": ["run_dir='~/x'"],  # left to `check`
    "~logger": ["~logger"],
    "run_dir=a~b": ["run_dir='a~b'"],
}


@pytest.mark.parametrize("given", AT_HOME)
def test_a_home_in_a_setting_is_read_where_the_shell_has_left_it(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert at_home([given]) == AT_HOME[given]
    for text in at_home([given]):
        parse(text)

"""What a file may name beside classes of ktb, and how the user is told to say so."""

from __future__ import annotations

from typing import Any

import pytest

from ktb.config.trust import Spelling, Trust
from ktb.errors import ConfigError


@pytest.mark.parametrize(
    ("trusted", "target", "covered"),
    [
        ("my_lab", "my_lab.MyFusion", True),
        ("my_lab", "my_lab.blocks.MyFusion", True),
        ("my_lab", "my_lab_evil.MyFusion", False),
        ("my_lab", "my_labs.MyFusion", False),
        ("my_lab.blocks", "my_lab.blocks.MyFusion", True),
        ("my_lab.blocks", "my_lab.MyFusion", False),
        ("my_lab.blocks", "my_lab.blocks_old.MyFusion", False),
        ("my_lab.MyFusion", "my_lab.MyFusion", True),
        ("my_lab.MyFusion", "my_lab.MyFusion2", False),
        (["other", "my_lab"], "my_lab.MyFusion", True),
        ([], "my_lab.MyFusion", False),
        (None, "my_lab.MyFusion", False),
    ],
)
def test_a_module_covers_what_lies_in_it(trusted: Any, target: str, covered: bool) -> None:
    assert Trust.of(trusted).covers(target) is covered


def test_a_class_that_the_user_names_is_covered_and_nothing_beside_it() -> None:
    trust = Trust.of(None, ["my_lab.MyFusion"])
    assert trust.covers("my_lab.MyFusion")
    assert not trust.covers("my_lab.Other")


@pytest.mark.parametrize("given", ["", "*", "my lab", "my_lab.", ".my_lab", "a,b", "my-lab", [""], [1], "a..b"])
def test_what_names_no_module_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"^trust=.*: expected the name of a module"):
        Trust.of(given)


@pytest.mark.parametrize(
    ("spelling", "one", "another"),
    [
        ("setting", "trust=my_lab", "trust=[other,my_lab]"),
        ("flag", "--trust my_lab", "--trust my_lab"),
        ("argument", 'trust="my_lab"', 'trust=["other", "my_lab"]'),
    ],
)
def test_the_remedy_is_what_the_user_adds(spelling: Spelling, one: str, another: str) -> None:
    targets = ["my_lab.blocks.MyFusion", "my_lab.MyHead"]
    assert Trust.of(None, spelling=spelling).remedy(targets) == one
    assert Trust.of("other", spelling=spelling).remedy(targets) == another

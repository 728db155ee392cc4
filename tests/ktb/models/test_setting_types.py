"""Values of settings against the types that a constructor states, and through it the settings of every part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.models.setting_types import misfit, whole_numbers


class Base:
    def __init__(self, rate: float, deep: bool = False) -> None: ...


class Part(Base):
    def __init__(
        self,
        width: int,
        sizes: Sequence[int] | int = (1, 2),
        pair: tuple[float, float] = (0.9, 0.999),
        word: Literal["a", "b"] | None = None,
        table: Mapping[str, int] | None = None,
        name: str = "x",
        free: Any = 3,
        sloppy: int = "auto",  # type: ignore[assignment]
        **rest: Any,
    ) -> None: ...


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 3, "rate": 1, "deep": True},
        {"width": 3.0, "rate": 1e-3},
        {"sizes": 3},
        {"sizes": [3, 4]},
        {"sizes": []},
        {"pair": [0.5, 1]},
        {"word": "b"},
        {"word": None},
        {"table": {"k": 1}},
        {"name": 5},
        {"free": None},
        {"free": "what"},
        {"sloppy": "auto"},
        {"width": "${backbone.width}"},
        {"sizes": ["${backbone.width}", 2]},
        {"deep": 0},
        {"unknown": "it is not for us to say"},
    ],
)
def test_what_the_stated_types_allow_passes(settings: dict[str, Any]) -> None:
    assert misfit(Part, settings) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"width": None}, "width=null: expected a whole number"),
        ({"width": "abc"}, "width=abc: expected a whole number"),
        ({"width": True}, "width=true: expected a whole number"),
        ({"width": 2.5}, "width=2.5: expected a whole number"),
        ({"width": float("inf")}, "width=inf: expected a whole number"),
        ({"sizes": [1, 2.5]}, "sizes=[1, 2.5]: expected Sequence[int] or a whole number"),
        ({"deep": 0.5}, "deep=0.5: expected true or false"),
        ({"deep": -1}, "deep=-1: expected true or false"),
        ({"width": [3]}, "width=[3]: expected a whole number"),
        ({"rate": "fast"}, "rate=fast: expected a number"),
        ({"deep": "off"}, "deep=off: expected true or false"),
        ({"deep": None}, "deep=null: expected true or false"),
        ({"deep": 2}, "deep=2: expected true or false"),
        ({"sizes": "abc"}, "sizes=abc: expected Sequence[int] or a whole number"),
        ({"sizes": None}, "sizes=null: expected Sequence[int] or a whole number"),
        ({"sizes": [1, "a"]}, "sizes=[1, 'a']: expected Sequence[int] or a whole number"),
        ({"sizes": {"a": 1}}, "sizes={'a': 1}: expected Sequence[int] or a whole number"),
        ({"pair": [0.9]}, "pair=[0.9]: expected tuple[float, float]"),
        ({"pair": 0.9}, "pair=0.9: expected tuple[float, float]"),
        ({"word": "c"}, "word=c: expected a, b or null"),
        ({"table": "k"}, "table=k: expected Mapping[str, int] or null"),
        ({"name": None}, "name=null: expected a text"),
        ({"name": True}, "name=true: expected a text"),
        ({"width": 1, "rate": None}, "rate=null: expected a number"),
    ],
)
def test_what_they_rule_out_is_named_with_what_they_want(settings: dict[str, Any], said: str) -> None:
    assert misfit(Part, settings) == said


def test_whole_numbers_that_are_written_as_others_become_whole() -> None:
    given = {"width": 1e3, "rate": 2.0, "sizes": [3.0, 4], "pair": [1.0, 2.0], "free": 5.0, "name": "x", "deep": True}
    found = whole_numbers(Part, given)
    assert found == {"width": 1000, "sizes": [3, 4]}
    assert [type(found["width"]), *map(type, found["sizes"])] == [int, int, int]
    assert whole_numbers(Part, {"sizes": 7.0, "other": 1.0}) == {"sizes": 7}


def test_a_function_and_a_class_without_readable_types() -> None:
    def of_nothing(x, y=1):  # type: ignore[no-untyped-def]
        ...

    def stated(*, flip: bool) -> None: ...

    assert misfit(of_nothing, {"x": None, "y": "z"}) is None
    assert misfit(stated, {"flip": "no"}) == "flip=no: expected true or false"
    assert misfit(dict, {"a": None}) is None


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"peft": {"reduction": 0}}, "reduction of MAPA must be above 0, got 0"),
        ({"peft": {"prompt_ratio": -1}}, "prompt_ratio of MAPA must be above 0, got -1"),
        ({"fusion": {"ratio": 0}}, "ratio of DSCF must be above 0, got 0"),
        ({"fusion": {"heads": [2, 4, 0, 16]}}, r"heads of DSCF must be above 0, got \[2, 4, 0, 16\]"),
        ({"fusion": {"point_stride": 0}}, "point_stride of DSCF must be above 0, got 0"),
        ({"fusion": {"_target_": "ktb.models.fusion.cmx.CMX", "reduction": 0}}, "reduction of CMX must be above 0"),
        ({"peft": {"_target_": "ktb.models.peft.lora.LoRA", "alpha": 0}}, "alpha of LoRA must be above 0, got 0"),
        ({"peft": {"reduction": None}}, "MAPA: reduction=null: expected a number"),
        ({"fusion": {"point_stride": "abc"}}, r"DSCF: point_stride=abc: expected a whole number or Sequence\[int\]"),
    ],
)
def test_parts_name_the_setting_that_cannot_work(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        KTBSegmentor(FrozenSwin(SwinArch(8, (1, 1, 1, 1), (1, 1, 2, 2), 4)), ("rgb", "depth"), 3, **parts)

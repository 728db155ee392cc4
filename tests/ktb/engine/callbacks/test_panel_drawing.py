"""Which samples are shown, and what their pictures are called."""

from __future__ import annotations

import numpy as np

from ktb.data.spec import RGB, ModalitySpec
from ktb.engine.callbacks.panel_drawing import GROUPS, Selection, titles


def test_selection_is_that_of_the_whole_stream_however_it_is_cut() -> None:
    rng = np.random.default_rng(0)
    stream = [(f"s{i}", None if i % 7 == 0 else float(rng.integers(20)) / 20) for i in range(60)]
    made: list[str] = []

    def choose(parts: list[list[tuple[str, float | None]]]) -> list[tuple[str, str]]:
        whole: Selection[str] = Selection(4)
        for part in parts:
            one: Selection[str] = Selection(4)
            for name, score in part:
                one.offer(name, score, lambda name=name: made.append(name) or name)  # type: ignore[misc, func-returns-value]
            whole.merge(one)
        return whole.chosen()

    chosen = choose([stream])
    assert len(made) < len(stream)  # pictures of most samples are never made
    assert choose([stream[::2], stream[1::2]]) == choose([stream[::-1]]) == chosen
    assert [group for group, _ in chosen] == [g for g in GROUPS for _ in range(4)]
    names = [name for _, name in chosen]
    assert len(set(names)) == 12
    scores = dict(stream)
    known = sorted(s for s in scores.values() if s is not None)
    assert [scores[n] for n in names[:4]] == known[:-5:-1]
    assert [scores[n] for n in names[4:8]] == known[:4]


def test_few_samples_are_shared_out() -> None:
    selection: Selection[int] = Selection(4)
    for i in range(3):
        selection.offer(str(i), i / 3, lambda i=i: i)  # type: ignore[misc]
    assert selection.chosen() == [("best", 2), ("worst", 0), ("random", 1)]


def test_no_two_pictures_have_one_title() -> None:
    left, right = (ModalitySpec(name, title="thermal") for name in ("left", "right"))
    truth = ModalitySpec("x", title="truth")
    called = titles([RGB, left, right, truth])
    assert list(called) == ["rgb", "left", "right", "x"]
    assert list(called.values()) == ["RGB", "thermal (left)", "thermal (right)", "truth (x)"]

"""Which samples are shown, and that the fusion pictures show what the model really does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ktb.data.spec import RGB, ModalitySpec
from ktb.engine.callbacks.panel_drawing import GROUPS, Selection, explain_fusion, titles, within
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion.dscf import DSCF
from ktb.models.segmentor import KTBSegmentor


@pytest.fixture(scope="module")
def model() -> KTBSegmentor:
    torch.manual_seed(0)
    arch = SwinArch(embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4)
    return KTBSegmentor(
        FrozenSwin(arch), ("rgb", "depth", "event"), 5, head={"width": 32}, side_head={"width": 16}
    ).eval()


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


def test_explained_points_and_weights_are_those_of_the_forward_pass(
    model: KTBSegmentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[torch.Tensor, torch.Tensor]] = []
    mix = DSCF._mix

    def spy(self: DSCF, maps: torch.Tensor, query: torch.Tensor, points: torch.Tensor):  # type: ignore[no-untyped-def]
        weights, mixed = mix(self, maps, query, points)
        used.append((points, weights))
        return weights, mixed

    monkeypatch.setattr(DSCF, "_mix", spy)
    inputs = {m: torch.rand(1, 3, 90, 122) for m in model.modalities}
    with torch.no_grad():
        model(inputs)
        forward = used[:]
        stages = explain_fusion(model, inputs)
    assert len(stages) == len(forward) == 4
    for i, (stage, (points, weights)) in enumerate(zip(stages, forward, strict=True)):
        rows, columns = stage["map"]
        assert (rows, columns) == (-(-90 // (4 << i)), -(-122 // (4 << i)))
        n = points.shape[2] // 3
        for j, m in enumerate(model.modalities):
            shown = stage["points"][m]
            y, x = points[0, :, j * n : (j + 1) * n].reshape(-1, 2).T.numpy()
            for axis, ours, theirs, cells, pixels in (
                ("y", shown["y"], y, rows, 90),
                ("x", shown["x"], x, columns, 122),
            ):
                centre = ((theirs + 1) / 2 * (cells - 1) + 0.5) * (4 << i)  # in pixels from the image's edge
                np.testing.assert_allclose(ours, 10_000 * np.clip(centre / pixels, 0, 1), atol=0.51, err_msg=axis)
            for k, other in enumerate(model.modalities):
                expected = 1000 * weights[0, k, j * n : (j + 1) * n].numpy()
                np.testing.assert_allclose(shown["weights"][other], expected, atol=0.51)
            assert stage["mean"][m] == pytest.approx(float(weights[0, j].mean()), abs=1e-6)


def test_without_dscf_there_is_nothing_to_explain() -> None:
    arch = SwinArch(embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4)
    model = KTBSegmentor(
        FrozenSwin(arch), ("rgb", "depth"), 5, fusion={"_target_": "ktb.models.fusion.simple.PlainSum"}
    )
    assert explain_fusion(model.eval(), {"rgb": torch.rand(1, 3, 32, 32)}) == []


def test_large_images_are_scaled_down() -> None:
    small = within({"rgb": torch.rand(1, 3, 300, 200)}, 10_000)["rgb"]
    assert small.shape == (1, 3, 122, 81)
    same = torch.rand(1, 3, 100, 100)
    assert within({"rgb": same}, 10_000)["rgb"] is same


def test_no_two_pictures_have_one_title() -> None:
    left, right = (ModalitySpec(name, title="thermal") for name in ("left", "right"))
    truth = ModalitySpec("x", title="truth")
    called = titles([RGB, left, right, truth])
    assert list(called) == ["rgb", "left", "right", "x"]
    assert list(called.values()) == ["RGB", "thermal (left)", "thermal (right)", "truth (x)"]

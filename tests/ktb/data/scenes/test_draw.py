"""The procedural rooms are what they claim: the same every time, and each sensor blind exactly where it should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ktb.data.scenes.draw import NEAR, draw
from ktb.data.scenes.scene import (
    BALL,
    CLASSES,
    CRATE,
    FLOOR,
    LIGHTS,
    LOCKER,
    PIT,
    PRINT,
    RUG,
    SCREEN,
    STEP,
    Scene,
    sample_scene,
)
from tests.ktb.data.scenes.rooms import SIZE, render


def bare(scene: Scene, **changes) -> Scene:
    """The empty room of a scene, in daylight, all depth measured, plus what `changes` puts there."""
    return replace(scene, **{"rugs": (), "things": (), "light": "day", "dropouts": (), **changes})


def scenes_with(kind: int, count: int) -> list[tuple[Scene, object]]:
    """`count` scenes and a real thing of that kind in each, seen well enough to be tested."""
    found = []
    for index in range(2000):
        scene = sample_scene(7, index)
        for thing in (*scene.rugs, *scene.things):
            alone = bare(scene, **({"rugs": (thing,)} if kind == RUG else {"things": (replace(thing, printed=False),)}))
            if thing.kind == kind and (draw(alone, *SIZE).label == kind).mean() > 0.01:
                found.append((alone, replace(thing, printed=False)))
                break
        if len(found) == count:
            return found
    raise AssertionError(f"too few scenes show a {CLASSES[kind]}")


def test_a_scene_is_a_function_of_seed_and_index_alone() -> None:
    first = render(3, 5, *SIZE)
    render(3, 6, 64, 64)
    again = render(3, 5, *SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert [a.dtype for a in first] == [np.uint8] * 3
    assert [a.shape for a in first] == [(*SIZE, 3), SIZE, SIZE]
    for other in (render(3, 6, *SIZE), render(4, 5, *SIZE)):
        assert (first.rgb != other.rgb).mean() > 0.5


@pytest.mark.parametrize("size", [(192, 256), (48, 64), (144, 192)])
def test_the_geometry_does_not_depend_on_the_size(size: tuple[int, int]) -> None:
    rows, columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in zip((24, 32), size, strict=True))
    base_rows, base_columns = ((np.arange(n) * 2 + 1) * m // (2 * n) for n, m in zip((24, 32), SIZE, strict=True))
    agreement, depth_error = [], []
    for index in range(20):
        base, other = render(1, index, *SIZE), render(1, index, *size)
        same = base.label[np.ix_(base_rows, base_columns)] == other.label[np.ix_(rows, columns)]
        difference = base.depth[np.ix_(base_rows, base_columns)].astype(int) - other.depth[np.ix_(rows, columns)]
        agreement.append(same.mean())
        depth_error.append(np.median(np.abs(difference)))
    assert np.mean(agreement) > 0.96
    assert max(depth_error) <= 2


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (32, 200), (200, 32)])
def test_any_size_from_32_up(size: tuple[int, int]) -> None:
    frame = render(0, 0, *size)
    assert frame.rgb.shape == (*size, 3)
    assert frame.label.max() < len(CLASSES)


def test_depth_is_inverse_distance() -> None:
    """On the floor below the camera axis, z follows from the camera height and the row alone."""
    scene = bare(sample_scene(0, 3), wall_distance=50.0, side_distance=50.0)
    height, width = 200, 200
    frame = draw(scene, height, width)
    row = 190
    v = (row + 0.5 - height / 2) / (1.4 * height / 2)
    z = scene.camera_height / (np.sin(scene.pitch) + v * np.cos(scene.pitch))
    assert frame.label[row, 100] == FLOOR
    assert np.mean(frame.depth[row]) == pytest.approx(min(255 * NEAR / z, 255), abs=0.5)


@pytest.mark.parametrize("kind", [CRATE, LOCKER, BALL, STEP, PIT, SCREEN])
def test_a_print_has_the_rgb_of_the_thing_and_the_depth_of_what_it_lies_on(kind: int) -> None:
    for scene, thing in scenes_with(kind, 8):
        real = draw(scene, *SIZE)
        printed = draw(replace(scene, things=(replace(thing, printed=True),)), *SIZE)
        empty = draw(replace(scene, things=()), *SIZE)
        assert np.array_equal(printed.rgb, real.rgb)
        assert np.array_equal(printed.depth, empty.depth)
        assert np.array_equal(printed.label == PRINT, real.label == kind)
        there = real.label == kind
        assert np.abs(real.depth[there].astype(int) - empty.depth[there]).mean() > 4
        assert np.array_equal(real.depth[~there], empty.depth[~there])


def test_a_rug_is_in_rgb_only() -> None:
    for scene, _ in scenes_with(RUG, 8):
        laid, empty = draw(scene, *SIZE), draw(replace(scene, rugs=()), *SIZE)
        there = laid.label == RUG
        assert np.array_equal(laid.depth, empty.depth)
        assert np.array_equal(laid.rgb[~there], empty.rgb[~there])
        assert np.abs(laid.rgb[there].astype(int) - empty.rgb[there]).mean() > 10
        assert set(empty.label[there]) == {FLOOR}


def test_crate_and_locker_have_one_shape_and_two_looks() -> None:
    things = [t for i in range(800) for t in sample_scene(0, i).things]
    shape = {k: np.array([(t.a, t.c, t.height) for t in things if t.kind == k]) for k in (CRATE, LOCKER)}
    colour = {k: np.array([t.material.bright for t in things if t.kind == k]) for k in (CRATE, LOCKER)}
    error = np.sqrt(sum(s.var(0) / len(s) for s in shape.values()))
    assert (np.abs(shape[CRATE].mean(0) - shape[LOCKER].mean(0)) < 3.5 * error).all()
    assert np.allclose(shape[CRATE].std(0), shape[LOCKER].std(0), rtol=0.12)
    # crates are redder than blue, lockers bluer than red, every one of them
    assert (colour[CRATE][:, 0] > colour[CRATE][:, 2]).all()
    assert (colour[LOCKER][:, 2] > colour[LOCKER][:, 0]).all()


def test_step_and_pit_wear_the_floor() -> None:
    for index in range(60):
        scene = sample_scene(0, index)
        assert all(t.material == scene.floor for t in scene.things if t.kind in (STEP, PIT))


def test_depth_is_missing_on_screens_and_in_dropouts_and_nowhere_else() -> None:
    holes = 0
    for index in range(40):
        scene = sample_scene(2, index)
        frame = draw(replace(scene, dropouts=()), *SIZE)
        assert np.array_equal(frame.depth == 0, frame.label == SCREEN)
        full = draw(scene, *SIZE)
        lost = (full.depth == 0) & (full.label != SCREEN)
        rows, columns = np.nonzero(lost)
        y, x = (rows + 0.5) / SIZE[0] * 2 - 1, (columns + 0.5) / SIZE[1] * 2 - 1
        inside = np.zeros(len(rows), bool)
        for cx, cy, wide, high in scene.dropouts:
            inside |= (np.abs(x - cx) < wide) & (np.abs(y - cy) < high)
        assert inside.all()
        holes += len(rows)
    assert 0.02 < holes / (40 * SIZE[0] * SIZE[1]) < 0.12


def test_dark_hides_rgb_and_glare_blinds_it() -> None:
    scene = bare(sample_scene(0, 1))
    day, dark, glare = (draw(replace(scene, light=light), *SIZE) for light in LIGHTS)
    assert dark.rgb.mean() < 0.6 * day.rgb.mean()
    assert (glare.rgb.min(-1) > 250).mean() > 0.02 > (day.rgb.min(-1) > 250).mean()
    assert np.array_equal(day.depth, dark.depth)
    assert np.array_equal(day.depth, glare.depth)

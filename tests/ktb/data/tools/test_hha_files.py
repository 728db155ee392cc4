"""Depth to HHA on folders: what is found, skipped, refused, and what is left behind."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data.tools.hha import Camera, hha
from ktb.data.tools.hha_files import convert_hha, parse_unit, plan_hha
from ktb.data.tools.parallel import parallel
from ktb.errors import ConfigError, DataError

CAMERA = Camera(20.0, 20.0, 10.0, 8.0)
SIZE = (16, 20)


def depth_mm(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1500, 4000, SIZE).astype(np.uint16)


@pytest.fixture
def folder(tmp_path):
    """Four maps in three forms, one in a subfolder."""
    source = tmp_path / "Depth"
    (source / "room").mkdir(parents=True)
    Image.fromarray(depth_mm(0)).save(source / "0.png")
    Image.fromarray(depth_mm(1)).save(source / "room" / "1.png")
    Image.fromarray(depth_mm(2)).save(source / "2.tiff")
    np.save(source / "3.npy", depth_mm(3).astype(np.float32))
    (source / "readme.txt").write_text("not a map")
    return source


def plan(source, target, **options):
    return plan_hha(str(source), target, **{"unit_m": 1e-3, "camera": CAMERA, **options})


def run(jobs, **options):
    return {o.path: o for o in parallel(partial(convert_hha, **options), jobs, workers=1)}


def states(outcomes):
    return sorted(o.state for o in outcomes.values())


@pytest.mark.parametrize(
    ("text", "metres"),
    [
        ("m", 1),
        ("cm", 0.01),
        ("mm", 0.001),
        ("0.1mm", 1e-4),
        ("0.0001", 1e-4),
        (" 2 cm ", 0.02),
        ("1e-3", 1e-3),
        ("um", 1e-6),
    ],
)
def test_units(text, metres):
    assert parse_unit(text) == pytest.approx(metres, rel=1e-12)


@pytest.mark.parametrize("text", ["", "km", "mm0.1", "0", "-1", "0mm", "nan", "inf", "1e999", "metre", "+-3"])
def test_no_units(text):
    with pytest.raises(DataError, match=r"expected mm, cm, m"):
        parse_unit(text)


def test_every_map_is_encoded_where_it_belongs(folder, tmp_path):
    target = tmp_path / "HHA"
    outcomes = run(plan(folder, target))
    assert states(outcomes) == ["written"] * 4
    assert sorted(str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()) == [
        "0.png", "2.png", "3.png", "room/1.png",
    ]  # fmt: skip
    for seed, name in enumerate(("0.png", "room/1.png", "2.png", "3.png")):
        expected = hha(depth_mm(seed) * 1e-3, camera=CAMERA)
        np.testing.assert_array_equal(np.array(Image.open(target / name)), expected)


def test_unit_decides_the_result(folder, tmp_path):
    run(plan(folder, tmp_path / "HHA", unit_m=1e-4))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "HHA/0.png")), hha(depth_mm(0) * 1e-4, camera=CAMERA))


def test_raw_maps_are_paired_by_name(folder, tmp_path):
    raw = tmp_path / "Raw"
    raw.mkdir()
    measured = depth_mm(0)
    measured[:, :9] = 0
    np.save(raw / "0.npy", measured)  # another form than 0.png: the stem pairs
    outcomes = run(plan(folder / "0.png", tmp_path / "HHA", raw=raw))
    assert states(outcomes) == ["written"]
    expected = hha(depth_mm(0) * 1e-3, raw_depth_m=measured * 1e-3, camera=CAMERA)
    assert (expected != hha(depth_mm(0) * 1e-3, camera=CAMERA)).any()
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "HHA/0.png")), expected)

    missing = run(plan(folder / "2.tiff", tmp_path / "HHA", raw=raw))
    assert states(missing) == ["failed"]
    assert str(raw / "2.tiff") in next(iter(missing.values())).message


def test_goes_on_where_it_stopped(folder, tmp_path):
    target = tmp_path / "HHA"
    run(plan(folder, target)[:2])
    first = (target / "0.png").stat().st_mtime_ns
    # Neither copying (other times) nor touching makes a finished map unfinished.
    os.utime(folder / "0.png", (2e9, 2e9))
    assert states(run(plan(folder, target))) == ["kept", "kept", "written", "written"]
    assert (target / "0.png").stat().st_mtime_ns == first

    Image.fromarray(depth_mm(9)).save(folder / "0.png")
    os.utime(folder / "0.png", (1e9, 1e9))
    outcomes = run(plan(folder, target))
    assert [p.name for p, o in outcomes.items() if o.state == "written"] == ["0.png"]
    np.testing.assert_array_equal(np.array(Image.open(target / "0.png")), hha(depth_mm(9) * 1e-3, camera=CAMERA))

    # Other settings are other results; so is a result that was cut short, or asked for again.
    assert states(run(plan(folder, target, camera=replace(CAMERA, fx=21.0)))) == ["written"] * 4
    (target / "2.png").write_bytes((target / "2.png").read_bytes()[:-20])
    assert states(run(plan(folder, target, camera=replace(CAMERA, fx=21.0)))) == ["kept"] * 3 + ["written"]
    assert states(run(plan(folder, target, camera=replace(CAMERA, fx=21.0)), overwrite=True)) == ["written"] * 4


def test_somebody_elses_picture_is_not_taken_for_a_result(folder, tmp_path):
    (tmp_path / "HHA").mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "HHA/0.png")
    assert states(run(plan(folder / "0.png", tmp_path / "HHA"))) == ["written"]


def bad_files(source: Path) -> dict[str, str]:
    """Damaged or unsuitable files by name, and what must be said about each."""
    png = (source / "0.png").read_bytes()
    (source / "cut.png").write_bytes(png[: len(png) // 2])
    (source / "empty.png").touch()
    (source / "void.npy").touch()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(source / "eight.png")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(source / "colour.png")
    np.save(source / "cube.npy", np.ones((2, *SIZE), np.float32))
    np.save(source / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(source / "metres.npy", (depth_mm(5) * 1e-3).astype(np.float32))
    return {
        "cut.png": "PNG cut short after",
        "empty.png": "the file is empty (0 bytes)",
        "void.npy": "the file is empty (0 bytes)",
        "eight.png": "8-bit 16x20, expected metric depth",
        "colour.png": "8-bit 16x20x3, expected metric depth",
        "cube.npy": "array of shape (16, 20, 2), expected one channel (height, width)",
        "objects.npy": "NPY file of Python objects (a pickle), which are never loaded",
        "metres.npy": "with 0.001 m per stored unit, expected 0.05 to 500 m: give the unit",
    }


def test_damaged_files_are_listed_and_the_others_go_on(folder, tmp_path):
    expected = bad_files(folder)
    outcomes = run(plan(folder, tmp_path / "HHA"))
    failed = {path.name: o.message for path, o in outcomes.items() if o.state == "failed"}
    assert set(failed) == set(expected)
    for name, text in expected.items():
        assert text in failed[name]
        assert str(folder / name) in failed[name]
        assert "\n" not in failed[name]
    assert states(outcomes).count("written") == 4
    # Nothing half-written, no temporary file.
    assert len([p for p in (tmp_path / "HHA").rglob("*") if p.is_file()]) == 4


def test_what_a_library_says_in_several_lines_is_one(tmp_path):
    # NumPy refuses so long a header, in three lines.
    header = repr({"descr": "<f4", "fortran_order": False, "shape": SIZE}) + " " * 20_000
    (tmp_path / "Depth").mkdir()
    (tmp_path / "Depth/0.npy").write_bytes(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header.encode())
    (outcome,) = run(plan(tmp_path / "Depth", tmp_path / "HHA")).values()
    assert outcome.state == "failed"
    assert "0.npy: damaged NPY header (Header info length" in outcome.message
    assert "\n" not in outcome.message


def test_a_map_without_measurement_is_written_and_mentioned(tmp_path):
    np.save(tmp_path / "dark.npy", np.full(SIZE, np.nan, np.float32))
    (outcome,) = run(plan(tmp_path / "dark.npy", tmp_path / "HHA")).values()
    assert outcome.state == "written"
    assert outcome.message == f"{tmp_path / 'dark.npy'}: no measurement in the whole map"
    assert (np.array(Image.open(tmp_path / "HHA/dark.png")) == (255, 130, 218)).all()


def test_camera_of_another_size_fails_the_file_unless_scaled(folder, tmp_path):
    camera = replace(CAMERA, size=(32, 40))
    (outcome,) = run(plan(folder / "0.png", tmp_path / "HHA", camera=camera)).values()
    assert outcome.state == "failed"
    assert "16x20 but the camera is calibrated for 32x40" in outcome.message
    assert states(run(plan(folder / "0.png", tmp_path / "HHA", camera=camera, scale_camera=True))) == ["written"]
    expected = hha(depth_mm(0) * 1e-3, camera=camera.scaled(SIZE))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "HHA/0.png")), expected)


def test_patterns_and_results_inside_the_source(folder):
    # Results below the source folder are not taken for sources the next time.
    inside = folder / "HHA"
    assert states(run(plan(folder, inside))) == ["written"] * 4
    assert states(run(plan(folder, inside))) == ["kept"] * 4
    assert [j.source.name for j in plan(folder / "*.png", inside)] == ["0.png"]
    assert [str(j.target.relative_to(inside)) for j in plan(folder / "**" / "*.png", inside)] == ["0.png", "room/1.png"]


def test_plans_that_cannot_work(folder, tmp_path):
    with pytest.raises(DataError, match="no depth map found, expected files ending"):
        plan(folder, tmp_path)  # everything lies below the target
    with pytest.raises(DataError, match="is the folder of the depth maps themselves"):
        plan(folder / "*.png", folder)
    with pytest.raises(DataError, match=r"nothing/\*\.png: no depth map found, expected an existing folder"):
        plan("nothing/*.png", tmp_path / "HHA")
    np.save(folder / "0.npy", depth_mm(0))
    with pytest.raises(DataError, match=r"would both become .*0\.png: choose one kind with a pattern"):
        plan(folder, tmp_path / "HHA")


def test_unwritable_target_fails_in_one_line(folder, tmp_path):
    (tmp_path / "HHA").write_text("a file")
    outcomes = run(plan(folder, tmp_path / "HHA"))
    assert states(outcomes) == ["failed"] * 4
    assert all("HHA" in o.message and "\n" not in o.message for o in outcomes.values())


def test_processes_give_what_one_process_gives(folder, tmp_path):
    bad_files(folder)
    one = run(plan(folder, tmp_path / "one"))
    two = {o.path: o for o in parallel(convert_hha, plan(folder, tmp_path / "two"), workers=2)}
    assert states(one) == states(two)
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_camera_without_size_is_not_scaled(folder, tmp_path):
    with pytest.raises(ConfigError, match="without a size"):
        run(plan(folder / "0.png", tmp_path / "HHA", scale_camera=True))


def test_an_orientation_tag_turns_the_map(tmp_path):
    upright = np.random.default_rng(0).integers(1500, 4000, (16, 16)).astype(np.uint16)
    tag = Image.Exif()
    tag[0x0112] = 3  # stored upside down
    for name, stored, exif in (("tagged", upright[::-1, ::-1], tag), ("plain", upright, None)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.ascontiguousarray(stored)).save(
            tmp_path / name / "0.png", **({"exif": exif} if exif else {})
        )
        run(plan(tmp_path / name, tmp_path / f"{name}_hha"))
    tagged, plain = (np.asarray(Image.open(tmp_path / f"{name}_hha" / "0.png")) for name in ("tagged", "plain"))
    assert np.array_equal(tagged, plain)
    assert not np.array_equal(plain, plain[::-1, ::-1])


def test_patterns_pass_over_hidden_folders(tmp_path):
    for name in ("room", ".cache", "@eaDir"):
        (tmp_path / "s" / name).mkdir(parents=True)
        np.save(tmp_path / "s" / name / "1.npy", depth_mm(0))
    jobs = plan(str(tmp_path / "s/*/*.npy"), tmp_path / "out")
    assert [job.source.parent.name for job in jobs] == ["room"]

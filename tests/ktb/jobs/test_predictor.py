"""Arrays in, masks out: the masks of ktb-predict bit for bit, mistakes in one line, threads and missing sensors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ktb import KTBSegmentor, Predictor, load_model
from ktb.cli.predict import main
from ktb.errors import CheckpointError, ConfigError, DataError, KTBError
from ktb.models.peft.lora import LoRAConv2d, LoRALinear
from ktb.weights.tensor_names import to_published
from tests.ktb.jobs.saved import (
    FIXTURE_CASES,
    OWN_CASES,
    arrays_in,
    files_of_first,
    fixture_data,
    own_data,
    save,
)
from tests.ktb.slow import slow_unless

MAKE_TEST = ("percentile with validity", "float plane", "picked", "bands nodata")
"""Of one's own sensors those that differ most; the others are left to `make slow`."""
OUTPUTS = "--write=overlay,confidence,probabilities"


def command(source: Path, files: dict[str, tuple[Path, ...]], out: Path, *more: str) -> dict[str, Any]:
    """What ktb-predict writes for these files."""
    given = [f"--{m}={path}" for m, paths in files.items() for path in paths]
    assert main([str(source), *given, "--out", str(out), "--device", "cpu", OUTPUTS, *more]) == 0
    found: dict[str, Any] = {}
    for output in ("index", "overlay", "confidence"):
        (path,) = (out / output).rglob("*.png")
        found[output] = np.array(Image.open(path))
    (path,) = (out / "probabilities").rglob("*.npz")
    return {**found, "probabilities": np.load(path)["probabilities"]}


def compare(predictor: Predictor, frame: dict[str, Any], expected: dict[str, Any]) -> None:
    found = predictor.predict(frame, confidence=True, probabilities=True, overlay=True)
    assert found.mask.dtype == expected["index"].dtype
    np.testing.assert_array_equal(found.mask, expected["index"])
    np.testing.assert_array_equal(found.probabilities, expected["probabilities"])
    np.testing.assert_array_equal(found.overlay, expected["overlay"])
    assert found.confidence is not None
    assert found.confidence.dtype == np.float32
    np.testing.assert_array_equal(np.rint(255 * found.confidence).astype(np.uint8), expected["confidence"])
    np.testing.assert_array_equal(predictor(frame), expected["index"])


@pytest.mark.parametrize(("name", "layout", "setting"), FIXTURE_CASES)
def test_arrays_give_the_masks_of_their_files(name: str, layout: str, setting: str, tmp_path: Path) -> None:
    data = save(tmp_path / "bundle", fixture_data(tmp_path / "data", name, layout, setting))
    files = files_of_first(data)
    expected = command(tmp_path / "bundle", files, tmp_path / "out")
    assert len(np.unique(expected["probabilities"])) > 10
    compare(Predictor(tmp_path / "bundle", device="cpu"), arrays_in(files), expected)


@pytest.mark.parametrize("case", slow_unless(MAKE_TEST.__contains__, OWN_CASES))
def test_so_do_those_of_ones_own_sensors(case: str, tmp_path: Path) -> None:
    resized = "dataset.eval_size=64" if "holes" in case or "validity" in case else ""
    data = save(tmp_path / "bundle", own_data(tmp_path / "data", OWN_CASES[case], resized))
    files = files_of_first(data)
    expected = command(tmp_path / "bundle", files, tmp_path / "out")
    compare(Predictor(tmp_path / "bundle", device="cpu"), arrays_in(files), expected)


@pytest.mark.slow
def test_lora_is_folded_away_with_the_same_masks(tmp_path: Path) -> None:
    data = save(tmp_path / "bundle", [*own_data(tmp_path / "data", OWN_CASES["fill"]), "peft=lora"])
    model = load_model(tmp_path / "bundle")
    for p in model.peft.parameters():
        torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(tmp_path / "trained")
    files = files_of_first(data)
    found = {}
    for name in ("folded", "beside"):
        with pytest.MonkeyPatch.context() as patch:
            if name == "beside":
                patch.setattr("ktb.models.segmentor.KTBSegmentor.merged", lambda self: self)
            predictor = Predictor(tmp_path / "trained", device="cpu")
            assert any(map(is_lora, predictor._model.model.modules())) == (name == "beside")
            found[name] = command(tmp_path / "trained", files, tmp_path / name)
            compare(predictor, arrays_in(files), found[name])
    np.testing.assert_array_equal(found["folded"]["index"], found["beside"]["index"])
    np.testing.assert_allclose(found["folded"]["probabilities"], found["beside"]["probabilities"], atol=2e-3)
    assert len(np.unique(found["folded"]["probabilities"])) > 10
    without = command(tmp_path / "bundle", files, tmp_path / "without")
    assert not np.array_equal(without["probabilities"], found["folded"]["probabilities"])


def is_lora(module: object) -> bool:
    return isinstance(module, LoRALinear | LoRAConv2d)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB and depth in millimetres, 0 = hole."""
    root = tmp_path_factory.mktemp("predictor")
    save(root / "bundle", own_data(root / "data", OWN_CASES["zero"]))
    return root / "bundle"


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> Predictor:
    return Predictor(bundle, device="cpu")


def frames(count: int, size: tuple[int, int] = (45, 60)) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [
        {
            "rgb": rng.integers(0, 255, (*size, 3)).astype(np.uint8),
            "x": rng.integers(800, 2600, size).astype(np.uint16),
        }
        for _ in range(count)
    ]


@pytest.mark.slow
def test_tiles_native_size_and_a_missing_sensor_are_those_of_the_command(bundle: Path, tmp_path: Path) -> None:
    (frame,) = frames(1)
    for name, array in frame.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    files = {name: (tmp_path / f"{name}.png",) for name in frame}
    tiled = command(bundle, files, tmp_path / "a", "--tile", "32", "--overlap", "0.4", "--short-side", "64")
    compare(Predictor(bundle, device="cpu", tile=32, overlap=0.4, short_side=64), frame, tiled)
    alone = command(bundle, {"rgb": files["rgb"]}, tmp_path / "b", "--short-side", "native")
    native = Predictor(bundle, device="cpu", short_side="native")
    compare(native, {"rgb": frame["rgb"]}, alone)
    compare(native, {"rgb": frame["rgb"], "x": None}, alone)


def test_several_frames_are_those_frames_one_by_one(predictor: Predictor) -> None:
    several = [*frames(2), *frames(1, (40, 33))]
    expected = [predictor(frame) for frame in several]
    assert not np.array_equal(expected[0], expected[1])
    columns = {name: [frame[name] for frame in several] for name in ("rgb", "x")}
    for found in (predictor(several), predictor(columns)):
        assert len(found) == 3
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)
    columns["x"][1] = None
    np.testing.assert_array_equal(predictor(columns)[1], predictor({"rgb": several[1]["rgb"]}))
    rgb_only = predictor({"rgb": columns["rgb"], "x": None})
    np.testing.assert_array_equal(rgb_only[1], predictor(columns)[1])


def test_a_generator_of_frames_is_answered_frame_by_frame(predictor: Predictor) -> None:
    several, taken = frames(3), []

    def camera() -> Iterator[dict[str, Any]]:
        for frame in several:
            taken.append(frame)
            yield frame
        while True:  # a camera never ends
            yield several[0]

    masks = predictor(camera())
    assert taken == []
    for i, frame in enumerate(several):
        np.testing.assert_array_equal(next(masks), predictor(frame))
        assert len(taken) == i + 1
    with pytest.raises(ConfigError, match=r"a frame is of type ndarray; expected a dict"):
        next(predictor(iter([RGB])))
    with pytest.raises(DataError, match=r"the array 'x' of frame 1: x has no measured pixel"):
        list(predictor(frame for frame in [several[0], {"x": 0 * X}]))


def test_threads_give_what_one_after_the_other_gives(predictor: Predictor) -> None:
    several = [*frames(6), *frames(6, (64, 40))]
    expected = predictor(several)
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(predictor, several), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_arrays_in_any_form_of_memory_are_taken_and_never_changed(predictor: Predictor) -> None:
    (frame,) = frames(1)
    expected = predictor(frame)
    bgr = np.ascontiguousarray(frame["rgb"][..., ::-1])
    forms = {"rgb": bgr[..., ::-1], "x": np.asfortranarray(frame["x"].astype(">u2"))[..., None]}
    for array in forms.values():
        array.setflags(write=False)
    np.testing.assert_array_equal(predictor(forms), expected)
    channels_first = {"rgb": frame["rgb"].transpose(2, 0, 1), "x": frame["x"][None]}
    np.testing.assert_array_equal(predictor(channels_first), expected)
    found = predictor.predict({"x": forms["x"]}, overlay=True)
    assert found.overlay is not None
    assert found.overlay.shape == (45, 60, 3)
    np.testing.assert_array_equal(bgr[..., ::-1], frame["rgb"])
    np.testing.assert_array_equal(forms["x"][..., 0], frame["x"])


def test_bf16_is_about_the_same_and_not_the_same(bundle: Path, predictor: Predictor) -> None:
    (frame,) = frames(1)
    exact = predictor.predict(frame, probabilities=True).probabilities
    rough = Predictor(bundle, device="cpu", precision="bf16").predict(frame, probabilities=True).probabilities
    assert exact is not None
    assert rough is not None
    difference = np.abs(exact.astype(np.float32) - rough)
    assert 0 < difference.max() < 0.1


def test_what_the_model_knows(predictor: Predictor) -> None:
    assert predictor.modalities == ("rgb", "x")
    assert predictor.classes == ("a", "b", "c")
    assert predictor.palette == ((0, 0, 0), (128, 0, 0), (0, 128, 0))


@pytest.mark.slow
def test_a_published_file_is_told_its_data_set_and_a_hub_name_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["dataset.depth_source=hha", "dataset.eval_size=null"]
    data = save(tmp_path / "bundle", fixture_data(tmp_path / "data", "nyu", "tabs", "eval_size=null"))
    files = files_of_first(data)
    model = load_model(tmp_path / "bundle")
    cfg_model = type(model).from_config({**model.config, "side_head": {"width": 8}})
    torch.save(to_published(cfg_model.state_dict(), ("rgb", "depth")), tmp_path / "nyu.pth")
    expected = command(tmp_path / "nyu.pth", files, tmp_path / "out", "dataset=nyu", *settings)
    published = Predictor(tmp_path / "nyu.pth", dataset="nyu", settings=settings, device="cpu")
    compare(published, arrays_in(files), expected)
    fetched = tmp_path / "bundle" / "model.safetensors"
    cache = tmp_path / "cache" / fetched.name  # the hub's cache holds this file alone
    cache.parent.mkdir()
    fetched.rename(cache)
    monkeypatch.setattr("ktb.weights.by_name.fetch", {"someone/nyu": cache}.__getitem__)
    np.testing.assert_array_equal(
        Predictor("someone/nyu", device="cpu")(arrays_in(files)), Predictor(cache, device="cpu")(arrays_in(files))
    )
    monkeypatch.setenv("KTB_ZOO", str(tmp_path))
    (tmp_path / "nyu.pth").rename(tmp_path / "nyu_swin_b.pth")
    by_name = Predictor("zoo:nyu_swin_b", settings=settings, device="cpu")
    np.testing.assert_array_equal(by_name(arrays_in(files)), expected["index"])
    assert KTBSegmentor.from_pretrained("zoo:nyu_swin_b").modalities == ("rgb", "depth")


RGB = np.zeros((45, 60, 3), np.uint8)
X = np.full((45, 60), 1500, np.uint16)


@pytest.mark.parametrize(
    ("frame", "kind", "texts"),
    [
        ({"rgb": RGB, "y": X}, ConfigError, ["'y' is no modality of", "which has rgb, x"]),
        ({"rbg": RGB}, ConfigError, ["did you mean 'rgb'?"]),
        ({}, ConfigError, ["the frame has no array; expected some of rgb, x"]),
        ({"rgb": None, "x": None}, ConfigError, ["the frame has no array"]),
        ({"rgb": RGB.tolist()[0][0][0]}, DataError, ["rgb is of type int; expected a NumPy array"]),
        (
            {"rgb": torch.zeros(3)},
            DataError,
            ["rgb is of type Tensor; expected a NumPy array", ": tensor.cpu().numpy()"],
        ),
        (
            {"rgb": Image.fromarray(RGB)},
            DataError,
            ["rgb is of type Image; expected a NumPy array", ": numpy.asarray("],
        ),
        (
            {"rgb": "frames/rgb.png"},
            DataError,
            ["rgb is of type str; expected a NumPy array", "ktb-predict takes files"],
        ),
        (
            {"x": np.ma.masked_less(X, 1501)},
            DataError,
            ["the array 'x': is a masked array with 2700", ".filled(VALUE)"],
        ),
        ({"rgb": RGB / 255}, DataError, ["the array 'rgb': holds float64 values, expected uint8"]),
        ({"x": X / np.float32(1000)}, DataError, ["the array 'x': holds float32 values, expected uint16"]),
        ({"rgb": RGB[None]}, DataError, ["has the shape (1, 45, 60, 3)", "; several frames are a list"]),
        ({"rgb": (RGB, RGB)}, DataError, ["the array 'rgb' (1 of 2 files): has 6 channels, expected 3"]),
        ({"x": np.zeros((0, 4), np.uint16)}, DataError, ["has the shape (0, 4)"]),
        ({"x": X.astype("M8[s]")}, DataError, ["holds values of type datetime64[s]; expected numbers"]),
        ({"x": np.stack([X, X // 2], axis=2)}, DataError, ["the array 'x': has 2 channels, expected 1"]),
        ({"x": X // 1000}, DataError, ["the array 'x': x has values around 1", "times less than in", "force=True"]),
        ({"x": 0 * X}, DataError, ["x has no measured pixel"]),
        ([{"x": X}, {"x": 0 * X}], DataError, ["the array 'x' of frame 1: x has no measured pixel"]),
        ([{"x": X}, {"z": X}], ConfigError, ["'z' of frame 1 is no modality"]),
        ([RGB], ConfigError, ["expected a dict (modality → array), a list of such"]),
        (RGB, ConfigError, ["expected a dict (modality → array), a list of such"]),
        ("frame.png", ConfigError, ["expected a dict (modality → array), a list of such"]),
        (None, ConfigError, ["expected a dict (modality → array), a list of such"]),
        ({"rgb": [RGB], "x": X}, ConfigError, ["expected a list of arrays for every modality"]),
        ({"rgb": [RGB], "x": [X, X]}, ConfigError, ["got 1 of rgb, 2 of x"]),
    ],
)
def test_a_frame_that_cannot_be_right_is_one_line(
    frame: Any, kind: type[KTBError], texts: list[str], predictor: Predictor
) -> None:
    with pytest.raises(kind) as caught:
        predictor(frame)
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_unlike_training_are_taken_by_force(bundle: Path, predictor: Predictor) -> None:
    (frame,) = frames(1)
    forced = Predictor(bundle, device="cpu", force=True)
    np.testing.assert_array_equal(forced(frame), predictor(frame))
    assert forced({"x": X // 1000}).shape == (45, 60)


@pytest.mark.parametrize(
    ("source", "settings", "kind", "text"),
    [
        ("{bundle}", {"precision": "int8"}, ConfigError, "precision='int8': expected one of float32, bf16"),
        ("{bundle}", {"short_side": 8}, ConfigError, "short_side=8: expected 'native' or a number"),
        ("{bundle}", {"tile": 0}, ConfigError, "tile=0: expected a whole number"),
        ("{bundle}", {"overlap": 1.0}, ConfigError, "overlap=1.0: expected a share"),
        ("{bundle}", {"overlap": "half"}, ConfigError, "overlap='half': expected a share"),
        ("{bundle}", {"settings": None}, ConfigError, "settings=None: expected a list of text"),
        ("{bundle}", {"settings": [3]}, ConfigError, "settings=[3]: expected a list of text"),
        ("{bundle}", {"max_pixels": -1}, ConfigError, "max_pixels=-1"),
        ("{bundle}", {"device": "gpu"}, ConfigError, "device='gpu': cannot be used here; expected auto, cpu, cuda"),
        ("{bundle}", {"device": "meta"}, ConfigError, "device='meta': cannot be used here; expected auto, cpu, cuda"),
        ("{bundle}", {"config_dir": "nowhere"}, ConfigError, "config_dir=nowhere: no such folder"),
        ("{bundle}", {"settings": "dataset=nyu"}, ConfigError, "expected a list: settings=['dataset=nyu']"),
        ("{bundle}", {"dataset": "nyu"}, ConfigError, "nyu has no modality 'x'"),
        ("{bundle}", {"dataset": "nyv"}, ConfigError, "nyv"),
        ("{bundle}", {"dataset": b"nyu"}, ConfigError, "dataset=b'nyu': expected the name of a data set"),
        ("{bundle}", {"config_dir": 3}, ConfigError, "config_dir=3: expected a path"),
        ("{bundle}", {"config_dir": ""}, ConfigError, "config_dir is empty"),
        ("{bundle}", {"weights": ["a"]}, ConfigError, "weights=['a']: expected a path"),
        ("{bundle}", {"trust": 3}, ConfigError, "trust=3: expected the name of a module"),
        ("{bundle}", {"trust": [3]}, ConfigError, "trust=3: expected the name of a module"),
        ("{bundle}", {"force": "no"}, ConfigError, "force='no': expected True or False"),
        ("{bundle}", {"tile": None}, ConfigError, "tile=None: expected a whole number"),
        ("{bundle}", {"max_pixels": True}, ConfigError, "max_pixels=True: expected a whole number"),
        ("{bundle}/nothing", {}, CheckpointError, "no such checkpoint or run folder"),
    ],
)
def test_a_wrong_setting_is_one_line(
    source: str, settings: dict[str, Any], kind: type[KTBError], text: str, bundle: Path
) -> None:
    with pytest.raises(kind) as caught:
        Predictor(source.format(bundle=bundle), **settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_large_a_frame_says_what_to_set(bundle: Path) -> None:
    (frame,) = frames(1)
    with pytest.raises(DataError, match=r"the array 'rgb': has 60 x 45 pixels; expected at most 100: raise max_pixels"):
        Predictor(bundle, device="cpu", max_pixels=100)(frame)
    large = Predictor(bundle, device="cpu", max_pixels=3000, short_side=64)
    with pytest.raises(DataError, match=r"use short_side='native', or max_pixels=6144"):
        large(frame)

"""The published augmentation (docs/method.md#augmentation) against its definition on thousands of draws, and the
evaluation transform."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF

from ktb.data.augment import ColorJitter, EvalTransform, RandomResizedCrop, TrainTransform, reseed, resize
from ktb.data.spec import IGNORE

DRAWS = 4000


def noise(*shape: int, seed: int = 0, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)


def sample(height: int, width: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    images = {"rgb": noise(height, width, 3), "x": noise(height, width, 1, seed=1, dtype=np.float32)}
    return images, noise(height, width, seed=2) % 5


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray]:
    """Parameters of many draws of the whole pipeline: 24x32 images, crops of 20x28."""
    transform = TrainTransform(["rgb", "x"], (20, 28))
    jitter, flip, blur, crop = transform.compose.transforms
    images, label = sample(24, 32)
    rows = []
    for index in range(DRAWS):
        out, void = transform(images, label, entropy=(0, 0, index))
        j = jitter.params
        rows.append(
            (
                bool(j), bool(flip.params), bool(blur.params),
                j.get("brightness", np.nan), j.get("contrast", np.nan), j.get("saturation", np.nan),
                *crop.params["scaled"], *crop.params["corner"], (void == IGNORE).mean(), (out["x"] == 0).mean(),
            )
        )  # fmt: skip
    names = [
        "jitter",
        "flip",
        "blur",
        "brightness",
        "contrast",
        "saturation",
        "height",
        "width",
        "y",
        "x",
        "void",
        "zero",
    ]
    return {name: np.array(column, float) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def test_rates_and_their_independence(draws):
    expected = {"jitter": 0.2, "flip": 0.5, "blur": 0.2}
    for name, p in expected.items():
        assert abs(draws[name].mean() - p) < 4 * np.sqrt(p * (1 - p) / DRAWS), name
    for a, b in (("jitter", "flip"), ("jitter", "blur"), ("flip", "blur")):
        assert abs(np.corrcoef(draws[a], draws[b])[0, 1]) < 4 / np.sqrt(DRAWS), (a, b)
        assert abs(np.corrcoef(draws[a], draws["height"])[0, 1]) < 4 / np.sqrt(DRAWS)


def test_jitter_factors_are_uniform(draws):
    factors = np.stack([draws[name][draws["jitter"] == 1] for name in ("brightness", "contrast", "saturation")])
    assert factors.min() >= 0.5
    assert factors.max() <= 1.5
    quantiles = np.quantile(factors, [0.1, 0.5, 0.9], axis=1)
    np.testing.assert_allclose(quantiles.T, [[0.6, 1.0, 1.4]] * 3, atol=0.06)
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 0.15


def test_crop_scale(draws):
    # Target (20ρ, 112ρ) for a 24x32 image: scale = min(112ρ/32, 20ρ/24) = 20ρ/24, so the height is 20ρ.
    rho = draws["height"] / 20
    assert rho.min() >= 0.5
    assert rho.max() <= 2.0
    np.testing.assert_allclose(
        np.quantile(rho, [0.1, 0.25, 0.5, 0.75, 0.9]), [0.65, 0.875, 1.25, 1.625, 1.85], atol=0.05
    )
    assert np.abs(draws["width"] - draws["height"] * 32 / 24).max() < 1.2  # rounding to whole pixels


def test_the_long_side_limits_the_scale_of_tall_images():
    # (sic): target (48ρ, 4·16ρ) for 100x20: scale = min(64ρ/100, 48ρ/20), the long side decides.
    crop = RandomResizedCrop((48, 16))
    image = noise(100, 20, 1)
    for seed in range(200):
        crop.py_random.seed(seed)
        crop(image=image, mask=image[..., 0])
        crop.py_random.seed(seed)
        rho = crop.py_random.uniform(0.5, 2.0)
        assert crop.params["scaled"] == (int(64 * rho + 0.5), int(20 * 0.64 * rho + 0.5))


def test_corners_are_uniform_and_inside(draws):
    for corner, side, crop in (("y", "height", 20), ("x", "width", 28)):
        room = np.maximum(draws[side] - crop, 0)
        assert (draws[corner] >= 0).all()
        assert (draws[corner] <= room).all()
        wide = room >= 8
        relative = draws[corner][wide] / room[wide]
        assert abs(relative.mean() - 0.5) < 4 * np.sqrt(1 / 8 / wide.sum())
        assert (relative == 0).any()
        assert (relative == 1).any()


def test_void_fill_is_what_the_scaled_image_leaves(draws):
    covered = np.minimum(draws["height"], 20) * np.minimum(draws["width"], 28) / (20 * 28)
    np.testing.assert_allclose(draws["void"], 1 - covered, atol=1e-9)
    # The image is 0 there too; noise has a zero in 1 of 256 pixels besides.
    assert (draws["zero"] >= 1 - covered - 1e-9).all()
    assert (draws["zero"] <= 1 - covered + 0.1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_crop_equals_resize_then_crop_then_pad(dtype, channels):
    image, label = noise(48, 80, channels, dtype=dtype), noise(48, 80, seed=1) % 7
    crop = RandomResizedCrop((64, 96))
    for seed in range(20):
        crop.py_random.seed(seed)
        out = crop(image=image, mask=label)
        (height, width), (y, x) = crop.params["scaled"], crop.params["corner"]
        # Half-pixel centres, as torch and the published bilinear; torch computes in float.
        planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        whole = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear")[0].permute(1, 2, 0).numpy()
        part = whole[y : y + 64, x : x + 96]
        expected = np.zeros((64, 96, channels), np.float32)
        expected[: part.shape[0], : part.shape[1]] = part
        assert out["image"].dtype == dtype
        # OpenCV's fixed-point weights and rounding.
        np.testing.assert_allclose(out["image"], expected, atol=1.0 if dtype != np.float32 else 5e-3)
        rows = (np.arange(y, min(y + 64, height)) + 0.5) * 48 / height
        columns = (np.arange(x, min(x + 96, width)) + 0.5) * 80 / width
        nearest = label[np.ix_(rows.astype(int), columns.astype(int))]
        got = out["mask"][: len(rows), : len(columns)]
        # Centres that fall on the border of two pixels may take either.
        clear = np.ix_(np.abs(rows - rows.round()) > 1e-3, np.abs(columns - columns.round()) > 1e-3)
        np.testing.assert_array_equal(got[clear], nearest[clear])
        assert got.max() < 7
        assert (out["mask"][len(rows) :] == IGNORE).all()
        assert (out["mask"][:, len(columns) :] == IGNORE).all()


def test_outputs_do_not_share_memory():
    crop = RandomResizedCrop((16, 16), ratio=(1.0, 1.0))
    first = crop(image=noise(16, 16, 3), mask=noise(16, 16))["image"]
    kept = first.copy()
    crop(image=noise(16, 16, 3, seed=5), mask=noise(16, 16))
    np.testing.assert_array_equal(first, kept)


def test_images_and_label_stay_aligned():
    """One geometry for all: a label drawn into every image is found again where the label is."""
    label = np.zeros((60, 90), np.uint8)
    label[10:50, 20:40] = 1
    images = {"rgb": np.repeat(label[..., None] * 200, 3, axis=2), "x": label[..., None].astype(np.float32) * 1000}
    transform = TrainTransform(["x", "rgb"], (48, 64))
    for index in range(100):
        out, got = transform(images, label, entropy=(1, 2, index))
        inside = got != IGNORE
        agree = (out["x"][..., 0] > 500) == (got == 1)
        assert agree[inside].mean() > 0.97
        if (got == 1).sum() > 200:
            contrast = out["rgb"].mean(axis=2)
            assert contrast[got == 1].mean() > 2 * contrast[got == 0].mean()


def test_photometry_is_for_rgb_only():
    images, label = sample(40, 56)
    for streams in (["rgb", "x"], ["x", "rgb"]):
        transform = TrainTransform(streams, None)
        changed = 0
        for index in range(60):
            out, got = transform({name: images[name] for name in streams}, label, entropy=(0, 0, index))
            flipped = not np.array_equal(got, label)
            undo = (lambda a: a[:, ::-1]) if flipped else (lambda a: a)
            np.testing.assert_array_equal(undo(out["x"]), images["x"])
            np.testing.assert_array_equal(undo(got), label)
            changed += not np.array_equal(undo(out["rgb"]), images["rgb"])
        assert 10 <= changed <= 35  # 1 - 0.8² = 36 %
    alone = TrainTransform(["x"], None)
    for index in range(30):
        out, got = alone({"x": images["x"]}, label, entropy=(0, 0, index))
        same = np.array_equal(out["x"], images["x"])
        assert same or np.array_equal(out["x"], images["x"][:, ::-1])
        assert same == np.array_equal(got, label)


def test_jitter_is_brightness_then_contrast_then_saturation():
    image = cv2.resize(noise(6, 8, 3), (64, 48), interpolation=cv2.INTER_CUBIC)
    jitter = ColorJitter(p=1.0)
    for seed in range(20):
        jitter.py_random.seed(seed)
        out = jitter(image=image)["image"]
        expected = torch.from_numpy(image).permute(2, 0, 1)
        expected = TF.adjust_brightness(expected, jitter.params["brightness"])
        expected = TF.adjust_contrast(expected, jitter.params["contrast"])
        expected = TF.adjust_saturation(expected, jitter.params["saturation"]).permute(1, 2, 0).numpy()
        assert np.abs(out.astype(int) - expected.astype(int)).max() <= 3  # three roundings


def test_blur_is_3x3_with_sigma_08():
    image = np.zeros((21, 21, 3), np.uint8)
    image[10, 10] = 255
    transform = TrainTransform(["rgb"], None)
    blur = transform.compose.transforms[2]
    out = blur(image=image, force_apply=True)["image"][..., 0].astype(float)
    weights = np.exp(-np.array([1, 0, 1]) / (2 * 0.8**2))
    weights /= weights.sum()
    np.testing.assert_allclose(out[9:12, 9:12], 255 * np.outer(weights, weights), atol=1)
    assert out.sum() == out[9:12, 9:12].sum()


def test_seed_epoch_and_index_decide():
    images, label = sample(40, 56)
    transform = TrainTransform(["rgb", "x"], (32, 48))

    def draw(*entropy: int) -> np.ndarray:
        return transform(images, label, entropy=entropy)[0]["x"]

    reference = draw(3407, 2, 5)
    for _ in range(3):
        draw(0, 0, 1)  # whatever came before
    np.testing.assert_array_equal(draw(3407, 2, 5), reference)
    for other in ((3408, 2, 5), (3407, 3, 5), (3407, 2, 6), (3407, 5, 2)):
        assert not np.array_equal(draw(*other), reference)


def test_reseed_gives_all_transforms_one_stream():
    compose = TrainTransform(["rgb"], (32, 32)).compose
    reseed(compose, (1, 2, 3))
    numbers = [t.py_random.random() for t in compose.transforms]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    ("native", "short_side", "expected"),
    [
        ((480, 640), 480, (480, 640)),
        ((530, 730), 480, (480, 672)),  # 480 x 661.1 → up to multiples of 32
        ((730, 530), 480, (672, 480)),
        ((1042, 1042), 1024, (1024, 1024)),
        ((720, 1280), 720, (736, 1280)),
        ((427, 561), 480, (480, 640)),  # 630.6
    ],
)
def test_evaluation_sizes(native, short_side, expected):
    images, label = {"rgb": noise(*native, 3), "x": noise(*native, 1, dtype=np.uint16)}, noise(*native)
    out, kept = EvalTransform(short_side)(images, label)
    assert {image.shape[:2] for image in out.values()} == {expected}
    assert [out["rgb"].shape[2], out["x"].shape[2]] == [3, 1]
    np.testing.assert_array_equal(kept, label)
    _, scaled = EvalTransform(short_side, resize_label=True)(images, label)
    assert scaled.shape == expected
    assert set(np.unique(scaled)) <= set(np.unique(label))


def test_evaluation_at_native_size_touches_nothing():
    images, label = sample(37, 53)
    out, kept = EvalTransform(None, resize_label=True)(images, label)
    for name, image in images.items():
        np.testing.assert_array_equal(out[name], image)
    np.testing.assert_array_equal(kept, label)


def test_resize_keeps_the_channel_axis():
    assert resize(noise(10, 12, 1), (20, 24)).shape == (20, 24, 1)
    assert resize(noise(10, 12, 3), (20, 24)).shape == (20, 24, 3)

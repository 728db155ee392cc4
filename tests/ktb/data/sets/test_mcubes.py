"""MCubeS: the dropped margin, float maps as they are, and its own augmentation against its definition."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from ktb.data.sets.mcubes import CentreSquare, MCubeSDataModule, MCubeSTrainTransform
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.errors import DataError

SIZE = (40, 52)
STREAMS = ["rgb", "aolp", "dolp", "nir"]
FIRST = "outscene1208_0_0000000000"


def module(root, **options):
    return MCubeSDataModule(root, **{"streams": STREAMS, "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    return make_fixture("mcubes", tmp_path / "MCubeS", size=SIZE)


def stored(data, index, split="train"):
    """A sample as read: no transform, margin dropped."""
    return data.open_split(split).read(index, STREAMS)


@pytest.mark.parametrize("layout", ["flat", "nested", "16bit"])
def test_samples_are_what_was_stored_without_the_margin(tmp_path, layout):
    root = make_fixture("mcubes", tmp_path / "MCubeS", layout=layout, size=SIZE)
    for i in range(4):
        truth = draw(SIZE, 20, i, void=True)
        sample = stored(module(root), i)
        np.testing.assert_array_equal(sample.label, np.where(truth.label < 0, 255, truth.label))
        np.testing.assert_array_equal(sample.images["rgb"], truth.rgb)
        angle = 2 * np.pi * truth.x
        aolp = np.stack([np.sin(angle), np.cos(angle), np.sin(angle)], -1).astype(np.float32)
        np.testing.assert_array_equal(sample.images["aolp"], aolp)
        np.testing.assert_array_equal(sample.images["dolp"][..., 0], (2.4 * truth.x - 0.4).astype(np.float32))
        np.testing.assert_array_equal(
            sample.images["nir"][..., 0], np.where(truth.hole, 0, (65535 * truth.x).astype(int))
        )
        assert not sample.valid


def test_the_model_gets_dolp_as_it_is_and_nir_from_0_to_1(root):
    degree = np.zeros((SIZE[0], 192 + SIZE[1]), np.float32)
    degree[:, 192:194] = (-2.66, 2.40)
    np.save(root / "polL_dolp" / f"{FIRST}.npy", degree)
    near_infrared = np.zeros(degree.shape, np.uint16)
    near_infrared[:, 192:194] = (65535, 13107)
    Image.fromarray(near_infrared).save(root / "NIR_warped" / f"{FIRST}.png")
    data = module(root)
    sample = stored(data, 0)
    for name, expected in (("dolp", [-2.66, 2.40]), ("nir", [1.0, 0.2])):
        image = torch.from_numpy(sample.images[name].astype(np.float32).transpose(2, 0, 1))[None]
        ready = data.spec.modalities[name].normalize(image)
        assert ready.shape[1] == 3
        for channel in range(3):
            np.testing.assert_allclose(ready[0, channel, 5, :2], expected, rtol=1e-6)


def test_evaluation_takes_the_centred_square():
    label = np.zeros((1024, 1032), np.uint8)
    columns = np.arange(1032)[None].repeat(1024, 0)
    images = {"aolp": np.dstack([columns] * 3).astype(np.float32)}
    for resize_label in (False, True):
        out, scored = CentreSquare(1024, resize_label=resize_label)(images, label)
        assert (out["aolp"].shape, scored.shape) == ((1024, 1024, 3), (1024, 1024))
        assert (out["aolp"][7, 0, 0], out["aolp"][7, -1, 0]) == (4, 1027)
    out, scored = CentreSquare(512, resize_label=False)(images, label)
    assert (out["aolp"].shape, scored.shape) == ((512, 512, 3), (1024, 1024))
    out, scored = CentreSquare(512, resize_label=True)(images, label)
    assert scored.shape == (512, 512)
    out, scored = CentreSquare(None, resize_label=False)({"dolp": np.zeros((40, 31, 1), np.float32)}, label[:40, :31])
    assert (out["dolp"].shape, scored.shape) == ((31, 31, 1), (31, 31))


def test_pixels_without_nir_are_left_out_of_training_only_when_asked(root):
    mask = np.zeros((SIZE[0], 192 + SIZE[1]), np.uint8)
    mask[:4, 200:210] = 255
    Image.fromarray(mask).save(root / "NIR_warped_mask" / f"{FIRST}.png")
    plain, asked = (stored(module(root, ignore_without_nir=flag), 0).label for flag in (False, True))
    assert (asked[:4, 8:18] == 255).all()
    asked[:4, 8:18] = plain[:4, 8:18]
    np.testing.assert_array_equal(asked, plain)
    for i in range(4):
        np.testing.assert_array_equal(
            stored(module(root, ignore_without_nir=True), i, "test").label, stored(module(root), i, "test").label
        )
    Image.fromarray(mask[:, 1:]).save(root / "NIR_warped_mask" / f"{FIRST}.png")
    with pytest.raises(DataError, match=r"NIR_warped_mask/.*\.png: is 243 x 40 pixels but the label .* is 244 x 40"):
        stored(module(root, ignore_without_nir=True), 0)


def test_published_evaluation_without_normalisation_is_a_named_switch(root):
    plain, asked = module(root), module(root, unnormalised_rgb_in_eval=True)
    for split in ("val", "test"):
        a, b = (d.dataset(split)[1]["inputs"]["rgb"][None] for d in (plain, asked))
        np.testing.assert_allclose(plain.spec.modalities["rgb"].normalize(b), a / 255, atol=2e-6)
    a, b = (d.dataset("train", train=True)[1]["inputs"]["rgb"] for d in (plain, asked))
    assert torch.equal(a, b)


def ramps(height, width):
    """Images whose values say where they came from: column + 1 and row + 1, so 0 is padding."""
    row, column = np.mgrid[1 : height + 1, 1 : width + 1].astype(np.float32)
    return {"aolp": np.stack([column, row, column], -1), "dolp": column[..., None]}


@pytest.mark.parametrize("size", [(96, 120), (120, 96)])
def test_scale_crop_flip_and_padding_follow_the_definition(size):
    crop, draws = 64, 3000
    transform = MCubeSTrainTransform(["aolp", "dolp"], (crop, crop))
    images, label = ramps(*size), np.zeros(size, np.uint8)
    shorts, flips, offsets = [], 0, []
    for i in range(draws):
        out, target = transform(images, label, entropy=(3407, i // 10, i % 10))
        assert (out["aolp"].shape, out["dolp"].shape, target.shape) == ((crop, crop, 3), (crop, crop, 1), (crop, crop))
        inside = target == 0
        rows, columns = int(inside.any(1).sum()), int(inside.any(0).sum())
        # Void and zeros make up exactly what is missing, at the right and at the bottom.
        assert (target[:rows, :columns] == 0).all()
        assert inside.sum() == rows * columns
        assert set(np.unique(target)) <= {0, 255}
        assert (out["aolp"][~inside] == 0).all()
        assert (out["aolp"][inside] > 0).all()
        np.testing.assert_array_equal(out["dolp"][..., 0], out["aolp"][..., 0])
        step_x = (out["aolp"][2, columns - 3, 0] - out["aolp"][2, 2, 0]) / (columns - 5)
        step_y = (out["aolp"][rows - 3, 2, 1] - out["aolp"][2, 2, 1]) / (rows - 5)
        scaled = (size[0] / step_y, size[1] / abs(step_x))
        short = round(min(scaled))
        assert max(scaled) == pytest.approx(int(short * max(size) / min(size)), abs=0.6)
        assert (rows, columns) == tuple(min(round(s), crop) for s in scaled)
        shorts.append(short)
        flips += step_x < 0
        top = (out["aolp"][2, 2, 1] - 0.5) / step_y - 2.5
        offsets.append(round(float(top)) / max(round(scaled[0]) - crop, 1))
    # Whole numbers from crop/2 to 2·crop, each as likely: 97 of them, 31 times each on average.
    assert (min(shorts), max(shorts)) == (32, 128)
    counts = np.bincount(shorts, minlength=129)[32:]
    assert counts.sum() == draws
    assert (counts - draws / 97).std() < 1.5 * np.sqrt(draws / 97)
    assert abs(flips / draws - 0.5) < 4 * np.sqrt(0.25 / draws)
    large = [o for o, s in zip(offsets, shorts, strict=True) if s > crop + 16]
    assert abs(np.mean(large) - 0.5) < 0.03
    assert (min(large), max(large)) == (0, 1)


def test_blur_is_drawn_once_for_rgb_and_nir_and_spares_polarisation():
    size, draws = (33, 33), 2000
    impulse = np.zeros((*size, 1))
    impulse[16, 16] = 1
    images = {
        "rgb": np.repeat(255 * impulse, 3, 2).astype(np.uint8),
        "aolp": np.repeat(impulse, 3, 2).astype(np.float32),
        "dolp": impulse.astype(np.float32),
        "nir": (65535 * impulse).astype(np.uint16),
    }
    transform = MCubeSTrainTransform(STREAMS, None)
    square = (np.arange(33) - 16.0) ** 2
    sigmas = []
    for i in range(draws):
        out, _ = transform(images, np.zeros(size, np.uint8), entropy=(1, 2, i))
        for name in ("aolp", "dolp"):
            np.testing.assert_array_equal(out[name], images[name])
        assert (out["rgb"].dtype, out["nir"].dtype) == (np.uint8, np.uint16)
        spread = out["nir"][..., 0].sum(0) / out["nir"].sum()
        sigma = float(np.sqrt((spread * square).sum()))
        if sigma > 0.6:  # below, a sampled Gaussian is narrower than its σ
            expected = cv2.GaussianBlur(images["nir"], (0, 0), sigma)
            assert abs(out["nir"][..., 0].astype(int) - expected).max() < 0.02 * 65535
        assert abs(int(out["rgb"][16, 16, 0]) - out["nir"][16, 16, 0] / 257) <= 3
        sigmas.append(sigma)
    # Half of the samples, σ uniform in [0, 1): beyond 0.6 lies a fifth, beyond 0.8 a tenth.
    assert max(sigmas) < 1.02
    for limit, share in ((0.6, 0.2), (0.8, 0.1)):
        assert abs(np.mean(np.array(sigmas) > limit) - share) < 4 * np.sqrt(share / draws)


@pytest.mark.parametrize("streams", [["aolp"], ["dolp", "aolp"], ["nir"], ["dolp", "nir"], ["rgb"]])
def test_every_choice_of_streams_is_augmented_alike(streams):
    """The geometry of a sample does not depend on which of its modalities are loaded."""
    size = (96, 120)
    all_images = ramps(*size)
    all_images["nir"] = (100 * all_images["dolp"]).astype(np.uint16)
    all_images["rgb"] = np.repeat(all_images["dolp"], 3, 2).astype(np.uint8)
    label = np.random.default_rng(0).integers(0, 20, size).astype(np.uint8)
    images = {name: all_images[name] for name in streams}
    for i in range(20):
        out, target = MCubeSTrainTransform(streams, (64, 64))(images, label, entropy=(0, 0, i))
        again, same = MCubeSTrainTransform(streams, (64, 64))(images, label, entropy=(0, 0, i))
        assert all(np.array_equal(out[name], again[name]) for name in streams)
        _, everything = MCubeSTrainTransform(STREAMS, (64, 64))(all_images, label, entropy=(0, 0, i))
        np.testing.assert_array_equal(target, same)
        np.testing.assert_array_equal(target, everything)


def test_bad_files(root):
    damaged = np.load(root / "polL_dolp" / f"{FIRST}.npy")
    damaged[3, 200] = np.nan
    np.save(root / "polL_dolp" / f"{FIRST}.npy", damaged)
    with pytest.raises(DataError, match=rf"polL_dolp/{FIRST}\.npy: 1 values are NaN or infinite, .*row 3, column 200"):
        stored(module(root), 0)
    np.save(root / "polL_dolp" / f"{FIRST}.npy", damaged[:, :192])
    with pytest.raises(DataError, match=r"192 pixels wide; expected more than the 192"):
        module(root, streams=["dolp"]).dataset("train")[0]
    (root / "polL_aolp_cos" / f"{FIRST}.npy").unlink()
    with pytest.raises(DataError, match=rf"polL_aolp_cos/{FIRST}\.npy: no such file, but .*list_folder/train\.txt"):
        module(root).open_split("train")
    Image.fromarray(np.full((40, 244), 20, np.uint8)).save(root / "GT" / f"{FIRST}.png")
    with pytest.raises(DataError, match=r"label id 20 .*expected 0-19, 255"):
        module(root, streams=["rgb"]).dataset("train")[0]

"""MCubeS (Liang et al., CVPR 2022): materials in street scenes from RGB, polarisation and near infrared; 20 classes.

On disk, below the root or below its `multimodal_dataset`: `polL_color/*.png`, `polL_aolp_sin/*.npy`,
`polL_aolp_cos/*.npy`, `polL_dolp/*.npy`, `NIR_warped/*.png`, `NIR_warped_mask/*.png`, `GT/*.png` and
`list_folder/{train,val,test}.txt`; 302 / 96 / 102 samples of 1024x1224, of which the left 192 columns are dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import cv2
import numpy as np

from ktb.data.arrays import Array, Label, Reading, Size, Source
from ktb.data.augment import A, RandomResizedCrop, TrainTransform, Transform, resize, resize_nearest
from ktb.data.file_tree import Tree
from ktb.data.lists import read_list
from ktb.data.module import Loading, RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.samples import Entry, FileSamples, Reader
from ktb.data.spec import IGNORE, IMAGENET_MEAN, IMAGENET_STD, RGB, DatasetSpec, ModalitySpec
from ktb.data.steps import Step
from ktb.errors import DataError

CLASSES = (
    "asphalt", "concrete", "metal", "road_marking", "fabric", "glass", "plaster", "plastic", "rubber", "sand",
    "gravel", "ceramic", "cobblestone", "brick", "grass", "wood", "leaf", "water", "human", "sky",
)  # fmt: skip
PALETTE = (
    (44, 160, 44), (31, 119, 180), (255, 127, 14), (214, 39, 40), (140, 86, 75), (127, 127, 127), (188, 189, 34),
    (255, 152, 150), (23, 190, 207), (174, 199, 232), (196, 156, 148), (197, 176, 213), (247, 182, 210),
    (199, 199, 199), (219, 219, 141), (158, 218, 229), (57, 59, 121), (107, 110, 207), (156, 158, 222), (99, 121, 57),
)  # fmt: skip

MARGIN = 192
"""Columns at the left of every picture that are dropped."""

MODALITIES = {
    "rgb": RGB,
    "aolp": ModalitySpec("aolp", scale=1.0, title="AoLP (sin, cos, sin)"),
    "dolp": ModalitySpec("dolp", scale=1.0, title="DoLP"),
    "nir": ModalitySpec("nir", scale=65535.0, title="NIR"),
}


class MCubeSDataModule(RGBXDataModule):
    """MCubeS.

    Args:
        root: folder that holds the folders above, or the `multimodal_dataset` with them.
        ignore_without_nir: leave pixels that the NIR camera did not see out of the training loss, as the data set's
            authors do; the published recipe of this method trains on them.
        unnormalised_rgb_in_eval: feed RGB / 255 without ImageNet mean and std in validation and test, as the published
            test code did by oversight; for comparing with its numbers only.
        **loading: see `RGBXDataModule`; `eval_size` is the side of the centred square that is evaluated
            (docs/method.md#evaluation).

    Angle of linear polarisation comes as sin and cos, degree of linear polarisation as it is (also beyond [0, 1]).
    Labels are 0..19 and 255 = void.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        ignore_without_nir: bool = False,
        unnormalised_rgb_in_eval: bool = False,
        **loading: Unpack[Loading],
    ) -> None:
        self.root = Path(root)
        self.ignore_without_nir = ignore_without_nir
        self.unnormalised_rgb_in_eval = unnormalised_rgb_in_eval
        spec = DatasetSpec(
            name="mcubes",
            classes=CLASSES,
            palette=PALETTE,
            modalities=MODALITIES,
            counts={"train": 302, "val": 96, "test": 102},
        )
        super().__init__(spec, **loading)

    def train_transform(self) -> Transform:
        """The data set's own augmentation (docs/method.md#augmentation)."""
        return MCubeSTrainTransform([m.name for m in self.modalities], self.crop)

    def eval_transform(self) -> Transform:
        """Evaluation on the largest centred square."""
        return CentreSquare(self.short_side, resize_label=self.scoring == "published")

    def readers(self) -> Mapping[str, Reader]:
        """Of evaluation, and without dropping the margin at the left, which only the data set's own pictures have."""
        return {
            "rgb": _ReadUnnormalisedRGB() if self.unnormalised_rgb_in_eval else READ_RGB,
            "aolp": ImageReader(channels=3, dtype="float32", pick=(0, 1, 0)),
            "dolp": ImageReader(channels=1, dtype="float32"),
            "nir": ImageReader(channels=1, dtype="uint16"),
        }

    def open_split(self, split: str) -> FileSamples:
        """The samples that the split's list names; see `RGBXDataModule.open_split`."""
        tree = Tree(self.root)
        below = "multimodal_dataset/" if tree.names("").get("multimodal_dataset") else ""
        path = self.root / below / "list_folder" / f"{split}.txt"
        stems = [line.columns[0] for line in read_list(path, self.root)]
        entries = [
            Entry(
                stem,
                {
                    "rgb": (f"{below}polL_color/{stem}.png",),
                    "aolp": (f"{below}polL_aolp_sin/{stem}.npy", f"{below}polL_aolp_cos/{stem}.npy"),
                    "dolp": (f"{below}polL_dolp/{stem}.npy",),
                    "nir": (f"{below}NIR_warped/{stem}.png",),
                },
                f"{below}GT/{stem}.png",
            )
            for stem in stems
        ]
        streams = [m.name for m in self.modalities]
        wanted = [file for entry in entries for file in entry.paths(streams)]
        readers = dict(self.readers())
        label: Callable[[Path], Label] = LabelReader(id_table(self.spec.num_classes))
        if split == "train" and self.ignore_without_nir:
            wanted += [f"{below}NIR_warped_mask/{stem}.png" for stem in stems]
            label = _WithoutNIR(label)
        if split == "train":
            readers["rgb"] = READ_RGB
        tree.require(wanted, str(path), "copy the files there")
        cut = {name: _WithoutMargin(reader) for name, reader in readers.items()}
        return FileSamples(self.root, entries, cut, _LabelWithoutMargin(label))


READ_RGB = ImageReader(channels=3, units={"uint16": 1 / 257}, colour=True)  # some copies of the data set hold 16 bits


@dataclass(frozen=True)
class _ReadUnnormalisedRGB:
    """RGB as float32 such that the usual normalisation, `(stored / 255 - mean) / std`, gives RGB / 255."""

    def __call__(self, paths: Sequence[Source]) -> Reading:
        mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
        return Reading(READ_RGB(paths).image * std + 255 * mean)

    def steps(self) -> list[Step]:
        """See `ktb.data.preparation`."""
        add = [255 * mean for mean in IMAGENET_MEAN]
        return [*READ_RGB.steps(), {"do": "multiply and add", "factor": list(IMAGENET_STD), "add": add}]


@dataclass(frozen=True)
class _WithoutMargin:
    read: Reader

    def __call__(self, paths: Sequence[Source]) -> Reading:
        image, valid, converted, *_ = self.read(paths)
        return Reading(_cut(image, paths[0]), None if valid is None else _cut(valid, paths[0]), converted)


@dataclass(frozen=True)
class _LabelWithoutMargin:
    read: Callable[[Path], Label]

    def __call__(self, path: Path) -> Label:
        return _cut(self.read(path), path)


@dataclass(frozen=True)
class _WithoutNIR:
    """Labels with `IGNORE` where the picture's NIR mask is above 0."""

    read: Callable[[Path], Label]

    def __call__(self, path: Path) -> Label:
        label = self.read(path)
        mask_path = path.parents[1] / "NIR_warped_mask" / path.name
        mask = ImageReader()([mask_path]).image
        if mask.shape[:2] != label.shape:
            raise DataError(
                f"{mask_path}: is {mask.shape[1]} x {mask.shape[0]} pixels but the label {path} is {label.shape[1]} x "
                f"{label.shape[0]}; expected one size: copy or download it again"
            )
        return np.where((mask > 0).any(axis=2), np.uint8(IGNORE), label)


def _cut(image: Array, path: Source) -> Array:
    if image.shape[1] <= MARGIN:
        raise DataError(
            f"{path}: is {image.shape[1]} pixels wide; expected more than the {MARGIN} that are dropped at the left "
            "(MCubeS is 1224 wide): use the original files"
        )
    return np.ascontiguousarray(image[:, MARGIN:])


# --- augmentation of its own (docs/method.md#augmentation) ------------------------------------------------------------


class RandomShortSideCrop(RandomResizedCrop):
    """Short side to a random whole number from crop·ratio (for a crop of 512: 256 to 1024), then a crop at random.

    What is missing is padded at the right and at the bottom, images with 0, the label with `IGNORE`.
    """

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the short side and the corner; see `RandomResizedCrop`."""
        height, width = params["shape"][:2]
        low, high = (int(min(self.size) * ratio) for ratio in self.ratio)
        short = self.py_random.randint(low, high)
        scaled = (height * short // width, short) if height > width else (short, width * short // height)
        corner = [self.py_random.randint(0, max(s - t, 0)) for s, t in zip(scaled, self.size, strict=True)]
        return {"scaled": scaled, "corner": tuple(corner)}


class RandomRadiusBlur(A.ImageOnlyTransform):
    """Gaussian blur with σ from U[0, 1) pixels, one draw for all images of a sample."""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=p)

    def get_params(self) -> dict[str, Any]:
        """Draw the radius σ in pixels."""
        return {"sigma": max(self.py_random.random(), 1e-3)}  # OpenCV takes 0 for "not given"

    def apply(self, img: Array, sigma: float, **params: Any) -> Array:
        """(H, W, C) → the same, blurred."""
        return cv2.GaussianBlur(img, (0, 0), sigma).reshape(img.shape)


class MCubeSTrainTransform(TrainTransform):
    """Flip (p 0.5), `RandomShortSideCrop`, and `RandomRadiusBlur` (p 0.5) of RGB and NIR, in this order.

    A flip leaves the polarisation angle as it is, as published.

    Args:
        streams: names of the modalities that will come.
        crop: (height, width) of the result; None leaves the size alone.
    """

    def __init__(self, streams: Sequence[str], crop: Size | None) -> None:
        blurred = [name for name in ("rgb", "nir") if name in streams]
        first = (blurred or list(streams))[0]
        geometry = [] if crop is None else [RandomShortSideCrop(crop)]
        self.keys = {name: "image" if name == first else name for name in streams}
        self.compose = A.Compose(
            [A.HorizontalFlip(p=0.5), *geometry, *([RandomRadiusBlur()] if blurred else [])],
            # albumentations blurs images and leaves masks alone.
            additional_targets={name: "image" if name in blurred else "mask" for name in streams if name != first},
        )


class CentreSquare:
    """Evaluation on the largest centred square (1024 of 1024x1032 pixels), scaled to `side`.

    Args:
        side: of the network's input; None keeps the square's own size.
        resize_label: score at `side` (nearest) instead of at the square's own size; both are 1024 for the real data.
    """

    def __init__(self, side: int | None, *, resize_label: bool) -> None:
        self.side = side
        self.resize_label = resize_label

    def __call__(
        self, images: Mapping[str, Array], label: Label, *, entropy: Sequence[int] = ()
    ) -> tuple[dict[str, Array], Label]:
        side = min(label.shape)
        y, x = (round((length - side) / 2) for length in label.shape)
        square = (slice(y, y + side), slice(x, x + side))
        size = (self.side or side,) * 2
        label = np.ascontiguousarray(label[square])
        return (
            {name: resize(np.ascontiguousarray(image[square]), size) for name, image in images.items()},
            resize_nearest(label, size) if self.resize_label else label,
        )

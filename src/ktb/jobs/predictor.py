"""A trained model in a program of the user's own: arrays as sensors give them in, class ids out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args, overload

import numpy as np
import torch
from numpy.typing import NDArray

from ktb.config.overrides import as_override
from ktb.config.trust import Trust
from ktb.data import label_size, magnitudes
from ktb.data.arrays import InMemory
from ktb.data.module import RGBXDataModule
from ktb.data.pictures import RGBImage
from ktb.data.spec import Colour
from ktb.errors import ConfigError, DataError, did_you_mean
from ktb.io import expanded, path_given
from ktb.jobs.saved_model import open_for_pictures
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.outputs import greatest_probability, overlay_of, probabilities_of
from ktb.predict.reading import PictureReader, as_argument
from ktb.predict.tiled_model import TiledModel, device_called

Precision = Literal["float32", "bf16"]
Stored = NDArray[Any] | tuple[NDArray[Any], ...] | None
"""(H, W) or (H, W, C) of one modality; a tuple where it is stored in several files; None: it is missing."""
Frame = Mapping[str, Stored]
"""Modality → what its sensor gave. A modality left out is missing."""
Frames = Sequence[Frame] | Mapping[str, Sequence[Stored] | None]
"""Several frames: a list of them, or for each modality a list."""

_log = logging.getLogger(__name__)
_opening = threading.Lock()
"""Hydra composes configurations with one state for the whole process."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one frame; None where it was not asked for.

    Args:
        mask: (H, W) class ids, uint8, or uint16 where there are more than 256 classes.
        confidence: (H, W) float32, the greatest class probability.
        probabilities: (H, W, K) float16.
        overlay: (H, W, 3) uint8, the classes' colours over the picture.
    """

    mask: NDArray[Any]
    confidence: NDArray[np.float32] | None = None
    probabilities: NDArray[np.float16] | None = None
    overlay: RGBImage | None = None


class Predictor:
    """A trained model that takes arrays as sensors give them and answers with class ids at the frame's own size.

    Arrays are treated as `ktb-predict` treats files that hold them, and so as training did: bit depth and unit, holes,
    plane, normalisation, resizing, tiling. May be called from several threads at once.

    Args:
        source: a run folder of ktb-train (its best checkpoint is taken), a .ckpt, a bundle's folder, a published .pth
            file, or a name: of a bundle on the Hugging Face hub (OWNER/NAME), of a model of the zoo (zoo:nyu_swin_b).
        dataset: the data set that a published file was trained on ("nyu"); every other source knows its own, and so
            does a name of the zoo.
        settings: further settings of ktb-eval that decide how arrays are read, as it takes them:
            ["dataset.depth_source=depth", "modality=rgb_t"].
        config_dir: your own configurations, as DIR/dataset/mine.yaml.
        weights: the frozen backbone's weights, where they are no longer where training had them.
        trust: modules or packages of your own (or one), whose classes the file may name: "my_lab".
        device: "cpu", "cuda", "cuda:1", "mps"; "auto": a GPU where there is one.
        precision: "float32", or "bf16" (autocast to bfloat16).
        short_side: frames are resized to this short side for the model, "native": not at all; None: as in the
            evaluation of the data set.
        tile: frames with more than 2·tile² pixels after resizing are cut into tiles of this side.
        overlap: share of a tile's side that neighbours have in common at least, 0 to 0.9.
        max_pixels: larger frames are refused; None: as the data set has it.
        force: take also frames whose values are far outside of what the model was trained on.

    Raises:
        ConfigError: a setting that cannot work.
        CheckpointError: no model is there, or not one for this data set.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        dataset: str | None = None,
        settings: Sequence[str] = (),
        config_dir: str | Path | None = None,
        weights: str | Path | None = None,
        trust: str | Sequence[str] = (),
        device: str | torch.device = "auto",
        precision: Precision = "float32",
        short_side: int | Literal["native"] | None = None,
        tile: int = 768,
        overlap: float = 0.25,
        max_pixels: int | None = None,
        force: bool = False,
    ) -> None:
        source = path_given("source", source)
        config_dir = None if config_dir is None else path_given("config_dir", config_dir)
        weights = None if weights is None else path_given("weights", weights)
        _check(dataset, settings, precision, short_side, tile, overlap, max_pixels, force)
        where = device_called(str(device), as_argument("device", str(device)))
        folders = [] if config_dir is None else [expanded(config_dir)]
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"config_dir={folder}: no such folder")
        trusted = Trust.of(trust, spelling="argument").modules
        given = [
            *([as_override("dataset", dataset)] if dataset is not None else []),
            *([as_override("backbone.weights", str(expanded(weights)))] if weights is not None else []),
            *([f"trust=[{','.join(trusted)}]"] if trusted else []),
            *settings,
        ]
        self._source = str(source)
        with _opening:
            _, _, data, model = open_for_pictures(source, given, folders, spelling="argument")
        tiled = TiledModel(
            model.to(where).eval(),
            data,
            short_side=data.short_side if short_side is None else None if short_side == "native" else short_side,
            tile=tile,
            overlap=overlap,
            device=where,
            bf16=precision == "bf16",
        )
        self._model = tiled
        self._reader = PictureReader(
            tiled,
            training={} if force else magnitudes.known(model.about.get("values")),
            max_pixels=max_pixels,
            label_sizes=_label_sizes(self._source, data, model) if short_side is None else label_size.LabelSizes(),
            spelling=as_argument,
        )

    @property
    def modalities(self) -> tuple[str, ...]:
        """The model's modalities, in its order."""
        return tuple(self._model.modalities)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their ids."""
        return self._model.data.spec.classes

    @property
    def palette(self) -> tuple[Colour, ...]:
        """(red, green, blue) of each class."""
        return self._model.data.spec.palette

    @overload
    def __call__(self, frames: Frame) -> NDArray[Any]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, frames: Frames) -> list[NDArray[Any]]: ...
    @overload
    def __call__(self, frames: Iterator[Frame]) -> Iterator[NDArray[Any]]: ...
    def __call__(
        self, frames: Frame | Frames | Iterator[Frame]
    ) -> NDArray[Any] | list[NDArray[Any]] | Iterator[NDArray[Any]]:
        """The mask of a frame, or the masks of several.

        Args:
            frames: modality → array; or a list of such frames; or modality → list of arrays; or a generator of frames,
                such as a camera's, which may never end.

        Returns:
            (H, W) class ids, uint8, or uint16 where there are more than 256 classes. Of several frames a list; of a
            generator an iterator, which takes a frame when its mask is asked for.

        Raises:
            ConfigError: an unknown modality, or no array.
            DataError: an array of another type, shape or unit than in training.
            NotFiniteError: the model's answer is not finite.
        """
        if _is_one(frames):
            return self.predict(frames).mask  # type: ignore[arg-type]
        if isinstance(frames, Iterator):
            return (self._predict(_one(frame), f"frame {i}").mask for i, frame in enumerate(frames))
        return [self._predict(frame, f"frame {i}").mask for i, frame in enumerate(_listed(frames))]

    def predict(
        self, frame: Frame, *, confidence: bool = False, probabilities: bool = False, overlay: bool = False
    ) -> Prediction:
        """The mask of one frame, and what else is asked for.

        Args:
            frame: modality → array.
            confidence, probabilities, overlay: what the result has beside the mask, see `Prediction`.

        Raises:
            KTBError: as calling the predictor does.
        """
        return self._predict(_one(frame), "", confidence=confidence, probabilities=probabilities, overlay=overlay)

    def _predict(
        self,
        frame: Frame,
        name: str,
        *,
        confidence: bool = False,
        probabilities: bool = False,
        overlay: bool = False,
    ) -> Prediction:
        read = self._reader(self._files(frame, name), name or "the frame", backdrop=overlay)
        spec, size = self._model.data.spec, read.size
        mask = np.empty(size, self._model.id_type)
        sure = np.empty(size, np.float32) if confidence else None
        shares = np.empty((*size, spec.num_classes), np.float16) if probabilities else None
        for band in self._model.bands(read.inputs, size):
            mask[band.rows] = band.ids
            if sure is not None:
                sure[band.rows] = greatest_probability(band.logits).cpu().numpy()
            if shares is not None:
                shares[band.rows] = probabilities_of(band.logits)
        return Prediction(mask, sure, shares, None if read.backdrop is None else overlay_of(read.backdrop, mask, spec))

    def _files(self, frame: Frame, name: str) -> dict[str, tuple[InMemory, ...]]:
        """The arrays in the place of files, called as messages will."""
        names, of = self.modalities, f" of {name}" if name else ""
        found = {}
        for modality, stored in frame.items():
            if modality not in names:
                raise ConfigError(
                    f"{modality!r}{of} is no modality of {self._source}, which has {', '.join(names)}"
                    + did_you_mean(str(modality), names)
                )
            if stored is None:
                continue
            parts = stored if isinstance(stored, tuple) else (stored,)
            for part in parts:
                if not isinstance(part, np.ndarray):
                    raise DataError(
                        f"{modality}{of} is of type {type(part).__name__}; expected a NumPy array (height, width) or "
                        f"(height, width, channels){_remedy(part)}"
                    )
            called = f"the array {modality!r}{of}"
            found[modality] = tuple(
                InMemory(f"{called} ({i} of {len(parts)} files)" if len(parts) > 1 else called, part)
                for i, part in enumerate(parts, 1)
            )
        if not found:
            raise ConfigError(f"{name or 'the frame'} has no array; expected some of {', '.join(names)}")
        return found


def _check(
    dataset: str | None,
    settings: Sequence[str],
    precision: str,
    short_side: int | str | None,
    tile: int,
    overlap: float,
    max_pixels: int | None,
    force: bool,
) -> None:
    if not isinstance(dataset, str | None):
        raise ConfigError(f"dataset={dataset!r}: expected the name of a data set, such as 'nyu'")
    if not isinstance(force, bool):
        raise ConfigError(f"force={force!r}: expected True or False")
    if isinstance(settings, str):
        raise ConfigError(f"settings={settings!r}: expected a list: settings=[{settings!r}]")
    if not isinstance(settings, Sequence) or not all(isinstance(setting, str) for setting in settings):
        raise ConfigError(f"settings={settings!r}: expected a list of text, such as ['modality=rgb_t']")
    if precision not in get_args(Precision):
        raise ConfigError(f"precision={precision!r}: expected one of {', '.join(get_args(Precision))}")
    if short_side not in (None, "native") and not (_is_whole(short_side) and short_side >= 32):
        raise ConfigError(f"short_side={short_side!r}: expected 'native' or a number of pixels of at least 32")
    for name, value in (("tile", tile), ("max_pixels", 1 if max_pixels is None else max_pixels)):
        if not (_is_whole(value) and value >= 1):
            raise ConfigError(f"{name}={value!r}: expected a whole number of 1 or more")
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 0.9:
        raise ConfigError(f"overlap={overlap!r}: expected a share from 0 to 0.9")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _label_sizes(source: str, data: RGBXDataModule, model: KTBSegmentor) -> label_size.LabelSizes:
    if not label_size.resized_to_label(data):
        return label_size.LabelSizes()
    sizes = label_size.known(model.about.get("label_size"))
    if not sizes:
        _log.warning(
            "%s: does not say how large the labels were to which its training resized the pictures; frames are taken "
            "at their own size: short_side=N sets another, training again writes it down",
            source,
        )
    return sizes


def _remedy(part: object) -> str:
    """How an object that is no NumPy array becomes one."""
    if isinstance(part, torch.Tensor):
        return ": tensor.cpu().numpy()"
    if isinstance(part, str | Path):
        return "; ktb-predict takes files"
    return ": numpy.asarray(...)" if hasattr(part, "__array__") or hasattr(part, "__array_interface__") else ""


def _is_one(frames: Frame | Frames | Iterator[Frame]) -> bool:
    """Whether this is one frame, not several."""
    return isinstance(frames, Mapping) and not any(isinstance(stored, list) for stored in frames.values())


def _one(frame: object) -> Frame:
    """What should be one frame, checked."""
    if not isinstance(frame, Mapping):
        raise ConfigError(f"a frame is of type {type(frame).__name__}; expected a dict (modality → array)")
    return frame


def _listed(frames: Frame | Frames) -> list[Frame]:
    """Several frames as a list of them."""
    if not isinstance(frames, Mapping):
        several = isinstance(frames, Sequence) and not isinstance(frames, str | bytes)
        if not several or not all(isinstance(frame, Mapping) for frame in frames):
            raise ConfigError("expected a dict (modality → array), a list of such, or a dict of lists of arrays")
        return list(frames)
    lists = {modality: stored for modality, stored in frames.items() if stored is not None}
    if not all(isinstance(stored, list) for stored in lists.values()):
        raise ConfigError("expected a list of arrays for every modality, or for none")
    counts = {modality: len(stored) for modality, stored in lists.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{n} of {modality}" for modality, n in counts.items())
        raise ConfigError(f"expected as many arrays of every modality, got {found}; None stands for a missing one")
    return [{m: stored[i] for m, stored in lists.items()} for i in range(next(iter(counts.values())))]

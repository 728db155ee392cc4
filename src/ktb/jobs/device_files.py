"""Files for devices: what of a data set goes into them, what they answer against ktb's own answer, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from ktb.config.overrides import as_override
from ktb.data import label_size, magnitudes
from ktb.data.arrays import Array, InMemory, Size
from ktb.data.augment import resize_nearest
from ktb.data.module import RGBXDataModule
from ktb.data.preparation import preparation
from ktb.data.readers.decode import decode, pixel_limit
from ktb.data.samples import FileSamples
from ktb.data.spec import Sample, normalize
from ktb.engine.inference import most_likely, resize_logits
from ktb.errors import CheckpointError, ConfigError, DataError
from ktb.export.file import export_raw, new_file
from ktb.export.int8 import quantise
from ktb.export.raw import RawModel
from ktb.export.sensors import Preparation, Sensor, Wish, sensors_of
from ktb.export.session import OnnxFile
from ktb.jobs.saved_model import open_for_pictures
from ktb.metrics.evaluation import Evaluation
from ktb.models.segmentor import KTBSegmentor
from ktb.predict.reading import PictureReader
from ktb.predict.tiled_model import TiledModel

_T = TypeVar("_T")
Watch = Callable[[Iterable[_T], int, str], Iterable[_T]]
"""(items, how many, title) → the items, with a progress bar."""

COMPARED = 3
"""Random frames on which a file that prepares its frames itself is compared with ktb."""


def open_with_data(
    source: str | Path,
    settings: Sequence[str],
    folders: Sequence[Path],
    *,
    base: str | None = None,
    trust: Sequence[str] = (),
) -> tuple[RGBXDataModule, KTBSegmentor]:
    """A checkpoint's model and its data set.

    Args:
        source: the checkpoint's path or name, see `ktb.weights.files.find_checkpoint`.
        settings: of ktb-eval, as the user wrote them.
        folders: further configuration folders.
        base: the frozen backbone's weights, where they are not where the checkpoint says.
        trust: modules whose classes the checkpoint may name, beside those of ktb.

    Raises:
        KTBError: a setting is wrong, or the checkpoint cannot be used with them.
    """
    given = [
        *([as_override("backbone.weights", base)] if base is not None else []),
        *([f"trust=[{','.join(trust)}]"] if trust else []),
        *settings,
    ]
    _, _, data, model = open_for_pictures(source, given, folders, spelling="flag")
    model.about["preparation"] = preparation(data, label_size.known(model.about.get("label_size")))
    return data, model.eval()


def write_raw(
    model: KTBSegmentor, data: RGBXDataModule, file: Path, size: Size, wishes: Mapping[str, Wish]
) -> tuple[RawModel, float]:
    """Write a file that takes what sensors give, compared with ktb on random frames.

    Args:
        model: in evaluation mode, with its preparation in `about`.
        data: the data set as which frames are read.
        file: where to.
        size: (height, width) of the frames.
        wishes: see `sensors_of`.

    Returns:
        what was written, and the share of pixels whose class is another than ktb's.

    Raises:
        ConfigError: something of it cannot be in a graph.
        CheckpointError: the file answers otherwise than ktb, or can't be written.
    """
    steps = model.about["preparation"]
    sensors = sensors_of(steps, size, wishes)
    label_sizes = label_size.LabelSizes()
    if label_size.resized_to_label(data):
        label_sizes = label_size.known(model.about.get("label_size"))
    raw = RawModel(model, steps, sensors, label_sizes)
    frames = random_frames(sensors, steps, magnitudes.known(model.about.get("values")))
    tiled = TiledModel(model, data, short_side=data.short_side, tile=max(raw.seen))
    read = PictureReader(tiled, label_sizes=label_sizes)

    def expected(frame: Mapping[str, Array]) -> Array:
        arrays = {name: (InMemory(f"the frame's {name}", array),) for name, array in frame.items()}
        picture = read(arrays, "a frame", backdrop=False)
        return np.concatenate([band.ids for band in tiled.bands(picture.inputs, picture.size)])

    return raw, export_raw(raw, file, frames, expected)


def random_frames(
    sensors: Mapping[str, Sensor], steps: Preparation, magnitudes: Mapping[str, magnitudes.Magnitude]
) -> list[dict[str, Array]]:
    """Smooth frames with noise, with values as in training where that is known; the last one without holes."""
    rng = np.random.default_rng(0)
    frames: list[dict[str, Array]] = []
    for i in range(COMPARED):
        frame: dict[str, Array] = {}
        for name, sensor in sensors.items():
            known = magnitudes.get(name)
            factor = next((s["factors"].get(sensor.type, 1) for s in steps[name] if s["do"] == "take"), 1)
            most = 1.0 if sensor.type == "float32" else float(np.iinfo(sensor.type).max)
            low, high = (0.0, most) if known is None else (known.middle[0] / 2 / factor, known.most[1] / factor)
            coarse = rng.random((6, 8, sensor.channels)).astype(np.float32)
            smooth = cv2.resize(coarse, sensor.size[::-1], interpolation=cv2.INTER_LINEAR).reshape(*sensor.size, -1)
            smooth = smooth + 0.02 * rng.standard_normal(smooth.shape, dtype=np.float32)
            array = np.clip(low + (high - low) * smooth, low, min(high, most) if sensor.type != "float32" else high)
            array = (array if sensor.type == "float32" else np.rint(array)).astype(sensor.type)
            hole = next((s["value"] for s in steps[name] if s["do"] == "find holes"), None)
            if hole is not None and i < COMPARED - 1:
                array[cv2.resize(rng.random((9, 12)), sensor.size[::-1]) < 0.3] = (
                    np.nan if hole == "nan" else round(hole / factor)
                )
            frame[name] = array.reshape(sensor.shape)
        frames.append(frame)
    return frames


class Labelled(NamedTuple):
    """A frame of a data set as a file takes it.

    Args:
        arrays: one per input of the file.
        label: (H, W) class ids.
        id, condition: as in `ktb.data.spec.Sample`.
    """

    arrays: dict[str, Array]
    label: Tensor
    id: str
    condition: dict[str, str]


_Read = Callable[[], Labelled]


def frames_of(file: OnnxFile, data: RGBXDataModule, split: str, most: int | None) -> list[_Read]:
    """Frames of a split, evenly spread; each is read when it is called for.

    Args:
        file: decides what is done to them.
        data: the data set.
        split: one of its splits.
        most: how many at most; None: all.

    Raises:
        DataError: the split cannot be opened.
        ConfigError: its files are not what sensors give.
    """
    for name, steps in file.about.get("preparation", {}).items():
        if file.takes_frames and any(step["do"] == "mark no-data" for step in steps):
            raise ConfigError(
                f"{name}: files of {data.spec.name} say by a tag what is no data, which sensors give as NaN; export "
                "without --raw to quantise or score on them"
            )
    number = len(data.dataset(split))
    chosen = np.linspace(0, number - 1, min(number, most or number)).round().astype(int).tolist()
    read = _as_sensors_give if file.takes_frames else _prepared
    return [lambda index=index: read(file, data, split, index) for index in chosen]  # type: ignore[misc]


def _prepared(file: OnnxFile, data: RGBXDataModule, split: str, index: int) -> Labelled:
    sample: Sample = data.dataset(split)[index]
    inputs = normalize({name: x[None] for name, x in sample["inputs"].items()}, data.modalities)
    arrays = {name: x.contiguous().numpy() for name, x in inputs.items()}
    for name, array in arrays.items():
        if any(isinstance(n, int) and n != m for n, m in zip(file.inputs[name][1], array.shape, strict=True)):
            raise _other_size(file, sample["id"], name, array.shape[-2:])
    return Labelled(arrays, sample["label"], sample["id"], sample["condition"])


class _OtherSize(ConfigError):
    """A frame is not of the size that the file takes."""


def _other_size(file: OnnxFile, frame: str, name: str, size: Sequence[int]) -> _OtherSize:
    wanted = file.inputs[name][1]
    height, width = wanted[:2] if file.takes_frames else wanted[-2:]
    return _OtherSize(
        f"{frame}: {name} is {size[0]}x{size[1]} (height x width), but the file takes {height}x{width}; export with "
        f"--size {size[0]}x{size[1]}" + ("" if file.takes_frames else " or --dynamic")
    )


def _as_sensors_give(file: OnnxFile, data: RGBXDataModule, split: str, index: int) -> Labelled:
    dataset = data.dataset(split)
    samples, names = dataset.samples, [m.name for m in data.modalities]
    with pixel_limit(dataset.max_pixels):
        raw = samples.read(index, names)
        if isinstance(samples, FileSamples):
            files = samples.entries[index].files
            stored = {name: [decode(samples.root / f, expand_palette=True) for f in files[name]] for name in names}
        else:
            stored = {name: [raw.images[name]] for name in names}
    arrays = {name: _array(file, name, parts, raw.id) for name, parts in stored.items()}
    height, width = file.about["output"]["shape"]
    label = raw.label
    if label.shape != (height, width):
        if not data.resizing.modalities:
            raise DataError(
                f"{raw.id}: its label is {label.shape[0]}x{label.shape[1]} but the file answers in {height}x{width}: "
                f"{data.spec.name} cuts its pictures; export without --raw to score them"
            )
        label = resize_nearest(label, (height, width))
    return Labelled(arrays, torch.from_numpy(label.astype(np.int32)), raw.id, raw.condition)


def _array(file: OnnxFile, name: str, parts: Sequence[Array], frame: str) -> Array:
    """What lies in the files of a modality → what its sensor would give."""
    kind, shape = file.inputs[name]
    array = np.concatenate([part[..., None] if part.ndim == 2 else part for part in parts], axis=2)
    wanted = shape[2] if len(shape) == 3 else 1
    how = next((s["how"] for s in file.about["preparation"][name] if s["do"] == "channels"), None)
    if how == "fourth" and array.shape[2] == 4:
        array = array[..., 3:]
    elif how == "colour" and array.shape[2] < 3:
        array = np.repeat(array[..., :1], 3, axis=2)
    array = array[..., :wanted]
    if array.dtype != kind:
        raise ConfigError(
            f"{frame}: {name} holds {array.dtype} values, but the file takes {np.dtype(kind)}; export with --sensor "
            f"{name}={array.dtype}"
        )
    if list(array.shape[:2]) != shape[:2]:
        raise _other_size(file, frame, name, array.shape)
    return np.ascontiguousarray(array.reshape(shape))


class Fitting:
    """The frames of a split that have the size that the file takes; others cannot be given to it.

    Args:
        file: the file.
        data: the data set.
        split: one of its splits.
        most: how many frames are looked at, evenly spread; None: all.
        watch: shows how it goes on.
        title: beside the progress bar.

    Attributes:
        read: how many of them were read.
        other_size: how many were left out.

    Raises:
        ConfigError, DataError: as `frames_of`; none of them has that size.
    """

    def __init__(
        self, file: OnnxFile, data: RGBXDataModule, split: str, most: int | None, watch: Watch[_Read], title: str
    ) -> None:
        self._frames = frames_of(file, data, split, most)
        self._watch, self._title = watch, title
        self.read = 0
        self.other_size = 0

    def __iter__(self) -> Iterator[Labelled]:
        unlike: _OtherSize | None = None
        for read in self._watch(self._frames, len(self._frames), self._title):
            try:
                frame = read()
            except _OtherSize as error:
                unlike = unlike or error
                self.other_size += 1
                continue
            self.read += 1
            yield frame
        if unlike is not None and not self.read:
            raise unlike


class Score(NamedTuple):
    """What a file reaches on a split.

    Args:
        miou: in percent.
        frames: how many frames were scored.
        other_size: how many have another size than the file takes and were left out.
    """

    miou: float
    frames: int
    other_size: int


def left_out(other_size: int) -> str:
    """Words for the frames that a file does not take."""
    return f", {other_size} of another size left out" if other_size else ""


def score(file: OnnxFile, data: RGBXDataModule, most: int | None, watch: Watch[_Read]) -> Score:
    """mIoU of a file on the split that is reported on.

    Args:
        file: the file.
        data: the data set.
        most: frames at most, evenly spread; None: all.
        watch: shows how it goes on.

    Raises:
        ConfigError: no frame of the file's size, frames of another type, or without labels.
        DataError: the data cannot be read.
    """
    spec = data.spec
    frames = Fitting(file, data, spec.report_split, most, watch, f"{spec.report_split}, {file.path.name}")
    evaluation = Evaluation(spec.num_classes, spec.ids_without)
    for frame in frames:
        answer = torch.from_numpy(file(frame.arrays))
        if file.takes_frames:
            ids = answer[None].int()
        else:
            height, width = frame.label.shape
            ids = most_likely(resize_logits(answer, (height, width)))[0]
        evaluation.update(ids, frame.label[None], [frame.id], [frame.condition])
    if not evaluation.total.matrix.any():
        raise ConfigError(f"the {spec.report_split} split of {spec.name} has no labels, so there is nothing to score")
    miou = 100 * float(evaluation.total.scores(spec.ids_without)["miou"])
    return Score(miou, frames.read, frames.other_size)


class Quantised(NamedTuple):
    """What came of quantising a file.

    Args:
        before, after: of the float32 and of the int8 file.
        calibrated: how many training frames the ranges were taken from.
        other_size: how many more there would have been, had they the size that the file takes.
        operations: how many compute with 8-bit numbers.
        bytes_before: of the float32 file.
    """

    before: Score
    after: Score
    calibrated: int
    other_size: int
    operations: int
    bytes_before: int


def write_int8(
    source: Path,
    target: Path,
    data: RGBXDataModule,
    *,
    calibrate: int,
    most: int | None,
    max_drop: float,
    watch: Watch[_Read],
) -> Quantised:
    """Write the int8 form of an exported file, calibrated on the training split, scored on the one reported on.

    Args:
        source: the float32 file.
        target: where to; what is there is replaced when all went well.
        data: the data set.
        calibrate: training frames at most.
        most: frames that are scored at most; None: all.
        max_drop: points of mIoU that may be lost.
        watch: shows how it goes on.

    Raises:
        CheckpointError: more is lost; nothing is written then.
        ConfigError, DataError: as `score`.
    """
    exact = OnnxFile(source)
    before = score(exact, data, most, watch)
    frames = Fitting(exact, data, "train", calibrate, watch, "train, calibration")
    with new_file(target) as partial:
        count = quantise(source, partial, (frame.arrays for frame in frames))
        after = score(OnnxFile(partial), data, most, watch)
        if not before.miou - after.miou <= max_drop:
            raise CheckpointError(
                f"{target}: not written: int8 takes mIoU on {data.spec.report_split} from {before.miou:.2f} to "
                f"{after.miou:.2f}, a loss of {before.miou - after.miou:.2f} points (at most {max_drop:g}: --max-drop)"
            )
    return Quantised(before, after, frames.read, frames.other_size, count, source.stat().st_size)

"""The LightningDataModule that all data sets share.

A data set is a subclass of `RGBXDataModule` with one method of its own, `open_split`, which returns `Samples`.
Augmentation, batching, seeding, distribution over processes, and the errors a user sees, are here once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import cv2
import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from ktb.data.arrays import Size
from ktb.data.augment import EvalTransform, TrainTransform, Transform
from ktb.data.cores import usable_cores
from ktb.data.dataset import RGBXDataset, collate
from ktb.data.readers.decode import LARGEST, MAX_PIXELS
from ktb.data.resizing import SAME_SIZE, Resizing
from ktb.data.sampler import EpochSampler
from ktb.data.samples import FileSamples, Reader, Samples
from ktb.data.spec import Batch, DatasetSpec, ModalitySpec, Sample
from ktb.errors import ConfigError, DataError, did_you_mean
from ktb.io import normal

MAX_WORKERS = 8
SCORINGS = ("native", "published")


class Loading(TypedDict, total=False):
    """Settings all DataModules take, see `RGBXDataModule`."""

    streams: Sequence[str]
    batch_size: int
    eval_batch_size: int
    num_workers: int | None
    crop: Sequence[int] | None
    eval_size: int | Sequence[int] | None
    scoring: str
    seed: int
    selection_split: str | None
    report_split: str | None
    max_pixels: int
    mean_without: Sequence[str]


class RGBXDataModule(L.LightningDataModule):
    """What all data sets share; a subclass gives its spec and `open_split`.

    The validation loader reads `spec.selection_split`, the test loader `spec.report_split`.

    Args:
        spec: classes, palette, modalities and protocol of the data set.
        streams: modalities to load, in the model's order.
        batch_size: of training, per process; the last incomplete batch of an epoch is dropped.
        eval_batch_size: above 1 only where all images of a split have one size.
        num_workers: loader processes; None: one per available core, at most 8.
        crop: training crop (height, width); None: images as they are.
        eval_size: short side of evaluation images in pixels (of a pair the first counts, docs/method.md#evaluation);
            None: native.
        scoring: "native": labels keep their size and logits are resized to them; "published": labels are resized
            (nearest) along with the images.
        seed: of order and augmentation.
        selection_split, report_split: instead of those of the spec.
        max_pixels: pictures of more pixels are refused before they are decoded.
        mean_without: classes that mean scores leave out, see `DatasetSpec`.

    Raises:
        ConfigError: a stream or split the data set does not have, a size or number that cannot work.
    """

    spec: DatasetSpec
    modalities: tuple[ModalitySpec, ...]
    resizing: Resizing = SAME_SIZE
    """What is done with files of another size than the rest of a sample, see `FileSamples`."""
    label_sizes: Callable[[str, Size], Size] | None = None
    """How large labels were in training, as a checkpoint says it, for samples without one; see `read_images`."""

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        streams: Sequence[str],
        batch_size: int = 4,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        crop: Sequence[int] | None = None,
        eval_size: int | Sequence[int] | None = None,
        scoring: str = "native",
        seed: int = 3407,
        selection_split: str | None = None,
        report_split: str | None = None,
        max_pixels: int = MAX_PIXELS,
        mean_without: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.spec = replace(
            spec,
            selection_split=selection_split or spec.selection_split,
            report_split=report_split or spec.report_split,
            mean_without=_left_out(spec, mean_without),
        )
        for split in (self.spec.selection_split, self.spec.report_split):
            if split not in self.spec.splits:
                raise ConfigError(f"{spec.name} has no split {split!r}; it has {', '.join(self.spec.splits)}")
        for name in streams:
            if name not in spec.modalities:
                raise ConfigError(
                    f"{spec.name} has no modality {name!r}; it has {', '.join(spec.modalities)}"
                    + did_you_mean(name, spec.modalities)
                )
        if not streams or len(set(streams)) != len(streams):
            raise ConfigError(f"modality.streams must be one or more different modalities, got {list(streams)}")
        if scoring not in SCORINGS:
            raise ConfigError(f"eval.scoring is {scoring!r}; expected one of {', '.join(SCORINGS)}")
        if batch_size < 1 or eval_batch_size < 1:
            raise ConfigError(f"batch sizes must be 1 or more, got {batch_size} and {eval_batch_size}")
        if crop is not None and (len(crop) != 2 or min(crop) < 32):
            raise ConfigError(f"dataset.crop is {list(crop)}; expected [height, width], both 32 or more")
        short_side = eval_size if eval_size is None or isinstance(eval_size, int) else eval_size[0]
        if short_side is not None and short_side < 32:
            raise ConfigError(f"dataset.eval_size is {eval_size}; expected 32 or more")
        if not 1 <= max_pixels <= LARGEST:
            raise ConfigError(f"dataset.max_pixels is {max_pixels}; expected 1 to {LARGEST}")
        self.max_pixels = max_pixels
        self.modalities = tuple(spec.modalities[name] for name in streams)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = min(usable_cores(), MAX_WORKERS) if num_workers is None else num_workers
        self.crop = None if crop is None else (int(crop[0]), int(crop[1]))
        self.short_side = short_side
        self.scoring = scoring
        self.seed = seed
        self._samples: dict[str, Samples] = {}
        self._start = (0, 0)

    def open_split(self, split: str) -> Samples:
        """The samples of one split, with everything checked that can be checked without opening each file.

        Raises:
            DataError: no root, a broken list, files that do not exist.
        """
        raise NotImplementedError

    def labelled(self, split: str) -> bool:
        """Whether a split has labels, and so scores."""
        samples = self.dataset(split).samples
        return not isinstance(samples, FileSamples) or samples.labelled

    def as_stored(self, ids: NDArray[Any]) -> NDArray[Any]:
        """Class ids (H, W) as label files of this data set would hold them: stored ids (H, W) or colours (H, W, 3)."""
        return ids

    def readers(self) -> Mapping[str, Reader]:
        """Modality → how its files are read, those of the user's own pictures included.

        Raises:
            NotImplementedError: a subclass does not say.
        """
        raise NotImplementedError

    def train_transform(self) -> Transform:
        """The training augmentation; a data set with a recipe of its own overrides it."""
        return TrainTransform([m.name for m in self.modalities], self.crop)

    def eval_transform(self) -> Transform:
        """The evaluation transform; a data set with a protocol of its own overrides it."""
        return EvalTransform(self.short_side, resize_label=self.scoring == "published")

    def dataset(self, split: str, *, train: bool = False) -> RGBXDataset:
        """One split as a torch data set.

        Args:
            split: one of `spec.splits`.
            train: with the training augmentation; otherwise with the evaluation transform.

        Raises:
            ConfigError: there is no such split.
            DataError: it cannot be opened, see `open_split`.
        """
        if split not in self._samples:
            if split not in self.spec.splits:
                raise ConfigError(f"{self.spec.name} has no split {split!r}; it has {', '.join(self.spec.splits)}")
            self._samples[split] = self.open_split(split)
        transform = self.train_transform() if train else self.eval_transform()
        return RGBXDataset(
            self._samples[split],
            self.modalities,
            transform,
            seed=self.seed,
            max_pixels=self.max_pixels,
            match_label=train,
        )

    def setup(self, stage: str) -> None:
        """Open and check the splits that a stage needs.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            DataError: a split cannot be opened, or the train split makes no batch in each process.
        """
        selection, report = self.spec.selection_split, self.spec.report_split
        needed = {"fit": ("train", selection), "validate": (selection,)}.get(stage, (report,))
        for split in needed:
            self.dataset(split)
        world = self.trainer.world_size if self.trainer else 1
        if stage == "fit" and (text := self.too_few(len(self._samples["train"]), world)):
            raise DataError(text)
        if stage == "fit" and (text := self.trained_and_scored()):
            rank_zero_info(text)

    def too_few(self, found: int, world_size: int = 1) -> str | None:
        """What to say if the train split does not make one batch in each process.

        Args:
            found: number of its samples.
            world_size: number of processes.

        Returns:
            The message; None if there are enough.
        """
        if found >= self.batch_size * world_size:
            return None
        return (
            f"{self.spec.name}: the train split has {found} samples, fewer than one batch of {self.batch_size}"
            + (f" in each of {world_size} processes" if world_size > 1 else "")
            + f"; set dataset.batch_size={max(found // world_size, 1)} or less"
        )

    def trained_and_scored(self) -> str | None:
        """What to say if labels of the split that chooses the best checkpoint are trained on; None if none is."""
        split = self.spec.selection_split
        train, scored = self.dataset("train").samples, self.dataset(split).samples
        if not isinstance(train, FileSamples) or not isinstance(scored, FileSamples):
            return None
        trained = {entry.label for entry in train.entries} - {None}
        both = [entry.id for entry in scored.entries if entry.label in trained]
        if not both:
            return None
        return (
            f"{self.spec.name}: {len(both)} of {len(scored)} samples of {split} are trained on too (first: {both[0]}): "
            "scores on them say nothing about new pictures"
        )

    def start_at(self, epoch: int, batch: int) -> None:
        """Let the training loader begin in the middle of an epoch, as an interrupted run has to.

        Args:
            epoch: number of the epoch, from 0.
            batch: how many of its batches are done.
        """
        self._start = (epoch, batch)

    def train_dataloader(self) -> DataLoader[Sample]:
        """The train split, augmented, in a random order that the seed and the epoch decide."""
        return self._loader("train", train=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """The split on which the best checkpoint is chosen, in its own order."""
        return self._loader(self.spec.selection_split, train=False)

    def test_dataloader(self) -> DataLoader[Sample]:
        """The split that is reported on, in its own order."""
        return self._loader(self.spec.report_split, train=False)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, split: str, *, train: bool) -> DataLoader[Sample]:
        dataset = self.dataset(split, train=train)
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler = EpochSampler(len(dataset), seed=self.seed, train=train, rank=rank, world_size=world_size)
        if train:
            sampler.epoch, sampler.position = self._start[0], self._start[1] * self.batch_size
        elif (
            len(sampler) == 0
        ):  # without a batch Lightning would skip the epoch here, and the other processes would wait for ever
            return DataLoader(dataset, batch_sampler=[[]], collate_fn=self._no_samples)
        return DataLoader(
            dataset,
            batch_size=self.batch_size if train else self.eval_batch_size,
            sampler=sampler,
            drop_last=train,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_init_worker,
        )

    def _no_samples(self, _: Sequence[Sample]) -> Batch:
        return Batch(
            inputs={m.name: torch.zeros(0, m.channels, 32, 32) for m in self.modalities},
            label=torch.zeros(0, 32, 32, dtype=torch.uint8),
            id=[],
            condition=[],
        )


def _left_out(spec: DatasetSpec, names: Sequence[str]) -> tuple[str, ...]:
    """`names` in the order of the classes, checked."""
    if isinstance(names, str):
        raise ConfigError(f"dataset.mean_without is {names!r}; expected a list: dataset.mean_without=[{names}]")
    names = [normal(str(name)) for name in names]
    for name in names:
        if name not in spec.classes:
            raise ConfigError(
                f"dataset.mean_without: {spec.name} has no class {name!r}; it has {', '.join(spec.classes)}"
                + did_you_mean(name, spec.classes)
            )
    if len(set(names)) == spec.num_classes:
        raise ConfigError(f"dataset.mean_without names all classes of {spec.name}; leave at least one for the means")
    return tuple(name for name in spec.classes if name in names)


def _init_worker(_: int) -> None:
    # One process per core already; OpenCV's own threads would only fight over them.
    cv2.setNumThreads(0)

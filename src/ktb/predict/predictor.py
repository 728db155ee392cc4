"""Masks for the user's own pictures: which files belong together, and from them to pictures on disk.

Pictures are read in threads while the model computes and written in another, so at most a few are in memory; the logits
of a large one exist in bands only. Every output carries a stamp of the model, the settings and its input files, so a
stopped call goes on where it stopped, and nothing is overwritten that does not carry one.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import re
import zipfile
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ktb import __version__
from ktb.data.augment import Array, EvalTransform
from ktb.data.globs import fixed_parts
from ktb.data.module import (
    RawSample,
    Reader,
    RGBXDataModule,
    Tree,
    inside_root,
    read_images,
    say_converted,
    to_sample,
)
from ktb.data.pictures import RGBImage, overlay, to_picture
from ktb.data.readers.image import Reading, pixel_limit, read_text, similar
from ktb.data.readers.png import png_text
from ktb.data.sets.folder import match_files
from ktb.data.spec import normalize
from ktb.data.tools.parallel import Outcome
from ktb.data.values import REMEDY, Magnitude, read_measured, sizes, unlike
from ktb.engine.inference import BAND_VALUES, most_likely, sliding_bands
from ktb.errors import (
    ConfigError,
    DataError,
    KTBError,
    NotFiniteError,
    did_you_mean,
    is_out_of_gpu_memory,
    is_out_of_memory,
)
from ktb.io import atomic_file, existing, files_below, locked, normal
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.states import fingerprint

__all__ = ["OUTPUTS", "Job", "Predictor", "claimed", "plan", "plan_csv", "run"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")
OUTPUTS = ("colour", "overlay", "confidence", "probabilities")
"""What can be written beside the class ids ("index")."""
MANIFEST = "predict.json"
READ_AHEAD = 2
"""Pictures read before the model asks for them; as many wait to be written at most."""

_STAMP = "ktb-predict"
_OVERLAY_ROWS = 256

Bytes = NDArray[np.uint8]


# --- which files belong together -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One picture to segment.

    name: of its outputs below their folders, without suffix, "/" between its parts.
    files: modality → its file, or several where the modality is stored in several. At least one modality.
    """

    name: str
    files: Mapping[str, tuple[Path, ...]]


_hash = partial(hashlib.blake2b, digest_size=16)


def _first(job: Job) -> Path:
    return next(iter(job.files.values()))[0]


class _Found(NamedTuple):
    path: Path
    name: str


def plan(
    sources: Mapping[str, Sequence[str]], out: Path, *, allow_missing: bool = False
) -> tuple[list[Job], list[Outcome]]:
    """Jobs in the order of their names, and a failure for each picture that lacks a modality.

    Args:
        sources: modality → a file, a folder (searched with its subfolders) or a glob pattern (`*`, `?` and `**/`);
            several where the modality is stored in several files. Files of folders belong together when their paths
            below the folder agree but for the suffix, those of patterns when the wildcards match the same.
        out: folder of the results; where it lies in a folder that is searched, it is left out.
        allow_missing: a picture that lacks a modality is no failure.

    Raises:
        DataError: nothing is found, or what is found cannot be paired.
    """
    given = [(modality, source) for modality, several in sources.items() for source in several]
    found = [_find(source, out.resolve()) for _, source in given]
    alone = [list(files) == [""] for files in found]
    if any(alone) and not all(alone):
        file, other = given[alone.index(True)], given[alone.index(False)]
        raise DataError(
            f"--{file[0]} {file[1]} is one file but --{other[0]} {other[1]} is not; expected a file for each modality, "
            "or a folder or a pattern for each"
        )
    jobs, failures = [], []
    for key in sorted(set().union(*found)):
        files: dict[str, tuple[Path, ...]] = {}
        lacking: list[str] = []
        for (modality, source), matches in zip(given, found, strict=True):
            if key in matches:
                files[modality] = (*files.get(modality, ()), matches[key].path)
            else:
                lacking.append(f"{modality} in {source}")
        files = {modality: paths for modality, paths in files.items() if len(paths) == len(sources[modality])}
        name = next(matches[key].name for matches in found if key in matches)
        if files and (allow_missing or not lacking):
            jobs.append(Job(name, files))
        else:
            some = next(matches[key].path for matches in found if key in matches)
            message = f"{some}: nothing belongs to it as {', '.join(lacking)} (looked for {key!r}); add the file, or "
            failures.append(Outcome(some, "failed", message + "use --allow-missing to go without"))
    return _distinct(jobs), failures


def _find(source: str, out: Path) -> dict[str, _Found]:
    """Key, by which files of several modalities are paired → file; the key of a single file is empty."""
    path = existing(Path(source))
    if path.is_file():
        return {"": _Found(path, normal(path.stem))}
    if path.is_dir():
        if path.resolve() == out:
            raise DataError(f"{path}: is the folder for the results; expected another one")
        files: dict[str, _Found] = {}
        for file in sorted(files_below(path)):
            if file.suffix.lower() not in SUFFIXES or _is_result(file, path, out):
                continue
            key = normal(file.relative_to(path).with_suffix("").as_posix())
            if key in files:
                raise DataError(
                    f"{file} and {files[key].path.name} would be the same picture; choose one kind with a pattern "
                    f"such as '{path}/*{file.suffix}'"
                )
            files[key] = _Found(file, key)
        if not files:
            raise DataError(f"{path}: no picture in this folder; expected files ending in {' '.join(SUFFIXES)}")
        return files
    if not glob.has_magic(source):
        raise DataError(f"{source}: no such file or folder{similar(path)}")
    root = Path(*fixed_parts(source))
    if not root.is_dir():
        raise DataError(f"{source}: no such folder as {root}{similar(root)}")
    pattern = path.relative_to(root).as_posix()
    matches = {key: root / file for key, file in match_files(Tree(root), pattern).items()}
    files = {
        key: _Found(file, normal(file.relative_to(root).with_suffix("").as_posix()))
        for key, file in matches.items()
        if not _is_result(file, root, out)
    }
    if not files:
        raise DataError(f"{source}: no file matches this pattern; is it quoted, and is {root} the right folder?")
    return files


def _is_result(file: Path, root: Path, out: Path) -> bool:
    """Whether a file below `root` is of an earlier call, whose results folder lies there too."""
    return root.resolve() in out.parents and out in file.resolve().parents


def plan_csv(
    path: Path, modalities: Sequence[str], *, allow_missing: bool = False
) -> tuple[list[Job], list[Outcome], list[str]]:
    """As `plan`, from a table: one picture per row, one column per modality, and the modalities that have a column.

    The first row names the columns. A modality stored in several files has several columns of its name. Paths are
    relative to the table's folder. A column "name" may say what the outputs are called; else they are called as the
    first modality's file.

    Raises:
        DataError: not such a table.
    """
    try:
        rows = list(csv.reader(io.StringIO(read_text(path)), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: is no table in CSV ({error}); expected text, columns separated by commas") from None
    header = [cell.strip() for cell in (rows[0] if rows else ())]
    for column in header:
        if column != "name" and column not in modalities:
            raise DataError(
                f"{path}: has a column {column!r}; expected {', '.join(modalities)} or name"
                + did_you_mean(column, [*modalities, "name"])
            )
    used = list(dict.fromkeys(column for column in header if column != "name"))
    if not used or header.count("name") > 1:
        raise DataError(f"{path}: its first row is {', '.join(header)!r}; expected some of {', '.join(modalities)}")
    jobs, failures = [], []
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise DataError(f"{path}, row {number}: {len(cells)} columns; expected {len(header)} as in the first row")
        files: dict[str, tuple[Path, ...]] = {}
        for column in used:
            named = [cell for at, cell in zip(header, cells, strict=True) if at == column]
            if all(named):
                files[column] = tuple(existing(path.parent / cell.replace("\\", "/")) for cell in named)
        name = dict(zip(header, cells, strict=True)).get("name") or _name_of(next(iter(files.values()), ())[:1], path)
        name = normal(name)
        if not files or not inside_root(name):
            raise DataError(
                f"{path}, row {number}: "
                + (f"the name {name!r} leaves the results folder" if files else "names no file")
                + "; expected a file per modality, and a plain relative path for a name"
            )
        if len(files) < len(used) and not allow_missing:
            lacking = ", ".join(column for column in used if column not in files)
            message = f"{path}, row {number}: no file for {lacking}; add it, or use --allow-missing to go without"
            failures.append(Outcome(path, "failed", message))
        else:
            jobs.append(Job(name, files))
    if not jobs and not failures:
        raise DataError(f"{path}: no row below the names of the columns; expected one per picture")
    return _distinct(jobs), failures, used


def _name_of(files: Sequence[Path], table: Path) -> str:
    """The file's path without suffix, below the table's folder if it is there, else its last two parts."""
    if not files:
        return ""
    path = PurePath(files[0].with_suffix(""))
    below = path.relative_to(table.parent) if path.is_relative_to(table.parent) else PurePath(*path.parts[-2:])
    return below.as_posix() if ".." not in below.parts else path.name


def _distinct(jobs: list[Job]) -> list[Job]:
    seen: dict[str, Job] = {}
    for job in jobs:
        if job.name in seen:
            raise DataError(
                f"{_first(seen[job.name])} and {_first(job)} would both be called {job.name}; name them in a CSV "
                "(column name)"
            )
        seen[job.name] = job
    return jobs


# --- one picture -----------------------------------------------------------------------------------------------------


@dataclass
class _Loaded:
    """A picture as the model takes it: inputs (1, C, h, w) as stored, `size` the picture's own (height, width),
    `converted` as in `RawSample`."""

    job: Job
    stamp: str
    inputs: dict[str, Tensor]
    size: tuple[int, int]
    picture: RGBImage | None
    converted: dict[str, str]


@dataclass
class _Segmented:
    """ids (H, W): uint8, or uint16 where there are more than 256 classes. confidence (H, W): the greatest class
    probability, 255 for 1."""

    loaded: _Loaded
    ids: NDArray[Any]
    confidence: Bytes | None


class UnlikeTraining(DataError):
    """A picture whose values are far outside of what the model was trained on: most likely another unit."""


@dataclass(frozen=True)
class _Unlike(Outcome):
    """What became of a picture that is not segmented for this reason."""


@dataclass
class Predictor:
    """A model, how the files of its data set are read, and what is made of them.

    Args:
        model: in evaluation mode, on `device`.
        data: the data set it was trained on: classes, readers, normalisation.
        settings: what else decides the outputs, for the stamp (the data set's configuration).
        out: folder of the results: `index/NAME.png` and so on.
        write: some of `OUTPUTS`.
        legend: names the classes that occur below each overlay.
        short_side: pictures are resized to it for the model, as in evaluation; None: not at all.
        tile: pictures with more than 2·tile² pixels (after resizing) are cut into tiles of this side.
        overlap: share of a tile's side that neighbours have in common at least.
        training: modality → how large its values were in training; pictures far outside are refused. Empty: none is.
        max_pixels: larger pictures are refused; None: as `data` has it.
    """

    model: KTBSegmentor
    data: RGBXDataModule
    settings: Mapping[str, Any]
    out: Path
    write: Collection[str] = ("colour", "overlay")
    legend: bool = False
    short_side: int | None = None
    tile: int = 768
    overlap: float = 0.25
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    training: Mapping[str, Magnitude] = field(default_factory=dict)
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in self.write:
            if name not in OUTPUTS:
                raise ConfigError(f"--write {name}: expected some of {', '.join(OUTPUTS)}{did_you_mean(name, OUTPUTS)}")
        self._modalities = {m.name: m for m in self.data.modalities}
        self._most = self.data.max_pixels if self.max_pixels is None else self.max_pixels
        self._readers = self.data.readers()
        self._transform = EvalTransform(self.short_side)
        self._model_sha256 = fingerprint(self.model)
        facts = {
            "version": __version__,
            "model": self._model_sha256,
            "settings": self.settings,
            "modalities": [asdict(m) for m in self.data.modalities],
            "classes": [self.data.spec.classes, self.data.spec.palette],
            "write": sorted(self.write),
            "options": [self.legend, self.short_side, self.tile, self.overlap],
        }
        self._settings_digest = _hash(json.dumps(facts, default=str).encode()).hexdigest()

    def _comparing(self, name: str, reader: Reader, odd: list[str]) -> Reader:
        """`reader`, which appends to `odd` what of its pictures is far outside of the training."""

        def read(paths: Sequence[Path]) -> Reading:
            measured, result = read_measured(reader, paths)
            text = unlike(sizes(measured), self.training[name], reader, self._modalities[name])
            if text is not None:
                odd.append(f"{paths[0]}: {name} {text}; {REMEDY}, or go on with --force")
            return result

        return read

    def manifest(self, checkpoint: Path) -> dict[str, Any]:
        """What somebody needs who finds the results."""
        spec = self.data.spec
        return {
            _STAMP: 1,
            "checkpoint": str(checkpoint.absolute()),
            "model_sha256": self._model_sha256,
            "dataset": spec.name,
            "modalities": list(self._modalities),
            "short_side": self.short_side,
            "tile": self.tile,
            "overlap": self.overlap,
            "written": ["index", *(name for name in OUTPUTS if name in self.write)],
            "classes": [
                {"id": i, "name": name, "colour": list(colour)}
                for i, (name, colour) in enumerate(zip(spec.classes, spec.palette, strict=True))
            ],
        }

    def target(self, job: Job, output: str) -> Path:
        return self.out / output / f"{job.name}.{'npz' if output == 'probabilities' else 'png'}"

    def load(self, job: Job, *, overwrite: bool) -> _Loaded | Outcome:
        """Read one picture, unless its results are there already or something is wrong with it."""
        index = self.target(job, "index")
        try:
            stamp = self._stamp(job)
            targets = [self.target(job, name) for name in ("index", *self.write)]
            # The index is written last, so with it all is there, unless somebody removed something.
            if not overwrite and png_text(index, _STAMP) == stamp and all(t.is_file() for t in targets):
                return Outcome(index, "kept")
            for target in targets:
                if target.exists() and _stamp_of(target) is None:
                    raise DataError(
                        f"{target}: is there already and was not written by ktb-predict; move it away, or choose "
                        "another --out"
                    )
            with pixel_limit(self._most):
                return self._read(job, stamp)
        except UnlikeTraining as error:
            return _Unlike(index, "failed", str(error))
        except KTBError as error:
            return Outcome(index, "failed", str(error))
        except OSError as error:
            return Outcome(index, "failed", f"{error.filename or index}: {error.strerror or error}")
        except MemoryError:
            return Outcome(index, "failed", f"{_first(job)}: needs more memory than there is; make it smaller")

    def _stamp(self, job: Job) -> str:
        sources: dict[str, list[str]] = {}
        for modality, paths in job.files.items():
            sources[modality] = []
            for path in paths:
                try:
                    with path.open("rb") as file:
                        sources[modality].append(hashlib.file_digest(file, _hash).hexdigest())
                except (FileNotFoundError, NotADirectoryError):
                    raise DataError(f"{path}: no such file{similar(path)}") from None
        return json.dumps({"settings": self._settings_digest, "sources": sources})

    def _read(self, job: Job, stamp: str) -> _Loaded:
        files = {name: job.files[name] for name in self._modalities if name in job.files}
        odd: list[str] = []
        readers = {
            name: self._comparing(name, reader, odd) if name in self.training else reader
            for name, reader in self._readers.items()
            if name in files
        }
        images, valid, converted, _ = read_images(files, readers, resizing=self.data.resizing)
        first = next(iter(images.values()))
        size = (first.shape[0], first.shape[1])
        if self.short_side is not None:
            height, width = self._transform.size(size)
            if height * width > self._most:
                raise DataError(
                    f"{_first(job)}: {size[1]} x {size[0]} pixels would become {width} x {height} for"
                    f" the model; expected at most {self._most} pixels: use --short-side native, or "
                    f"--max-pixels {height * width}"
                )
        if odd:
            raise UnlikeTraining(odd[0])
        modalities = [self._modalities[name] for name in files]
        picture = None
        if "overlay" in self.write:
            picture = self._picture(images)
        label = np.zeros(size, np.uint8)  # the transform wants one
        sample = to_sample(RawSample(images, label, job.name, {}, valid), modalities, self._transform)
        return _Loaded(job, stamp, {name: x[None] for name, x in sample["inputs"].items()}, size, picture, converted)

    def _picture(self, images: Mapping[str, Array]) -> RGBImage:
        """What the overlay lies over: RGB, or the first modality made visible."""
        name = "rgb" if "rgb" in images else next(iter(images))
        if name == "rgb" and images[name].dtype == np.uint8:
            return images[name]
        stored = torch.from_numpy(images[name]).movedim(-1, 0)
        return to_picture(stored, replace(self._modalities[name], validity=False))

    @torch.inference_mode()
    def segment(self, loaded: _Loaded) -> _Segmented:
        """Run the model; probabilities, which may be too many for the memory, are written on the way."""
        height, width = next(iter(loaded.inputs.values())).shape[-2:]
        window = (height, width) if height * width <= 2 * self.tile**2 else (self.tile, self.tile)
        modalities = [self._modalities[name] for name in loaded.inputs]

        def logits(tile: dict[str, Tensor]) -> Tensor:
            on_device = {name: x.to(self.device) for name, x in tile.items()}
            return self.model(normalize(on_device, modalities), side=False).logits

        wide = self.data.spec.num_classes > 256
        result = _Segmented(
            loaded,
            np.empty(loaded.size, np.uint16 if wide else np.uint8),
            np.empty(loaded.size, np.uint8) if self._confident else None,
        )
        with ExitStack() as stack:
            probabilities = None
            if "probabilities" in self.write:
                shape = (*loaded.size, self.model.num_classes)
                path = self.target(loaded.job, "probabilities")
                probabilities = stack.enter_context(_npz(path, "probabilities", shape, loaded.stamp))
            for row, band in sliding_bands(logits, loaded.inputs, loaded.size, window=window, overlap=self.overlap):
                for start, part in _chunks(row, band[0]):
                    rows = slice(start, start + part.shape[1])
                    ids, answered = most_likely(part[None])
                    if not answered:
                        raise NotFiniteError(
                            f"{_first(loaded.job)}: the model's answer is not finite; look for extreme values in the "
                            "picture's files, and whether they have the unit of the training data"
                        )
                    result.ids[rows] = ids[0].to(torch.int32 if wide else torch.uint8).cpu().numpy()
                    if result.confidence is not None:
                        greatest = (part - part.amax(0)).exp().sum(0).reciprocal()
                        result.confidence[rows] = (255 * greatest).round().to(torch.uint8).cpu().numpy()
                    if probabilities is not None:
                        share = part.softmax(0).permute(1, 2, 0).to(torch.float16)
                        probabilities.write(share.contiguous().cpu().numpy().tobytes())
        return result

    @property
    def _confident(self) -> bool:
        return "confidence" in self.write

    def save(self, result: _Segmented) -> Outcome:
        """Write the pictures of one result; the index last, as it says that all is there."""
        job = result.loaded.job
        target = self.target(job, "index")
        try:
            if "colour" in self.write:
                self._save(self._coloured(result.ids), job, "colour", result.loaded.stamp)
            if result.loaded.picture is not None:
                self._save(self._overlay(result.loaded.picture, result.ids), job, "overlay", result.loaded.stamp)
            if result.confidence is not None:
                self._save(Image.fromarray(result.confidence), job, "confidence", result.loaded.stamp)
            self._save(Image.fromarray(result.ids), job, "index", result.loaded.stamp)
        except OSError as error:
            return _unwritable(target, error)
        return Outcome(target, "written")

    def _coloured(self, ids: NDArray[Any]) -> Image.Image:
        palette = np.array(self.data.spec.palette, np.uint8)
        if ids.dtype != np.uint8:  # a palette has 256 entries at most
            return Image.fromarray(palette[ids])
        colour = Image.fromarray(ids).convert("P")
        colour.putpalette(palette.ravel().tolist())
        return colour

    def _save(self, image: Image.Image, job: Job, output: str, stamp: str) -> None:
        path = self.target(job, output)
        path.parent.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        info.add_text(_STAMP, stamp)
        with atomic_file(path) as temporary:
            image.save(temporary, "PNG", pnginfo=info, compress_level=3)

    def _overlay(self, picture: RGBImage, ids: NDArray[Any]) -> Image.Image:
        """The classes' colours over the picture; drawn in bands, as it takes many times the picture's memory."""
        result = np.empty_like(picture)
        for start in range(0, len(ids), _OVERLAY_ROWS):
            above = max(start - 1, 0)  # the row before, for the line between it and the first
            rows = slice(above, start + _OVERLAY_ROWS)
            band = overlay(picture[rows], ids[rows], self.data.spec.palette)
            result[start : start + _OVERLAY_ROWS] = band[start - above :]
        image = Image.fromarray(result)
        return self._with_legend(image, np.flatnonzero(np.bincount(ids.ravel()))) if self.legend else image

    def _with_legend(self, image: Image.Image, classes: NDArray[np.intp]) -> Image.Image:
        """`image` with the names of `classes` on white below it, in as many lines as they need."""
        spec = self.data.spec
        text = max(11, min(image.size) // 36)
        font = ImageFont.load_default(text)
        gap = text // 2
        widths = {c: round(font.getlength(spec.classes[c])) + text + 2 * gap for c in classes}
        width = max(image.width, max(widths.values()) + gap)
        places: dict[int, tuple[int, int]] = {}
        x, y = gap, image.height + gap
        for c in classes:
            if x + widths[c] > width and x > gap:
                x, y = gap, y + text + gap
            places[c] = (x, y)
            x += widths[c] + gap
        sheet = Image.new("RGB", (width, y + text + gap), "white")
        sheet.paste(image)
        draw = ImageDraw.Draw(sheet)
        for c, (x, y) in places.items():
            draw.rectangle((x, y, x + text, y + text), fill=spec.palette[c], outline=(120, 120, 120))
            draw.text((x + text + gap, y + text // 2), spec.classes[c], "black", font, anchor="lm")
        return sheet


def _chunks(row: int, band: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows of (K, rows, W) in parts small enough for a few copies."""
    most = max(1, BAND_VALUES // (band.shape[0] * band.shape[2]))
    for start in range(0, band.shape[1], most):
        yield row + start, band[:, start : start + most]


@contextmanager
def _npz(path: Path, name: str, shape: tuple[int, ...], stamp: str) -> Iterator[IO[bytes]]:
    """A file for the bytes of one float16 array in C order, which becomes the NPZ file `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.comment = f"{_STAMP} {stamp}".encode()
        with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
            header = {"descr": "<f2", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            yield file


def _stamp_of(path: Path) -> str | None:
    """The stamp of a complete output; None for any other file."""
    if path.suffix == ".png":
        return png_text(path, _STAMP)
    try:
        with zipfile.ZipFile(path) as archive:
            key, _, stamp = archive.comment.decode("utf-8", "replace").partition(" ")
    except (OSError, zipfile.BadZipFile):
        return None
    return stamp if key == _STAMP else None


# --- all pictures ----------------------------------------------------------------------------------------------------


def run(predictor: Predictor, jobs: Sequence[Job], *, overwrite: bool = False) -> Iterator[Outcome]:
    """Segment all of `jobs`: an outcome for each, about in their order. Stopped early, what is being written is
    finished first.

    Raises:
        DataError: the first picture is far outside of what the model was trained on, so all are likely to be.
    """
    reading: deque[Future[_Loaded | Outcome]] = deque()
    writing: deque[Future[Outcome]] = deque()
    rest = iter(jobs)
    alike = False
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(READ_AHEAD) as readers:
        try:
            while True:
                while len(reading) <= READ_AHEAD and (job := next(rest, None)) is not None:
                    reading.append(readers.submit(predictor.load, job, overwrite=overwrite))
                if not reading:
                    break
                loaded = reading.popleft().result()
                # What an earlier call has written was like the training's pictures.
                alike = alike or (isinstance(loaded, Outcome) and loaded.state == "kept")
                if isinstance(loaded, _Unlike) and not alike:
                    raise DataError(loaded.message)
                if isinstance(loaded, _Loaded):
                    alike = True
                    if loaded.converted:
                        say_converted(loaded.converted, "")
                outcome = loaded if isinstance(loaded, Outcome) else _segment(predictor, loaded)
                del loaded
                if isinstance(outcome, Outcome):
                    yield outcome
                    continue
                outcome.loaded.inputs.clear()  # what waits to be written needs them no more
                writing.append(writer.submit(predictor.save, outcome))
                del outcome
                while len(writing) > READ_AHEAD or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for future in reading:
                future.cancel()


def _unwritable(target: Path, error: OSError) -> Outcome:
    return Outcome(target, "failed", f"{error.filename or target}: cannot be written ({error.strerror or error})")


def _segment(predictor: Predictor, loaded: _Loaded) -> _Segmented | Outcome:
    index = predictor.target(loaded.job, "index")
    try:
        return predictor.segment(loaded)
    except OSError as error:  # of the probabilities' file
        return _unwritable(index, error)
    except NotFiniteError as error:
        return Outcome(index, "failed", str(error))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error) and not is_out_of_gpu_memory(error):
            raise
        return Outcome(
            index,
            "failed",
            f"{_first(loaded.job)}: {loaded.size[1]} x {loaded.size[0]} pixels need more memory than there is; use a "
            f"--tile below {predictor.tile}",
        )


@contextmanager
def claimed(out: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """The folder for the results, made if need be, with `predict.json` in it, for this process alone.

    What a killed process left half-written is removed.

    Raises:
        DataError: it cannot be made, or another process writes into it.
        ConfigError: it holds another `predict.json`.
    """
    file = out / MANIFEST
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(locked(out))
            except BlockingIOError:
                raise DataError(
                    f"{out}: another ktb-predict is writing into it; wait for it, or choose another --out"
                ) from None
            if file.exists() and not _is_manifest(file):
                raise ConfigError(f"{file}: was not written by ktb-predict; move it away, or choose another --out")
            for output in ("index", *OUTPUTS):
                for left in (out / output).rglob(".*.tmp"):
                    if re.fullmatch(r"\..+\.(png|npz)\.\d+\.tmp", left.name):
                        left.unlink()
            with atomic_file(file) as temporary:
                temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise DataError(f"{error.filename or out}: no results can be written here ({error.strerror})") from None
        yield


def _is_manifest(file: Path) -> bool:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and _STAMP in content

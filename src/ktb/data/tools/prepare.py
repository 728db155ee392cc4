"""From what is downloaded to what the loaders expect: NYU's `.mat`, SUN RGB-D with its toolbox, MFNet's RGBA files.

`plan` looks at the download and gives one job per sample; `convert` does one job, many at once with
`ktb.data.tools.parallel`; `finish` writes the split lists, last, so that a folder with lists is a complete one.
Every file appears under its name only when it is whole, and is kept by a later call: a stopped call goes on where it
stopped.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ktb.data.arrays import Array
from ktb.data.files import similar
from ktb.data.lists import read_list
from ktb.data.readers.decode import decode
from ktb.data.tools.parallel import Outcome
from ktb.errors import ConfigError, DataError, first_line
from ktb.io import atomic_file, is_empty

__all__ = ["SOURCES", "Conversion", "convert", "finish", "next_steps", "plan"]


MANIFEST = "prepared.json"
"""In the target folder: what it was made from."""


@dataclass(frozen=True)
class Conversion:
    """One sample to convert.

    Args:
        target: folder of the results.
        writes: the files that it makes, below `target`.
        make: `make(**given)` returns file below `target` → array, or file to copy.
        given: its arguments.
    """

    target: Path
    writes: tuple[str, ...]
    make: Callable[..., Mapping[str, Array | Path]]
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a download holds.

    Args:
        jobs: all samples.
        lists: split → lines of its list.
        origin: what the manifest says.
        notes: oddities of the download.
    """

    jobs: list[Conversion]
    lists: Mapping[str, Sequence[str]]
    origin: Mapping[str, Any]
    notes: list[str] = field(default_factory=list)


def plan(name: str, source: Path, target: Path) -> Plan:
    """Look at a download; make or continue the folder of the results.

    Args:
        name: one of `SOURCES`.
        source: folder of the downloaded files.
        target: folder of the results.

    Raises:
        DataError: files of the download are missing or not what they should be; `target` holds something else.
        ConfigError: there is nothing to prepare for `name`, or h5py is not installed.
    """
    if name not in SOURCES:
        raise ConfigError(f"nothing to prepare for {name!r}; there is {', '.join(SOURCES)}")
    if not source.is_dir():
        raise DataError(f"{source}: no such folder{similar(source)}; expected the one with the downloaded files")
    if target.resolve() == source.resolve():
        raise DataError(f"{target}: is the source itself; expected another folder for the results")
    planned = SOURCES[name](source, target)
    _claim(target, planned.origin)
    return planned


def convert(job: Conversion, *, overwrite: bool = False) -> Outcome:
    """Write the files of one sample that are not there yet.

    Args:
        job: the sample.
        overwrite: write them even if they are there.

    Returns:
        What became of it; it never raises for what a file holds.
    """
    first = job.target / job.writes[0]
    try:
        if not overwrite and all((job.target / file).is_file() for file in job.writes):
            return Outcome(first, "kept")
        for file, content in job.make(**job.given).items():
            path = job.target / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as temporary:
                if isinstance(content, Path):
                    shutil.copyfile(content, temporary)
                elif path.suffix == ".npy":
                    with temporary.open("wb") as stream:
                        np.save(stream, content)
                else:
                    Image.fromarray(content).save(temporary, "PNG", compress_level=3)
    except DataError as error:
        return Outcome(first, "failed", str(error))
    except FileNotFoundError as error:
        path = Path(error.filename)
        return Outcome(first, "failed", f"{path}: no such file{similar(path)}; download or unpack it again")
    except OSError as error:
        return Outcome(first, "failed", f"{error.filename or first}: {error.strerror or error}")
    return Outcome(first, "written")


def finish(planned: Plan, target: Path) -> None:
    """Write the split lists; to be called when every sample is there.

    Args:
        planned: what `plan` gave.
        target: folder of the results.
    """
    for split, lines in planned.lists.items():
        with atomic_file(target / f"{split}.txt") as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _claim(target: Path, origin: Mapping[str, Any]) -> None:
    """Make `target`, or find that it was begun from the same download."""
    manifest = target / MANIFEST
    text = json.dumps(origin, indent=2, sort_keys=True) + "\n"
    if manifest.is_file():
        if manifest.read_text(encoding="utf-8") != text:
            raise DataError(
                f"{manifest}: says that the folder was made from other files than those given; choose another folder, "
                "or delete this one"
            )
        return
    if target.exists() and (not target.is_dir() or not is_empty(target)):
        raise DataError(f"{target}: exists and was not begun by this command; expected a new or empty folder")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with atomic_file(manifest) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{target}: cannot be made a folder for the results ({error.strerror})") from None


def _origin(name: str, files: Sequence[Path]) -> dict[str, Any]:
    return {"dataset": name, "made_from": {str(f.resolve()): f.stat().st_size for f in files}}


def _need(path: Path, what: str) -> Path:
    if not path.is_file():
        raise DataError(f"{path}: no such file{similar(path)}; expected {what}")
    return path


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ConfigError("reading this .mat file takes h5py: pip install 'ktb[prepare]'") from None
    return h5py


def _open_h5(path: Path) -> Any:
    try:
        return _h5py().File(path, "r")
    except OSError:
        raise DataError(
            f"{path}: is no readable HDF5 file (MATLAB 7.3); expected the original download: cut short? download it "
            "again"
        ) from None


def _load_mat(path: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file of the old format."""
    from scipy.io import loadmat

    try:
        stored = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # damaged bytes raise ValueError, TypeError, OSError, zlib.error, MatReadError, ...
        raise DataError(f"{path}: is no readable MATLAB file ({first_line(error)}); download it again") from None
    if missing := [name for name in names if name not in stored]:
        there = ", ".join(sorted(n for n in stored if not n.startswith("__")))
        raise DataError(f"{path}: has no variable {missing[0]!r}, only {there}; expected the original file")
    return [stored[name] for name in names]


# --- NYU Depth V2 ----------------------------------------------------------------------------------------------------

NYU_MAT = "nyu_depth_v2_labeled.mat"


def _nyu(source: Path, target: Path) -> Plan:
    """`nyu_depth_v2_labeled.mat` (images, labels 0..894, depths and rawDepths in metres), `splits.mat` (frames from 1)
    and `classMapping40.mat` (894 classes → 40). Frame i of the file, from 0, becomes sample i."""
    from ktb.data.sets.nyu import CLASSES

    mat = _need(source / NYU_MAT, "the labelled part of NYU Depth V2 (2.8 GB) from its page")
    splits = _need(source / "splits.mat", "the file with trainNdxs and testNdxs from the data set's page")
    classes = _need(source / "classMapping40.mat", "the mapping of 894 classes to 40 (S. Gupta et al., CVPR 2013)")
    (mapping,) = _load_mat(classes, "mapClass")
    mapping = np.asarray(mapping).ravel()
    if mapping.size != 894 or mapping.min() < 1 or mapping.max() > len(CLASSES):
        raise DataError(
            f"{classes}: mapClass has {mapping.size} values from {mapping.min()} to {mapping.max()}; expected 894 from "
            f"1 to {len(CLASSES)}: use the original file"
        )
    with _open_h5(mat) as file:
        for name, axes in (("images", 4), ("labels", 3), ("depths", 3), ("rawDepths", 3)):
            if name not in file or file[name].ndim != axes:
                raise DataError(f"{mat}: has no {axes}-dimensional {name!r}; expected the original file")
        count = file["images"].shape[0]
    train, test = (np.asarray(v).ravel().astype(int) - 1 for v in _load_mat(splits, "trainNdxs", "testNdxs"))
    every = np.concatenate([train, test])
    if len(set(every.tolist())) != len(every) or every.min() < 0 or every.max() >= count:
        raise DataError(
            f"{splits}: frames {every.min() + 1} to {every.max() + 1}, {len(every) - len(set(every.tolist()))} of them "
            f"twice; expected each of 1 to {count} at most once: use the original file"
        )
    table = (0, *(int(v) for v in mapping))
    jobs = [
        Conversion(
            target,
            (f"RGB/{i}.png", f"Label/{i}.png", f"Depth/{i}.npy", f"RawDepth/{i}.npy"),
            _nyu_frame,
            {"mat": mat, "index": i, "table": table},
        )
        for i in sorted(every.tolist())
    ]
    lists = {split: [f"RGB/{i}.png\tLabel/{i}.png" for i in v] for split, v in (("train", train), ("test", test))}
    return Plan(jobs, lists, _origin("nyu", [mat, splits, classes]))


def _nyu_frame(mat: Path, index: int, table: Sequence[int]) -> dict[str, Array]:
    with _open_h5(mat) as file:
        try:
            # MATLAB's (H, W, 3, N) and (H, W, N), which HDF5 shows in the reverse order.
            rgb, label = np.asarray(file["images"][index]).T, np.asarray(file["labels"][index]).T
            depth, raw = (np.asarray(file[name][index], np.float32).T for name in ("depths", "rawDepths"))
        except OSError as error:
            raise DataError(
                f"{mat}: frame {index + 1} cannot be read ({first_line(error)}); download it again"
            ) from None
    if label.max() >= len(table):
        raise DataError(f"{mat}: frame {index + 1} has label {label.max()}; expected 0 to {len(table) - 1}")
    return {
        f"RGB/{index}.png": np.ascontiguousarray(rgb),
        f"Label/{index}.png": np.asarray(table, np.uint8)[label],
        f"Depth/{index}.npy": np.ascontiguousarray(depth),
        f"RawDepth/{index}.npy": np.ascontiguousarray(raw),
    }


# --- SUN RGB-D -------------------------------------------------------------------------------------------------------

FARTHEST_MM = 8191
"""What 13 bits hold; the toolbox itself cuts at 8 m."""


def _sunrgbd(source: Path, target: Path) -> Plan:
    """`SUNRGBD/` and `SUNRGBDtoolbox/`, as the two archives unpack: pictures and filled depth maps in a folder per
    frame, the labels of all frames in `SUNRGBD2Dseg.mat`, the frames' paths in `SUNRGBDMeta.mat`, the split in
    `allsplit.mat`."""
    from ktb.data.sets.sunrgbd import CLASSES

    toolbox = source / "SUNRGBDtoolbox"
    what = "the unpacked SUNRGBDtoolbox.zip beside the unpacked SUNRGBD.zip"
    labels = _need(toolbox / "Metadata/SUNRGBD2Dseg.mat", what)
    meta = _need(toolbox / "Metadata/SUNRGBDMeta.mat", what)
    split = _need(toolbox / "traintestSUNRGBD/allsplit.mat", what)
    (frames,) = _load_mat(meta, "SUNRGBDMeta")
    splits = {
        _below_sunrgbd(str(path)): name
        for name, paths in zip(("train", "test"), _load_mat(split, "alltrain", "alltest"), strict=True)
        for path in np.atleast_1d(paths)
    }
    frames = np.atleast_1d(frames)
    with _open_h5(labels) as file:
        held = file["SUNRGBD2Dseg/seglabel"].size if "SUNRGBD2Dseg/seglabel" in file else 0
    if held != len(frames):
        raise DataError(
            f"{labels}: holds {held} labels for the {len(frames)} frames of {meta}; expected one each: use the "
            "original files"
        )
    jobs: list[Conversion] = []
    lists: dict[str, list[str]] = {"train": [], "test": []}
    left_out = 0
    for index, frame in enumerate(frames):
        folder = PurePosixPath(_below_sunrgbd(str(frame.rgbpath))).parent.parent
        name = splits.get(str(folder))
        if name is None:
            left_out += 1
            continue
        stem = f"{name}_{len(lists[name])}"
        lists[name].append(f"RGB/{stem}.jpg labels/{stem}.png")
        place = source / "SUNRGBD" / folder
        jobs.append(
            Conversion(
                target,
                (f"RGB/{stem}.jpg", f"Depth/{stem}.png", f"labels/{stem}.png"),
                _sunrgbd_frame,
                {
                    "stem": stem,
                    "rgb": place / "image" / str(frame.rgbname),
                    "depth": place / "depth_bfx" / str(frame.depthname),
                    "mat": labels,
                    "index": index,
                    "num_classes": len(CLASSES),
                },
            )
        )
    notes = [f"{left_out} frames of {meta} are in neither split"] if left_out else []
    if not jobs:
        raise DataError(f"{split}: names none of the {len(frames)} frames of {meta}; expected the original files")
    return Plan(jobs, lists, _origin("sunrgbd", [labels, meta, split]), notes)


def _below_sunrgbd(path: str) -> str:
    """Stored are absolute paths on the authors' machine, /n/fs/sun3d/data/SUNRGBD/kv2/..., some with double slashes."""
    parts = PurePosixPath(path).parts
    at = parts.index("SUNRGBD") if "SUNRGBD" in parts else -1
    return str(PurePosixPath(*parts[at + 1 :]))


def _sunrgbd_frame(
    stem: str, rgb: Path, depth: Path, mat: Path, index: int, num_classes: int
) -> dict[str, Array | Path]:
    with _open_h5(mat) as file:
        references = file["SUNRGBD2Dseg/seglabel"]
        label = np.asarray(file[references[np.unravel_index(index, references.shape)]]).T
    if label.max() > num_classes:
        raise DataError(f"{mat}: label {index + 1} has the id {label.max()}; expected 0 to {num_classes}")
    picture = decode(rgb)
    if picture.shape[:2] != label.shape:
        raise DataError(
            f"{rgb}: is {picture.shape[1]} x {picture.shape[0]} pixels but its label, {index + 1} in {mat}, is "
            f"{label.shape[1]} x {label.shape[0]}; expected one size: use the original files"
        )
    stored = decode(depth)
    if stored.dtype != np.uint16 or stored.ndim != 2:
        raise DataError(f"{depth}: holds {stored.dtype} values of shape {stored.shape}; expected 16-bit grey")
    # The files hold millimetres rotated to the left by three bits. Distances beyond
    # 13 bits would wrap around and look near in the high byte, which is what the loader reads.
    millimetres = (stored >> 3) | (stored << 13)
    return {
        f"RGB/{stem}.jpg": rgb,
        f"Depth/{stem}.png": np.minimum(millimetres, FARTHEST_MM).astype(np.uint16) << 3,
        f"labels/{stem}.png": label.astype(np.uint8),
    }


# --- MFNet -----------------------------------------------------------------------------------------------------------


def _mfnet(source: Path, target: Path) -> Plan:
    """`images/<name>.png`, RGBA with the thermal picture as alpha, `labels/<name>.png` and the lists."""
    if not (source / "images").is_dir():
        path = source / "images"
        raise DataError(f"{path}: no such folder{similar(path)}; expected MFNet as first published, RGBA pictures")
    lists = {}
    for name in ("train", "val", "test"):
        path = _need(source / f"{name}.txt", "the list of the split, as downloaded")
        lists[name] = [line.columns[0] for line in read_list(path, path.parent)]
        if bad := [stem for stem in lists[name] if "/" in stem]:
            raise DataError(f"{path}: names {bad[0]!r}; expected names of pictures without folder, such as '00001D'")
    stems = sorted({stem for names in lists.values() for stem in names})
    jobs = [
        Conversion(
            target,
            (f"rgb/{stem}.png", f"ther/{stem}.png", f"labels/{stem}.png"),
            _mfnet_frame,
            {"stem": stem, "image": source / f"images/{stem}.png", "label": source / f"labels/{stem}.png"},
        )
        for stem in stems
    ]
    return Plan(jobs, lists, _origin("mfnet", [source / f"{name}.txt" for name in lists]))


def _mfnet_frame(stem: str, image: Path, label: Path) -> dict[str, Array | Path]:
    rgba = decode(image)
    if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
        raise DataError(
            f"{image}: holds {rgba.dtype} values of shape {rgba.shape}; expected 8-bit RGBA, the thermal picture as "
            "alpha: already converted?"
        )
    decode(label, lossless=True)  # a damaged file is not copied
    return {
        f"rgb/{stem}.png": np.ascontiguousarray(rgba[..., :3]),
        f"ther/{stem}.png": np.ascontiguousarray(rgba[..., 3]),
        f"labels/{stem}.png": label,
    }


SOURCES: dict[str, Callable[[Path, Path], Plan]] = {"nyu": _nyu, "sunrgbd": _sunrgbd, "mfnet": _mfnet}
"""Data sets whose download differs from what the loaders read."""


def next_steps(name: str, target: Path) -> list[str]:
    """Commands that come between `finish` and training.

    Args:
        name: of the data set.
        target: folder of the results.
    """
    folder = shlex.quote(str(target))
    hha = f"ktb-data hha {folder}/Depth {folder}/HHA --raw {folder}/RawDepth --unit m"
    return [*([hha] if name == "nyu" else []), f"ktb-data check dataset={name} dataset.root={folder}"]

"""Masks for the user's own pictures, written into a folder: read, predict, write, and go on where a call stopped.

Pictures are read in threads while the model computes and written in another, so at most a few are in memory. Every
output carries a stamp of the model, the settings and its input files, so a stopped call goes on where it stopped, and
nothing is overwritten that does not carry one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ktb import __version__
from ktb.data.dataset import say_converted
from ktb.data.files import check_ends, similar
from ktb.data.own_results import MANIFEST, STAMP, read_manifest
from ktb.data.readers.png import png_text
from ktb.data.tools.parallel import Outcome
from ktb.errors import ConfigError, DataError, KTBError, NotFiniteError, is_out_of_gpu_memory, is_out_of_memory
from ktb.io import atomic_file, locked
from ktb.predict.outputs import OUTPUTS, Mask, Outputs, confidence_of, probabilities_of, stamp_of
from ktb.predict.pairing import PictureFiles
from ktb.predict.reading import PictureReader, ReadPicture, UnlikeTraining
from ktb.weights.states import fingerprint

READ_AHEAD = 2
"""Pictures read before the model asks for them; as many wait to be written at most."""

_hash = partial(hashlib.blake2b, digest_size=16)


@dataclass
class LoadedPicture:
    """A picture that has been read, and whose results it will be.

    Args:
        picture: its files.
        stamp: of the model, the settings and its files.
        read: as the model takes it.
    """

    picture: PictureFiles
    stamp: str
    read: ReadPicture


@dataclass(frozen=True)
class _Unlike(Outcome):
    """What became of a picture that is not segmented for this reason."""


@dataclass
class FolderPredictor:
    """From the files of a picture to its masks in a folder.

    Args:
        reader: how pictures are read, and the model that they are read for.
        outputs: what is written, and where.
        settings: what else decides the outputs, for the stamp (the data set's configuration).
    """

    reader: PictureReader
    outputs: Outputs
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.model = self.reader.model
        data = self.model.data
        self._model_sha256 = fingerprint(self.model.model)
        facts = {
            "version": __version__,
            "model": self._model_sha256,
            "settings": self.settings,
            "modalities": [asdict(m) for m in data.modalities],
            "classes": [data.spec.classes, data.spec.palette],
            "write": sorted(self.outputs.write),
            "options": [
                self.outputs.legend, self.model.short_side, self.model.tile, self.model.overlap,
            ],
            **({"label_sizes": self.reader.label_sizes} if self.reader.label_sizes else {}),
        }  # fmt: skip
        self._settings_digest = _hash(json.dumps(facts, default=str).encode()).hexdigest()

    def manifest(self, checkpoint: Path) -> dict[str, Any]:
        """What somebody needs who finds the results, as it is written into `predict.json`.

        Args:
            checkpoint: the file of the model.
        """
        spec = self.model.data.spec
        return {
            STAMP: 1,
            "checkpoint": str(checkpoint.absolute()),
            "model_sha256": self._model_sha256,
            "dataset": spec.name,
            "modalities": list(self.model.modalities),
            "short_side": self.model.short_side,
            "tile": self.model.tile,
            "overlap": self.model.overlap,
            "written": ["index", *(name for name in OUTPUTS if name in self.outputs.write)],
            "classes": [
                {"id": i, "name": name, "colour": list(colour)}
                for i, (name, colour) in enumerate(zip(spec.classes, spec.palette, strict=True))
            ],
        }

    def load(self, picture: PictureFiles, *, overwrite: bool) -> LoadedPicture | Outcome:
        """Read one picture, unless its results are there already or something is wrong with it.

        Args:
            picture: its files.
            overwrite: read it also where its results are there and right.

        Returns:
            The picture; or what became of it ("kept", "failed").
        """
        index = self.outputs.path(picture.name, "index")
        try:
            stamp = self._stamp(picture)
            targets = self.outputs.paths(picture.name)
            # The index is written last, so with it all is there, unless somebody removed something.
            if not overwrite and png_text(index, STAMP) == stamp and all(t.is_file() for t in targets):
                return Outcome(index, "kept")
            for target in targets:
                if target.exists() and stamp_of(target) is None:
                    raise DataError(
                        f"{target}: is there already and was not written by ktb-predict; move it away, or choose "
                        "another --out"
                    )
            read = self.reader(picture.files, picture.name, backdrop="overlay" in self.outputs.write)
            return LoadedPicture(picture, stamp, read)
        except UnlikeTraining as error:
            return _Unlike(index, "failed", str(error))
        except KTBError as error:
            return Outcome(index, "failed", str(error))
        except OSError as error:
            return Outcome(index, "failed", f"{error.filename or index}: {error.strerror or error}")
        except MemoryError:
            return Outcome(index, "failed", f"{picture.first}: needs more memory than there is; make it smaller")

    def _stamp(self, picture: PictureFiles) -> str:
        sources: dict[str, list[str]] = {}
        for modality, paths in picture.files.items():
            sources[modality] = []
            for path in paths:
                try:
                    check_ends(path)
                    with path.open("rb") as file:
                        sources[modality].append(hashlib.file_digest(file, _hash).hexdigest())
                except (FileNotFoundError, NotADirectoryError):
                    raise DataError(f"{path}: no such file{similar(path)}") from None
        return json.dumps({"settings": self._settings_digest, "sources": sources})

    def segment(self, loaded: LoadedPicture) -> Mask | Outcome:
        """Run the model; probabilities, which may be too many for the memory, are written on the way.

        Args:
            loaded: as `load` returned it.

        Returns:
            The mask; or that it failed, and why.
        """
        picture, size = loaded.picture, loaded.read.size
        index = self.outputs.path(picture.name, "index")
        confidence = np.empty(size, np.uint8) if "confidence" in self.outputs.write else None
        mask = Mask(np.empty(size, self.model.id_type), confidence)
        try:
            classes = self.model.model.num_classes
            with self.outputs.probabilities(picture.name, size, classes, loaded.stamp) as file:
                for band in self.model.bands(loaded.read.inputs, size):
                    mask.ids[band.rows] = band.ids
                    if mask.confidence is not None:
                        mask.confidence[band.rows] = confidence_of(band.logits)
                    if file is not None:
                        file.write(probabilities_of(band.logits).tobytes())
        except OSError as error:  # of the probabilities' file
            return _unwritable(index, error)
        except NotFiniteError as error:
            return Outcome(index, "failed", f"{picture.first}: {error}")
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) and not is_out_of_gpu_memory(error):
                raise
            return Outcome(
                index,
                "failed",
                f"{picture.first}: {size[1]} x {size[0]} pixels need more memory than there is; use a "
                f"--tile below {self.model.tile}",
            )
        return mask

    def save(self, loaded: LoadedPicture, mask: Mask) -> Outcome:
        """Write the pictures of one result.

        Args:
            loaded: as `load` returned it.
            mask: as `segment` returned it.

        Returns:
            That they are written, or which could not be.
        """
        name = loaded.picture.name
        try:
            return Outcome(self.outputs.save(name, mask, loaded.read.backdrop, loaded.stamp), "written")
        except OSError as error:
            return _unwritable(self.outputs.path(name, "index"), error)


def _unwritable(target: Path, error: OSError) -> Outcome:
    return Outcome(target, "failed", f"{error.filename or target}: cannot be written ({error.strerror or error})")


def predict_folder(
    work: FolderPredictor, pictures: Sequence[PictureFiles], *, overwrite: bool = False
) -> Iterator[Outcome]:
    """Segment all of `pictures`: an outcome for each, about in their order.

    Stopped early, what is being written is finished first.

    Args:
        work: what is done to each.
        pictures: their files.
        overwrite: make results again that are there and right.

    Raises:
        DataError: the first picture is far outside of what the model was trained on, so all are likely to be.
    """
    reading: deque[Future[LoadedPicture | Outcome]] = deque()
    writing: deque[Future[Outcome]] = deque()
    rest = iter(pictures)
    alike = False
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(READ_AHEAD) as readers:
        try:
            while True:
                while len(reading) <= READ_AHEAD and (picture := next(rest, None)) is not None:
                    reading.append(readers.submit(work.load, picture, overwrite=overwrite))
                if not reading:
                    break
                loaded = reading.popleft().result()
                # What an earlier call has written was like the training's pictures.
                alike = alike or (isinstance(loaded, Outcome) and loaded.state == "kept")
                if isinstance(loaded, _Unlike) and not alike:
                    raise DataError(loaded.message)
                if isinstance(loaded, Outcome):
                    yield loaded
                    continue
                alike = True
                if loaded.read.converted:
                    say_converted(loaded.read.converted, "")
                mask = work.segment(loaded)
                loaded.read.inputs.clear()  # what waits to be written needs them no more
                if isinstance(mask, Outcome):
                    yield mask
                    continue
                writing.append(writer.submit(work.save, loaded, mask))
                del loaded, mask
                while len(writing) > READ_AHEAD or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for future in reading:
                future.cancel()


@contextmanager
def claimed(out: Path, manifest: Mapping[str, Any]) -> Iterator[None]:
    """The folder for the results, made if need be, with `predict.json` in it, for this process alone.

    What a killed process left half-written is removed.

    Args:
        out: the folder.
        manifest: what `predict.json` holds.

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
            if file.exists() and read_manifest(file) is None:
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

"""Weight files, read safely and written whole.

Files are read as tensors and plain values only: nothing stored in one is ever executed, and nothing in one decides how
much memory is taken before it has been compared with what the file really holds.

What `ktb-train` writes and what a bundle holds have one content: {"ktb": plain values about the model, "state_dict":
{"model.NAME": tensor}}.
"""

from __future__ import annotations

import errno
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ktb.errors import CheckpointError, first_line, is_out_of_memory
from ktb.io import absent, atomic_file, expanded
from ktb.run_folder.names import CHECKPOINTS
from ktb.weights.by_name import fetched
from ktb.weights.hub import BUNDLE_WEIGHTS
from ktb.weights.older import upgraded
from ktb.weights.states import StateDict, refuse_not_finite


def read_file(path: str | Path) -> Any:
    """Content of a .safetensors file or of a PyTorch file, tensors and plain values only.

    Args:
        path: the file.

    Returns:
        what it holds; of a bundle's .safetensors file the checkpoint it holds, see `is_ours`.

    Raises:
        CheckpointError: missing, damaged, a pickle that would run code, a file that unpacks to more than its size, or a
            checkpoint of ours whose weights are not finite.
    """
    path = expanded(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {absent(path, 'no such checkpoint file')}; check the path")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        if zipfile.is_zipfile(path):
            _refuse_packed(path)
        with warnings.catch_warnings():
            # A pickle by other hands than torch.save; if it holds more than tensors, it is refused below.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            warnings.filterwarnings("ignore", ".*sparse tensor.*")  # refused below as well
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_stretched(content, path)
        if not is_ours(content):
            return content
        refuse_not_finite(content["state_dict"], str(path))
        return upgraded(content)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        with path.open("rb") as file:
            is_pickle = found or file.read(1) == pickle.PROTO
        if not is_pickle:
            raise CheckpointError(f"{path}: not a checkpoint (no known file format); fetch it again") from None
        what = f"the Python object {found[1]}" if found else "more than tensors and plain values"
        raise CheckpointError(
            f"{path}: refused: it holds {what}, and loading that would run code from the file; "
            "save its state dict alone and pass that file"
        ) from None
    except (
        AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError, OverflowError, RuntimeError,
        SafetensorError, TypeError, UnicodeError, ValueError, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE):
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its rights and its disk") from None
        if is_out_of_memory(error):
            raise CheckpointError(
                f"{path}: there is too little memory to read its {path.stat().st_size / 2**20:.1f} MB "
                f"({first_line(error)}); close other programs or, if the file is damaged, fetch it again"
            ) from None
        raise CheckpointError(f"{path}: not a readable checkpoint ({first_line(error)}); fetch it again") from None


def _read_safetensors(path: Path) -> Any:
    """The library itself refuses a header whose offsets, shapes and file length do not agree."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("ktb")
    if text is None:
        return tensors
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        about = None
    if not isinstance(about, dict):
        raise CheckpointError(f"{path}: damaged: what it says about its model is no JSON object; fetch it again")
    refuse_not_finite(tensors, str(path))
    return upgraded({"ktb": about, "state_dict": {f"model.{k}": v for k, v in tensors.items()}})


def _refuse_packed(path: Path) -> None:
    """torch.save stores its records as they are; a compressed one can unpack to a thousand times its size."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    unpacked = sum(record.file_size for record in records)
    if any(record.compress_type != zipfile.ZIP_STORED for record in records) or unpacked > path.stat().st_size:
        raise CheckpointError(
            f"{path}: refused: it unpacks to {unpacked:,} bytes from {path.stat().st_size:,}, and torch.save never "
            "compresses; fetch it again"
        )


def _refuse_stretched(content: Any, path: Path) -> None:
    """A tensor of stride 0 may claim any shape over four bytes; converting it would allocate all of it."""
    parts = list(content.values()) if isinstance(content, Mapping) else []
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, Tensor) and part.layout != torch.strided:
            raise CheckpointError(f"{path}: refused: it holds a sparse tensor, and model weights are dense")
        elif isinstance(part, Tensor) and part.numel() * part.element_size() > part.untyped_storage().nbytes():
            raise CheckpointError(
                f"{path}: refused: it holds a tensor of shape {tuple(part.shape)} over "
                f"{part.untyped_storage().nbytes()} bytes"
            )


def read_state_dict(source: str | Path | Mapping[str, Any]) -> StateDict:
    """Tensors by name.

    Args:
        source: a file, or a mapping; either may wrap them as `model_state_dict`, `state_dict` or `model`.

    Raises:
        CheckpointError: an unreadable file (see `read_file`), or no tensors.
    """
    content = source if isinstance(source, Mapping) else read_file(source)
    where = "the given mapping" if isinstance(source, Mapping) else str(source)
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{where}: expected a state dict (name → tensor), found {type(content).__name__}")
    state = {str(k).removeprefix("module."): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{where}: expected a state dict (name → tensor), found no tensor in it")
    return state


def is_ours(content: Any) -> bool:
    """Whether this is what `ktb-train` or a bundle writes."""
    return isinstance(content, Mapping) and isinstance(content.get("ktb"), Mapping) and "state_dict" in content


def find_checkpoint(path: str | Path) -> Path:
    """The file of weights that a path or a name means.

    Args:
        path: a file, a run folder or a bundle's folder; as text also a name, see `ktb.weights.by_name`.

    Returns:
        the file itself, the best (else the last) checkpoint of the run, or the tensors' file of the bundle.

    Raises:
        CheckpointError: nothing there, or a folder of another kind.
    """
    if not str(path).strip():
        raise CheckpointError(f"{path!r} names nothing; is a variable of the shell not set?")
    if isinstance(path, str) and (file := fetched(path)) is not None:
        return file
    path = expanded(path)
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(f"{path}: {absent(path, 'no such checkpoint or run folder')}; check the path")
        return path
    for name in ("best", "last"):
        file = path / CHECKPOINTS / f"{name}.ckpt"
        if file.is_file():
            return file
    if (path / BUNDLE_WEIGHTS).is_file():
        return path / BUNDLE_WEIGHTS
    runs = sorted(folder.parent.name for folder in path.glob(f"*/{CHECKPOINTS}"))
    raise CheckpointError(
        f"{path}: no checkpoints/best.ckpt or last.ckpt and no {BUNDLE_WEIGHTS} in this folder; "
        + (f"it holds runs, name one of them: {path / runs[0]}" if runs else "is it a run of ktb-train or a bundle?")
    )


def save_tensors(state: Mapping[str, Tensor], file: Path) -> None:
    """Write plain tensors.

    Args:
        state: tensors by name.
        file: a name that ends in .safetensors gives that format, any other what torch.load reads.

    Raises:
        CheckpointError: it can't be written.
    """
    if file.suffix == ".safetensors":
        save_safetensors({k: v.contiguous() for k, v in state.items()}, file, {})
    else:
        content = io.BytesIO()  # on a full disk torch.save itself ends the whole process
        torch.save(dict(state), content)
        with written(file) as partial:
            partial.write_bytes(content.getbuffer())


def save_safetensors(state: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    """Write a .safetensors file that everybody may read.

    Args:
        state: contiguous tensors by name.
        file: where to.
        metadata: texts for its header.

    Raises:
        CheckpointError: it can't be written.
    """
    with written(file) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(state, partial, metadata={"format": "pt", **metadata})
        partial.chmod(mode)  # safetensors writes for the owner only, and a bundle is there to be shared


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """`atomic_file`, with folders made as needed.

    Raises:
        CheckpointError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            yield partial
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written ({error.strerror or error})") from None

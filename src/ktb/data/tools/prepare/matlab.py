"""MATLAB files of the old format (by SciPy) and of version 7.3, which are HDF5 (by h5py)."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from ktb.errors import ConfigError, DataError, first_line


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise ConfigError("reading this .mat file takes h5py: pip install 'ktb[prepare]'") from None
    return h5py


def open_hdf5(path: Path) -> Any:
    """A MATLAB 7.3 file, opened as HDF5.

    Raises:
        DataError: it is not readable as such.
        ConfigError: h5py is not installed.
    """
    try:
        return _h5py().File(path, "r")
    except OSError:
        raise DataError(
            f"{path}: is no readable HDF5 file (MATLAB 7.3); expected the original download: cut short? download it "
            "again"
        ) from None


def load_mat(path: Path, *names: str) -> list[Any]:
    """Variables of a MATLAB file of the old format.

    Args:
        path: the file.
        *names: of the variables.

    Returns:
        Their values, in the order of `names`.

    Raises:
        DataError: the file is not readable, or has no such variable.
    """
    from scipy.io import loadmat

    try:
        stored = loadmat(path, squeeze_me=True, struct_as_record=False)
    except Exception as error:  # damaged bytes raise ValueError, TypeError, OSError, zlib.error, MatReadError, ...
        raise DataError(f"{path}: is no readable MATLAB file ({first_line(error)}); download it again") from None
    if missing := [name for name in names if name not in stored]:
        there = ", ".join(sorted(n for n in stored if not n.startswith("__")))
        raise DataError(f"{path}: has no variable {missing[0]!r}, only {there}; expected the original file")
    return [stored[name] for name in names]

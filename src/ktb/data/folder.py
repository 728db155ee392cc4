"""Where `dataset=folder` was before `ktb.data.sets`; scripts import it from here."""

from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.folder_settings import FolderModality

__all__ = ["FolderDataModule", "FolderModality"]

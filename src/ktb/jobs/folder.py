"""A job's run folder: which one it is, that it can be written, and what of an earlier run in it goes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from ktb.distributed import decisions as ranks
from ktb.errors import ConfigError
from ktb.io import locked
from ktb.jobs import resume
from ktb.run_folder.files import write_text
from ktb.run_folder.names import CHECKPOINTS, CONFIG, EVALUATIONS, PAGE, PER_IMAGE, RESULT, WRITTEN, run_of
from ktb.weights.by_name import name_of


@contextmanager
def claimed_for_training(run_dir: Path, cfg: DictConfig, point: resume.Checkpoint | None) -> Iterator[None]:
    """Create the run folder, empty of an earlier run's files and of results of less training, with the configuration
    in it, and hold it for this job.

    Raises:
        ConfigError: it can't be written, or another ktb-train writes into it, or has done so since `resume.start`.
    """
    if not ranks.is_first():
        yield
        return
    _make_folder(run_dir)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(run_dir))
        except BlockingIOError:
            raise ConfigError(
                f"{run_dir}: another ktb-train is writing into it; wait for it, or choose another run_dir"
            ) from None
        resume.refuse_changed(cfg, run_dir, point)
        own = point is not None and point.path.resolve().is_relative_to(run_dir.resolve())
        if cfg.overwrite and not own:
            for name in WRITTEN:
                path = run_dir / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for name in (RESULT, PER_IMAGE, PAGE):  # written again at the end; until then nobody takes them for new
            (run_dir / name).unlink(missing_ok=True)
        write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg, resolve=True))
        yield


def claim_for_evaluation(cfg: DictConfig, checkpoint: Path) -> Path:
    """Create the folder of an evaluation, by default beside the checkpoint (of a model by name: in runs/NAME), and put
    it into `cfg.run_dir`.

    Raises:
        ConfigError: it holds results already, or can't be written.
    """

    def chosen() -> str:
        day = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        named = name_of(cfg.checkpoint)  # its file lies in a cache, or in a folder that many share
        return str(cfg.run_dir or (Path("runs", named) if named else run_of(checkpoint)) / EVALUATIONS / day)

    run_dir = Path(ranks.decide("run folder", chosen, processes=resume.processes(cfg)))
    if (run_dir / CHECKPOINTS).exists() or (run_dir / RESULT).exists():
        raise ConfigError(f"{run_dir} already holds results; choose another run_dir for those of this evaluation")
    with open_dict(cfg):
        cfg.run_dir = str(run_dir)
    _make_folder(run_dir)
    return run_dir


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write_test_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"{folder}: can't write results here ({error.strerror}); choose another folder with run_dir=..."
        ) from None

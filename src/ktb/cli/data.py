"""The `ktb-data` command: prepare and check data sets. Arguments in, exit code out; the work is in `ktb.data.tools`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ktb.cli import common as commands
from ktb.cli.arguments import HelpFormatter, config_dirs, home
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.data.tools.hha import NYU_CAMERA, Camera
from ktb.data.tools.hha_files import convert_hha, parse_unit, plan_hha
from ktb.data.tools.parallel import Outcome, parallel
from ktb.errors import ConfigError, DataError
from ktb.io import expanded

if TYPE_CHECKING:
    from ktb.data.module import RGBXDataModule

FAILED_FILES = 1
"""Exit code when some files failed and all others are done."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-data`; the exit code: 0 done, 1 some files failed, 2 the call itself was wrong, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        parser = _parser()
        arguments, rest = parser.parse_known_args(argv)
        # argparse takes positional arguments in one piece only: check dataset=nyu --out DIR dataset.root=DIR
        if rest and (arguments.command not in ("check", "preview") or any(text.startswith("-") for text in rest)):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        if rest:
            arguments.overrides += rest
        return int(arguments.run(arguments))

    return commands.run(
        commands.name("ktb-data", argv),
        work,
        stopped=lambda word: f"{word}; finished files are kept, the same call goes on",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ktb-data", description="Prepare and check data for ktb.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "hha",
        help="encode depth maps as HHA",
        description="Encode depth maps as HHA (disparity, height, angle with gravity), one PNG per map, RGB order. "
        "Finished results whose input and settings are unchanged are kept, so a stopped call goes on where it stopped.",
    )
    sub.add_argument(
        "source", type=home, help="folder of .png/.npy/.tif depth maps (with subfolders), or a quoted glob pattern"
    )
    sub.add_argument("target", type=expanded, help="folder for the results, laid out as the source")
    sub.add_argument("--unit", required=True, help="of the stored values: m, cm, mm, 0.1mm, or metres such as 0.0001")
    sub.add_argument("--raw", type=expanded, help="folder of the sensor's own maps when SOURCE has its holes filled")
    sub.add_argument(
        "--camera",
        default="nyu",
        help='"nyu" (default) or FX,FY,CX,CY in pixels, the top left pixel being (1, 1)',
    )
    sub.add_argument("--camera-size", type=_size, metavar="HxW", help="image size that FX,FY,CX,CY hold for")
    sub.add_argument("--scale-camera", action="store_true", help="maps of another size are the whole image resized")
    sub.add_argument("--overwrite", action="store_true", help="make every result again")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_hha)

    sub = commands.add_parser(
        "new",
        help="write a configuration for your own data from a look at its folder",
        description="Look at a folder with your own pictures and labels, guess what they are, and write a "
        "configuration for it (dataset=folder), with the reason of every guess in it.",
        epilog="Example: ktb-data new /data/fields --name fields, then ktb-train --config-dir conf dataset=fields",
        formatter_class=HelpFormatter,
    )
    sub.add_argument(
        "folder", type=expanded, help="holds pictures and labels, in folders or with names that run parallel"
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
        "--config-dir", type=expanded, default=Path("conf"), help="written is DIR/dataset/NAME.yaml (conf)"
    )
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_new)

    sub = commands.add_parser(
        "prepare",
        help="convert a downloaded data set into the layout that is read",
        description="Convert a download into the layout that ktb reads: nyu (nyu_depth_v2_labeled.mat, splits.mat, "
        "classMapping40.mat), sunrgbd (unpacked SUNRGBD and SUNRGBDtoolbox), mfnet (RGBA pictures). Finished files are "
        "kept, so a stopped call goes on where it stopped; the split lists are written last.",
    )
    sub.add_argument("name", help="nyu, sunrgbd or mfnet")
    sub.add_argument("source", type=expanded, help="folder with the downloaded files")
    sub.add_argument("target", type=expanded, help="new folder, the dataset.root of a training")
    sub.add_argument("--overwrite", action="store_true", help="make every file again")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_prepare)

    sub = commands.add_parser(
        "check",
        help="read a whole data set as training would and report on it",
        description="Read every sample of every split the way training does, and report counts, sizes, value ranges, "
        "classes, and every file that cannot be used. Settings are those of ktb-train.",
        epilog="Example: ktb-data check dataset=nyu dataset.root=/data/NYUDepthv2 --out report",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="dataset=NAME, modality=..., dataset.root=DIR")
    sub.add_argument("--out", type=expanded, help="folder for report.json and report.html")
    sub.add_argument("--config-dir", type=expanded, help="your own configurations, as DIR/dataset/mine.yaml")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_check)

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
    sub.add_argument("--out", type=expanded, default=Path("preview"), help="folder for SPLIT.png (default: preview)")
    sub.add_argument("--split", action="append", metavar="SPLIT", help="this split only; may be repeated")
    sub.add_argument("--samples", type=positive, default=8, help="per split, spread evenly over it (default: 8)")
    sub.add_argument(
        "--epoch",
        type=partial(positive, least=0),
        default=0,
        help="another one draws another augmentation (default: 0)",
    )
    sub.add_argument("--config-dir", type=expanded, help="your own configurations, as DIR/dataset/mine.yaml")
    sub.set_defaults(run=_preview)

    sub = commands.add_parser(
        "make-fixture",
        help="write tiny synthetic data in a data set's real layout",
        description="Write tiny synthetic data in the exact layout of a real data set: to try a configuration without "
        "the data, to see what a layout looks like, for tests.",
    )
    sub.add_argument("name", choices=tuple(FIXTURES), metavar="NAME", help=", ".join(FIXTURES))
    sub.add_argument("root", type=expanded, help="new or empty folder, the dataset.root of a training")
    layouts = "; ".join(f"{name}: {', '.join(entry[1])}" for name, entry in FIXTURES.items() if len(entry[1]) > 1)
    sub.add_argument("--layout", help=f"where the data set has several, the usual one first ({layouts})")
    sub.add_argument("--samples", type=positive, default=4, help="per split (default: 4)")
    sub.add_argument("--size", type=_size, default=(96, 128), metavar="HxW", help="of the pictures (default: 96x128)")
    sub.add_argument("--seed", type=partial(positive, least=0), default=0, help="of their content (default: 0)")
    sub.set_defaults(run=_make_fixture)
    return parser


def positive(text: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH such as 480x640")
    return int(match[1]), int(match[2])


def _camera(text: str, size: tuple[int, int] | None) -> Camera:
    if text.lower() == "nyu":
        if size is not None:
            raise ConfigError("--camera-size belongs to --camera FX,FY,CX,CY: the NYU camera has its own size")
        return NYU_CAMERA
    try:
        fx, fy, cx, cy = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--camera {text!r}: expected nyu or four numbers FX,FY,CX,CY") from None
    return Camera(fx, fy, cx, cy, size)


def _hha(arguments: argparse.Namespace) -> int:
    camera = _camera(arguments.camera, arguments.camera_size)
    if arguments.scale_camera and camera.size is None:
        raise ConfigError("--scale-camera needs --camera-size HxW, the size that FX,FY,CX,CY hold for")
    jobs = plan_hha(
        arguments.source,
        arguments.target,
        unit_m=parse_unit(arguments.unit),
        camera=camera,
        raw=arguments.raw,
        scale_camera=arguments.scale_camera,
    )
    make_folder(arguments.target)
    work = partial(convert_hha, overwrite=arguments.overwrite)
    return print_outcomes(watch(parallel(work, jobs, arguments.workers), len(jobs), "HHA"), str(arguments.target))


def _new(arguments: argparse.Namespace) -> int:
    from ktb.config.compose import groups
    from ktb.data.tools.new.output import new_file, show, write_yaml
    from ktb.data.tools.new.survey import survey

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
    path = write_yaml(found, name, arguments.config_dir)
    show(found, Console())
    print(path)
    # The same way as ktb-train: what is wrong with the guess shows now.
    data = _data([f"dataset={name}"], arguments.config_dir)
    for split in data.spec.splits:
        dataset = data.dataset(split, train=split == "train")
        print(f"{split}: {len(dataset)} samples, one read: {dataset[0]['id']}")
    options = f"--config-dir {shlex.quote(str(arguments.config_dir))} dataset={name}"
    for command in ("ktb-data check", "ktb-data preview", "ktb-train"):
        print(f"next: {command} {options}")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from ktb.data.tools import prepare

    planned = prepare.plan(arguments.name, arguments.source, arguments.target)
    work = partial(prepare.convert, overwrite=arguments.overwrite)
    outcomes = watch(parallel(work, planned.jobs, arguments.workers), len(planned.jobs), arguments.name)
    for note in planned.notes:
        print(note, file=sys.stderr)
    code = print_outcomes(outcomes, str(arguments.target))
    if code:
        print(f"{arguments.target}: the split lists are written when all samples are there", file=sys.stderr)
        return code
    prepare.finish(planned, arguments.target)
    for step in prepare.next_steps(arguments.name, arguments.target):
        print(f"next: {step}")
    return code


def _check(arguments: argparse.Namespace) -> int:
    # PyTorch and Hydra take seconds to import, which the other commands do without.
    from ktb.data.tools.check.look import look
    from ktb.data.tools.check.plan import plan
    from ktb.data.tools.check.report import show, write_report
    from ktb.data.tools.check.summary import summarise

    data = _data(arguments.overrides, arguments.config_dir)
    planned = plan(data)
    if arguments.out is not None:
        make_folder(arguments.out)
    outcomes = watch(parallel(look, planned.looks, arguments.workers), len(planned.looks), data.spec.name)
    report = summarise(data, planned, outcomes)
    show(report, Console())
    if arguments.out is not None:
        try:
            write_report(report, arguments.out)
        except OSError as error:
            raise DataError(f"{arguments.out}: the report cannot be written ({error.strerror})") from None
        print(f"{arguments.out / 'report.html'}")
    samples, failed = sum(planned.counts.values()), len(report["failures"])
    print(f"{data.spec.name}: {samples} samples, {failed} failures, {len(report['findings'])} findings")
    return FAILED_FILES if failed else 0


def _preview(arguments: argparse.Namespace) -> int:
    from ktb.data.tools.preview import contact_sheet, draw_samples, write_sheet

    data = _data(arguments.overrides, arguments.config_dir)
    for split in arguments.split or data.spec.splits:
        with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
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
    from ktb.config.checks import check
    from ktb.config.compose import compose
    from ktb.config.mistakes import mistake
    from ktb.config.overrides import at_home, quoted_paths
    from ktb.jobs import train as run

    extra = config_dirs(config_dir)
    overrides = quoted_paths(at_home(overrides))
    if text := mistake("train", overrides, extra):
        raise ConfigError(text)
    cfg = compose("train", overrides, extra)
    check(cfg)
    return run.build_data(cfg)


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be made a folder for the results ({error.strerror})") from None


def _make_fixture(arguments: argparse.Namespace) -> int:
    splits = FIXTURES[arguments.name][2]
    root = make_fixture(
        arguments.name,
        arguments.root,
        layout=arguments.layout,
        counts=dict.fromkeys(splits, arguments.samples),
        size=arguments.size,
        seed=arguments.seed,
    )
    print(f"{root}: {arguments.samples} samples in each of {', '.join(splits)}")
    return 0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


_COLUMNS = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())


def watch(outcomes: Iterable[Outcome], total: int, title: str) -> list[Outcome]:
    seen = []
    failed = 0
    with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        for outcome in outcomes:
            seen.append(outcome)
            failed += outcome.state == "failed"
            progress.update(task, advance=1, description=f"{title} ({failed} failed)" if failed else title)
    return seen


def print_outcomes(outcomes: Sequence[Outcome], where: str) -> int:
    """Everything odd, one line each, then the sum; the exit code."""
    for outcome in sorted(outcomes, key=lambda o: str(o.path)):
        if outcome.message:
            print(f"{outcome.state}: {outcome.message}", file=sys.stderr)
    count = Counter(outcome.state for outcome in outcomes)
    print(f"{where}: {count['written']} written, {count['kept']} kept, {count['failed']} failed")
    return FAILED_FILES if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""The subcommands of `ktb-data` that write data: hha, prepare, make-fixture."""

from __future__ import annotations

import argparse
import sys
from functools import partial

from ktb.cli.arguments import Subparsers, home, named_path, positive, size
from ktb.cli.progress import make_folder, print_outcomes, watch
from ktb.data.tools.fixtures import FIXTURES, make_fixture
from ktb.data.tools.hha import NYU_CAMERA, Camera
from ktb.data.tools.hha_files import convert_hha, parse_unit, plan_hha
from ktb.data.tools.parallel import parallel
from ktb.data.tools.prepare.conversion import convert, finish
from ktb.data.tools.prepare.download import next_steps, plan_download
from ktb.errors import ConfigError


def add_hha(commands: Subparsers) -> None:
    """Add `hha` to the command's parser."""
    sub = commands.add_parser(
        "hha",
        help="encode depth maps as HHA",
        description="Encode depth maps as HHA (disparity, height, angle with gravity), one PNG per map, RGB order. "
        "Finished results whose input and settings are unchanged are kept, so a stopped call goes on where it stopped.",
    )
    sub.add_argument(
        "source", type=home, help="folder of .png/.npy/.tif depth maps (with subfolders), or a quoted glob pattern"
    )
    sub.add_argument("target", type=named_path, help="folder for the results, laid out as the source")
    sub.add_argument("--unit", required=True, help="of the stored values: m, cm, mm, 0.1mm, or metres such as 0.0001")
    sub.add_argument("--raw", type=named_path, help="folder of the sensor's own maps when SOURCE has its holes filled")
    sub.add_argument(
        "--camera",
        default="nyu",
        help='"nyu" (default) or FX,FY,CX,CY in pixels, the top left pixel being (1, 1)',
    )
    sub.add_argument("--camera-size", type=size, metavar="HxW", help="image size that FX,FY,CX,CY hold for")
    sub.add_argument("--scale-camera", action="store_true", help="maps of another size are the whole image resized")
    sub.add_argument("--overwrite", action="store_true", help="make every result again")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_hha)


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


def add_prepare(commands: Subparsers) -> None:
    """Add `prepare` to the command's parser."""
    sub = commands.add_parser(
        "prepare",
        help="convert a downloaded data set into the layout that is read",
        description="Convert a download into the layout that ktb reads: nyu (nyu_depth_v2_labeled.mat, splits.mat, "
        "classMapping40.mat), sunrgbd (unpacked SUNRGBD and SUNRGBDtoolbox), mfnet (RGBA pictures). Finished files are "
        "kept, so a stopped call goes on where it stopped; the split lists are written last.",
    )
    sub.add_argument("name", help="nyu, sunrgbd or mfnet")
    sub.add_argument("source", type=named_path, help="folder with the downloaded files")
    sub.add_argument("target", type=named_path, help="new folder, the dataset.root of a training")
    sub.add_argument("--overwrite", action="store_true", help="make every file again")
    sub.add_argument("--workers", type=positive, help="processes (default: one per core)")
    sub.set_defaults(run=_prepare)


def _prepare(arguments: argparse.Namespace) -> int:
    planned = plan_download(arguments.name, arguments.source, arguments.target)
    work = partial(convert, overwrite=arguments.overwrite)
    outcomes = watch(parallel(work, planned.jobs, arguments.workers), len(planned.jobs), arguments.name)
    for note in planned.notes:
        print(note, file=sys.stderr)
    code = print_outcomes(outcomes, str(arguments.target))
    if code:
        print(f"{arguments.target}: the split lists are written when all samples are there", file=sys.stderr)
        return code
    finish(planned, arguments.target)
    for step in next_steps(arguments.name, arguments.target):
        print(f"next: {step}")
    return code


def add_fixture(commands: Subparsers) -> None:
    """Add `make-fixture` to the command's parser."""
    sub = commands.add_parser(
        "make-fixture",
        help="write tiny synthetic data in a data set's real layout",
        description="Write tiny synthetic data in the exact layout of a real data set: to try a configuration without "
        "the data, to see what a layout looks like, for tests.",
    )
    sub.add_argument("name", choices=tuple(FIXTURES), metavar="NAME", help=", ".join(FIXTURES))
    sub.add_argument("root", type=named_path, help="new or empty folder, the dataset.root of a training")
    layouts = "; ".join(f"{name}: {', '.join(entry[1])}" for name, entry in FIXTURES.items() if len(entry[1]) > 1)
    sub.add_argument("--layout", help=f"where the data set has several, the usual one first ({layouts})")
    sub.add_argument("--samples", type=positive, default=4, help="per split (default: 4)")
    sub.add_argument("--size", type=size, default=(96, 128), metavar="HxW", help="of the pictures (default: 96x128)")
    sub.add_argument("--seed", type=partial(positive, least=0), default=0, help="of their content (default: 0)")
    sub.set_defaults(run=_make_fixture)


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

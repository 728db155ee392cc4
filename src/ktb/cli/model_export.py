"""`ktb-model export`: a model as one file that runs without ktb."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from ktb.cli.arguments import HelpFormatter, Subparsers, config_dirs, named_path, picture_size, positive
from ktb.cli.model_source import SOURCE, add_source_options, open_source, trusted
from ktb.cli.progress import watched
from ktb.errors import ConfigError

if TYPE_CHECKING:
    from ktb.data.module import RGBXDataModule
    from ktb.export.sensors import Wish
    from ktb.models.segmentor import KTBSegmentor


def add_export(commands: Subparsers) -> None:
    """Add `export` to the command's parser."""
    sub = commands.add_parser(
        "export",
        usage="ktb-model export SOURCE OUT --size HxW [options] [key=value ...]",
        help="ONNX or torch.export, compared with the model; from sensor to class ids; int8",
        description="Write one file that runs without ktb. It is compared with the model on random inputs of three "
        "sizes (three draws of a fixed size) and not written when logits differ by more than 1e-4. With --raw it takes "
        "what sensors give and answers with class ids; --int8 makes it half as large or less. key=value are settings "
        "of ktb-eval that say how frames are read and where the data set lies, for --raw and --int8: dataset=nyu of a "
        "published file, dataset.root=DIR.",
        epilog="Example: ktb-model export runs/mine mine.onnx --size 480x640 --raw --int8 dataset.root=/data/mine",
        formatter_class=HelpFormatter,
    )
    sub.add_argument("source", metavar="SOURCE", help=SOURCE)
    sub.add_argument("output", type=named_path, metavar="OUT", help="a file called .onnx (ONNX) or .pt2 (torch.export)")
    sub.add_argument(
        "--size", type=picture_size, required=True, metavar="HxW", help="image size; with --raw that of the frames"
    )
    sub.add_argument(
        "--dynamic", action="store_true", help="any height and width that are multiples of 32, from 64 to 4096"
    )
    sub.add_argument(
        "--raw",
        action="store_true",
        help="units, holes, resizing, normalisation and the choice of the likeliest class are in the file: it takes "
        "uint8, uint16 or float32 frames and answers with class ids, those of ktb.Predictor",
    )
    sub.add_argument(
        "--sensor",
        type=_sensor,
        action="append",
        default=[],
        metavar="NAME=TYPE|HxW",
        help="of --raw, where a sensor's frames have another type (uint8, uint16, float32) than the first that the "
        "data set takes, or another size than the rest; may be given repeatedly",
    )
    sub.add_argument(
        "--int8",
        action="store_true",
        help="8-bit weights and activations, calibrated on training frames; mIoU before and after on the split that is "
        "reported on, and nothing written when it drops by more than --max-drop",
    )
    sub.add_argument(
        "--max-drop", type=_points, default=1.0, metavar="POINTS", help="of mIoU, in percent points (default: 1.0)"
    )
    sub.add_argument(
        "--calibrate", type=positive, default=64, metavar="N", help="training frames, evenly spread (default: 64)"
    )
    sub.add_argument(
        "--score-on", type=positive, metavar="N", help="frames that mIoU is taken from, evenly spread (default: all)"
    )
    sub.add_argument("--config-dir", type=named_path, help="your own configurations, as DIR/dataset/mine.yaml")
    add_source_options(sub)
    sub.set_defaults(run=_export, settings=[])


def _sensor(text: str) -> tuple[str, str]:
    from ktb.export.sensors import StoredType

    name, equals, value = text.partition("=")
    if not name or not equals or value not in get_args(StoredType):
        try:
            picture_size(value)
        except argparse.ArgumentTypeError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME={'|'.join(get_args(StoredType))} or NAME=HEIGHTxWIDTH, such as depth=uint16"
            ) from None
    return name, value


def _points(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of points from 0 to 100")
    return value


def _export(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    for option, given, needs in (
        ("--sensor", arguments.sensor, "--raw"),
        ("--calibrate", arguments.calibrate != 64, "--int8"),
        ("--score-on", arguments.score_on, "--int8"),
        ("--max-drop", arguments.max_drop != 1.0, "--int8"),
        ("key=value", arguments.settings, "--raw or --int8"),
    ):
        if given and not any(getattr(arguments, name[2:]) for name in needs.split(" or ")):
            raise ConfigError(f"{option} is of {needs}, which was not asked for")
    if arguments.raw and arguments.dynamic:
        raise ConfigError(
            "--raw --dynamic: a file that prepares its frames itself takes frames of one size; export one file per size"
        )
    if arguments.int8 and output.suffix != ".onnx":
        raise ConfigError(f"{output}: --int8 makes a file called .onnx")
    if not (arguments.raw or arguments.int8):
        from ktb.jobs.saved_model import state_preparation

        source = open_source(arguments, arguments.source)
        state_preparation(source.model, source.file, trusted(arguments))
        _write(arguments, source.model, None, output)
        return
    from ktb.export.file import require_onnx
    from ktb.jobs.device_files import open_with_data

    if arguments.modalities:
        raise ConfigError("--modalities: with --raw and --int8 the data set says them: dataset=NAME modality=NAME")
    data, model = open_with_data(
        arguments.source,
        arguments.settings,
        config_dirs(arguments.config_dir),
        base=arguments.base,
        trust=trusted(arguments).modules,
    )
    if not arguments.int8:
        _write(arguments, model, data, output)
        return
    require_onnx()
    for split in (data.spec.report_split, "train"):
        data.dataset(split)  # a data set that is not there is better known before the tracing than after
    with tempfile.TemporaryDirectory(prefix="ktb-export-") as folder:
        exact = Path(folder) / output.name
        _write(arguments, model, data, exact)
        _quantise(arguments, data, exact, output)


def _write(arguments: argparse.Namespace, model: KTBSegmentor, data: RGBXDataModule | None, file: Path) -> None:
    """Write a float32 file and say how it compares."""
    from ktb.export.file import SHARE, STEP, TOLERANCE, export
    from ktb.jobs.device_files import COMPARED, write_raw

    with Console(stderr=True).status("tracing and comparing; a dynamic size takes minutes"):
        if arguments.raw:
            assert data is not None
            raw, share = write_raw(model, data, file, arguments.size, _wishes(arguments.sensor))
        else:
            compared = export(model, file, arguments.size, dynamic=arguments.dynamic)
    h, w = arguments.size
    size = f"any height and width that are multiples of {STEP}" if arguments.dynamic else f"{h}x{w} only"
    print(f"{arguments.output}: float32, {file.stat().st_size / 1e6:.1f} MB, {size}")
    if arguments.raw:
        inputs = ", ".join(f"{name} {s.type} {s.shape}" for name, s in raw.sensors.items())
        print(f"inputs {inputs}, as the sensors give them; output mask {raw.size}, class ids")
        print(f"class ids of {COMPARED} random frames: {share:.4%} of the pixels are not ktb's (allowed {SHARE:.1%})")
        return
    inputs = ", ".join(model.modalities)
    print(f"inputs {inputs}: (1, C, H, W) float32, prepared as its metadata says; output logits (1, K, H, W)")
    worst = ", ".join(f"{difference:.1e} at {where}" for where, difference in compared)
    print(f"largest difference of logits from the model's: {worst} (allowed {TOLERANCE:.0e})")


def _wishes(given: list[tuple[str, str]]) -> dict[str, Wish]:
    from ktb.export.sensors import StoredType, Wish

    wishes: dict[str, Wish] = {}
    for name, value in given:
        before = wishes.get(name, Wish())
        if value in get_args(StoredType):
            wishes[name] = Wish(value, before.size)  # type: ignore[arg-type]
        else:
            wishes[name] = Wish(before.type, picture_size(value))
    return wishes


def _quantise(arguments: argparse.Namespace, data: RGBXDataModule, exact: Path, output: Path) -> None:
    from ktb.jobs.device_files import left_out, write_int8

    found = write_int8(
        exact,
        output,
        data,
        calibrate=arguments.calibrate,
        most=arguments.score_on,
        max_drop=arguments.max_drop,
        watch=watched,
    )
    size = output.stat().st_size
    print(
        f"{output}: int8, {size / 1e6:.1f} MB, {size / found.bytes_before:.0%} of float32; {found.operations} "
        f"operations with 8-bit weights and activations, calibrated on {found.calibrated} training frames"
        f"{left_out(found.other_size)}"
    )
    before, after = found.before, found.after
    print(
        f"mIoU on {data.spec.report_split} ({before.frames} frames{left_out(before.other_size)}): {before.miou:.2f} "
        f"with float32, {after.miou:.2f} with int8 ({after.miou - before.miou:+.2f}; a loss of "
        f"{arguments.max_drop:g} is allowed)"
    )

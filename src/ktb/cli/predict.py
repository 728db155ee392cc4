"""The `ktb-predict` command: masks for the user's own pictures. Arguments in, exit code out; the work is in
`ktb.predict`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ktb.cli.arguments import HelpFormatter, add_trust, config_dirs, home, named_path, positive
from ktb.cli.run_command import run_command
from ktb.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from ktb.data.label_size import LabelSizes
    from ktb.data.module import RGBXDataModule
    from ktb.data.tools.parallel import Outcome
    from ktb.models.segmentor import KTBSegmentor
    from ktb.predict.pairing import PictureFiles


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ktb-predict`; the exit code: 0 done, 1 some pictures failed, 2 the call was wrong, 130 interrupted."""
    arguments: argparse.Namespace | None = None

    def work() -> int:
        nonlocal arguments
        parser = _parser()
        arguments = parser.parse_intermixed_args(_with_modalities(parser, sys.argv[1:] if argv is None else argv))
        return _predict(arguments)

    def stopped(word: str) -> str:
        kept = f"; finished pictures are in {arguments.out}, the same call goes on from there" if arguments else ""
        return word + kept

    return run_command("ktb-predict", work, stopped=stopped)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ktb-predict",
        usage="ktb-predict CHECKPOINT --rgb PATH --depth PATH --out DIR [options] [key=value ...]",
        description="Segment your own pictures. PATH is a file, a folder (searched with its subfolders; files belong "
        "together by their paths below it) or a quoted pattern such as 'rgb/*.png'. Files are read as those of the "
        "data set that the model was trained on: formats, units and treatment of holes are its own. Finished "
        "pictures are kept, so a stopped call goes on where it stopped.",
        epilog="Example: ktb-predict runs/mine --rgb frames/rgb --depth frames/depth --out masks",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="run folder, .ckpt, bundle, published .pth (dataset=...), zoo:NAME"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="settings of ktb-eval that decide how files are read: dataset=nyu for a published checkpoint, "
        "dataset.depth_source=depth, modality=rgb_t, backbone.weights=FILE",
    )
    group = parser.add_argument_group("input")
    group.add_argument(
        "--MODALITY",
        dest="input",
        action="append",
        default=[],
        metavar="PATH",
        help="one option per modality of the model: --rgb, --depth, --thermal, ...; more than once where it is stored "
        "in several files; one left out counts as missing, and the model answers from the others",
    )
    group.add_argument("--input", dest="input", action="append", metavar="MODALITY=PATH", help="the same")
    group.add_argument("--csv", type=named_path, metavar="FILE", help="instead: a table with one column per modality")
    group.add_argument(
        "--max-gap",
        type=_seconds,
        metavar="SECONDS",
        help="pair files by the times in their names (or PATH is a list of times and files, as of TUM RGB-D), each "
        "with the nearest at most this far away; none: by name (default: as in training)",
    )
    group.add_argument("--allow-missing", action="store_true", help="also pictures for which a modality has no file")
    group.add_argument(
        "--force",
        action="store_true",
        help="also pictures whose values are far outside of what the model was trained on (another unit or bit depth)",
    )
    group.add_argument(
        "--max-pixels", type=positive, metavar="N", help="refuse larger pictures (default: 67108864, or as in training)"
    )
    group = parser.add_argument_group("output")
    group.add_argument("--out", type=named_path, required=True, metavar="DIR", help="folder for the results")
    group.add_argument(
        "--write",
        type=lambda text: tuple(name.strip() for name in text.split(",") if name.strip() != "none"),
        default=("colour", "overlay"),
        metavar="LIST",
        help="beside index (class ids): some of colour, overlay, confidence, probabilities, with commas, or none "
        "(default: colour,overlay)",
    )
    group.add_argument("--legend", action="store_true", help="name the classes below each overlay")
    group.add_argument("--overwrite", action="store_true", help="make every result of ktb-predict again")
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--short-side",
        type=_short_side,
        metavar="N",
        help="resize to this short side for the model, or native (default: as in the evaluation of its data set); "
        "results have the picture's own size in any case",
    )
    group.add_argument(
        "--tile", type=positive, default=768, metavar="N", help="cut into tiles above 2·N·N pixels (default: 768)"
    )
    group.add_argument("--overlap", type=_share, default=0.25, help="of neighbouring tiles (default: 0.25)")
    group.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: cuda where there is one)")
    group.add_argument("--config-dir", type=named_path, help="your own configurations, as DIR/dataset/mine.yaml")
    add_trust(group)
    return parser


def _with_modalities(parser: argparse.ArgumentParser, argv: Sequence[str]) -> list[str]:
    """`--depth PATH` → `--input=depth=PATH`; which modalities there are, only the checkpoint knows."""
    known = parser._option_string_actions  # argparse does not tell its options in a public way
    result: list[str] = []
    rest = iter(argv)
    for text in rest:
        name, equals, value = text.partition("=")
        if not name.startswith("--") or name in known:
            result.append(text)
            continue
        if not equals:
            value = next(rest, "")
        if not value or value.startswith("--"):
            parser.error(f"{name}: expected a file, a folder or a pattern after it")
        result.append(f"--input={name[2:]}={value}")
    return result


def _short_side(text: str) -> int:
    """0 stands for native."""
    if text == "native":
        return 0
    if not text.isdecimal() or int(text) < 32:
        raise argparse.ArgumentTypeError(f"{text!r} is neither native nor a number of pixels of at least 32")
    return int(text)


def _seconds(text: str) -> float:
    """Not a number stands for none."""
    if text == "none":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is neither none nor a number of seconds, such as 0.02")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.9:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 0.9")
    return value


def _predict(arguments: argparse.Namespace) -> int:
    from ktb.cli.progress import print_outcomes, watch
    from ktb.data.magnitudes import known
    from ktb.predict.folder import FolderPredictor, claimed, predict_folder
    from ktb.predict.outputs import Outputs
    from ktb.predict.pairing import plan_csv
    from ktb.predict.reading import PictureReader
    from ktb.predict.tiled_model import TiledModel, device_called

    sources = _sources(arguments)
    device = device_called(arguments.device, f"--device {arguments.device}")
    file, settings, data, model = _open(arguments)
    names = [m.name for m in data.modalities]
    for name in sources:
        if name not in names:
            raise ConfigError(
                f"--{name} is no option and no modality of {file}, which has {', '.join(names)}"
                + did_you_mean(name, names)
            )
    if arguments.csv is not None:
        pictures, failures, given = plan_csv(arguments.csv, names, allow_missing=arguments.allow_missing)
    else:
        pictures, failures = _planned(arguments, sources, data)
        given = list(sources)
    tiled = TiledModel(
        model.to(device).eval(),
        data,
        short_side=data.short_side if arguments.short_side is None else arguments.short_side or None,
        tile=arguments.tile,
        overlap=arguments.overlap,
        device=device,
    )
    reader = PictureReader(
        tiled,
        training={} if arguments.force else known(model.about.get("values")),
        max_pixels=arguments.max_pixels,
        label_sizes=_label_sizes(arguments, file, data, model, given[0]),
    )
    work = FolderPredictor(reader, Outputs(arguments.out, data.spec, arguments.write, arguments.legend), settings)
    print(f"{file}: {' + '.join(names)}, {data.spec.num_classes} classes of {data.spec.name}, on {device}")
    for name in names:
        if name not in given:
            rest = " + ".join(other for other in names if other in given)
            print(f"{name} is not given: the model answers from {rest} alone, which is less reliable")
    partial = sum(len(picture.files) < len(given) for picture in pictures)
    if partial:
        print(f"{partial} of {len(pictures)} pictures lack a modality: the model answers from the rest")
    with claimed(arguments.out, work.manifest(file)):
        outcomes = watch(predict_folder(work, pictures, overwrite=arguments.overwrite), len(pictures), "predict")
    return print_outcomes([*failures, *outcomes], str(arguments.out))


def _sources(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Modality → what was given for it; empty with --csv."""
    sources: dict[str, list[str]] = {}
    for text in arguments.input:
        name, equals, path = text.partition("=")
        if not equals:
            raise ConfigError(f"--input {text}: expected MODALITY=PATH")
        if not path.strip():
            raise ConfigError(f"--{name} {path!r} names nothing; is a variable of the shell not set?")
        sources.setdefault(name, []).append(home(path))
    if bool(sources) == (arguments.csv is not None):
        raise ConfigError("give the pictures either as --rgb PATH, --depth PATH, ... or as --csv FILE")
    return sources


def _planned(
    arguments: argparse.Namespace, sources: dict[str, list[str]], data: RGBXDataModule
) -> tuple[list[PictureFiles], list[Outcome]]:
    """Which files belong together: by time where the training paired so or the user says so, else by name."""
    from ktb.data.sets.folder import FolderDataModule
    from ktb.data.sets.folder_pairing import LISTS
    from ktb.predict.pairing import plan
    from ktb.predict.pairing_by_time import plan_by_time

    trained = data if isinstance(data, FolderDataModule) else None
    max_gap = arguments.max_gap
    if max_gap is None and trained is not None:
        max_gap = trained.max_gap
    several = sum(map(len, sources.values())) > 1
    one_file_each = all(Path(source).is_file() and not source.endswith(LISTS) for s in sources.values() for source in s)
    if max_gap is None or math.isnan(max_gap) or not several or (arguments.max_gap is None and one_file_each):
        return plan(sources, arguments.out, allow_missing=arguments.allow_missing)
    pictures, failures, note = plan_by_time(
        sources,
        arguments.out,
        max_gap=max_gap,
        time_unit=None if trained is None else trained.time_unit,
        allow_missing=arguments.allow_missing,
    )
    print(note)
    return pictures, failures


def _label_sizes(
    arguments: argparse.Namespace, file: Path, data: RGBXDataModule, model: KTBSegmentor, first: str
) -> LabelSizes:
    """How large labels were in training, where it resized pictures to them and the user says nothing else.

    Says so where the checkpoint, of an earlier version, does not know it. first: the first modality that is given.
    """
    from ktb.data.label_size import LabelSizes, known, resized_to_label

    names = resized_to_label(data)
    if arguments.short_side is not None or not names:
        return LabelSizes()
    sizes = known(model.about.get("label_size"))
    if not sizes and first in names:
        print(
            f"{file}: does not say how large the labels were to which its training resized the pictures; they are "
            "taken at their own size: --short-side N sets another, training again writes it down"
        )
    return sizes


def _open(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any], RGBXDataModule, KTBSegmentor]:
    """The checkpoint's file, the configuration of its data set, its data and its model, as ktb-eval would have them."""
    from ktb.config.trust import Trust
    from ktb.jobs.saved_model import open_for_pictures

    trusted = Trust.of(arguments.trust, spelling="flag").modules
    given = [*arguments.overrides, *([f"trust=[{','.join(trusted)}]"] if trusted else [])]
    return open_for_pictures(arguments.checkpoint, given, config_dirs(arguments.config_dir), spelling="flag")


if __name__ == "__main__":
    sys.exit(main())

"""A whole data set looked at before it is trained on: every sample of every split read the way training reads it.

`plan` opens the splits, `look` reads one sample (many at once with `ktb.data.tools.parallel`), `summarise` puts
what was seen into one plain dictionary, which `show` prints and `write_report` writes as JSON and HTML.
"""

from __future__ import annotations

import copy
import hashlib
import html
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group, RenderableType
from rich.markup import escape as plain
from rich.table import Table

from ktb.data.module import RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader
from ktb.data.resizing import aspect_difference
from ktb.data.samples import FileSamples, Samples
from ktb.data.spec import ignore_index
from ktb.data.tools.parallel import Outcome
from ktb.errors import DataError
from ktb.io import atomic_file, entries

__all__ = ["Look", "Plan", "Seen", "look", "plan", "show", "summarise", "write_report"]

Report = dict[str, Any]

SMALLEST = 32
"""Pixels that each side of the network's input must have."""
PLAUSIBLE = (0.25, 5.0)
"""Largest absolute value of a split after scaling: the network expects 0 to 1; polarisation reaches 2.7, 14 bits of 16
no more than a quarter."""
FAR_FROM_OTHERS = 8.0
"""A picture whose largest value is so many times that of most others, or so small a part of it: 12 bits among 16."""

SHOWN = 20
"""Failures and findings printed in the terminal; the report files have all of them."""


@dataclass(frozen=True)
class Look:
    """One sample to read: `index` of `samples`, with the modalities `streams`; `num_classes` its label may have;
    `max_pixels` a picture."""

    split: str
    name: str
    samples: Samples
    index: int
    streams: tuple[str, ...]
    num_classes: int
    max_pixels: int


@dataclass(frozen=True)
class Values:
    """What one modality of one sample holds: values as read, before rounding to 8 bits, over all channels.

    size: (height, width) of its file. measured: share of valid pixels.
    """

    dtype: str
    channels: int
    size: tuple[int, int]
    low: float
    high: float
    mean: float
    measured: float


@dataclass(frozen=True)
class Seen(Outcome):
    """What became of one `Look`.

    size: (height, width) of the label. inputs: that of the images. histogram: (K + 1,) pixels per class id, then void.
    digest: of all values read, equal for samples of equal content. labelled: whether it has a label. label: how its
    file was taken, in words; empty where there is none. failures: one line per unusable file. converted: file → what
    was done to it because it is no plain RGB picture.
    """

    split: str = ""
    size: tuple[int, int] = (0, 0)
    inputs: tuple[int, int] = (0, 0)
    values: dict[str, Values] = field(default_factory=dict)
    histogram: NDArray[np.int64] | None = None
    condition: dict[str, str] = field(default_factory=dict)
    digest: str = ""
    labelled: bool = True
    label: str = ""
    failures: tuple[str, ...] = ()
    converted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """looks: every sample of every split that could be opened. counts: split → its number of samples. unopened:
    split → why it could not be opened. findings: oddities known without opening a file."""

    looks: list[Look]
    counts: dict[str, int]
    unopened: dict[str, str]
    findings: list[str]


def plan(data: RGBXDataModule) -> Plan:
    """Open all splits.

    Raises:
        DataError: none of them can be opened; what is wrong with the first one.
    """
    streams = tuple(m.name for m in data.modalities)
    looks: list[Look] = []
    counts: dict[str, int] = {}
    unopened: dict[str, str] = {}
    opened: dict[str, FileSamples] = {}
    for split in data.spec.splits:
        try:
            samples = data.open_split(split)
        except DataError as error:
            unopened[split] = str(error)
            continue
        counts[split] = len(samples)
        if isinstance(samples, FileSamples):
            opened[split] = samples
        for index in range(len(samples)):
            name, single = f"sample {index} of {split}", samples
            if isinstance(samples, FileSamples):
                # A job travels to a worker: with its own entry, not with those of the whole split.
                name, single = samples.entries[index].id, copy.copy(samples)
                single.entries = [samples.entries[index]]
            looks.append(
                Look(
                    split,
                    name,
                    single,
                    0 if single is not samples else index,
                    streams,
                    data.spec.num_classes,
                    data.max_pixels,
                )
            )
    if not counts:
        raise DataError(next(iter(unopened.values())))
    notes = [f"{split}: {note}" for split, samples in opened.items() for note in samples.notes]
    findings = [*notes, *_duplicates(opened), *([] if unopened else _unnamed(opened, streams))]
    return Plan(looks, counts, unopened, findings)


def _batching(data: RGBXDataModule, split: str, count: int, seen: Sequence[Seen]) -> list[str]:
    """What would stop the loaders although each sample by itself can be read: sizes that make no batch, too few."""
    stops = []
    names: dict[tuple[int, int], Path] = {}  # size of the images → the first sample of it
    for s in seen:
        names.setdefault(s.inputs, s.path)
    if split == "train":
        if text := data.too_few(count):
            stops.append(text)
        if data.crop is None and data.batch_size > 1 and len(names) > 1:
            (a, first), (b, other) = list(names.items())[:2]
            stops.append(
                f"{data.spec.name}: train: {other} is {b[0]}x{b[1]} (height x width) but {first} is {a[0]}x{a[1]}, and "
                "a batch needs one size; set dataset.crop=[height,width] or dataset.batch_size=1"
            )
    if split in (data.spec.selection_split, data.spec.report_split):
        sizes = {(s.inputs, s.size): _evaluated(data, s.inputs, s.size) for s in seen}
        step = data.eval_batch_size
        for batch in (seen[i : i + step] for i in range(0, len(seen), step)):
            like = batch[0]
            odd = next((s for s in batch if sizes[s.inputs, s.size] != sizes[like.inputs, like.size]), None)
            if odd is not None:
                a, b = (odd.inputs, like.inputs) if odd.inputs != like.inputs else (odd.size, like.size)
                what, that = ("", "") if odd.inputs != like.inputs else ("the label of ", "that of ")
                stops.append(
                    f"{data.spec.name}: {split}: {what}{odd.path} is {a[0]}x{a[1]} (height x width) but "
                    f"{that}{like.path}, in the same batch, is {b[0]}x{b[1]}; set dataset.eval_batch_size=1"
                )
                break
    inputs = {size: (data.crop or size) if split == "train" else _evaluated(data, size, size)[0] for size in names}
    small = [f"{names[size]} is {h}x{w}" for size, (h, w) in inputs.items() if min(h, w) < SMALLEST]
    if small:
        stops.append(
            f"{data.spec.name}: {split}: the network's input from {small[0]} (height x width); expected {SMALLEST} or "
            "more on both sides: set dataset.eval_size and dataset.crop"
        )
    return stops


def _evaluated(
    data: RGBXDataModule, inputs: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of network input and label in evaluation, of a sample with images and a label of these sizes."""
    images, label = data.eval_transform()({"x": np.zeros((*inputs, 1), np.uint8)}, np.zeros(size, np.uint8), entropy=())
    return (images["x"].shape[0], images["x"].shape[1]), (label.shape[0], label.shape[1])


def _oddities(data: RGBXDataModule, split: str, seen: Sequence[Seen]) -> list[str]:
    """What a training takes but its owner should know."""
    found = []
    empty = [str(s.path) for s in seen if s.labelled and s.histogram is not None and not s.histogram[:-1].any()]
    if empty:
        found.append(f"{split}: {len(empty)} labels are void altogether (first: {empty[0]})")
    for name, what, differing in _unlike(seen):
        found.append(
            f"{split}: {name} is {what} in {differing} samples: another aspect ratio than that of its sample, so the "
            "resized pictures don't quite fit each other"
        )
    for m in data.modalities:
        flat = [str(s.path) for s in seen if s.values[m.name].low == s.values[m.name].high]
        if flat:
            found.append(f"{split}: {m.name} has one value only in {len(flat)} samples (first: {flat[0]})")
        extreme = max((max(abs(s.values[m.name].low), abs(s.values[m.name].high)) for s in seen), default=0.0) / m.scale
        if seen and not PLAUSIBLE[0] < extreme <= PLAUSIBLE[1]:
            # What is rounded to 8 bits has been divided by the scale that is set already.
            of = "" if m.name == "rgb" else f" of {m.scale:g}"
            found.append(
                f"{split}: {m.name} reaches {extreme:.3g} times its scale{of}; about 1 is expected: another "
                "unit or bit depth? correct the modality's scale or hole value"
            )
        found += _unlike_others(split, m.name, seen)
    converted = [f"{file}: {done}" for s in seen for file, done in s.converted.items()]
    if converted:
        found.append(f"{split}: {len(converted)} pictures are no plain RGB (first: {converted[0]})")
    return found


def _unlike_others(split: str, name: str, seen: Sequence[Seen]) -> list[str]:
    """Samples whose values are of another order than those of most others, such as one picture in another bit depth."""
    largest = {s.path: max(abs(s.values[name].low), abs(s.values[name].high)) for s in seen}
    usual = float(np.median(list(largest.values()))) if largest else 0.0
    found = []
    for odd, what in (
        ([p for p, v in largest.items() if 0 < v * FAR_FROM_OTHERS < usual], "smaller"),
        ([p for p, v in largest.items() if v > FAR_FROM_OTHERS * usual > 0], "larger"),
    ):
        if odd:
            found.append(
                f"{split}: {name} reaches {largest[odd[0]]:.5g} in {odd[0]}, but {usual:.5g} in most samples: "
                f"{len(odd)} of {len(seen)} are {FAR_FROM_OTHERS:g} times {what} or more: another unit or bit depth?"
            )
    return found


def _unlike(seen: Sequence[Seen]) -> list[tuple[str, str, int]]:
    """(modality or "label", an example of its size and its images', how many) where resizing changes the shape."""
    found: dict[str, list[str]] = defaultdict(list)
    for s in seen:
        sizes = {name: values.size for name, values in s.values.items()} | {"label": s.size}
        for name, size in sizes.items():
            if aspect_difference(size, s.inputs) > 0.01:
                found[name].append(f"{size[0]}x{size[1]} beside {s.inputs[0]}x{s.inputs[1]} (height x width)")
    return [(name, texts[0], len(texts)) for name, texts in found.items()]


def _duplicates(opened: dict[str, FileSamples]) -> list[str]:
    """Label files that more than one sample has, within a split or across."""
    users: dict[Path, list[str]] = defaultdict(list)
    for split, samples in opened.items():
        for entry in samples.entries:
            if entry.label is not None:
                users[samples.root / entry.label].append(f"{split}: {entry.id}")
    return [f"{path}: label of {len(names)} samples ({', '.join(names)})" for path, names in users.items() if names[1:]]


def _unnamed(opened: dict[str, FileSamples], streams: Sequence[str]) -> list[str]:
    """Files beside those of the samples that belong to no sample of any split."""
    used: dict[Path, set[str]] = defaultdict(set)
    for samples in opened.values():
        for entry in samples.entries:
            for file in entry.paths(streams):
                path = samples.root / file
                used[path.parent].add(path.name)
    found = []
    for folder, names in sorted(used.items()):
        try:
            others = [entry.name for entry in entries(folder) if entry.name not in names and entry.is_file()]
        except OSError:  # its files fail one by one when they are read
            continue
        if others:
            found.append(f"{folder}: {len(others)} files that no split names (first: {others[0]})")
    return found


def look(job: Look) -> Seen:
    """Read one sample as training does; never raises for what a file holds."""
    path = Path(job.name)
    try:
        with pixel_limit(job.max_pixels):
            raw = job.samples.read(job.index, job.streams)
            whole = _before_rounding(job)
    except DataError as error:
        failures = _each_file(job) or (str(error),)
        return Seen(path, "failed", "; ".join(failures), job.split, failures=failures)
    labelled = not isinstance(job.samples, FileSamples) or job.samples.entries[job.index].label is not None
    void = ignore_index(job.num_classes)
    counts = np.bincount((raw.label if labelled else raw.label[:0]).ravel(), minlength=void + 1).astype(np.int64)
    outside = np.flatnonzero(counts[job.num_classes : void]) + job.num_classes
    if outside.size:
        message = (
            f"{job.name}: label ids {', '.join(map(str, outside[:5]))}; expected 0-{job.num_classes - 1} and {void}"
        )
        return Seen(path, "failed", message, job.split, failures=(message,))
    histogram = np.append(counts[: job.num_classes], counts[void])
    digest = hashlib.blake2b(np.ascontiguousarray(raw.label).data, digest_size=16)
    values = {}
    for name, image in raw.images.items():
        digest.update(np.ascontiguousarray(image).data)
        valid = raw.valid.get(name)
        if valid is None or name not in raw.stored:  # the mask is that of the resized image
            image = whole.get(name, image)
        measured = image if valid is None else image[valid]
        low, high, mean = (
            (float(measured.min()), float(measured.max()), float(measured.mean(dtype=np.float64)))
            if measured.size
            else (0.0, 0.0, 0.0)
        )
        share = 1.0 if valid is None else float(valid.mean())
        inputs = (raw.images[name].shape[0], raw.images[name].shape[1])
        size = raw.stored.get(name, inputs)
        values[name] = Values(str(raw.images[name].dtype), image.shape[2], size, low, high, mean, share)
    return Seen(
        path,
        "kept",
        "",
        job.split,
        (raw.label.shape[0], raw.label.shape[1]),
        inputs,
        values,
        histogram,
        raw.condition,
        digest.hexdigest(),
        labelled,
        _label_in_words(job),
        converted=raw.converted,
    )


def _label_in_words(job: Look) -> str:
    """How the label file of a sample was taken; empty where there is none."""
    samples = job.samples
    if not isinstance(samples, FileSamples) or not isinstance(samples.label, LabelReader):
        return ""
    file = samples.entries[job.index].label
    with pixel_limit(job.max_pixels):
        return "" if file is None else samples.label.describe(samples.root / file)


def _before_rounding(job: Look) -> dict[str, NDArray[Any]]:
    """Modality → image of those that are rounded to 8 bits on reading, which cuts off what lies beyond the scale."""
    if not isinstance(job.samples, FileSamples):
        return {}
    samples, files = job.samples, job.samples.entries[job.index].files
    readers = ((name, samples.readers[name]) for name in job.streams)
    return {
        name: reader.measure([samples.root / file for file in files[name]]).image
        for name, reader in readers
        if isinstance(reader, ImageReader) and reader.units and reader.dtype != "float32"
    }


def _each_file(job: Look) -> tuple[str, ...]:
    """A line for every unusable file of a sample; reading it as a whole stops at the first one."""
    if not isinstance(job.samples, FileSamples):
        return ()
    samples, entry = job.samples, job.samples.entries[job.index]
    found = []
    with pixel_limit(job.max_pixels):
        try:
            if entry.label is not None:
                samples.label(samples.root / entry.label)
        except DataError as error:
            found.append(str(error))
        for name in job.streams:
            try:
                samples.readers[name]([samples.root / file for file in entry.files[name]])
            except DataError as error:
                found.append(str(error))
    return tuple(dict.fromkeys(found))


def summarise(data: RGBXDataModule, planned: Plan, outcomes: Iterable[Outcome]) -> Report:
    """Everything seen, as plain values: what report.json holds."""
    seen = [outcome for outcome in outcomes if isinstance(outcome, Seen)]
    # Outcomes come as they finish; batches are made in the order of the split.
    place = {(job.split, job.name): i for i, job in enumerate(planned.looks)}
    seen.sort(key=lambda s: place[s.split, str(s.path)])
    ordered = {split: [s for s in seen if s.split == split] for split in planned.counts}
    splits = {split: _split(data, split, ordered[split]) for split in planned.counts}
    for split in splits:
        splits[split]["gaps"] = _gaps([job for job in planned.looks if job.split == split])
    failures = [*planned.unopened.values(), *sorted({line for s in seen for line in s.failures})]
    findings = list(planned.findings)
    content: dict[str, list[str]] = defaultdict(list)
    for s in sorted((s for s in seen if s.digest), key=lambda s: (s.split, str(s.path))):
        content[s.digest].append(f"{s.split}: {s.path}")
    findings += [f"equal content: {', '.join(names)}" for names in content.values() if names[1:]]
    for split, count in planned.counts.items():
        published = data.spec.counts.get(split)
        if published not in (None, count):
            findings.append(f"{split}: {count} samples, published are {published}")
        classes = list(data.spec.classes)
        absent = [name for name, pixels in splits[split]["classes"].items() if not pixels]
        if absent and any(s.labelled for s in ordered[split]):
            void = splits[split]["void"]
            hint = ""
            if len(classes) == 2 and absent == classes[1:] and void:
                hint = "; where class 1 is stored as 255, say label.map: {0: 0, 255: 1}"
            elif absent in (classes[:1], classes[-1:]):
                hint = "; the first or the last alone is missing where labels are off by one"
            findings.append(f"{split}: no pixel of {len(absent)} classes ({', '.join(absent)}){hint}")
        read = [s for s in ordered[split] if s.histogram is not None]
        findings += _oddities(data, split, read)
        failures += _batching(data, split, count, read)
    return {
        "dataset": data.spec.name,
        "root": str(data.root.absolute()) if hasattr(data, "root") else "",  # generated data have none
        "modalities": [m.name for m in data.modalities],
        "splits": splits,
        "unopened": planned.unopened,
        "failures": failures,
        "findings": findings,
    }


def _gaps(looks: Sequence[Look]) -> Report:
    """Of samples paired by time: modality or "label" → how far its frames are from those of the first, in seconds."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for job in looks:
        if isinstance(job.samples, FileSamples):
            for name, gap in job.samples.entries[job.index].gaps.items():
                gaps[name].append(abs(gap))
    return {
        name: {
            "samples": len(values),
            "median": float(np.median(values)),
            "p95": float(np.percentile(values, 95)),
            "max": max(values),
        }
        for name, values in gaps.items()
    }


def _split(data: RGBXDataModule, split: str, seen: Sequence[Seen]) -> Report:
    read = [s for s in seen if s.histogram is not None]
    histogram = sum(
        (s.histogram for s in read if s.histogram is not None), np.zeros(data.spec.num_classes + 1, np.int64)
    )
    total = int(histogram.sum())
    modalities = {}
    for modality in data.modalities:
        values = [s.values[modality.name] for s in read]
        modalities[modality.name] = {
            "kinds": dict(Counter(f"{v.dtype} x {v.channels}" for v in values).most_common()),
            "sizes": dict(Counter(f"{v.size[0]}x{v.size[1]}" for v in values).most_common()),
            "min": min((v.low for v in values), default=None),
            "max": max((v.high for v in values), default=None),
            "mean": float(np.mean([v.mean for v in values])) if values else None,
            "measured": float(np.mean([v.measured for v in values])) if values else None,
        }
    conditions: dict[str, Counter[str]] = defaultdict(Counter)
    for s in read:
        for name, value in s.condition.items():
            conditions[name][value] += 1
    return {
        "samples": len(seen),
        "published": data.spec.counts.get(split),
        "failed": len(seen) - len(read),
        "sizes": dict(Counter(f"{s.size[0]}x{s.size[1]}" for s in read if s.labelled).most_common()),
        "labels": dict(Counter(s.label for s in read if s.label).most_common()),
        "modalities": modalities,
        "pixels": total,
        "void": int(histogram[-1]),
        "void_share": int(histogram[-1]) / total if total else None,
        "classes": {name: int(histogram[i]) for i, name in enumerate(data.spec.classes)},
        "conditions": {name: dict(sorted(values.items())) for name, values in conditions.items()},
    }


def _rows(report: Report) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, column heads, rows) of the tables that both the terminal and the HTML page show."""
    splits, labels, values, gaps, classes, conditions = [], [], [], [], [], []
    for name, split in report["splits"].items():
        published = "-" if split["published"] is None else str(split["published"])
        void = "-" if split["void_share"] is None else f"{split['void_share']:.2%}"
        splits.append([name, str(split["samples"]), published, str(split["failed"]), _listed(split["sizes"]), void])
        labels += [[name, *kind.split(": "), str(count)] for kind, count in split["labels"].items()]
        for modality, v in split["modalities"].items():
            numbers = ["-" if v[key] is None else f"{v[key]:.5g}" for key in ("min", "max", "mean")]
            measured = "-" if v["measured"] is None else f"{v['measured']:.2%}"
            values.append([name, modality, _listed(v["kinds"]), _listed(v["sizes"]), *numbers, measured])
        for partner, gap in split["gaps"].items():
            times = [f"{1000 * gap[key]:.3f}" for key in ("median", "p95", "max")]
            gaps.append([name, partner, str(gap["samples"]), *times])
        for condition, counted in split["conditions"].items():
            conditions.append([name, condition, ", ".join(f"{k} {n}" for k, n in counted.items())])
    for i, name in enumerate(next(iter(report["splits"].values()))["classes"]):
        classes.append([str(i), name, *(_share(s, name) for s in report["splits"].values())])
    tables = [
        (
            "Splits",
            ["split", "samples", "published", "failed", "label sizes (height x width)", "void"],
            splits,
        ),
        (
            "Values as read",
            ["split", "modality", "type x channels", "size of files", "min", "max", "mean", "measured"],
            values,
        ),
        ("Classes, share of labelled pixels", ["id", "class", *report["splits"]], classes),
    ]
    if labels:
        tables.insert(2, ("Labels as read", ["split", "stored as", "taken as", "files"], labels))
    if gaps:
        heads = ["split", "partner", "samples", "median", "95 %", "largest"]
        tables.append(("Gaps of pairs by time, milliseconds", heads, gaps))
    return [*tables, ("Conditions", ["split", "condition", "samples"], conditions)] if conditions else tables


def _share(split: Report, name: str) -> str:
    labelled = split["pixels"] - split["void"]
    return f"{split['classes'][name] / labelled:.2%}" if labelled else "-"


def _listed(counted: dict[str, int]) -> str:
    parts = [value if len(counted) == 1 else f"{value} ({n})" for value, n in list(counted.items())[:3]]
    return ", ".join([*parts, *([f"{len(counted) - 3} more"] if len(counted) > 3 else [])]) or "-"


def show(report: Report, console: Console) -> None:
    """Print the report as tables, then what is odd and what failed."""
    parts: list[RenderableType] = []
    for title, heads, rows in _rows(report):
        table = Table(title=title, title_justify="left")
        for head in heads:
            table.add_column(head, overflow="fold")
        for row in rows:
            table.add_row(*map(plain, row))  # names are no markup
        parts.append(table)
    console.print(Group(*parts))
    for title in ("findings", "failures"):
        lines = report[title]
        for line in lines[:SHOWN]:
            console.print(f"{title[:-1] if title == 'findings' else 'failed'}: {line}", markup=False, soft_wrap=True)
        if len(lines) > SHOWN:
            console.print(f"... and {len(lines) - SHOWN} more {title}: --out DIR writes all of them")


def write_report(report: Report, folder: Path) -> None:
    """Write report.json and report.html, which needs nothing from elsewhere, into the existing `folder`."""
    for name, text in (("report.json", json.dumps(report, indent=2) + "\n"), ("report.html", _page(report))):
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.6rem;margin-bottom:0}h2{font-size:1.2rem}
table{border-collapse:collapse;margin:0 0 1.5rem}caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{text-align:left;padding:.2rem .8rem;border-bottom:1px solid #ddd}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.bar{display:inline-block;height:.7em;background:#3b75af;margin-left:.4em}.track{display:inline-block;width:6em;text-align:left}
li{overflow-wrap:anywhere}.bad{color:#a11}.good{color:#175}
"""
_NUMBER = re.compile(r"-|-?\d[\d.e+-]*%?")


def _page(report: Report) -> str:
    escape = html.escape
    samples = sum(split["samples"] for split in report["splits"].values())
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(report['dataset'])}: data check</title><style>{_STYLE}</style>",
        f"<h1>{escape(report['dataset'])}: {escape(', '.join(report['modalities']))}</h1>",
    ]
    if report["root"]:
        parts.append(f"<p>{escape(report['root'])}</p>")
    if not report["failures"]:
        parts.append(f"<h2 class=good>No failures: all {samples} samples can be read as training reads them</h2>")
    for title, items in (("Failures", report["failures"]), ("Findings", report["findings"])):
        if items:
            lines = "".join(f"<li>{escape(item)}</li>" for item in items)
            kind = " class=bad" if title == "Failures" else ""
            parts.append(f"<h2{kind}>{title}: {len(items)}</h2><ul>{lines}</ul>")
    for title, heads, rows in _rows(report):
        numeric = [all(_NUMBER.fullmatch(row[i]) for row in rows) for i in range(len(heads))]
        greatest = max((_percent(c) for row in rows for c in row[2:]), default=0) if title.startswith("Classes") else 0
        # Above numbers, but not at the end of bars.
        right = [n and not (greatest and i > 1) for i, n in enumerate(numeric)]
        head = "".join(f"<th{' class=n' * r}>{escape(h)}</th>" for h, r in zip(heads, right, strict=True))
        body = "".join(
            f"<tr>{''.join(_cell(c, numeric[i], greatest if i > 1 else 0) for i, c in enumerate(row))}</tr>"
            for row in rows
        )
        parts.append(f"<table><caption>{escape(title)}</caption><tr>{head}</tr>{body}</table>")
    return "\n".join(parts) + "\n"


def _percent(text: str) -> float:
    return 0.0 if text == "-" else float(text.removesuffix("%"))


def _cell(text: str, numeric: bool, greatest: float) -> str:
    """One cell; with a bar behind its percentage that the `greatest` one fills, unless that is 0."""
    drawn = ""
    if greatest:
        width = 5.5 * _percent(text) / greatest
        drawn = f'<span class="track"><span class="bar" style="width:{width:.2f}em"></span></span>'
    return f"<td{' class=n' * numeric}>{html.escape(text)}{drawn}</td>"

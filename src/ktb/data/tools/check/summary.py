"""Everything seen of a data set as one plain dictionary."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ktb.data.mixed_units import mixed_units
from ktb.data.module import RGBXDataModule
from ktb.data.samples import FileSamples
from ktb.data.tools.check.alignment import misaligned, summarise_alignment
from ktb.data.tools.check.findings import batch_faults, oddities
from ktb.data.tools.check.look import Look, Seen
from ktb.data.tools.check.opened import OpenedSplits
from ktb.data.tools.parallel import Outcome

Report = dict[str, Any]


def summarise(
    data: RGBXDataModule, planned: OpenedSplits, outcomes: Iterable[Outcome], compared: Iterable[Outcome] = ()
) -> Report:
    """Everything seen, as plain values: what report.json holds.

    Args:
        data: the data set.
        planned: its splits, opened.
        outcomes: what `look` gave for `planned.looks`, in any order.
        compared: what `compare` gave for some of them.
    """
    seen = [outcome for outcome in outcomes if isinstance(outcome, Seen)]
    # Outcomes come in the order in which they finish; batches need the order of the split.
    place = {(job.split, job.name): i for i, job in enumerate(planned.looks)}
    seen.sort(key=lambda s: place[s.split, str(s.path)])
    ordered = {split: [s for s in seen if s.split == split] for split in planned.counts}
    splits = {split: _split(data, split, ordered[split]) for split in planned.counts}
    for split in splits:
        splits[split]["gaps"] = _gaps([job for job in planned.looks if job.split == split])
    failures = [*planned.unopened.values(), *sorted({line for s in seen for line in s.failures})]
    findings = list(planned.findings)
    for m in data.modalities:
        pictures = [p for s in seen if m.name in s.values and (p := s.values[m.name].picture)]
        if mixed := mixed_units(m.name, pictures):
            (failures if mixed.certain else findings).append(mixed.text)
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
                elsewhere = "1: 1, " if any(other["classes"][classes[1]] for other in splits.values()) else ""
                hint = f"; where class 1 is stored as 255, say label.map: {{0: 0, {elsewhere}255: 1}}"
            elif absent in (classes[:1], classes[-1:]):
                hint = "; the first or the last alone is missing where labels are off by one"
            findings.append(f"{split}: no pixel of {len(absent)} classes ({', '.join(absent)}){hint}")
        read = [s for s in ordered[split] if s.histogram is not None]
        findings += oddities(data, split, read)
        failures += batch_faults(data, split, count, read)
    alignment = summarise_alignment(data, compared)
    findings += misaligned(alignment)
    return {
        "dataset": data.spec.name,
        "root": str(data.root.absolute()) if hasattr(data, "root") else "",  # generated data have none
        "modalities": [m.name for m in data.modalities],
        "splits": splits,
        "alignment": alignment,
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

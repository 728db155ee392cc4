"""What the page's sections show of one run: confusion, conditions, pictures, robustness, facts."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from ktb.report.plots import confusion_plot
from ktb.report.result_tables import MISSING_WAYS
from ktb.report.runs import SCORES, Run, listed, mapping, number, protocol, scored_how
from ktb.report.table_formats import Table, Value, shown
from ktb.run_folder.names import PANELS

_DRAWN_CLASSES = 128
"""With more, a confusion matrix has no cell that can be seen."""
_PICTURES = {".png": ("image/png", b"\x89PNG\r\n\x1a\n"), ".jpg": ("image/jpeg", b"\xff\xd8\xff")}

Content = dict[str, Any]
"""What a template shows; each function's template is named as it is. `key` is the run's own part of ids in the page."""


def confusion(run: Run, key: str) -> Content | None:
    """The confusion matrix and its largest mistakes."""
    matrix = run.confusion
    if not matrix:
        return None
    names = list(run.per_class)
    mistakes = sorted(
        ((pixels, i, j) for i, row in enumerate(matrix) for j, pixels in enumerate(row) if i != j and pixels),
        reverse=True,
    )
    total = sum(map(sum, matrix))
    rows: list[list[Value]] = [
        [names[i], names[j], pixels / sum(matrix[i]), pixels / total] for pixels, i, j in mistakes[:8]
    ]
    return {
        "classes": len(names),
        "plot": confusion_plot(matrix, names) if len(names) <= _DRAWN_CLASSES else None,
        "mistakes": Table("", ["true class", "predicted", "of the class, %", "of all pixels, %"], rows),
    }


def conditions(run: Run, key: str) -> list[Table]:
    """A table of scores for each kind of condition (weather, time of day, ...)."""
    tables = []
    for condition, values in mapping(run.result.get("per_condition")).items():
        rows: list[list[Any]] = []
        for value, entry in mapping(values).items():
            metrics, samples = mapping(mapping(entry).get("metrics")), mapping(entry).get("samples")
            row = [number(metrics.get(name)) for name in SCORES if name in run.scores]
            rows.append([value, samples if isinstance(samples, int) else None, *row])
        heads = [condition, "samples", *(run.title(name) for name in SCORES if name in run.scores)]
        if rows:
            tables.append(Table(condition, heads, rows))
    return tables


def pictures(run: Run, key: str) -> Content | None:
    """The panels of the best, the worst and some other samples."""
    samples = samples_with_pictures(run)
    if not samples:
        return None
    return {
        "legend": list(run.palette.items()),
        "samples": [_panel(sample, key, i) for i, sample in enumerate(samples)],
    }


def _panel(sample: Mapping[str, Any], key: str, index: int) -> Content:
    group = str(sample.get("group", ""))
    scores = ", ".join(
        f"{SCORES[k]} {shown(number(sample[k]))}" for k in ("miou", "pixel_acc") if number(sample.get(k)) is not None
    )
    condition = ", ".join(f"{k} {v}" for k, v in mapping(sample.get("condition")).items())
    return {
        "group": group,
        "kind": group if group in ("best", "worst") else "",
        "id": str(sample.get("id", "")),
        "about": " · ".join(text for text in (scores, condition) if text),
        "pictures": [{**p, "key": picture_id(key, index, j)} for j, p in enumerate(sample["pictures"])],
    }


def samples_with_pictures(run: Run) -> list[dict[str, Any]]:
    """The entries of panels.json that are as they should be, with their pictures as text."""
    found = []
    for sample in listed(run.panels.get("samples")):
        entries = mapping(sample).get("pictures")
        if isinstance(entries, list):
            seen = [(str(mapping(p).get("title", "")), picture_uri(run, mapping(p).get("file"))) for p in entries]
            found.append({**sample, "pictures": [{"title": title, "uri": uri} for title, uri in seen if uri]})
    return found


def picture_id(key: str, sample: int, picture: int) -> str:
    """The id of a picture in the page, by the numbers of its sample and of itself in that."""
    return f"{key}-{sample}-{picture}"


def picture_uri(run: Run, name: Any) -> str:
    """A picture of the run's panels folder as text; empty if it is none."""
    if not isinstance(name, str) or PurePath(name).name != name or "\\" in name:
        return ""
    kind, magic = _PICTURES.get(PurePath(name).suffix, ("", b"\0"))
    try:
        content = (run.folder / PANELS / name).read_bytes()
    except (OSError, ValueError):
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content.startswith(magic) else ""


def robustness(run: Run, key: str) -> Content | None:
    """Bars of the mIoU of every disturbance, and what follows from them."""
    full = number(mapping(mapping(run.robustness.get("full")).get("metrics")).get("miou"))
    if full is None:
        return None
    groups: list[Content] = [{"title": "Undisturbed", "bars": [_robustness_bar("nothing missing", full)]}]
    sums: list[list[Any]] = []
    expected: list[str] = []
    for title, name, phrase in (
        ("Missing modalities (EMM)", "emm", "missing"),
        ("Partly missing (RMM)", "rmm", "zeroed at rate"),
        ("Noise (NM)", "nm", "noise:"),
    ):
        bars = []
        for setting, group in mapping(run.robustness.get(name)).items():
            words = f"missing, {MISSING_WAYS[setting]}" if setting in MISSING_WAYS else f"{phrase} {setting}"
            for entry in listed(mapping(group).get("runs")):
                affected = " + ".join(map(str, listed(mapping(entry).get("affected"))))
                label = words if name == "nm" else f"{affected} {words}"
                bars.append(_robustness_bar(label, number(mapping(mapping(entry).get("metrics")).get("miou"))))
                for head, value in mapping(mapping(entry).get("side")).items():
                    bars.append(_robustness_bar(f"{label}: side head of {head}", number(value)))
            for which, head in (("summary", "fused head"), ("summary_side", "side head")):
                summary = mapping(mapping(group).get(which))
                if summary:
                    means = mapping(summary.get("expected"))
                    expected = expected or list(means)
                    row = [number(summary.get(k)) for k in ("avg", "worst", "drop")]
                    sums.append([words, head, *row, *(number(means.get(p)) for p in expected)])
        groups += [{"title": title, "bars": bars}] if bars else []
    heads = ["case", "answer of", "Avg", "worst", "drop", *(f"E({p})" for p in expected)]
    return {
        "how": f"{scored_how(run.robustness)}; checkpoint {run.robustness.get('checkpoint', '-')}",
        "full": full,
        "groups": groups,
        "summary": Table("", heads, sums),
    }


def _robustness_bar(label: str, miou: float | None) -> Content:
    return {"label": label, "miou": miou, "shade": int("side head" in label)}


def about(run: Run, key: str) -> Content:
    """What was run, on what, and how long it took."""
    r = run.result
    versions = ", ".join(f"{k} {v}" for k, v in mapping(r.get("versions")).items())
    git = mapping(r.get("git"))
    command = r.get("command")
    parameters = mapping(r.get("parameters"))
    seconds, best = number(r.get("wall_time_s")), number(r.get("best_val_miou"))
    facts = {
        "run folder": str(run.folder.absolute()),
        "data set": run.dataset,
        "split": r.get("split"),
        "protocol": protocol(r) if r else None,
        "modalities": ", ".join(run.modalities),
        "backbone": r.get("backbone") or run.setting("backbone", "name"),
        "loss": run.setting("loss", "name"),
        "scores of your own": run.own_scores,
        "checkpoint": r.get("checkpoint"),
        "chosen on": r.get("selection_split"),
        "best mIoU there": None if best is None else f"{shown(best)} %",
        "started from": mapping(r.get("init_from")).get("file"),
        "parameters": ", ".join(f"{k} {v:,}" for k, v in parameters.items() if isinstance(v, int)),
        "seed": r.get("seed", run.setting("seed")),
        "epochs": r.get("epochs"),
        "stopped early": r.get("stopped_early"),
        "steps": r.get("steps"),
        "wall time": None if seconds is None else _duration(seconds),
        "peak memory": f"{r['peak_memory_mb']} MiB" if r.get("peak_memory_mb") else None,
        "peak GPU memory": f"{r['peak_gpu_memory_mb']} MiB" if r.get("peak_gpu_memory_mb") else None,
        "published": mapping(run.config.get("published")).get("source"),
        "versions": versions,
        "commit": f"{git['commit']}{' (with changes)' if git.get('changed') else ''}" if git.get("commit") else None,
    }
    return {
        "facts": [(name, value) for name, value in facts.items() if value not in (None, "")],
        "command": shlex.join(map(str, command)) if isinstance(command, list) else "",
    }


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

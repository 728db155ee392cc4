"""The model card of a bundle: README.md, whose header the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from ktb.config.trust import Spelling, Trust
from ktb.data.steps import in_words
from ktb.models.segmentor import KTBSegmentor, own_classes
from ktb.weights.hub import TO_BE_HAD

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


SCORES = (
    ("miou", "mIoU, %", "mean_iou"),
    ("macc", "mean accuracy, %", "mean_accuracy"),
    ("pixel_acc", "pixel accuracy, %", "accuracy"),
)
"""Shown scores: our name, the table's, and the hub's."""


def model_card(model: KTBSegmentor, about: Mapping[str, Any], name: str, size: int, *, whole: bool) -> str:
    """README.md of a bundle.

    Args:
        model: what is shipped.
        about: what the bundle's header says of it: data set, classes, result, base weights.
        name: of the bundle's folder.
        size: bytes of its tensors.
        whole: whether the frozen backbone is among them.

    Returns:
        Markdown after a YAML header.
    """
    from huggingface_hub import ModelCard, ModelCardData

    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    base = about.get("backbone") or {}
    needs_file = not whole and base.get("weights") not in TO_BE_HAD
    facts = [
        ("Data set", about.get("dataset", "not recorded")),
        ("Classes", _classes(model, about)),
        ("Modalities", ", ".join(f"{m} ({c} channels)" for m, c in model.config["modalities"].items())),
        (
            "Backbone",
            f"{base.get('name') or type(model.backbone).__name__}: {_settings(model.backbone.spec())}",
        ),
        ("Parameters", f"{total:,}, of which {trained:,} trained ({100 * trained / total:.1f} %)"),
        ("File", f"{size / 1e6:.1f} MB, {'all' if whole else 'trained'} parameters and running statistics"),
    ]
    data = ModelCardData(
        library_name="ktb",
        pipeline_tag="image-segmentation",
        license="other",
        tags=["semantic-segmentation", "multimodal", *model.modalities],
        model_name=name,
        eval_results=_hub_results(about) or None,
    )
    if own := own_classes(model.config):
        packages = list(dict.fromkeys(target.partition(".")[0] for target in own))
        facts.append(("Needs also", f"{', '.join(packages)} ({', '.join(own)}), which is not part of ktb"))
    streams = ", ".join(f"{m!r}: {m}" for m in model.modalities)
    trust = {spelling: f" {Trust(spelling=spelling).remedy(own)}" for spelling in get_args(Spelling)} if own else {}
    weights = ', weights="FILE"' if needs_file else ""
    if own:
        weights += f",{trust['argument']}"
    predictor = ""
    if "config" in about:  # without its run's configuration it has to be told its data set
        call = f'Predictor("{name}"{weights})({{{streams}}})'
        predictor = f", Predictor\n\nmask = {call}  # arrays as the sensors give them; (H, W) class ids"
    text = _TEXT.format(
        name=name,
        facts=_table(("", ""), facts),
        scores=_scores(about),
        base=_base_weights(base, whole=whole),
        inputs=_inputs(about),
        weights=weights,
        predictor=predictor,
        streams=streams,
        eval_base=(" backbone.weights=FILE" if needs_file else "") + trust.get("setting", ""),
        info_base=(" --base FILE" if needs_file else "") + trust.get("flag", ""),
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))


_TEXT = """
# {name}

RGB+X semantic segmentation with "Keep the Balance" (CVPR 2025): a frozen Swin shared by all modalities, trained prompts, adapters, fusion and heads. Written by ktb.

{facts}

## Scores

{scores}

## Base weights

{base}

## How to load

```python
from ktb import KTBSegmentor{predictor}

model = KTBSegmentor.from_pretrained("{name}"{weights})  # this folder, or OWNER/NAME on the hub
out = model({{{streams}}})  # each (B, C, H, W), prepared as in training
out.logits  # (B, K, H, W)
```

```bash
ktb-eval checkpoint={name} dataset.root=DIR{eval_base}
ktb-model info {name}{info_base}
```
{inputs}
## Licence

ktb is Apache-2.0. These weights follow from the base weights and from the training data, whose own licences apply; say here which one you publish under.
"""  # noqa: E501


def called(card: str, name: str) -> str:
    """A model card whose title and examples call the model by another name, such as OWNER/NAME on the hub.

    Args:
        card: of `model_card`; what its owner has changed in it stays.
        name: the new name.
    """
    title = re.search(r"^# (\S+)$", card, re.MULTILINE)
    if title is None:
        return card
    old = re.escape(title[1])
    examples = rf'(?:from_pretrained\(|Predictor\()"(?={old}")|checkpoint=(?={old}\s)|ktb-model info (?={old}\s)'
    return re.sub(rf"(^# (?={old}$)|{examples}){old}", lambda found: found[1] + name, card, flags=re.MULTILINE)


def _hub_results(about: Mapping[str, Any]) -> list[EvalResult]:
    """The scores as the hub reads them, in the header."""
    from huggingface_hub import EvalResult

    result = about.get("result") or {}
    dataset = str(result.get("dataset") or about.get("dataset") or "not recorded")
    return [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=str(result.get("split", "not recorded")),
            metric_type=hub_name,
            metric_name=title.partition(",")[0],
            metric_value=round(value, 6),
        )
        for _, title, hub_name, value in _shown(result)
    ]


def _shown(result: Mapping[str, Any]) -> list[tuple[str, str, str, float]]:
    """(our name, title, the hub's name, value in [0, 1]) of each score that there is."""
    metrics = result.get("metrics") or {}
    return [(*names, metrics[names[0]]) for names in SCORES if isinstance(metrics.get(names[0]), int | float)]


def _scores(about: Mapping[str, Any]) -> str:
    result = about.get("result") or {}
    rows = [(title, f"{100 * value:.2f}") for _, title, _, value in _shown(result)]
    if not rows:
        return "No evaluation was recorded with this model."
    protocol = result.get("protocol") or f"whole image, scored at {result.get('scoring', 'native')} size"
    if isinstance(protocol, Mapping):
        protocol = protocol.get("description") or ", ".join(f"{k}: {v}" for k, v in protocol.items())
    where = f"{result.get('dataset', about.get('dataset', '?'))}, split {result.get('split', '?')}; {protocol}."
    return f"{where}\n\n{_table(('', ''), rows)}"


def _base_weights(base: Mapping[str, Any], *, whole: bool) -> str:
    if whole:
        return "The frozen backbone is in the file; nothing else is needed."
    source = {"hub": "fetched from timm's hub", "bundled": "shipped with ktb"}.get(
        base["weights"], f"file `{base['weights']}`, passed as `weights=FILE` or `backbone.weights=FILE`"
    )
    timm_name = f" (timm: `{base['timm_name']}`)" if base.get("timm_name") else ""
    return (
        f"The frozen backbone is not in the file. It is `{base['name']}`{timm_name}, {source}, and is refused unless "
        f"its weights have the fingerprint (SHA-256 over names, shapes and values) `{base['sha256']}`."
    )


def _inputs(about: Mapping[str, Any]) -> str:
    """How a program without ktb prepares what the network takes."""
    stated = about.get("preparation")
    if not isinstance(stated, Mapping) or not stated:
        return _normalisation(about)
    parts = [
        f"**{name}**\n\n" + "\n".join(f"{i}. {in_words(step)}" for i, step in enumerate(steps, 1))
        for name, steps in stated.items()
    ]
    return (
        "\n## Inputs\n\n`ktb.Predictor` takes arrays as the sensors give them. Without it, each modality is "
        "prepared by these steps, in this order; config.json has them with all digits, under `preparation`.\n\n"
        + "\n\n".join(parts)
        + "\n\nLogits have the size of what was prepared. For class ids of the frame, resize them to its size "
        "(bilinear, `align_corners=False`), then take the greatest.\n"
    )


def _normalisation(about: Mapping[str, Any]) -> str:
    """The same as far as a checkpoint of an earlier version knows it."""
    rows = [
        (m.get("name"), m.get("channels"), m.get("scale"), m.get("mean"), m.get("std"))
        for m in about.get("modalities") or ()
        if isinstance(m, Mapping)
    ]
    if not rows:
        return ""
    head = ("modality", "channels", "divide stored values by", "subtract", "divide by")
    return (
        f"\n## Inputs\n\n{_table(head, rows)}\n\nHow holes are treated, whether a plane is taken out, and the size "
        "that pictures are resized to were not recorded with this model: `ktb.Predictor` prepares arrays as in "
        "training.\n"
    )


def _classes(model: KTBSegmentor, about: Mapping[str, Any]) -> str:
    names = about.get("classes") or ()
    return f"{model.num_classes}" + (f": {', '.join(map(str, names))}" if names else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


def _settings(spec: Mapping[str, Any]) -> str:
    shown = {key: value for key, value in spec.items() if not key.startswith("_") and value is not None}
    return ", ".join(f"{k} {_x(v) if isinstance(v, list | tuple) else v}" for k, v in shown.items())


def _x(values: Sequence[int]) -> str:
    return "-".join(map(str, values))

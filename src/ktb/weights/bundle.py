"""Bundles: a trained model as a folder to ship, after the conventions of the Hugging Face hub.

`model.safetensors` holds what was trained and the running statistics, and in its header all that `ktb-eval`,
`ktb-predict` and `load_model` need; `config.json` repeats that for people and tools, `config.yaml` is the run's own
configuration, `README.md` the model card. The frozen backbone is left out when it is known under a name, and then
named with its SHA-256.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ktb.errors import CheckpointError
from ktb.io import atomic_file, expanded
from ktb.models.segmentor import KTBSegmentor
from ktb.weights import checkpoint as checkpoints

FORMAT = 1
"""Raised when a reader of today could not read what is written."""


def left_out(model: KTBSegmentor, *, whole: bool) -> set[str]:
    """Names of the state that need not be stored: the backbone, unless `whole`, and output norms at identity."""
    state = model.state_dict()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    norms = {
        k
        for k in state
        if k.startswith(("norms.", "fused_norms."))
        and k not in trained
        and bool((state[k] == (1 if k.endswith(".weight") else 0)).all())
    }
    return norms | (set() if whole else {k for k in state if k.startswith("backbone.")})


def knows_its_base(model: KTBSegmentor) -> bool:
    """Whether `about` names weights that can be had again and that the model's backbone still is."""
    base = model.about.get("backbone") or {}
    return base.get("weights") not in (None, "random") and base.get("sha256") == checkpoints.fingerprint(model.backbone)


def save_file_of(model: KTBSegmentor, file: Path, *, whole: bool) -> dict[str, Any]:
    """Write one .safetensors file that `load_model` reads; returns what it says about the model."""
    about = {"format": FORMAT, **model.about, "model": model.config}
    if not whole:
        about["backbone"] = _portable(about["backbone"])
    skipped = left_out(model, whole=whole)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k not in skipped}
    checkpoints.refuse_not_finite(state, f"{file}: not written: the model")
    _save(state, file, {"ktb": json.dumps(about)})
    return about


def save_tensors(state: Mapping[str, Tensor], file: Path) -> None:
    """Write plain tensors: .safetensors by that suffix, else what torch.load reads."""
    if file.suffix == ".safetensors":
        _save({k: v.contiguous() for k, v in state.items()}, file, {})
    else:
        content = io.BytesIO()  # on a full disk torch.save itself ends the whole process
        torch.save(dict(state), content)
        with _written(file) as partial:
            partial.write_bytes(content.getbuffer())


def _save(state: dict[str, Tensor], file: Path, metadata: dict[str, str]) -> None:
    with _written(file) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        save_file(state, partial, metadata={"format": "pt", **metadata})
        partial.chmod(mode)  # safetensors writes for the owner only, and a bundle is there to be shared


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    """`atomic_file`, with folders made as needed.

    Raises:
        CheckpointError: it can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as partial:
            yield partial
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written ({error.strerror or error})") from None


def save_bundle(model: KTBSegmentor, folder: str | Path, *, run_config: str | None = None) -> int:
    """Write a bundle; returns the size of its tensors' file in bytes.

    Args:
        model: with what is known of it in `about`.
        folder: new or empty.
        run_config: the run's configuration as YAML, for `ktb-eval`.

    Raises:
        CheckpointError: the folder holds something already or can't be written.
    """
    folder = expanded(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"{folder}: exists already; choose a new folder for the bundle")
    whole = not knows_its_base(model)
    if run_config is not None:
        model.about["config"] = run_config
    with _written(folder) as partial:
        partial.mkdir()
        weights = partial / checkpoints.BUNDLE_WEIGHTS
        about = save_file_of(model, weights, whole=whole)
        config = {k: v for k, v in about.items() if k != "config"}
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if isinstance(about.get("config"), str):
            (partial / "config.yaml").write_text(about["config"], encoding="utf-8")
        size = weights.stat().st_size
        (partial / "README.md").write_text(model_card(model, about, folder.name, size, whole=whole), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
    return size


def load_pretrained(source: str | Path, *, weights: str | None = None) -> KTBSegmentor:
    """See `KTBSegmentor.from_pretrained`."""
    folder = expanded(source)
    if folder.exists():
        return checkpoints.load_model(folder, weights=weights)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or str(source).startswith("."):
        raise CheckpointError(f"{source}: neither a folder nor the name of a model on the hub (OWNER/NAME)")
    return checkpoints.load_model(_from_hub(str(source)), weights=weights)


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    checkpoints.prepare_hub_client()
    try:
        return Path(hf_hub_download(name, checkpoints.BUNDLE_WEIGHTS))
    except Exception as error:  # the hub client raises many kinds; all mean that there is no file
        raise CheckpointError(
            f"{name}: no such folder here, and {checkpoints.BUNDLE_WEIGHTS} of that name could not be fetched from the "
            f"hub ({checkpoints.first_line(error)}); fetch the bundle where there is a network and pass its folder"
        ) from None


def _portable(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Base weights by name: the path they had on the machine of the training is nobody's business."""
    weights = str(backbone["weights"])
    return {**backbone, "weights": weights if weights in ("hub", "bundled") else Path(weights).name}


# ---------------------------------------------------------------------------------------------------------- model card


def model_card(model: KTBSegmentor, about: Mapping[str, Any], name: str, size: int, *, whole: bool) -> str:
    """README.md of a bundle."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    arch, base = model.config["arch"], about.get("backbone") or {}
    needs_file = not whole and base.get("weights") not in ("hub", "bundled")
    weights = ', weights="FILE"' if needs_file else ""
    front = ["---", "library_name: ktb", "pipeline_tag: image-segmentation", "license: other", "tags:"]
    front += [f"- {tag}" for tag in ("semantic-segmentation", "multimodal", *model.modalities)] + ["---", ""]
    lines = [
        *front,
        f"# {name}",
        "",
        'RGB+X semantic segmentation with "Keep the Balance" (CVPR 2025): a frozen Swin shared by all modalities, '
        "trained prompts, adapters, fusion and heads. Written by ktb.",
        "",
        *_table(
            ("", ""),
            [
                ("Data set", about.get("dataset", "not recorded")),
                ("Classes", _classes(model, about)),
                ("Modalities", ", ".join(f"{m} ({c} channels)" for m, c in model.config["modalities"].items())),
                (
                    "Backbone",
                    f"{base.get('name', 'Swin')}: width {arch['embed_dim']}, depths {_x(arch['depths'])}, "
                    f"window {arch['window_size']}",
                ),
                ("Parameters", f"{total:,}, of which {trained:,} trained ({100 * trained / total:.1f} %)"),
                ("File", f"{size / 1e6:.1f} MB, {'all' if whole else 'trained'} parameters and running statistics"),
            ],
        ),
        "",
        "## Scores",
        "",
        *_scores(about),
        "",
        "## Base weights",
        "",
        *_base_weights(base, whole=whole),
        "",
        "## How to load",
        "",
        "```python",
        "from ktb import KTBSegmentor",
        "",
        f'model = KTBSegmentor.from_pretrained("{name}"{weights})  # this folder, or OWNER/NAME on the hub',
        f"out = model({{{', '.join(f'{m!r}: {m}' for m in model.modalities)}}})  # each (B, C, H, W), normalised",
        "out.logits  # (B, K, H, W)",
        "```",
        "",
        "```bash",
        f"ktb-eval checkpoint={name} dataset.root=DIR{' backbone.weights=FILE' if needs_file else ''}",
        f"ktb-model info {name}{' --base FILE' if needs_file else ''}",
        "```",
        "",
        *_normalisation(about),
        "## Licence",
        "",
        "ktb is Apache-2.0. These weights follow from the base weights and from the training data, whose own licences "
        "apply; say here which one you publish under.",
    ]
    return "\n".join(lines) + "\n"


def _scores(about: Mapping[str, Any]) -> list[str]:
    result = about.get("result") or {}
    metrics = result.get("metrics") or {}
    rows = [
        (title, f"{100 * metrics[key]:.2f}")
        for key, title in (("miou", "mIoU, %"), ("macc", "mean accuracy, %"), ("pixel_acc", "pixel accuracy, %"))
        if isinstance(metrics.get(key), int | float)
    ]
    if not rows:
        return ["No evaluation was recorded with this model."]
    protocol = result.get("protocol") or f"whole image, scored at {result.get('scoring', 'native')} size"
    if isinstance(protocol, Mapping):
        protocol = protocol.get("description") or ", ".join(f"{k}: {v}" for k, v in protocol.items())
    where = f"{result.get('dataset', about.get('dataset', '?'))}, split {result.get('split', '?')}; {protocol}."
    return [where, "", *_table(("", ""), rows)]


def _base_weights(base: Mapping[str, Any], *, whole: bool) -> list[str]:
    if whole:
        return ["The frozen backbone is in the file; nothing else is needed."]
    source = {"hub": "fetched from timm's hub", "bundled": "shipped with ktb"}.get(
        base["weights"], f"file `{base['weights']}`, passed as `weights=FILE` or `backbone.weights=FILE`"
    )
    timm_name = f" (timm: `{base['timm_name']}`)" if base.get("timm_name") else ""
    return [
        f"The frozen backbone is not in the file. It is `{base['name']}`{timm_name}, {source}, and is refused unless "
        f"its weights have the fingerprint (SHA-256 over names, shapes and values) `{base['sha256']}`."
    ]


def _normalisation(about: Mapping[str, Any]) -> list[str]:
    rows = [
        (m.get("name"), m.get("channels"), m.get("scale"), m.get("mean"), m.get("std"))
        for m in about.get("modalities") or ()
        if isinstance(m, Mapping)
    ]
    if not rows:
        return []
    head = ("modality", "channels", "divide stored values by", "subtract", "divide by")
    return ["## Inputs", "", *_table(head, rows), ""]


def _classes(model: KTBSegmentor, about: Mapping[str, Any]) -> str:
    names = about.get("classes") or ()
    return f"{model.num_classes}" + (f": {', '.join(map(str, names))}" if names else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines]


def _x(values: Sequence[int]) -> str:
    return "-".join(map(str, values))

"""The model card of a bundle: what a person reads, and the header that the hub reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.card import model_card

RESULT = {
    "dataset": "field: day", "split": "test", "metrics": {"miou": 0.4321, "macc": None, "pixel_acc": 0.9},
    "protocol": {"description": "whole image, scored at the label's own size"},
}  # fmt: skip
BASE = {"name": "swin_b", "timm_name": "swin_base", "weights": "swin.pth", "sha256": "abc123"}
ABOUT: dict[str, Any] = {
    "dataset": "field: day", "classes": ["a|b", "no"], "result": RESULT, "backbone": BASE,
    "modalities": [{"name": "rgb", "channels": 3, "scale": 255.0, "mean": [0.5], "std": [0.2]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> KTBSegmentor:
    with torch.device("meta"):
        return KTBSegmentor(
            FrozenSwin(SwinArch(32, (1, 1, 1, 1), (1, 2, 4, 8), 4)), ("rgb", "no"), 2, head={"width": 8}
        )


def test_the_header_is_what_the_hub_expects(model: KTBSegmentor) -> None:
    """Also with names that mean something to YAML: "no", a colon."""
    card = ModelCard(model_card(model, ABOUT, "shipped", 30_000_000, whole=False))
    assert (card.data.library_name, card.data.pipeline_tag, card.data.license) == ("ktb", "image-segmentation", "other")
    assert card.data.tags == ["semantic-segmentation", "multimodal", "rgb", "no"]
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"mean_iou": 0.4321, "accuracy": 0.9}
    assert {result.dataset_name for result in card.data.eval_results} == {"field: day"}


def test_the_text_says_what_is_needed(model: KTBSegmentor) -> None:
    text = model_card(model, ABOUT, "shipped", 30_000_000, whole=False)
    for line in (
        "# shipped",
        "| Classes | 2: a/b, no |",
        "| Modalities | rgb (3 channels), no (3 channels) |",
        "| Backbone | swin_b: embed_dim 32, depths 1-1-1-1, num_heads 1-2-4-8, window_size 4, mlp_ratio 4.0, "
        "drop_path 0.3 |",
        "| File | 30.0 MB, trained parameters and running statistics |",
        "field: day, split test; whole image, scored at the label's own size.",
        "| mIoU, % | 43.21 |",
        'model = KTBSegmentor.from_pretrained("shipped", weights="FILE")  # this folder, or OWNER/NAME on the hub',
        "out = model({'rgb': rgb, 'no': no})  # each (B, C, H, W), prepared as in training",
        "ktb-eval checkpoint=shipped dataset.root=DIR backbone.weights=FILE",
        "| rgb | 3 | 255.0 | [0.5] | [0.2] |",
    ):
        assert line in text.splitlines(), line
    assert "`abc123`" in text
    assert "mean accuracy" not in text  # there was none
    assert "How holes are treated" in text  # this model does not know


def test_it_says_how_arrays_are_prepared_and_how_ktb_is_called_with_them(model: KTBSegmentor) -> None:
    steps = {"rgb": [{"do": "divide", "by": 255.0}, {"do": "zero holes"}]}
    text = model_card(model, {**ABOUT, "preparation": steps, "config": ""}, "shipped", 1, whole=True)
    assert "**rgb**\n\n1. Divide by 255.\n2. Set holes to 0.\n" in text
    assert "How holes are treated" not in text
    line = "mask = Predictor(\"shipped\")({'rgb': rgb, 'no': no})  # arrays as the sensors give them; (H, W) class ids"
    assert line in text.splitlines()
    assert "Predictor(" not in model_card(model, {**ABOUT, "preparation": steps}, "shipped", 1, whole=True)


def test_without_a_history_it_says_so(model: KTBSegmentor) -> None:
    text = model_card(model, {}, "new", 1, whole=True)
    assert "No evaluation was recorded with this model." in text
    assert "The frozen backbone is in the file; nothing else is needed." in text
    assert "ktb-model info new\n" in text
    assert "## Inputs" not in text
    assert ModelCard(text).data.eval_results is None

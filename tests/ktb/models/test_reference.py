"""The model against numbers measured on the published implementation (float64)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.checkpoint import load_published
from ktb.weights.tensor_names import from_published, published_names
from tests.ktb.reference import DATA, filled_state, inputs, label, load_json

MODALITIES = ("rgb", "depth")
TOLERANCE = 1e-6  # relative to the largest reference value; more than 1e-5 would be a bug


def build(reference: str) -> KTBSegmentor:
    state = filled_state(load_json(reference))
    model = load_published(state, MODALITIES).double()
    model.load_state_dict(from_published(state, MODALITIES))
    return model


def relative_error(ours: Tensor, theirs: np.ndarray) -> float:
    assert tuple(ours.shape) == theirs.shape
    return float(np.abs(ours.detach().numpy() - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def mini() -> KTBSegmentor:
    return build("mini.json")


def check_logits(model: KTBSegmentor, tag: str, case: dict[str, int]) -> None:
    stored, stride = np.load(DATA / f"{tag}.npz"), case["logit_stride"]
    with torch.no_grad():
        out = model(inputs(tag, case["batch"], case["height"], case["width"]), side=True)
    for name, logits in (("logits", out.logits), ("logits_rgb", out.side["rgb"]), ("logits_x", out.side["depth"])):
        assert relative_error(logits[..., ::stride, ::stride], stored[name]) < TOLERANCE, name


@pytest.mark.parametrize("tag", ["mini_96x128", "mini_90x122", "mini_256x192"])
def test_mini_logits(mini: KTBSegmentor, tag: str) -> None:
    check_logits(mini, tag, load_json("mini.json")["cases"][tag])


def test_swin_b_logits() -> None:
    tag = "swin_b_160x192"
    check_logits(build("swin_b.json"), tag, load_json("swin_b.json")["cases"][tag])


def test_mini_features(mini: KTBSegmentor) -> None:
    stored = np.load(DATA / "mini_96x128.npz")
    with torch.no_grad():
        features, size = mini.features(inputs("mini_96x128", 2, 96, 128))
    assert size == (96, 128)
    streams = {"fused": features.fused, "rgb": features.streams["rgb"], "x": features.streams["depth"]}
    for name, maps in streams.items():
        for i, x in enumerate(maps):
            assert relative_error(x.movedim(-1, 1), stored[f"feat_{name}_{i}"]) < TOLERANCE, (name, i)


def test_mini_losses_and_gradients() -> None:
    tag = "mini_96x128"
    stored, model = np.load(DATA / f"{tag}.npz"), build("mini.json")
    target = label(tag, 7, 2, 96, 128)
    out = model(inputs(tag, 2, 96, 128), side=True)
    terms = SelfTeachingLoss()(out, target)
    ours = [terms[k].item() for k in ("loss", "loss_fused", "loss_rgb", "loss_depth")]
    np.testing.assert_allclose(ours, stored["losses"], rtol=1e-9)
    agree = (out.logits.argmax(1) == target).double().mean()
    assert float(agree) == pytest.approx(float(stored["agree_fraction"]), abs=1e-12)

    terms["loss"].backward()
    names = published_names((2, 2, 2, 2), MODALITIES)
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert {names[str(n)] for n in stored["grad_names"]} == set(trained)
    scale = float(np.max(stored["grad_norms"]))
    for name, norm in zip(map(str, stored["grad_names"]), stored["grad_norms"], strict=True):
        grad = trained[names[name]].grad
        assert grad is not None
        if name.endswith("proj_k.bias"):  # zero by symmetry
            assert float(grad.norm()) < 1e-12 * max(1.0, scale)
        else:
            assert float(grad.norm()) == pytest.approx(float(norm), rel=1e-6), name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)

"""The first optimiser steps against those of the published implementation (float64)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ktb.engine.optim import build_optimizer, published
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.weights.checkpoint import load_published
from ktb.weights.tensor_names import from_published
from tests.ktb.reference import DATA, filled_state, inputs, label, load_json


@pytest.mark.parametrize("tag", ["train_ce", "train_ohem"])
def test_trajectory(tag: str) -> None:
    case, stored = load_json("train.json")[tag], np.load(DATA / f"{tag}.npz")
    state = filled_state(load_json("mini.json"))
    model = load_published(state).double()
    model.load_state_dict(from_published(state, ("rgb", "depth")))
    for module in model.modules():  # the reference was measured with every randomness off
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    model.train()
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    loss = SelfTeachingLoss("ohem" if "Ohem" in case["loss"] else "ce")
    config = published(case["lr"], case["weight_decay"], case["warmup_epochs"])
    optimizer, schedule = build_optimizer(model, config, epochs=case["epochs"], steps_per_epoch=case["iters_per_epoch"])
    size = (case["batch"], case["height"], case["width"])
    losses, lrs = [], []
    for step in range(case["steps"]):
        terms = loss(model(inputs(f"{tag}/{step}", *size)), label(f"{tag}/{step}", case["num_classes"], *size))
        losses.append([terms[k].item() for k in ("loss", "loss_fused", "loss_rgb", "loss_depth")])
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(lrs, stored["lrs"], rtol=1e-12)
    np.testing.assert_allclose(losses, stored["losses"], rtol=1e-6)

    with torch.no_grad():
        logits = model.eval()(inputs(f"{tag}/final", 1, *size[1:])).logits
    stride = case["logit_stride"]
    logits, theirs = logits[..., ::stride, ::stride].numpy(), stored["final_logits"]
    assert np.abs(logits - theirs).max() / np.abs(theirs).max() < 1e-4
    assert all(torch.equal(p, frozen[k]) for k, p in model.named_parameters() if not p.requires_grad)

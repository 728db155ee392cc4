"""Settings that take over the value of another one follow it, also in a saved run."""

from __future__ import annotations

from ktb.config.saved import differences
from tests.ktb.config.composed import OWN_DATA, resumed, started


def test_a_resumed_run_follows_references_as_a_new_one_would() -> None:
    saved = started("dataset=mfnet", "optim.weight_decay=0.3")
    kept = resumed(saved, "dataset.recipe.lr=1.0", "dataset.recipe.weight_decay=1.0", "seed=7")
    assert (kept.optim.lr, kept.optim.weight_decay, kept.dataset.seed) == (1.0, 0.3, 7)
    kept = resumed(saved, "modality=default")  # of the run's data set, not of the one composed here
    assert kept.dataset.streams == kept.modality.streams == ["rgb", "thermal"]
    assert resumed(saved, "modality.streams=[rgb]").dataset.streams == ["rgb"]
    assert differences(saved, resumed(saved)) == {}
    assert differences(saved, resumed(saved, "optim.lr=2")) == {"optim.lr": (saved.optim.lr, 2.0)}
    shorter = differences(saved, resumed(saved, "dataset.streams=[rgb]"))
    assert shorter == {"dataset.streams[1]": ("thermal", None)}


def test_a_reference_with_a_default_is_followed_too() -> None:
    own = ("dataset=folder", *OWN_DATA)
    weights = "dataset.recipe.class_weights"
    saved = started(*own)
    assert resumed(saved, *own, f"{weights}=[1,2]").loss.class_weights == [1, 2]
    assert resumed(saved, *own, f"{weights}=[1,2]", "loss.class_weights=[3,4]").loss.class_weights == [3, 4]
    assert resumed(started(*own, "loss.class_weights=[3,4]"), *own, f"{weights}=[1,2]").loss.class_weights == [3, 4]
    counted = started(*own, f"{weights}=auto")
    counted.loss.class_weights = [0.5, 1.5]  # as a run writes auto down
    assert resumed(counted, *own, f"{weights}=auto").loss.class_weights == [0.5, 1.5]
    assert resumed(counted, *own, f"{weights}=null").loss.class_weights is None
    builtin = resumed(started("dataset=mfnet"), "dataset=mfnet", f"+{weights}=auto")
    assert builtin.loss.class_weights == "auto"
    assert resumed(started("dataset=mfnet"), "loss=ce").loss.class_weights is None


def test_a_run_from_before_a_setting_keeps_what_refers_to_it_now() -> None:
    own = ("dataset=folder", *OWN_DATA)
    saved = started(*own, "backbone=swin_t", "dataset.recipe.lr=1e-4")
    del saved.backbone["lr"]
    kept = resumed(saved, *own)  # composed with another backbone, which has one
    assert (kept.dataset.recipe.lr, kept.optim.lr) == (1e-4, 1e-4)
    kept = resumed(saved, *own, "backbone=swin_b")
    assert kept.dataset.recipe.lr == kept.optim.lr == kept.backbone.lr == 4e-4
    assert resumed(saved, *own, "dataset.recipe.lr=3").optim.lr == 3

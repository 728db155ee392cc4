"""The modalities that are used are those that names speak of, however they were chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ktb.config.compose import compose
from ktb.config.modality import settle
from ktb.config.overrides import overridden
from ktb.config.saved import merge_saved, resume_saved
from ktb.config.trust import Trust
from tests.ktb.config.composed import OWN_DATA, composed, started


def selection(*overrides: str, folders: tuple[Path, ...] = ()) -> tuple[str, list[str], list[str], str]:
    """Name, streams of the group and of the data set, and the run folder's part that names them."""
    cfg = compose("train", overrides, folders)
    settle(cfg, overridden(overrides), folders)
    folder = cfg.run_dir.split("/")[2].removesuffix(f"_{cfg.backbone.name}_{cfg.loss.name}")
    return cfg.modality.name, list(cfg.modality.streams), list(cfg.dataset.streams), folder


@pytest.mark.parametrize(
    ("overrides", "name", "streams"),
    [
        ([], "rgb_d", ["rgb", "depth"]),
        (["dataset=mfnet"], "rgb_t", ["rgb", "thermal"]),
        (["modality=rgb"], "rgb", ["rgb"]),
        (["modality=d"], "d", ["depth"]),
        (["modality=depth"], "depth", ["depth"]),
        (["modality.streams=[rgb]"], "rgb", ["rgb"]),
        (["modality.streams=[depth]"], "depth", ["depth"]),
        (["modality.streams=[depth,rgb]"], "depth_rgb", ["depth", "rgb"]),
        (["modality=rgb_d", "modality.streams=[rgb]"], "rgb", ["rgb"]),
        (["dataset.streams=[rgb]"], "rgb", ["rgb"]),
        (["dataset.default_streams=[rgb]"], "rgb", ["rgb"]),
        (["dataset=deliver", "modality.streams=[rgb,depth,event]"], "rgb_de", ["rgb", "depth", "event"]),
        (["modality.streams=[rgb]", "modality.name=ablation"], "ablation", ["rgb"]),
        (["dataset=folder", *OWN_DATA], "rgb_red_edge", ["rgb", "red_edge"]),
        (["dataset=folder", *OWN_DATA, "modality.streams=[red_edge]"], "red_edge", ["red_edge"]),
    ],
)
def test_names_are_those_of_the_modalities_in_use(overrides: list[str], name: str, streams: list[str]) -> None:
    assert selection(*overrides) == (name, streams, streams, name)


def test_a_member_of_the_users_own_keeps_its_name_with_its_streams(tmp_path: Path) -> None:
    (tmp_path / "modality").mkdir()
    (tmp_path / "modality" / "mine.yaml").write_text("name: mine\nstreams: [depth, rgb]\n")
    both, given = ["depth", "rgb"], (tmp_path,)
    assert selection("modality=mine", folders=given) == ("mine", both, both, "mine")
    assert selection("modality=mine", "modality.streams=[rgb]", folders=given)[0] == "rgb"


@pytest.mark.parametrize(
    ("begun", "overrides", "name", "streams"),
    [
        ([], [], "rgb_d", ["rgb", "depth"]),
        ([], ["modality=rgb"], "rgb", ["rgb"]),
        ([], ["modality.streams=[rgb]"], "rgb", ["rgb"]),
        ([], ["dataset.streams=[depth]"], "depth", ["depth"]),
        (["modality.name=mine"], [], "mine", ["rgb", "depth"]),
        (["modality.name=mine"], ["modality.streams=[rgb]"], "rgb", ["rgb"]),
        # Written by an earlier version: trained on what the data set said, under another name.
        (["dataset.streams=[rgb]"], [], "rgb", ["rgb"]),
        (["modality.streams=[rgb]"], [], "rgb", ["rgb"]),
    ],
)
def test_a_saved_run_says_it_of_itself(begun: list[str], overrides: list[str], name: str, streams: list[str]) -> None:
    saved = started(*begun)
    continued = resume_saved(saved, composed(*overrides, "run_dir=r"), overrides, "file")
    given = ["checkpoint=x", *overrides]
    evaluated = merge_saved(saved, composed(*given, name="eval"), given, Trust(), "file")
    for cfg in (continued, evaluated):
        assert (cfg.modality.name, cfg.modality.streams, cfg.dataset.streams) == (name, streams, streams)
    assert OmegaConf.to_container(saved) == OmegaConf.to_container(started(*begun)), "it is left as it was"

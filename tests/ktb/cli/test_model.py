"""ktb-model: what it counts, and that a model survives every translation, bundle and evaluation unchanged."""

from __future__ import annotations

import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict
from torch import Tensor

from ktb import KTBSegmentor, load_model, load_published
from ktb.cli.model import main
from ktb.cli.model_source import backbones
from ktb.cli.model_zoo import zoo
from ktb.config.compose import conf_dir
from ktb.data.scenes.scene import CLASSES
from ktb.errors import CheckpointError
from ktb.jobs.evaluate import evaluate
from ktb.jobs.train import train
from ktb.weights.bundle import save_bundle
from ktb.weights.files import read_file, read_state_dict
from ktb.weights.tensor_names import backbone_to_timm
from tests.ktb.combinations import Combination, built
from tests.ktb.combinations import images as images_of
from tests.ktb.hub_stand_in import hub_stand_in
from tests.ktb.jobs.test_train import configured
from tests.ktb.models.backbones.members import ALL
from tests.ktb.reference import fill, inputs, load_json
from tests.ktb.slow import slow_unless


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published checkpoint filled by the rule of the reference numbers, with the classes of the synthetic data."""
    state = {}
    for name, shape in load_json("mini.json")["state_dict"].items():
        size = (len(CLASSES), *shape[1:]) if "linear_pred" in name else tuple(shape)
        value = fill(name, size)
        state[name] = value.float() if value.is_floating_point() else value
    file = tmp_path_factory.mktemp("published") / "mini.pth"
    torch.save({"model_state_dict": state}, file)
    return file


def ktb_model(*arguments: object) -> None:
    assert main([str(a) for a in arguments]) == 0


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line with which a call is refused."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"ktb-model {arguments[0]}: ")
    return captured.err


def logits(model: KTBSegmentor) -> dict[str, Tensor]:
    x = {m: v.float() for m, v in inputs("round_trip", 1, 64, 96).items()}
    with torch.no_grad():
        out = model(x, side=True)
    return {"fused": out.logits, **out.side}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def evaluated(checkpoint: Path | str, run_dir: Path | None, *overrides: str) -> list[list[int]]:
    tiny = ["dataset.size=[40,48]", "dataset.train=2", "dataset.val=2", "dataset.test=3"]
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "panels=0"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose(
            "eval",
            overrides=[f"checkpoint={checkpoint}", f"run_dir={run_dir or 'null'}", *tiny, *quiet, *overrides],
            return_hydra_config=True,
        )
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    counts: list[list[int]] = evaluate(cfg)["confusion_matrix"]
    return counts


@pytest.mark.slow
def test_published_converted_evaluated_bundled_reloaded_and_converted_back(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logits, tensors and scores are identical at each step."""
    state, expected = read_state_dict(published), logits(load_published(published))
    scores = evaluated(published, tmp_path / "eval_published")

    ours = tmp_path / "ours.safetensors"
    ktb_model("convert", published, ours, "--to", "ktb")
    assert same(logits(load_model(ours)), expected)
    assert evaluated(ours, tmp_path / "eval_ours") == scores

    bundle = tmp_path / "bundle"
    ktb_model("bundle", published, bundle, "--base", published)
    assert {p.name for p in bundle.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert not any(k.startswith("model.backbone.") for k in read_file(bundle / "model.safetensors")["state_dict"])
    assert str(published.parent) not in (bundle / "config.json").read_text()
    assert same(logits(KTBSegmentor.from_pretrained(bundle, weights=str(published))), expected)
    assert evaluated(bundle, tmp_path / "eval_bundle", f"backbone.weights={published}") == scores

    whole = tmp_path / "whole"
    ktb_model("bundle", ours, whole)
    assert same(logits(KTBSegmentor.from_pretrained(whole)), expected)

    for source in (ours, whole, bundle):
        back = tmp_path / f"{source.stem}.pth"
        ktb_model("convert", source, back, "--to", "published", *(("--base", published) if source == bundle else ()))
        assert same(read_state_dict(back), state)
        assert same(logits(load_published(back)), expected)
    capsys.readouterr()


def test_backbones_are_converted_to_timm(published: Path, tmp_path: Path) -> None:
    """The published file's backbone is in OpenMMLab's naming, with patch merging ordered otherwise."""
    backbone = {k: v for k, v in read_state_dict(published).items() if re.match(r"backbone\.(stages|patch_embed)", k)}
    backbone = {k: v for k, v in backbone.items() if "Adapter" not in k}
    file, out = tmp_path / "openmmlab.pth", tmp_path / "timm.safetensors"
    torch.save({"state_dict": backbone}, file)
    ktb_model("convert", file, out, "--to", "timm")
    assert same(read_state_dict(out), load_published(published).backbone.state_dict())
    assert same(read_state_dict(out), backbone_to_timm(backbone))
    ktb_model("convert", published, tmp_path / "same.pth", "--to", "timm")
    assert same(read_state_dict(tmp_path / "same.pth"), read_state_dict(out))


@pytest.mark.slow
def test_a_run_becomes_a_bundle_that_every_reader_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "secret" / "run"
    tiny = ["dataset.size=[40,48]", "dataset.train=4", "dataset.val=2", "dataset.test=3", "trainer.max_epochs=1"]
    overrides = [*tiny, f"run_dir={folder}", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    result = train(configured("train", [*overrides, "dataset.batch_size=2"]))
    model = load_model(folder)
    capsys.readouterr()

    bundle = tmp_path / "shipped"
    ktb_model("bundle", folder, bundle)
    assert "base weights left out: swin_nano, bundled" in capsys.readouterr().out
    trained = {f"model.{n}" for n, p in model.named_parameters() if p.requires_grad}
    statistics = {f"model.{n}" for n, _ in model.named_buffers() if "running_" in n or "num_batches" in n}
    assert set(read_file(bundle / "model.safetensors")["state_dict"]) == trained | statistics
    assert {p.name for p in bundle.iterdir()} == {"model.safetensors", "config.json", "config.yaml", "README.md"}

    config = json.loads((bundle / "config.json").read_text())
    assert config["model"]["num_classes"] == len(config["classes"]) == len(config["palette"])
    assert config["result"]["metrics"] == json.loads((folder / "result.json").read_text())["metrics"]
    text = (bundle / "README.md").read_text()
    assert f"| mIoU, % | {100 * result['metrics']['miou']:.2f} |" in text
    assert config["backbone"]["sha256"] in text
    assert "synthetic, split test" in text
    yaml.safe_load(text.split("---")[1])
    assert not any("secret" in p.read_text(errors="replace") for p in bundle.iterdir())

    assert same(logits(KTBSegmentor.from_pretrained(bundle)), logits(model))
    evaluate = evaluated(bundle, tmp_path / "eval")
    assert evaluate == result["confusion_matrix"]

    again = tmp_path / "again"
    KTBSegmentor.from_pretrained(bundle).save_pretrained(again)
    first, second = (read_file(folder / "model.safetensors") for folder in (bundle, again))
    assert same(first["state_dict"], second["state_dict"])
    assert first["ktb"] == second["ktb"]
    assert "exists already" in refused(capsys, "bundle", folder, bundle)


def test_save_pretrained_of_a_model_without_a_history_holds_everything(published: Path, tmp_path: Path) -> None:
    model = load_published(published)
    model.save_pretrained(tmp_path / "new")
    assert same(KTBSegmentor.from_pretrained(tmp_path / "new").state_dict(), model.state_dict())
    with pytest.raises(CheckpointError, match="exists already"):
        model.save_pretrained(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


def test_from_pretrained_without_a_network_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ktb.weights.hub._resolves", lambda host: False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="somebody/nothing: no such folder here, and model.safetensors") as error:
        KTBSegmentor.from_pretrained("somebody/nothing")
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="/nowhere/at/all: no such checkpoint or run folder"):
        KTBSegmentor.from_pretrained("/nowhere/at/all")


@pytest.mark.slow
def test_base_weights_must_be_the_ones_of_the_training(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, other = tmp_path / "bundle", tmp_path / "other.pth"
    ktb_model("bundle", published, bundle, "--base", published)
    state = load_published(published).backbone.state_dict()
    state["patch_embed.proj.bias"] = state["patch_embed.proj.bias"] + 1e-6
    torch.save(state, other)
    assert "trained on backbone weights with SHA-256" in refused(capsys, "info", bundle, "--base", other)
    assert "not the weights that are frozen" in refused(capsys, "bundle", published, tmp_path / "b", "--base", other)
    assert "are not here: pass them as backbone.weights=FILE" in refused(capsys, "info", bundle)
    assert "no such file" in refused(capsys, "info", bundle, "--base", tmp_path / "missing.pth")


def test_info_counts_what_is_known_of_swin_b(capsys: pytest.CaptureFixture[str]) -> None:
    ktb_model("info", "--backbone", "swin_b", "--classes", 40, "--no-measure", "--json", "--size", "480x640")
    report = json.loads(capsys.readouterr().out)
    numbers = report["parameters"]
    assert (numbers["total"], numbers["trained"], numbers["fusion_tables"]) == (94_433_942, 7_545_886, 567_630)
    assert {p["part"]: p["trained"] for p in numbers["parts"]}["adapters"] == 1_770_464
    # docs/method.md#cheaper-forms: 528.6 GFLOP as published, less what cheaper heads and the padding save.
    assert 380e9 < report["sizes"][0]["flops"] < 440e9


@pytest.mark.slow
def test_info_measures_and_counts_by_hand(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ktb_model("info", published, "--json", "--repeat", 2, "--size", "32x64", "--size", "64x64")
    report = json.loads(capsys.readouterr().out)
    small, large = report["sizes"]
    assert small["size"] == [32, 64]
    assert 0 < small["fastest_s"] <= small["median_s"]
    assert 1.5 < large["flops"] / small["flops"] < 2.5
    model = load_published(published)
    assert sum(p["total"] for p in report["parameters"]["parts"]) == sum(p.numel() for p in model.parameters())
    ktb_model("info", published, "--no-measure", "--size", "64x64")
    assert f"{large['flops'] / 1e9:.1f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "peft"),
    slow_unless(
        lambda case: case == ("convnext_atto", "full"),
        product(["convnext_atto", "tf_efficientnet_lite0", "vit_small_patch16_dinov3"], ["none", "full"]),
    ),
)
def test_a_model_of_timm_goes_back_to_timm(name: str, peft: str, tmp_path: Path) -> None:
    """All that its features need, under timm's names, as trained; counted and shipped like any other model."""
    model = built(Combination(name, peft, "sum", "linear", "rgb_polar"))
    save_bundle(model, tmp_path / "bundle")
    ktb_model("convert", tmp_path / "bundle", tmp_path / "timm.safetensors", "--to", "timm")
    state = read_state_dict(read_file(tmp_path / "timm.safetensors"))
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in ALL[name].items()}
    if name.startswith("vit"):
        options["dynamic_img_size"] = True
    theirs = timm.create_model(name, num_classes=0, **options).eval()
    found = theirs.load_state_dict(state, strict=False)
    assert found.unexpected_keys == []
    backbone: Any = model.backbone
    assert {k.partition(".")[0] for k in found.missing_keys} <= set(backbone.left_out)
    ktb_model("bundle", tmp_path / "bundle", tmp_path / "again")
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pixels = backbone._normalise(images)
    with torch.no_grad():
        tokens = backbone.embed(images)
        for i in range(4):
            tokens = backbone.stage(i, backbone.enter(i, tokens) if i else tokens)
        expected = theirs.forward_intermediates(pixels, intermediates_only=True)[-1]
        assert torch.allclose(tokens.map.movedim(-1, 1), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        x = images_of(model, 1, 32, 32)
        assert torch.equal(load_model(tmp_path / "again")(x).logits, model(x).logits)


@pytest.mark.parametrize(
    "name",
    slow_unless(lambda name: name in ("swin_t", "swinv2_t", "dinov2_vit_s"), [n for n in backbones() if n != "timm"]),
)
def test_every_backbone_on_offer_can_be_counted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--classes", 3, "--modalities", "rgb,depth:1", "--no-measure", "--size", "64x64", "--json")
    ktb_model("info", "--backbone", name, *small)
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"]["total"] == sum(part["total"] for part in report["parameters"]["parts"])
    frozen = next(part for part in report["parameters"]["parts"] if part["part"] == "backbone")
    assert frozen["total"] > 500_000
    assert frozen["trained"] == 0
    assert report["sizes"][0]["flops"] > 1e8


def test_zoo_rows_are_the_experiments(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTB_ZOO", str(tmp_path))
    (tmp_path / "nyu_swin_b.pth").touch()
    rows = {row["experiment"]: row for row in zoo()}
    assert set(rows) == {f.stem for f in (conf_dir() / "experiment").glob("*_swin_?.yaml")}
    assert rows["nyu_swin_b"]["miou"] == 59.0
    assert rows["deliver_rgb_e_swin_b"]["split"] == "val"
    ktb_model("zoo")
    out = capsys.readouterr().out
    assert all(name in out for name in rows)
    assert [line.split()[1] for line in out.splitlines() if " here " in line] == ["nyu_swin_b"]
    assert f"KTB_ZOO={tmp_path}" in out
    assert {name: row["path"] for name, row in rows.items() if row["path"]} == {
        "nyu_swin_b": str(tmp_path / "nyu_swin_b.pth")
    }
    ktb_model("zoo", "--json")
    assert json.loads(capsys.readouterr().out) == list(rows.values())
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for row in rows.values():
            settings = row["train"].split()[1:]
            assert compose("train", overrides=settings).published.miou == row["miou"]


def test_a_file_by_name_is_used_by_every_subcommand_and_its_folder_left_alone(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf, here = tmp_path / "zoo", tmp_path / "here"
    shelf.mkdir()
    here.mkdir()
    (shelf / "mfnet_swin_b.pth").write_bytes(published.read_bytes())
    monkeypatch.setenv("KTB_ZOO", str(shelf))
    monkeypatch.chdir(here)
    ktb_model("convert", "zoo:mfnet_swin_b", here / "ours.safetensors", "--to", "ktb")
    assert list(read_file(here / "ours.safetensors")["ktb"]["model"]["modalities"]) == ["rgb", "thermal"]
    evaluated("zoo:mfnet_swin_b", None)
    (result,) = (here / "runs" / "mfnet_swin_b" / "eval").glob("*/result.json")
    assert json.loads(result.read_text())["checkpoint"] == str(shelf / "mfnet_swin_b.pth")
    assert [file.name for file in shelf.iterdir()] == ["mfnet_swin_b.pth"]


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # between the hub's client and its own library
def test_a_bundle_is_uploaded_with_its_card_and_taken_by_name(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "shipped"
    ktb_model("bundle", published, bundle)
    (bundle / "LICENSE").write_text("mine")
    (bundle / "notes.txt").write_text("for me")
    with hub_stand_in() as hub:
        hub.lead(monkeypatch, tmp_path / "cache")
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        ktb_model("push", bundle, "someone/mine")
        assert f"{hub.url}/someone/mine/commit/" in (said := capsys.readouterr().out)
        assert "ktb-eval checkpoint=someone/mine" in said
        there = hub.repositories["someone/mine"]
        assert set(there) == {".gitattributes", "model.safetensors", "config.json", "README.md", "LICENSE"}
        card = there["README.md"].decode()
        assert 'KTBSegmentor.from_pretrained("someone/mine")' in card
        assert "ktb-model info someone/mine\n" in card
        assert "shipped" not in card.partition("model-index")[2].partition("\n---\n")[2]
        assert hub.validated == [card]
        found = KTBSegmentor.from_pretrained("someone/mine")
        assert same(found.state_dict(), load_published(published).state_dict())
        assert "--update" in refused(capsys, "push", bundle, "someone/mine")
        ktb_model("push", bundle, "someone/mine", "--update")
        capsys.readouterr()
        assert "no such folder" in refused(capsys, "push", tmp_path / "nothing", "someone/other")
        assert "no bundle, as there is no" in refused(capsys, "push", tmp_path, "someone/other")
        shutil.copy(published, bundle / "model.safetensors")
        assert "not a readable checkpoint" in refused(capsys, "push", bundle, "someone/other")
        assert list(hub.repositories) == ["someone/mine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info",), "name either a source or an architecture"),
        (("info", "--backbone", "swin_x", "--classes", "3"), ", swin_b, "),
        (("info", "--backbone", "swin_b"), "--classes K"),
        (("info", "--backbone", "swin_b", "--classes", "3", "--base", "x"), "leave --base out"),
        (("info", "nowhere"), "nowhere: no such checkpoint or run folder"),
        (("convert", "PUBLISHED", "out.bin", "--to", "timm"), "expected a new file called"),
        (("convert", "PUBLISHED", "out.pth", "--to", "ktb"), "ours are .safetensors"),
        (("convert", "PUBLISHED", "PUBLISHED", "--to", "timm"), "exists already"),
        (("info", "PUBLISHED", "--modalities", "depth,rgb"), "a published file has rgb and one other"),
        (("bundle", "PUBLISHED", "/proc/nothing"), "can't be written"),
        (("export", "PUBLISHED", "out.h5", "--size", "64x64"), "expected a file called .onnx"),
        (("export", "PUBLISHED", "out.pt2", "--size", "65x64", "--dynamic"), "multiples of 32"),
    ],
)
def test_mistakes_are_one_line(
    published: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *(str(published) if a == "PUBLISHED" else a for a in arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "message"),
    [("00x64", "'00x64' is not HEIGHTxWIDTH"), ("99999x99999", "has more than 67,108,864 pixels (8192x8192)")],
)
def test_sizes_that_no_image_has(size: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["info", "nowhere", "--size", size])
    assert message in capsys.readouterr().err


def test_a_model_the_published_code_does_not_know_is_not_converted_to_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ktb.models.backbones.swin import FrozenSwin, SwinArch

    arch = SwinArch(32, (1, 1, 1, 1), (1, 2, 4, 8), 4)
    for i, (modalities, options, message) in enumerate(
        [
            (("rgb",), {}, "takes rgb and one other"),
            (("rgb", "depth"), {"peft": {"prompts": False}, "side_head": None}, "no model without MAPA and side heads"),
        ]
    ):
        model: Any = KTBSegmentor(
            FrozenSwin(arch), modalities, 3, **{"head": {"width": 8}, "side_head": {"width": 8}, **options}
        )
        model.save_pretrained(tmp_path / str(i))
        assert message in refused(capsys, "convert", tmp_path / str(i), tmp_path / "o.pth", "--to", "published")


def test_unknown_backbones_are_only_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "x.pth")
    assert "not a Swin backbone" in refused(
        capsys, "convert", tmp_path / "x.pth", tmp_path / "o.safetensors", "--to", "timm"
    )
    assert "neither a checkpoint of ktb nor a published one" in refused(capsys, "info", tmp_path / "x.pth")
    assert "can only be converted with --to timm" in refused(
        capsys, "convert", tmp_path / "x.pth", tmp_path / "o.safetensors", "--to", "published"
    )

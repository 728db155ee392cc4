"""docs/extend.md does what it says: its examples, as a package outside ktb, through every command."""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from ktb import KTBSegmentor, Predictor, load_model
from ktb.cli import model as ktb_model
from ktb.cli import predict as ktb_predict
from ktb.cli import report as ktb_report
from ktb.errors import CheckpointError, ConfigError, KTBError
from ktb.jobs.trial_step import try_own_parts
from ktb.losses.self_teaching import SelfTeachingLoss
from tests.ktb.combinations import small_backbone
from tests.ktb.jobs.test_train import evaluate
from tests.ktb.jobs.test_train import train as run_training

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```python\n# (my_lab/\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
PARTS = (
    "backbone._target_=my_lab.backbone.Plain", "backbone.weights=random", "+backbone.width=8",
    "peft._target_=my_lab.peft.ScaleAndShift", "peft.scale=0.9",
    "fusion._target_=my_lab.fusion.Gated", "+fusion.sharpness=2",
    "head._target_=my_lab.head.TopDown", "+head.depth=8", "+head.side.depth=4",
    "loss._target_=my_lab.loss.Agreement", "+loss.agreement=0.2",
    "loss.pixel_loss={_target_: my_lab.loss.Focal, gamma: 1.5}",
    "+metrics.kappa._target_=my_lab.metric.Kappa",
)  # fmt: skip
"""All parts of the page at once."""
OWN = "my_lab.backbone.Plain, my_lab.peft.ScaleAndShift, my_lab.fusion.Gated, my_lab.head.TopDown"


def train(run: Path, *overrides: str) -> dict[str, Any]:
    return run_training(run, "dataset.train=4", "trainer.max_epochs=3", *overrides)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with the page's package, which is on nobody's path."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "my_lab").mkdir()
    (folder / "my_lab" / "__init__.py").touch()
    for name, text in EXAMPLES.items():
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(lab: Path) -> tuple[Path, dict[str, Any]]:
    """A run of one epoch, two steps, with all parts of the page."""
    return lab / "run", train(lab / "run", *PARTS, "trainer.max_epochs=1")


def test_every_place_has_an_example_of_at_most_30_lines() -> None:
    assert sorted(EXAMPLES) == [
        f"my_lab/{name}.py" for name in ("backbone", "beside", "fusion", "head", "loss", "metric", "peft")
    ]
    for name, text in EXAMPLES.items():
        assert len([line for line in text.splitlines() if line.strip()]) <= 30, name


def test_a_training_is_of_these_parts(trained: tuple[Path, dict[str, Any]]) -> None:
    run, result = trained
    config = OmegaConf.load(run / "config.yaml")
    assert config.fusion == {"name": "Gated", "_target_": "my_lab.fusion.Gated", "sharpness": 2}
    assert config.peft == {"name": "ScaleAndShift", "_target_": "my_lab.peft.ScaleAndShift", "scale": 0.9}
    assert config.head == {"name": "TopDown", "_target_": "my_lab.head.TopDown", "depth": 8, "side": {"depth": 4}}
    assert (config.backbone.name, config.backbone.width, "embed_dim" in config.backbone) == ("Plain", 8, False)
    assert result["backbone"] == "Plain"
    model = load_model(run, trust="my_lab")
    names = {type(part).__module__ for part in (model.backbone, model.peft, model.head, *model.fusion)}
    assert names == {"my_lab.backbone", "my_lab.peft", "my_lab.head", "my_lab.fusion"}
    assert {head.predict.in_channels for head in model.side_heads.values()} == {4}  # type: ignore[union-attr]
    moved = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert moved == {"patch_embeds", "peft", "fusion", "head", "side_heads"}
    assert not torch.equal(model.peft.scales[0], torch.full_like(model.peft.scales[0], 0.9))  # type: ignore[index]
    header = (run / "metrics.csv").read_text().partition("\n")[0].split(",")
    assert {"train/loss_balance", "train/loss_apart", "val/kappa", "test/kappa"} <= set(header)
    focal = {"_target_": "my_lab.loss.Focal", "gamma": 1.5}
    assert config.loss == {
        "name": "Agreement", "_target_": "my_lab.loss.Agreement", "agreement": 0.2, "pixel_loss": focal,
        "side_weight": 0.01, "masking": True, "label_smoothing": 0.0, "class_weights": None,
    }  # fmt: skip


def kappa(result: dict[str, Any]) -> float:
    share = np.array(result["confusion_matrix"]) / np.sum(result["confusion_matrix"])
    chance = share.sum(0) @ share.sum(1)
    return float((np.trace(share) - chance) / (1 - chance))


def test_a_metric_of_ones_own_stands_beside_the_others(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, result = trained
    assert result["metrics"]["kappa"] == pytest.approx(kappa(result), rel=1e-6)
    assert json.loads((run / "result.json").read_text())["metrics"]["kappa"] == result["metrics"]["kappa"]
    again = evaluate(
        run, tmp_path / "a", "trust=my_lab", "+metrics.theirs._target_=torchmetrics.classification.MulticlassCohenKappa"
    )
    assert again["confusion_matrix"] == result["confusion_matrix"]
    assert again["metrics"]["kappa"] == result["metrics"]["kappa"]
    assert again["metrics"]["theirs"] == pytest.approx(result["metrics"]["kappa"], rel=1e-5)
    without = evaluate(run, tmp_path / "b", "trust=my_lab", "+metrics.kappa=null")
    assert "kappa" not in without["metrics"]


def test_a_training_goes_on(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, _ = trained
    last = run / "checkpoints" / "last.ckpt"
    with pytest.raises(ConfigError) as refused:
        train(tmp_path / "a", f"ckpt_path={last}", "trainer.max_epochs=2", "test=false")
    message = r": its configuration names \w+\._target_=my_lab\.\w+\.\w+, which is not a class of ktb; .*: trust=my_lab"
    assert re.fullmatch(re.escape(str(last)) + message, str(refused.value))
    assert not (tmp_path / "a").exists()
    trusting = ("trust=my_lab", f"ckpt_path={last}", "trainer.max_epochs=2", "test=false")
    assert train(tmp_path / "b", *trusting)["steps"] == 4
    same = train(tmp_path / "c", *PARTS, f"ckpt_path={last}", "trainer.max_epochs=2", "test=false")
    assert same["steps"] == 4
    assert OmegaConf.load(tmp_path / "c" / "config.yaml").fusion.sharpness == 2
    other = [text.replace("sharpness=2", "sharpness=3") for text in PARTS]
    with pytest.raises(CheckpointError, match=r"another model: fusion\.sharpness is 2, here 3"):
        train(tmp_path / "d", *other, f"ckpt_path={last}", "trainer.max_epochs=2")
    begun = train(
        tmp_path / "e", *PARTS, f"init_from={run}", "trainer.max_epochs=1", "trainer.max_steps=1", "test=false"
    )
    assert begun["init_from"]["tensors_fresh"] == 0


def test_what_a_file_names_is_imported_only_if_trusted(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    best = run / "checkpoints" / "best.ckpt"
    names = f"{best}: names {OWN}, classes that are not of ktb; "
    plea = "nothing that a file names is imported before you say that you trust it: "
    assert ktb_model.main(["info", str(run)]) == 2
    assert capsys.readouterr().err == f"ktb-model info: error: {names}{plea}--trust my_lab\n"
    for call in (load_model, KTBSegmentor.from_pretrained):
        with pytest.raises(CheckpointError) as refused:
            call(run)
        assert str(refused.value) == f'{names}{plea}trust="my_lab"'
        with pytest.raises(CheckpointError, match=re.escape('trust=["my_la", "my_lab"]')):
            call(run, trust="my_la")
    with pytest.raises(KTBError, match=re.escape(f'{plea}trust="my_lab"')):
        Predictor(run, device="cpu")
    with pytest.raises(KTBError, match=re.escape(f"{plea}trust=my_lab")):
        evaluate(run, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()


def test_bundle_predict_and_report(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = trained
    assert ktb_model.main(["bundle", str(run), str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.endswith("--trust my_lab\n")
    assert not (tmp_path / "no").exists()
    shipped = tmp_path / "shipped"
    assert ktb_model.main(["bundle", str(run), str(shipped), "--trust", "my_lab"]) == 0
    assert ktb_model.main(["info", str(shipped), "--trust", "my_lab", "--size", "64x64", "--no-measure", "--json"]) == 0
    card = (shipped / "README.md").read_text()
    assert f"my_lab ({OWN})" in card
    assert 'from_pretrained("shipped", trust="my_lab")' in card
    printed = capsys.readouterr().out
    numbers = json.loads(printed[printed.index("\n{") :])["parameters"]
    assert sum(part["total"] for part in numbers["parts"]) == numbers["total"]
    modules = [f"my_lab.{name}" for name in ("backbone", "peft", "fusion", "head")]
    model = KTBSegmentor.from_pretrained(shipped, trust=modules)
    rng = np.random.default_rng(0)
    frame = {m: rng.integers(1, 256, size).astype(np.uint8) for m, size in (("rgb", (40, 48, 3)), ("depth", (40, 48)))}
    assert ktb_model.main(["convert", str(run), str(tmp_path / "t.pth"), "--to", "timm", "--trust", "my_lab"]) == 2
    assert "my_lab.backbone.Plain is not made of a model of timm" in capsys.readouterr().err
    assert not (tmp_path / "t.pth").exists()
    masks = [Predictor(source, trust="my_lab", device="cpu", force=True)(frame) for source in (run, shipped)]
    assert np.array_equal(masks[0], masks[1])
    assert model.config == load_model(run, trust="my_lab").config
    for name, array in frame.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    call = [str(shipped), *(f"--{m}={tmp_path / m}.png" for m in frame), "--out", str(tmp_path / "out"), "--force"]
    assert ktb_predict.main(call) == 2
    assert capsys.readouterr().err.endswith("--trust my_lab\n")
    assert ktb_predict.main([*call, "--trust", "my_lab", "--write", "none"]) == 0
    written = np.array(Image.open(next((tmp_path / "out").rglob("*.png"))))
    assert np.array_equal(written, masks[0])
    assert ktb_report.main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert f"kappa {trained[1]['metrics']['kappa']:.4g}" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("name", ["swin", "pvt_v2_b0", "vit_small_patch16_dinov3"])
def test_layers_of_the_backbone_call_what_stands_beside_them(lab: Path, name: str) -> None:
    torch.manual_seed(0)
    peft = {"_target_": "my_lab.beside.Beside", "rank": 2}
    model = KTBSegmentor(small_backbone(name), ("rgb", "depth"), 5, peft=peft, head={"width": 8}).eval()
    images = {m: torch.rand(1, 3, 40, 48) for m in model.modalities}
    with torch.no_grad():
        start = model(images).logits
        for parameter in model.peft.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        moved = model(images).logits
        copied = copy.deepcopy(model)
        for parameter in model.peft.parameters():
            parameter.zero_()
        assert torch.equal(model(images).logits, start)
        assert torch.equal(copied(images).logits, moved)
    assert not torch.allclose(moved, start, atol=1e-3)
    assert try_own_parts(model, SelfTeachingLoss(), {}, all_trained=True) == []


def test_what_a_part_prints_is_no_part_of_json(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (lab / "my_lab" / "loud.py").write_text(
        "from ktb.models.fusion.simple import PlainSum\n"
        "class Loud(PlainSum):\n"
        "    def forward(self, streams):\n"
        "        print('fused')\n"
        "        return super().forward(streams)\n"
    )
    fusion = {"_target_": "my_lab.loud.Loud"}
    model = KTBSegmentor(small_backbone("swin"), ("rgb", "depth"), 5, fusion=fusion, head={"width": 8})
    model.save_pretrained(tmp_path / "loud")
    capsys.readouterr()
    call = ["info", str(tmp_path / "loud"), "--trust", "my_lab", "--size", "64x64", "--no-measure", "--json"]
    assert ktb_model.main(call) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    assert "fused\n" in printed.err


def test_a_layer_that_is_passed_by_is_told(lab: Path) -> None:
    """timm's Swin V2 reads the weight of its queries, keys and values."""
    peft = {"_target_": "my_lab.beside.Beside", "rank": 2}
    backbone = small_backbone("swinv2_tiny_window8_256")
    model = KTBSegmentor(backbone, ("rgb", "depth"), 5, peft=peft, head={"width": 8})
    (note,) = try_own_parts(model, SelfTeachingLoss(), {})
    passed_by = 2 * sum(len(backbone.blocks(stage)) for stage in range(4))
    assert note.startswith(f"{passed_by} parameters get no gradient in a trial step, peft.beside.")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            ["fusion._target_=my_lab.fusion.Gated", "+fusion.sharpnes=2"],
            "my_lab.fusion.Gated takes no setting 'sharpnes'; did you mean 'sharpness'?",
        ),
        (["fusion._target_=my_lab.fusion.Gate"], "has no class Gate; did you mean 'Gated'?"),
        (["fusion._target_=my_lab.fusions.Gated"], "has no module fusions; did you mean 'fusion'?"),
        (["fusion._target_=my_labs.Gated"], "there is no module my_labs: it is not installed, and"),
        (["fusion._target_=my_lab.head.TopDown"], "my_lab.head.TopDown: its method forward"),
        (["head._target_=my_lab.fusion.Gated"], "my_lab.fusion.Gated: its method forward"),
        (["peft._target_=my_lab.head.TopDown"], "is no PEFT method: it must derive from ktb.models.peft.base.Peft"),
        (["backbone._target_=my_lab.head.TopDown"], "is no backbone: it must derive from"),
        (["+metrics.x._target_=my_lab.head.TopDown"], "is no metric: it must derive from torchmetrics.Metric"),
        (["+metrics.miou._target_=my_lab.metric.Kappa"], "metrics.miou: the name is computed in any case"),
        (["backbone._target_=my_lab.backbone.Plain"], "backbone.weights=bundled: none of my_lab.backbone.Plain come"),
        (
            ["loss.pixel_loss={_target_: my_lab.loss.Focal, gama: 1}"],
            "my_lab.loss.Focal takes no setting 'gama'; did you",
        ),
        (["loss.pixel_loss={_target_: my_lab.loss.Focl}"], "has no class Focl; did you mean 'Focal'?"),
        (["fusion._target_=os.system"], "os.system is not a class but of type"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(lab: Path, tmp_path: Path, wrong: list[str], message: str) -> None:
    with pytest.raises(KTBError) as refused:
        train(tmp_path / "run", *wrong)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()

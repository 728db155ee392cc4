"""Exported files give the model's logits, at sizes that were not traced and in a process that has no ktb."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ktb.errors import CheckpointError
from ktb.export.file import METADATA, export
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.fusion import dscf
from ktb.models.layers.plain_or_fast import is_plain
from ktb.models.segmentor import KTBSegmentor

SIZES = ((64, 128), (96, 96), (160, 64))
"""Windows of 5 patches fit none of the maps of these, so that padding and shift masks matter."""


def small(depths: tuple[int, int, int, int] = (1, 1, 2, 1), **parts: Any) -> KTBSegmentor:
    """A model whose attention shows: gains of one, every parameter random."""
    torch.manual_seed(0)
    arch = SwinArch(32, depths, (1, 2, 4, 8), 5)
    given = {"head": {"width": 8}, "side_head": {"width": 8}, **parts}
    model = KTBSegmentor(FrozenSwin(arch), {"rgb": 3, "lidar": 1}, 4, **given)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "table" in name:
                p.normal_(std=0.2)
            elif name.endswith("_gain"):
                p.fill_(1.0)
            elif name.startswith("peft."):
                p.normal_(std=0.1)
    model.about = {"classes": ["a", "b", "c", "d"], "palette": [[i, i, i] for i in range(4)]}
    return model.eval()


def inputs(model: KTBSegmentor, h: int, w: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(h * w)
    return {m: torch.randn(1, c, h, w, generator=generator) for m, c in model.config["modalities"].items()}


@pytest.mark.slow
def test_onnx_runs_without_ktb_at_other_sizes(tmp_path: Path) -> None:
    model, file = small(), tmp_path / "model.onnx"
    compared = export(model, file, (96, 128), dynamic=True)
    assert len(compared) == 3
    assert all(difference <= 1e-4 for _, difference in compared)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    for h, w in SIZES:
        x = inputs(model, h, w)
        with torch.no_grad():
            logits = model(x).logits
        np.savez(tmp_path / f"{h}x{w}.npz", logits=logits.numpy(), **{m: v.numpy() for m, v in x.items()})
    code = """
import json, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ktb", "torch", "timm"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
differences = []
for name in sys.argv[1:]:
    data = dict(np.load(name))
    logits = data.pop("logits")
    differences.append(float(abs(session.run(["logits"], data)[0] - logits).max()))
print(json.dumps([differences, session.get_modelmeta().custom_metadata_map["ktb"]]))
"""
    names = [f"{h}x{w}.npz" for h, w in SIZES]
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *names], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    differences, about = json.loads(done.stdout)
    assert max(differences) < 1e-4
    about = json.loads(about)
    assert about["inputs"] == {"rgb": {"channels": 3}, "lidar": {"channels": 1}}
    assert about["classes"] == ["a", "b", "c", "d"]
    assert about["size"] == {"multiple_of": 32, "min": 64, "max": 4096}


@pytest.mark.slow
@pytest.mark.parametrize("size", [(45, 67), (32, 64)])  # the second leaves maps of one pixel
def test_a_fixed_size_may_be_any(tmp_path: Path, size: tuple[int, int]) -> None:
    model, file = small((1, 1, 1, 1)), tmp_path / "model.pt2"
    model.about["preparation"] = {"rgb": [{"do": "divide", "by": 255.0}]}
    export(model, file, size, dynamic=False)
    extra = {METADATA: ""}
    loaded = torch.export.load(file, extra_files=extra).module(check_guards=False)
    assert json.loads(extra[METADATA])["size"] == list(size)
    assert json.loads(extra[METADATA])["preparation"] == model.about["preparation"]
    x = inputs(model, *size)
    with torch.no_grad():
        expected = model(x).logits
        assert torch.allclose(loaded(*x.values()), expected, atol=1e-4)
    assert not is_plain()  # models are as they were


@pytest.mark.slow
def test_lora_leaves_nothing_in_the_file(tmp_path: Path) -> None:
    """As many operations as without PEFT, no tensor of it; and the model is as it was."""
    programs = []
    for name, peft in (("lora", {"_target_": "ktb.models.peft.lora.LoRA", "rank": 2}),
                       ("none", {"_target_": "ktb.models.peft.base.Peft"})):  # fmt: skip
        model = small((1, 1, 1, 1), peft=peft, fusion={"_target_": "ktb.models.fusion.simple.PlainSum"})
        before = {k: v.clone() for k, v in model.state_dict().items()}
        export(model, tmp_path / f"{name}.pt2", (64, 64), dynamic=False)
        assert {k for k, v in model.state_dict().items() if torch.equal(v, before[k])} == before.keys()
        programs.append(torch.export.load(tmp_path / f"{name}.pt2"))
    lora, none = programs
    assert [node.target for node in lora.graph.nodes] == [node.target for node in none.graph.nodes]
    assert lora.state_dict.keys() == none.state_dict.keys()
    weight = "model.backbone.layers.2.blocks.0.attn.qkv.weight"
    assert not torch.equal(lora.state_dict[weight], none.state_dict[weight])


@pytest.mark.slow
def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = dscf.point_attention
    monkeypatch.setattr(dscf, "point_attention", lambda *args: right(*args) * 1.01)
    with pytest.raises(CheckpointError, match=r"model\.pt2: not written: at 64x64 its logits differ from the model's"):
        export(small((1, 1, 1, 1)), tmp_path / "model.pt2", (64, 64), dynamic=False)
    assert list(tmp_path.iterdir()) == []

"""What is really in an offline wandb run: documented names, masks, groups, one id over a resume. And the dashboard."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktb.cli.report import main
from ktb.jobs.train import train
from tests.ktb.jobs.test_train import TINY, configured
from tests.ktb.report.test_table_formats import run_folder

DOCS = Path(__file__).parents[3] / "docs" / "report.md"
SWEEP = "my_sweep"


def records(folder: Path) -> Iterator[Any]:
    """The records of an offline run's file: protocol buffers in a LevelDB log (blocks of 32 KiB, cut records)."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    assert content[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def logged(folder: Path) -> dict[str, list[Any]]:
    """Name → values of the run's history."""
    found: dict[str, list[Any]] = {}
    for record in records(folder):
        row: dict[str, Any] = {}
        for item in record.history.item:
            name, *inner = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            row[name] = {**row.get(name, {}), inner[0]: value} if inner else value
        for name, value in row.items():
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a sweep, stopped after one epoch and then continued."""
    sweep = tmp_path_factory.mktemp("sweeps") / SWEEP
    sweep.mkdir()
    (sweep / "sweep.json").write_text("{}")
    wandb = ["logger=wandb", "logger.wandb.mode=offline", f"run_dir={sweep / '0'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_SILENT", "true")
        train(configured("train", [*TINY, *wandb, "trainer.max_steps=3", "test=false"]))
        train(configured("train", [*TINY, *wandb, "ckpt_path=last", "trainer.max_steps=-1", "test=true"]))
    return sweep / "0"


@pytest.mark.slow
def test_offline_run_file_holds_the_documented_names(offline: Path) -> None:
    first, second = sorted((offline / "wandb").glob("offline-run-*"))
    names = set(logged(first)) | set(logged(second))
    text = DOCS.read_text(encoding="utf-8").partition("## Names that are logged")[2]
    table = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert len(table) > 10
    fill = {"{modality}": ("rgb", "depth"), "{class}": ("floor", "wall", "screen")}
    expected = set()
    for name in table:
        place = next((p for p in fill if p in name), None)
        expected |= {name.replace(place, value) for value in fill[place]} if place else {name}
    assert expected - names == set()
    documented = [re.sub(r"\\\{\w+\\\}", ".+", re.escape(name)) for name in table]
    own = {name for name in names if not name.startswith("_")}
    assert {name for name in own if not any(re.fullmatch(d, name) for d in documented)} == set()


@pytest.mark.slow
def test_a_resume_continues_the_run_and_a_sweep_is_a_group(offline: Path) -> None:
    folders = sorted((offline / "wandb").glob("offline-run-*"))
    runs = [next(r.run for r in records(folder) if r.HasField("run")) for folder in folders]
    assert {r.run_id for r in runs} == {(offline / "wandb_id.txt").read_text()}
    assert [(r.run_group, r.job_type, r.project) for r in runs] == [(SWEEP, "train", "ktb")] * 2
    steps = [logged(folder)["trainer/global_step"] for folder in folders]
    assert max(steps[0]) < max(steps[1])
    config = {i.key: json.loads(i.value_json) for r in records(folders[0]) for i in r.run.config.update}
    config |= {i.key: json.loads(i.value_json) for r in records(folders[0]) for i in r.config.update}
    assert config["backbone"]["name"] == "swin_nano"


@pytest.mark.slow
def test_pictures_carry_masks_of_named_classes(offline: Path) -> None:
    values = logged(sorted((offline / "wandb").glob("offline-run-*"))[1])
    shown = values["panels"][-1]
    assert shown["count"] == 3
    assert {name for masks in shown["all_masks"] for name in masks} == {"truth", "prediction"}
    (table,) = (offline / "wandb").glob("offline-run-*/files/media/table/predictions*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["group", "id", "image", "miou", "pixel_acc"]
    panels = json.loads((offline / "panels" / "panels.json").read_text())["samples"]
    assert [(row[0], row[1], row[3]) for row in content["data"]] == [(s["group"], s["id"], s["miou"]) for s in panels]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces on Pydantic 2
def test_the_dashboard_names_what_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["wandb", str(run_folder(tmp_path / "run")), "--project", "mine", "--print"]) == 0
    spec = json.loads(capsys.readouterr().out)
    assert spec["project"] == "mine"
    sections = {s["name"]: s["panels"] for s in spec["spec"]["section"]["panelBankConfig"]["sections"]}
    assert list(sections) == ["Results", "Training", "Validation", "Pictures", "Differences"]
    configs = [panel["config"] for panels in sections.values() for panel in panels]
    used = {
        name for c in configs for name in (*c.get("metrics", ()), *c.get("mediaKeys", ()), c.get("metricRegex", ""))
    }
    documented = DOCS.read_text(encoding="utf-8")
    for name in used - {""}:
        known = re.sub(r"(test_iou/).*|(val_iou/).*", r"\1\2{class}", name).replace("loss_.*", "loss_{modality}")
        assert f"| `{known}` |" in documented, name
    assert "test_iou/wall" in used


def test_a_workspace_can_be_updated_only_with_an_account(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["wandb", "--print", "--url", "x"]) == 2
    error = capsys.readouterr().err
    assert "--url needs an account" in error
    assert error.count("\n") == 1

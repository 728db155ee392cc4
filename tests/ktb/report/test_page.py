"""The report of a real run in a real browser: nothing is fetched, every picture loads, every control works."""

from __future__ import annotations

import contextlib
import copy
import csv
import html
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import markupsafe
import numpy as np
import pytest
from PIL import Image

from ktb.cli.report import main
from ktb.errors import ReportError
from ktb.report.page import page
from ktb.report.plots import line_plot, thinned, ticks
from ktb.report.runs import read_run, read_runs, run_table
from ktb.report.sweep_summary import summarise
from ktb.report.table_formats import latex
from tests.ktb.report.test_table_formats import run_folder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "<img src=x onerror=alert(1)></script><script>alert(1)</script>\"'&"

PROBE = """<script>
const found = { errors: [], violations: [] };
addEventListener("error", e => found.errors.push(e.message || "not loaded: " + e.target.outerHTML.slice(0, 80)), true);
addEventListener("unhandledrejection", e => found.errors.push(String(e.reason)));
addEventListener("securitypolicyviolation", e => found.violations.push(e.violatedDirective + " " + e.blockedURI));
const decoded = () => Promise.all([...document.images].filter(i => i.closest("section")).map(i => i.decode()));
addEventListener("load", () => decoded().catch(() => {}).then(() => setTimeout(() => {
  const images = [...document.images].filter(i => i.closest("section"));
  found.images = images.length;
  found.broken = images.filter(i => !i.complete || !i.naturalWidth).map(i => i.alt);
  const drawn = c => new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size > 8;
  found.canvases = [...document.querySelectorAll("canvas")].map(drawn);
  const bars = [...document.querySelectorAll("#classes td.bars")].map(cell => +cell.dataset.v);
  document.querySelectorAll("#classes th")[1].click();
  const sorted = [...document.querySelectorAll("#classes td.bars")].map(cell => +cell.dataset.v);
  found.sorts = bars.sort((a, b) => b - a).join() === sorted.join();
  for (const button of document.querySelectorAll("button, th")) button.click();
  if (images.length) {
    images[0].click();
    const press = key => dispatchEvent(new KeyboardEvent("keydown", { key }));
    for (const way of ["Right", "Down", "Up", "Left"]) press("Arrow" + way);
    document.querySelector("#box").dispatchEvent(new WheelEvent("wheel", { deltaY: -100, cancelable: true }));
    found.zoomed = document.querySelector("#box").classList.contains("open");
    press("Escape");
    found.closed = !document.querySelector("#box").classList.contains("open");
  }
  const over = new PointerEvent("pointermove", { clientX: 200, clientY: 9 });
  for (const svg of document.querySelectorAll("svg[data-plot]")) svg.onpointermove(over);
  found.tip = document.querySelector("#tip").textContent;
  found.fetched = performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:"));
  setTimeout(() => document.body.setAttribute("data-probe", JSON.stringify(found)), 300);
}, 500)));
</script>"""


def browse(text: str, folder: Path) -> dict[str, Any]:
    """Open the page in headless Chromium, use its controls, and tell what happened."""
    assert text.count("script-src 'sha256-") == 1
    probed = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text)  # or the probe would not run
    file = folder / "probed.html"
    file.write_text(probed.replace("<header>", f"{PROBE}<header>", 1), encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'chromium'}",
    ]
    command += ["--enable-logging=stderr", "--virtual-time-budget=8000", "--window-size=1200,900", "--dump-dom"]
    for _ in range(10):
        done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, check=True, timeout=120)
        # On a busy machine the browser's clock, which runs ahead, may be over before a picture is decoded.
        if probe := re.search(r'data-probe="([^"]*)"', done.stdout):
            break
    assert probe, done.stdout[-500:] + done.stderr
    found: dict[str, Any] = json.loads(html.unescape(probe[1]))
    found["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return found


def with_panels(folder: Path, name: str = "rgb") -> Path:
    """A run folder with one panel, fusion of two modalities, robustness, conditions and curves, all named `name`."""
    metrics = {"miou": 0.5}
    run_folder(
        folder,
        confusion_matrix=[[3, 1], [0, 0]],
        per_condition={name: {name: {"samples": 3, "metrics": metrics}}},
        protocol={"name": name, "description": name},
    )
    (folder / "panels").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(picture).save(folder / "panels" / "a.png")
    Image.fromarray(picture).save(folder / "panels" / "b.jpg")
    pictures = [{"title": name, "file": "a.png"}, {"title": f"{name} 2", "file": "b.jpg"}]
    sample = {"id": name, "group": name, "miou": 0.5, "condition": {name: name}, "pictures": pictures}
    panels = {"classes": [name], "palette": [[1, 2, 3]], "samples": [sample]}
    (folder / "panels" / "panels.json").write_text(json.dumps(panels))
    points = {"x": [0, 5000], "y": [10000, 1], "weights": {name: [900], "d": [100]}}
    stage = {
        "map": [5, 8], "groups": 2, "gain": {"attention": 0.1, "features": 1.0},
        "points": {name: points, "d": points}, "mean": {name: 0.9, "d": 0.1},
    }  # fmt: skip
    fusion = {"modalities": {name: name, "d": f"{name} 2"}, "samples": [{"panel": 0, "stages": [stage]}]}
    (folder / "panels" / "fusion.json").write_text(json.dumps(fusion))
    runs = {"runs": [{"affected": [name], "metrics": metrics, "side": {name: 0.25}}]}
    summary = {"avg": 0.4, "expected": {"0.1": 0.45}, "worst": 0.3, "drop": 0.2}
    robustness = {"full": {"metrics": metrics}, "emm": {"zeros": {**runs, "summary": summary}}, "nm": {name: runs}}
    (folder / "robustness.json").write_text(json.dumps(robustness))
    with (folder / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["step", "train/loss", f"val/{name}", "val/miou"], [1, 2.0, 0.5, 0.1], [2, 1.0, "", 0.2]]
        )
    return folder


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_pages_work_in_a_browser_that_may_fetch_nothing(tmp_path: Path) -> None:
    plain, evil = with_panels(tmp_path / "plain"), with_panels(tmp_path / EVIL.replace("/", "|"), EVIL)
    for folders, pictures in (([plain], 2), ([plain, evil], 4)):
        found = browse(page(read_runs(folders)), tmp_path)
        assert found["images"] == pictures
        assert found["canvases"] == [True] * pictures
        assert found["sorts"]
        assert found["zoomed"]
        assert found["closed"]
        assert found["tip"].startswith("step ")
        for trouble in ("errors", "violations", "broken", "fetched", "console"):
            assert found[trouble] == [], trouble


def test_names_from_files_never_become_markup(tmp_path: Path) -> None:
    text = page([read_run(with_panels(tmp_path / "run", EVIL), EVIL)])
    assert markupsafe.escape(EVIL) in text
    assert text.count("<script") == text.count("</script>") == 2  # the fusion's data and ours
    assert "<img src=x" not in text
    assert re.findall(r'(?:src|href)="(?!data:|#|")([^"]*)', text) == []


def test_only_pictures_of_the_own_panels_folder_are_taken_in(tmp_path: Path) -> None:
    folder = with_panels(tmp_path / "run")
    (tmp_path / "run" / "secret.png").write_bytes((folder / "panels" / "a.png").read_bytes())
    (folder / "panels" / "text.png").write_text("secret")
    panels = json.loads((folder / "panels" / "panels.json").read_text())
    for name in ("../secret.png", "/etc/passwd", "text.png", "gone.png", "..", 3, str(tmp_path / "run" / "secret.png")):
        panels["samples"][0]["pictures"] = [{"title": "x", "file": name}]
        (folder / "panels" / "panels.json").write_text(json.dumps(panels))
        assert 'src="data:' not in page([read_run(folder)])


@pytest.mark.parametrize(
    "damage",
    [
        {"panels": 3}, {"samples": [{"panel": 9, "stages": []}]}, {"modalities": []},
        {"samples": [{"panel": 0, "stages": [{"points": "x"}]}]}, {"samples": [None]},
    ],
)  # fmt: skip
def test_odd_content_leaves_a_section_out(tmp_path: Path, damage: dict[str, Any]) -> None:
    folder = with_panels(tmp_path / "run")
    fusion = json.loads((folder / "panels" / "fusion.json").read_text())
    assert 'id="fusion"' in page([read_run(folder)])
    (folder / "panels" / "fusion.json").write_text(json.dumps({**fusion, **damage}))
    assert ('id="fusion"' in page([read_run(folder)])) == ("panels" in damage)


def with_maps(folder: Path, name: str = "share of rgb") -> Path:
    """A run folder whose fusion blocks named maps instead of points."""
    with_panels(folder)
    maps = [{"stage": stage, "title": name, "file": "a.png", "mean": 0.25 * stage} for stage in (2, 1, 1)]
    fusion = {"modalities": {"rgb": "RGB"}, "samples": [], "maps": [{"panel": 0, "maps": maps}]}
    (folder / "panels" / "fusion.json").write_text(json.dumps(fusion))
    return folder


def test_maps_that_fusion_blocks_name_stand_by_stage(tmp_path: Path) -> None:
    folder = with_maps(tmp_path / "run", EVIL)
    text = page([read_run(folder)])
    section = text.partition('id="fusion_maps"')[2].partition("</section>")[0]
    assert 'id="fusion"' not in text
    assert section.count("<img ") == 3
    assert EVIL not in text
    assert re.findall(r"stage \d</p>", section) == ["stage 1</p>", "stage 2</p>"]
    assert re.findall(r"(\d\.\d\d)</figcaption>", section) == ["0.25", "0.25", "0.50"]
    file = folder / "panels" / "fusion.json"
    content = json.loads(file.read_text())
    (tmp_path / "secret.png").write_bytes((folder / "panels" / "a.png").read_bytes())
    for change in ({"file": "../../secret.png"}, {"file": 3}, {"stage": "x"}, {"mean": None}):
        damaged = [{**m, **change} for m in content["maps"][0]["maps"]]
        file.write_text(json.dumps({**content, "maps": [{"panel": 0, "maps": damaged}, None, 3]}))
        assert 'id="fusion_maps"' not in page([read_run(folder)])


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of nested dicts and lists is."""
    yield path
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield from places(value, (*path, key))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        *((name, with_panels) for name in ("result.json", "panels/panels.json")),
        pytest.param("panels/fusion.json", with_panels, marks=pytest.mark.slow),
        ("robustness.json", with_panels),
        ("panels/fusion.json", with_maps),
    ],
)
def test_no_content_breaks_the_page(tmp_path: Path, name: str, made: Callable[[Path], Path]) -> None:
    file = made(tmp_path / "run") / name
    content = json.loads(file.read_text())
    odd = itertools.cycle([None, True, -1, 1e308, float("nan"), "x", "\ud800", [], [[]], {}, [{}]])
    for path in places(content):
        for value in itertools.islice(odd, 2):
            mutant = copy.deepcopy(content)
            node = {None: mutant}
            for key in (None, *path)[:-1]:
                node = node[key]
            node[(None, *path)[-1]] = value
            file.write_text(json.dumps(mutant if path else value))
            with contextlib.suppress(ReportError):
                run = read_run(tmp_path / "run")
                page([run, run]).encode()
                latex(run_table([run])).encode()


def test_the_command_writes_the_page_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", 2)
    assert main([str(first)]) == 0
    assert capsys.readouterr().out == f"{first / 'report.html'}\n"
    assert main([str(first), str(second)]) == 2
    assert "--out FILE is needed" in capsys.readouterr().err
    assert main([str(first), str(second), "--out", str(tmp_path / "both.html")]) == 0
    text = (tmp_path / "both.html").read_text()
    assert "24.69" in text  # of b
    assert "-46.65 to published 59.00" in text  # of a
    assert main([str(first), "--out", str(tmp_path / "nowhere" / "x.html")]) == 2
    assert "can&#x27;t be written" not in (error := capsys.readouterr().err)
    assert "can't be written" in error
    assert error.count("\n") == 1


def test_a_sweep_as_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder(tmp_path / "0")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "job.json").write_text(json.dumps({"status": "failed", "error": "out of <memory>"}))
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": {"0": ["seed=1"], "1": ["seed=2"]}}))
    assert main(["sweep", str(tmp_path), "--out", str(tmp_path / "sweep.html")]) == 0
    text = (tmp_path / "sweep.html").read_text()
    assert "out of &lt;memory&gt;" in text
    assert summarise(tmp_path).counts() in text


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(0.13, 0.87) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    for low, high in ((1e-9, 3e-9), (-5, 1e6), (0.99, 1.0)):
        found = ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert 4 <= len(found) <= 9


def test_a_short_run_has_no_steps_between_steps() -> None:
    drawn = line_plot([("mIoU", 0, [(1, 0.1), (3, 0.2)])])
    assert [label for _, label in drawn["columns"]] == ["1", "2", "3"]
    assert [x for x, _ in drawn["columns"]] == [drawn["box"]["left"], 296, drawn["box"]["right"]]


def test_long_curves_are_averaged() -> None:
    curve = [(float(i), float(i % 2)) for i in range(4001)]
    short = thinned(curve)
    assert len(short) == 364  # of 11 each, the last of 8
    assert short[0] == (5.0, pytest.approx(5 / 11))
    assert thinned(curve[:400]) == curve[:400]


def test_half_a_line_of_metrics_is_left_out(tmp_path: Path) -> None:
    """A training that was killed while it wrote."""
    folder = run_folder(tmp_path / "run")
    (folder / "metrics.csv").write_text("epoch,step,train/loss\n0,1,2.5\n0,2,1.5\n")
    whole = read_run(folder).curves
    assert whole == {"train/loss": [(1, 2.5), (2, 1.5)]}
    with (folder / "metrics.csv").open("a") as file:
        file.write("0,3,1.2e-")
    assert read_run(folder).curves == whole


@pytest.mark.parametrize("out", [".", "file/page.html", "x" * 300 + ".html"])
def test_places_that_cannot_be_written_are_one_line(
    tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_folder(tmp_path / "run")
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--out", out]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert out in error


def test_robustness_says_how_it_was_measured(tmp_path: Path) -> None:
    """It may be of another evaluation than the scores at the head."""
    folder = run_folder(tmp_path / "run")
    about = {"dataset": "nyu", "split": "val", "protocol": {"description": "windows of 32"}, "checkpoint": "last.ckpt"}
    full = {"affected": [], "metrics": {"miou": 0.5}}
    (folder / "robustness.json").write_text(json.dumps({**about, "full": full, "emm": {}}))
    assert "nyu val split, windows of 32; checkpoint last.ckpt" in page([read_run(folder)])


def test_about_a_run_is_all_that_its_result_says_of_the_training(tmp_path: Path) -> None:
    told = {
        "selection_split": "val", "best_val_miou": 0.4321, "init_from": {"file": "/other/best.ckpt"}, "epochs": 7,
        "stopped_early": "val/miou has not risen above 0.4321 in 3 validations", "steps": 56, "wall_time_s": 3725.0,
        "checkpoint": "checkpoints/best.ckpt", "peak_memory_mb": 813, "parameters": {"total": 5000, "trained": 400},
    }  # fmt: skip
    text = page([read_run(run_folder(tmp_path / "run", **told))])
    facts = dict(re.findall(r"<dt>(.*?)</dt>\s*<dd>(.*?)</dd>", text))
    expected = {
        "chosen on": "val", "best mIoU there": "43.21 %", "started from": "/other/best.ckpt", "epochs": "7",
        "stopped early": told["stopped_early"], "steps": "56", "wall time": "1 h 2 min",
        "checkpoint": "checkpoints/best.ckpt", "peak memory": "813 MiB", "parameters": "total 5,000, trained 400",
    }  # fmt: skip
    assert facts.items() >= expected.items()


def test_shares_of_pixels_are_shown_where_all_runs_have_the_same(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / name, confusion_matrix=[[5, 1], [2, 3]]) for name in "ab"]
    assert "share of pixels" in page(read_runs(folders))
    file = folders[1] / "result.json"
    result = json.loads(file.read_text())
    result["confusion_matrix"][0][0] += 1000
    file.write_text(json.dumps(result))
    assert "share of pixels" not in page(read_runs(folders))


@pytest.mark.parametrize(("value", "labels"), [(0.0, {"0"}), (0.5, {"50"})])
def test_a_curve_that_never_changes_has_readable_numbers(value: float, labels: set[str]) -> None:
    drawn = line_plot([("loss", 0, [(1.0, value), (2.0, value)])], "%")
    shown = {label for _, label in drawn["rows"]}
    assert labels < shown
    assert all(len(text) <= 5 for text in shown), shown

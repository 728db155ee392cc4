"""The report in the terminal, as JSON and as a page."""

from __future__ import annotations

import io
import json
import re

import numpy as np
from PIL import Image
from rich.console import Console

from ktb.data.tools.check.report import _page, show, write_report
from tests.ktb.data.tools.check.reports import SIZE, nyu_data, own_labels, report_of


def test_written_report(nyu, tmp_path):
    (nyu / "HHA/1.jpg").write_bytes(b"")
    report = report_of(nyu_data(nyu))
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|src=|<script|<link|url\(", page)
    assert page.count('class="bar"') == 2 * 40
    split = report["splits"]["train"]
    share = split["classes"]["wall"] / (split["pixels"] - split["void"])
    assert f'<td class="n">{share:.2%}<span class="track">' in page
    assert page.count('style="width:5.50em"') >= 1  # the greatest share; the others by it
    assert f"<p>{nyu}</p>" in page
    assert '<h2 class="bad">Failures: 1</h2>' in page
    assert f"{nyu / 'HHA/1.jpg'}: the file is empty" in page
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_page_without_failures_says_so(nyu):
    page = _page(report_of(nyu_data(nyu)))
    assert "No failures: all 5 samples can be read" in page
    assert 'class="bad"' not in page
    assert "<ul></ul>" not in page


def test_names_in_the_page_are_escaped(nyu):
    report = report_of(nyu_data(nyu)) | {"dataset": "<b>", "findings": ["a < b"]}
    assert "<b>" not in _page(report)
    assert "<li>a &lt; b</li>" in _page(report)


def test_terminal_report(nyu):
    (nyu / "HHA/1.jpg").write_bytes(b"")
    console = Console(width=120, record=True, file=io.StringIO())
    show(report_of(nyu_data(nyu)), console)
    text = console.export_text()
    assert re.search(r"train\W+3\W+795\W+1\W+40x48\W", text)
    assert f"failed: {nyu / 'HHA/1.jpg'}: the file is empty" in text.replace("\n", "")
    assert "finding: test: 2 samples, published are 654" in text


def test_names_are_no_markup_in_the_terminal(tmp_path):
    report = own_labels(tmp_path, [Image.fromarray(np.zeros(SIZE, np.uint8))])
    for split in report["splits"].values():
        split["classes"] = {"[void]": 5, "a[/x]": 7}
    console = Console(file=io.StringIO(), width=120)
    show(report, console)
    assert "[void]" in console.file.getvalue()
    assert "a[/x]" in console.file.getvalue()

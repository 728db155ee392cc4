"""Names in scripts that the plain font does not have: another font, or a number; never an empty box or a warning."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

from ktb.data import legible
from ktb.data.spec import DatasetSpec
from ktb.predict.outputs import Outputs

MATH = "𝒜"
"""A letter that DejaVu Sans lacks, and a font has that Matplotlib brings along."""
ARABIC, HINDI, KOREAN = "طريق", "सड़क", "\U000bfffe도로"
"""Letters that change shape or run from the right, and with one that no font has."""


@pytest.mark.parametrize("name", ["road", "Straße", "дорога", "ÅÄÖ µm²"])
def test_what_the_plain_font_has_stays(name: str) -> None:
    assert legible.legible(name) == name
    assert legible.class_names([name]) == [name]


def test_what_cannot_be_drawn_is_numbered_or_marked() -> None:
    assert legible.class_names(["road", ARABIC, HINDI, KOREAN]) == ["road", "class 1", "class 2", "class 3"]
    assert legible.legible(f"a{ARABIC}b") == "a????b"


def test_a_font_that_has_the_letters_is_taken() -> None:
    assert legible.class_names([MATH]) == [MATH]
    font = legible.font_file(f"{MATH}b")
    assert font is not None
    assert ord(MATH) in FT2Font(str(font)).get_charmap()
    assert legible.font_file("road") is None


def test_matplotlib_draws_all_of_them_without_a_warning() -> None:
    names = legible.class_names(["road", MATH, ARABIC, HINDI, KOREAN])
    drawn = []
    for texts in (names, []):
        with legible.fonts_for(texts):
            figure = Figure(figsize=(2, 1))
            figure.text(0, 0.5, "\n".join(names if texts else []))
        file = io.BytesIO()
        figure.savefig(file, format="png")  # warnings are errors
        drawn.append(np.array(Image.open(file)))
    assert (drawn[0] != drawn[1]).any()


def test_the_legend_of_a_prediction_has_a_legible_name_for_each_class(tmp_path: Path) -> None:
    def legend(*names: str) -> np.ndarray:
        outputs = Outputs(tmp_path, DatasetSpec("own", names, ((0, 0, 0), (200, 0, 0)), {}))
        return np.array(outputs._with_legend(Image.new("RGB", (90, 40)), np.arange(2)))

    assert (legend("a", ARABIC) == legend("a", "class 1")).all()
    assert (
        legend("a", MATH).shape != legend("a", "class 1").shape or (legend("a", MATH) != legend("a", "class 1")).any()
    )

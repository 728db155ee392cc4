from __future__ import annotations

import pytest

from ktb.errors import did_you_mean, first_line, nearest, one_line


def test_the_first_line_is_the_first_that_says_anything() -> None:
    assert first_line(ValueError("\n\n  cut short \n at byte 7")) == "cut short"
    assert first_line(ValueError()) == first_line(ValueError(" \n")) == "ValueError"


def test_a_long_first_line_is_cut_unless_it_is_wanted_whole() -> None:
    error = RuntimeError("x" * 161)
    assert first_line(error) == "x" * 157 + "..."
    assert first_line(RuntimeError("x" * 160)) == "x" * 160
    assert first_line(error, limit=20) == "x" * 17 + "..."
    assert first_line(error, limit=None) == "x" * 161


def test_a_line_that_holds_a_word_comes_before_the_first() -> None:
    error = RuntimeError("g++ -c a.cpp\na.cpp:1: error: no header\nerror: more")
    assert first_line(error, containing="error:") == "a.cpp:1: error: no header"
    assert first_line(error, containing="fatal") == "g++ -c a.cpp"


def test_a_message_of_several_lines_becomes_one() -> None:
    assert one_line(ValueError("bad value\n  in line 3,\tcolumn 1\n")) == "bad value in line 3, column 1"
    assert one_line(ValueError("bad value\nin line 3"), limit=12) == "bad value..."
    assert one_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_the_nearest_name_is_the_most_similar_one() -> None:
    known = ("depth", "dept", "rgb")
    assert nearest("deptt", known) == "dept"
    assert nearest("lidar", known) is None
    assert nearest("lidar", known, cutoff=0.0) is not None
    assert nearest("rbg", iter(known)) == "rgb"
    assert nearest("rgb", ()) is None


@pytest.mark.parametrize(("word", "said"), [("dpeth", "; did you mean 'depth'?"), ("lidar", "")])
def test_a_message_ends_in_the_name_that_was_meant(word: str, said: str) -> None:
    assert did_you_mean(word, ["rgb", "depth"]) == said


def test_what_stands_before_a_name_that_was_meant_can_be_chosen() -> None:
    assert did_you_mean("dpeth", {"depth": 1}, before=": ") == ": did you mean 'depth'?"
    assert did_you_mean("dp", ["depth"], cutoff=0.5) == "; did you mean 'depth'?"
    assert did_you_mean("dp", ["depth"]) == ""

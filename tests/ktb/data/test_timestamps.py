"""Frames paired by time: what a stamp means to the nanosecond, and that the nearest frames find each other once."""

from __future__ import annotations

import pytest

from ktb.data.timestamps import NS, Frame, as_text, list_frames, named_frames, nanoseconds, pair
from ktb.errors import DataError


@pytest.mark.parametrize(
    ("stamp", "unit", "expected"),
    [
        ("1305031102.175304", None, 1305031102_175304000),  # TUM
        ("1305031102_175304", None, 1305031102_175304000),
        ("1305031102", None, 1305031102 * NS),
        ("1403636579763", None, 1403636579_763000000),
        ("1403636579763555", None, 1403636579_763555000),
        ("1403636579763555584", None, 1403636579_763555584),  # EuRoC; as a float it would be off by 96 ns
        ("0.033333", None, 33_333_000),
        ("33.5", "ms", 33_500_000),
        ("000120", "ms", 120_000_000),
        ("2021-05-03_12-30-15.25", None, 1620045015_250000000),
        ("20210503T123015", None, 1620045015 * NS),
        ("20210503_123015_250", None, 1620045015_250000000),
        ("2021-13-03_12-30-15", None, None),  # month 13
        ("000120", None, None),  # a frame's number, or any unit
        ("frame_1", None, None),
        ("1305031102_5304", None, None),  # .5304 or .000005304?
    ],
)
def test_stamps(stamp: str, unit: str | None, expected: int | None) -> None:
    assert nanoseconds(stamp, unit) == expected


def frames(*ms: float) -> dict[str, list[Frame]]:
    return {"": [Frame(round(t * 1_000_000), f"{t}.png", str(t)) for t in ms]}


def times(found: dict[tuple[str, Frame], dict[str, Frame]]) -> dict[str, list[str]]:
    return {frame.stamp: [f.stamp for f in partners.values()] for (_, frame), partners in found.items()}


def test_nearest_within_the_gap_and_none_twice() -> None:
    pairs = pair(frames(0, 33, 66, 100), {"depth": frames(4, 30, 40, 71, 115), "label": frames(0, 33, 100)}, 0.010)
    assert times(pairs.partners) == {"0": ["4", "0"], "33": ["30", "33"]}
    assert [frame.stamp for _, frame in pairs.lonely] == ["66", "100"]
    assert dict(pairs.lacking) == {"label": 1, "depth": 1}
    # 10 and 12 both are nearest to 11: the closer one gets it, the other the next nearest, or nothing.
    assert times(pair(frames(10, 12.5), {"x": frames(11, 19)}, 0.010).partners) == {"10": ["11"], "12.5": ["19"]}
    assert times(pair(frames(10, 12.5), {"x": frames(11, 19)}, 0.005).partners) == {"10": ["11"]}
    # A gap of exactly the most still counts, and the order of the files does not matter.
    assert times(pair(frames(100, 0), {"x": frames(110, 11, 5)}, 0.010).partners) == {"100": ["110"], "0": ["5"]}


def test_sequences_are_kept_apart() -> None:
    first = {"a": frames(0)[""], "b": frames(0)[""]}
    pairs = pair(first, {"x": {"a": frames(1)[""], "c": frames(0)[""]}}, 0.010)
    assert [sequence for sequence, _ in pairs.partners] == ["a"]
    assert [sequence for sequence, _ in pairs.lonely] == ["b"]
    named = named_frames({"a/1305031102.5": "a/rgb/1305031102.5.png", "1305031102": "1305031102.png"}, None)
    assert named["a"] == [Frame(1305031102_500000000, "a/rgb/1305031102.5.png", "1305031102.5")]
    assert list(named) == ["a", ""]


def test_lists(tmp_path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/rgb.txt").write_bytes(
        b"\xef\xbb\xbf# color images\r\n# timestamp filename\r\n\r\n1305031102.175304 rgb/a b.png \r\n"
        b"1305031102.211214\trgb\\2.png\r\n1305031102.3,rgb/c,d.png\r\n"
    )
    found = list_frames(tmp_path, {"1": "s/rgb.txt"}, None)
    assert [(f.time, f.file) for f in found["1"]] == [
        (1305031102_175304000, "s/rgb/a b.png"),
        (1305031102_211214000, "s/rgb/2.png"),
        (1305031102_300000000, "s/rgb/c,d.png"),
    ]
    for line, message in (
        ("x rgb/1.png", r"rgb.txt, line 1: 'x' is no time stamp; expected seconds"),
        ("1305031102.1", r"line 1: '1305031102.1'; expected a time and a file"),
        ("1305031102.1 ../1.png", r"'../1.png' leaves the data root"),
    ):
        (tmp_path / "s/rgb.txt").write_text(line + "\n")
        with pytest.raises(DataError, match=message):
            list_frames(tmp_path, {"": "s/rgb.txt"}, None)


def test_gaps_as_text() -> None:
    assert [as_text(g) for g in (0.02, 0.0125, 1.5)] == ["20 ms", "12.5 ms", "1.5 s"]


def test_lists_in_utf_16_and_with_absolute_paths(tmp_path) -> None:
    (tmp_path / "s").mkdir()
    lines = f'1.5 a.png\n2.5 "{tmp_path}/s/b c.png"\n3.5 sub\\d.png\n'
    (tmp_path / "s/rgb.txt").write_bytes(lines.encode("utf-16"))
    [frames] = list_frames(tmp_path, {"1": "s/rgb.txt"}, None).values()
    assert [(f.time, f.file) for f in frames] == [
        (15 * NS // 10, "s/a.png"), (25 * NS // 10, "s/b c.png"), (35 * NS // 10, "s/sub/d.png")
    ]  # fmt: skip

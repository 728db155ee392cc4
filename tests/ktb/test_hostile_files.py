"""Files made to harm: refused in one line, nothing executed, and no more memory taken than the file is large."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ktb import KTBSegmentor, load_model, load_published
from ktb.cli.model import main
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.tools.new.label_files import look_at_label
from ktb.errors import CheckpointError, DataError, KTBError
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.weights.files import read_file
from tests.ktb.hostile import Evil
from tests.ktb.reference import filled_state, load_json

Change = Callable[[dict[str, Any]], object]


pytestmark = pytest.mark.usefixtures("little_memory")


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(KTBError) as error:
        read()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


# ----------------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize("command", ["info", "convert", "bundle", "export"])
def test_a_pickle_with_code_is_not_run_by_any_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file, trace, out = tmp_path / "evil.ckpt", tmp_path / "executed", tmp_path / "out.onnx"
    torch.save({"state_dict": {"model.a": torch.zeros(1)}, "ktb": {"model": Evil(trace)}}, file)
    more = {
        "info": [], "bundle": [str(out)], "convert": [str(tmp_path / "o.pth"), "--to", "timm"],
        "export": [str(out), "--size", "64x64"],
    }[command]  # fmt: skip
    assert main([command, str(file), *more]) == 2
    assert "refused: it holds the Python object" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["evil.ckpt"]


def test_a_pickle_named_safetensors_is_not_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "evil.safetensors", tmp_path / "executed"
    file.write_bytes(pickle.dumps(Evil(trace)))
    assert "not a readable checkpoint" in refusal(lambda: read_file(file))
    assert not trace.exists()


# ------------------------------------------------------------------------------------------------------- safetensors


def lying(tmp_path: Path, header: object, data: bytes = b"\0" * 64, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = tmp_path / "lies.safetensors"
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"a": entry([16], 0, 640)}, id="offsets beyond the file"),
        pytest.param({"a": entry([10**12], 0, 64)}, id="a shape larger than its data"),
        pytest.param({"a": entry([2**62, 2**62], 0, 64)}, id="a shape that overflows"),
        pytest.param({"a": entry([16], 0, 64), "b": entry([16], 0, 64)}, id="overlapping"),
        pytest.param({"a": entry([8], 0, 32)}, id="data that no tensor owns"),
        pytest.param({"a": entry([16], 64, 0)}, id="backwards"),
        pytest.param({"a": entry([-16], 0, 64)}, id="negative"),
        pytest.param({"a": entry([16], 0, 64, "F1")}, id="unknown type"),
        pytest.param({"a": {"dtype": "F32"}}, id="incomplete"),
        pytest.param([1, 2, 3], id="a list"),
        pytest.param(b"{" * 5000, id="nested without end"),
        pytest.param(b"\xff\xfe\xfd", id="no text"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: object) -> None:
    assert "lies.safetensors: not a readable checkpoint" in refusal(lambda: read_file(lying(tmp_path, header)))


@pytest.mark.parametrize("length", [2**63, 2**40, 1 << 20, 0])
def test_a_header_length_that_lies(tmp_path: Path, length: int) -> None:
    file = lying(tmp_path, {"a": entry([16], 0, 64)}, length=length)
    assert "not a readable checkpoint" in refusal(lambda: read_file(file))


# ------------------------------------------------------------------------------------------------------ PyTorch files


def repacked(file: Path, compression: int, change: Callable[[str, bytes], bytes] = lambda _, data: data) -> None:
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def test_a_compressed_checkpoint_is_a_bomb(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    torch.save({"a": torch.zeros(1 << 24)}, file)
    repacked(file, zipfile.ZIP_DEFLATED)
    assert file.stat().st_size < 1 << 20
    assert "refused: it unpacks to 67," in refusal(lambda: read_file(file))


def test_a_tensor_stretched_over_four_bytes_is_a_bomb(tmp_path: Path) -> None:
    file = tmp_path / "bomb.pth"
    torch.save({"model": {"a": [torch.zeros(1), {"b": 3}], "b": torch.zeros(1, dtype=torch.half).expand(10**12)}}, file)
    assert "refused: it holds a tensor of shape (1000000000000,) over 2 bytes" in refusal(lambda: read_file(file))
    sparse = torch.sparse_coo_tensor(torch.zeros(1, 1), torch.ones(1), (10**12,), check_invariants=True)
    torch.save({"a": sparse}, file)
    assert "refused: it holds a sparse tensor" in refusal(lambda: read_file(file))


def test_storages_shorter_than_they_say(tmp_path: Path) -> None:
    file = tmp_path / "short.pth"
    torch.save({"a": torch.zeros(4096)}, file)
    repacked(file, zipfile.ZIP_STORED, lambda name, data: data[:16] if name.endswith("data/0") else data)
    assert "short.pth: not a readable checkpoint" in refusal(lambda: read_file(file))


def test_names_that_count_without_end() -> None:
    state = filled_state(load_json("mini.json"))
    state["backbone.stages.0.blocks.999999999.norm1.weight"] = torch.zeros(1)
    assert "blocks.2." in refusal(lambda: load_published(state))
    state = filled_state(load_json("mini.json"))
    state["decode_head.linear_pred.bias"] = torch.zeros(1).expand(10**11)  # as a class count
    assert "of another shape" in refusal(lambda: load_published(state))


# ------------------------------------------------------------------------------------------------------------ bundles


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "small"
    torch.manual_seed(0)
    arch = SwinArch(32, (1, 1, 1, 1), (1, 2, 4, 8), 4)
    model = KTBSegmentor(FrozenSwin(arch), ("rgb", "depth"), 10, head={"width": 8}, side_head={"width": 8})
    model.save_pretrained(folder)
    return folder


def changed(bundle: Path, tmp_path: Path, change: Change, *, without_backbone: bool = False) -> Path:
    """The bundle's weights with other words about the model in their header."""
    source, file = bundle / "model.safetensors", tmp_path / "model.safetensors"
    with safe_open(source, "pt") as opened:
        about = json.loads(opened.metadata()["ktb"])
    change(about)
    state: dict[str, Tensor] = load_file(source)
    if without_backbone:
        state = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    save_file(state, file, metadata={"ktb": json.dumps(about)})
    return file


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a["model"].update(num_classes=10**9), id="classes"),
        pytest.param(lambda a: a["model"].update(head={"width": 10**9}), id="head"),
        pytest.param(lambda a: a["model"]["backbone"].update(depths=[10**9] * 4), id="depths"),
        pytest.param(lambda a: a["model"]["backbone"].update(embed_dim=1 << 40), id="width"),
        pytest.param(lambda a: a["model"]["backbone"].update(window_size=10**6), id="window"),
        pytest.param(lambda a: a["model"]["backbone"].update(mlp_ratio=1e12), id="mlp"),
        pytest.param(lambda a: a["model"]["backbone"].update(num_heads=[0, 0, 0, 0]), id="no heads"),
        pytest.param(lambda a: a["model"]["backbone"].update(num_heads="1248"), id="heads as text"),
        pytest.param(lambda a: a["model"].update(modalities={"rgb": 3, "depth": 10**9}), id="channels"),
        pytest.param(lambda a: a["model"].update(modalities={f"m{i}": 3 for i in range(10**4)}), id="modalities"),
        pytest.param(lambda a: a["model"].update(modalities={"__init__": 3}), id="names"),
        pytest.param(lambda a: a["model"].update(other="os.system"), id="an argument there is none of"),
        pytest.param(lambda a: a["model"].update(fusion={"_target_": "os.system"}), id="fusion"),
        pytest.param(
            lambda a: a["model"].update(fusion={"_target_": "subprocess.Popen", "args": ["touch", "owned"]}),
            id="a class",
        ),
        pytest.param(lambda a: a["model"]["head"].update(_target_="ktb.models.parts.class_of"), id="a function"),
        pytest.param(lambda a: a["model"]["peft"].update(_target_="ktb.models.segmentor.torch.nn.Linear"), id="beyond"),
        pytest.param(lambda a: a["model"]["backbone"].update(_target_="ktb.weights.checkpoint.Path"), id="not a part"),
        pytest.param(lambda a: a.update(classes=7), id="class names that are a number"),
        pytest.param(lambda a: a.update(classes=["a", "b"]), id="too few class names"),
        pytest.param(lambda a: a.update(backbone="x"), id="base weights that are text"),
        pytest.param(lambda a: a.update(backbone={"sha256": 1}), id="a number as hash"),
        pytest.param(lambda a: a.update(model=3), id="no model"),
        pytest.param(lambda a: a.pop("model"), id="nothing"),
    ],
)
def test_descriptions_that_lie(bundle: Path, tmp_path: Path, change: Change) -> None:
    file = changed(bundle, tmp_path, change)
    message = refusal(lambda: load_model(file))
    assert message.startswith(f"{file}: ")
    assert "damaged" in message or "does not fit this model" in message or "nothing that a file names is" in message


@pytest.mark.parametrize(
    ("trust", "target", "refused"),
    [
        ("os", "os.system", "os.system is not a class but of type"),
        ("builtins", "builtins.eval", "builtins.eval is not a class but of type"),
        ("builtins", "builtins.list", "which is not a part of a model"),
        ("subprocess", "subprocess.Popen", "which is not a part of a model"),
        ("torch", "torch.load", "torch.load is not a class but of type"),
        ("torch", "torch.nn.Linear", "torch.nn.Linear"),  # a class of the right kind, in no place of a model
        ("torch", "torch.hub.load", "torch.hub.load is not a class but of type"),
        ("os", "os.path.os.system", "os.path"),
        ("ktb", "ktb.weights.checkpoint.Path", "damaged"),
        ("subproces", "subprocess.Popen", 'before you say that you trust it: trust=["subproces", "subprocess"]'),
    ],
)
@pytest.mark.parametrize("part", ["fusion", "head", "peft", "backbone"])
def test_trust_opens_no_door_to_functions(
    bundle: Path, tmp_path: Path, trust: str, target: str, refused: str, part: str
) -> None:
    spec = {"_target_": target, "args": ["touch", str(tmp_path / "executed")]}
    file = changed(bundle, tmp_path, lambda about: about["model"].update({part: spec}))
    message = refusal(lambda: load_model(file, trust=trust))
    assert message.startswith(f"{file}: ")
    assert refused in message
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize(
    "base",
    [
        {"name": "../../etc/passwd", "timm_name": None, "weights": "bundled", "sha256": "0"},
        {"name": "swin", "timm_name": "hf-hub:somebody/evil", "weights": "hub", "sha256": "0"},
        {"name": "swin", "timm_name": "local-dir:/tmp", "weights": "hub", "sha256": "0"},
        {"name": "swin", "weights": "bundled"},
        {"name": "swin", "timm_name": None, "weights": "/dev/zero", "sha256": "0"},
        {},
    ],
)
def test_base_weights_are_named_and_nothing_else(bundle: Path, tmp_path: Path, base: dict[str, Any]) -> None:
    file = changed(bundle, tmp_path, lambda about: about.update(backbone=base), without_backbone=True)
    message = refusal(lambda: load_model(file))
    assert "damaged: its base weights are" in message or "are not here" in message


@pytest.mark.parametrize("text", ["[1, 2]", "{", "[" * 100_000, '{"a": NaN'])
def test_words_about_the_model_that_are_none(bundle: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "model.safetensors"
    save_file(load_file(bundle / "model.safetensors"), file, metadata={"ktb": text})
    assert "damaged" in refusal(lambda: load_model(file))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"dataset": {"name": "x", "_target_": "os.system", "command": "touch executed"}}, "not a class of ktb"),
        (
            {"dataset": {"name": "x", "_target_": "subprocess.Popen", "args": "touch executed"}, "trust": "subprocess"},
            "not a class of ktb",
        ),  # what a file says of trust counts for nothing
        ({"dataset": {"name": "x", "_target_": "ktb.jobs.train.os.system"}}, "not a class of ktb"),
        ({"dataset": {"name": "x", "root": "${oc.env:HOME}"}}, "has a reference"),
        ("!!python/object/apply:os.system [touch executed]", "the config in it is no YAML"),
        ("- a\n- b", "is no mapping"),
    ],
)
def test_a_config_with_foreign_code_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: object, message: str
) -> None:
    from hydra import compose, initialize_config_dir

    from ktb.config.compose import conf_dir
    from ktb.jobs.saved_model import open_checkpoint

    text = config if isinstance(config, str) else yaml.safe_dump(config)
    file = changed(bundle, tmp_path, lambda about: about.update(config=text))
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("eval", overrides=[f"checkpoint={file}"])
    assert message in refusal(lambda: open_checkpoint(file, cfg, []))
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_nothing_of_the_above_is_caught_by_accident(bundle: Path, tmp_path: Path) -> None:
    """The same file unchanged is read."""
    assert load_model(changed(bundle, tmp_path, lambda about: None)).num_classes == 10
    with pytest.raises(CheckpointError, match="of another shape"):
        load_model(changed(bundle, tmp_path, lambda about: about["model"]["side_head"].update(width=9)))


# ------------------------------------------------------------------------------------------------------ mutated files


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The same with up to three places changed, cut out or put in; now and then the checksums of a PNG are made right
    again, so that the change gets as far as the decoder."""
    content = bytearray(data)
    for _ in range(rng.integers(0, 4)):
        at = int(rng.integers(len(content))) if rng.random() < 0.5 else int(rng.integers(min(len(content), 200)))
        match rng.integers(5):
            case 0:
                content[at] = int(rng.integers(256))
            case 1:
                content[at] ^= 1 << int(rng.integers(8))
            case 2:
                del content[at : at + int(rng.integers(1, 40))]
            case 3:
                content[at:at] = rng.bytes(int(rng.integers(1, 40)))
            case _:
                content[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff")[rng.integers(3)]
        if not content:
            return b""
    if rng.random() < 0.5 and content.startswith(b"\x89PNG\r\n\x1a\n"):
        position = 8
        while position + 12 <= len(content):
            end = position + 12 + int.from_bytes(content[position : position + 4], "big")
            if end > len(content):
                break
            content[end - 4 : end] = struct.pack(">I", zlib.crc32(content[position + 4 : end - 4]))
            position = end
    return bytes(content)


def specimens(folder: Path) -> list[bytes]:
    """A file of each kind that is read, and of some that are not."""
    rng = np.random.default_rng(0)
    rgb, grey = rng.integers(0, 256, (24, 32, 3), np.uint8), rng.integers(0, 3, (24, 32), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    palette = Image.fromarray(grey)
    palette.putpalette(bytes([0, 0, 0, 255, 0, 0, 0, 255, 0]))
    clear = np.dstack([rgb, np.where(grey, 255, 0).astype(np.uint8)])
    files: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG", Image.fromarray(rgb), {"exif": exif}),
        ("PNG", Image.fromarray(grey.astype(np.uint16) * 1000), {}),
        ("PNG", Image.fromarray(grey), {"exif": exif}),
        ("PNG", palette, {"transparency": 0}),
        ("PNG", Image.fromarray(clear), {}),
        ("PNG", Image.fromarray(clear[..., 2:]), {}),
        ("PNG", Image.fromarray(grey > 0), {}),
        ("JPEG", Image.fromarray(rgb), {"exif": exif}),
        ("JPEG", Image.fromarray(rgb), {"progressive": True}),
        ("TIFF", Image.fromarray(rgb), {}),
        ("BMP", Image.fromarray(rgb), {}),
    ]
    found = []
    for kind, image, options in files:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        found.append(stream.getvalue())
    for array in (rgb, grey.astype(np.int64), grey.astype(np.float32), rgb.astype(">u2")):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return found


READERS: dict[str, ImageReader] = {
    "rgb": ImageReader(channels=3, colour=True),
    "deep": ImageReader(channels=3, units={"uint16": 255 / 4095}, colour=True),
    "any": ImageReader(dtype="float32", hole_value=float("nan"), holes="fill"),
    "depth": ImageReader(channels=1, dtype="float32", hole_value=0, normalise="percentile"),
}
LABELS: dict[str, LabelReader] = {
    "ids": LabelReader(id_table(3)),
    "alpha": LabelReader(id_table(3), alpha="void"),
    "colours": LabelReader(colours={(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2}, alpha="void"),
}


def read_or_refused(read: Callable[[Any], Any], what: Any) -> Any:
    """What is read, or None where it is refused in one line that begins with the file's name."""
    try:
        return read(what)
    except DataError as error:
        text = str(error)
    path = what if isinstance(what, Path) else what[0]
    assert "\n" not in text, path
    assert text.startswith(f"{path}: "), text
    return None


def outcomes_of_mutated_files(folder: Path, count: int, seed: int = 0) -> Counter[str]:
    """Read `count` mutated files as pictures and as labels: a valid sample or one line that names the file."""
    found: Counter[str] = Counter()
    originals = specimens(folder)
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        path = folder / f"{i}{('.png', '.jpg', '.npy', '.tif')[rng.integers(4)]}"
        path.write_bytes(mutated(originals[i % len(originals)], rng))
        for name, reader in READERS.items():
            if (read := read_or_refused(reader, [path])) is None:
                found["refused picture"] += 1
                continue
            found["picture"] += 1
            image, valid = read.image, read.valid
            assert image.ndim == 3, (path, name)
            assert image.dtype == (np.uint8 if reader.dtype == "uint8" else np.float32), (path, name)
            assert np.isfinite(image if valid is None else image[valid]).all(), (path, name)
            assert name == "any" or image.shape[2] == reader.channels, (path, name)
        for name, labels in LABELS.items():
            if (label := read_or_refused(labels, path)) is None:
                found["refused label"] += 1
                continue
            found["label"] += 1
            assert label.ndim == 2, (path, name)
            assert label.dtype == np.uint8, (path, name)
            assert set(np.unique(label).tolist()) <= {0, 1, 2, 255}, (path, name)
        seen = look_at_label(path)
        found[f"ktb-data new: {seen.state}"] += 1
        assert "\n" not in seen.message, path
        path.unlink()
    return found


def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    found = outcomes_of_mutated_files(tmp_path, 300)
    # Both happen, to pictures and to labels, so the property says something.
    assert min(found[key] for key in ("picture", "refused picture", "label", "refused label")) >= 20

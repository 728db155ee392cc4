"""Samples become tensors and batches: seeded, distributed, complete, and with errors a user can read."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ktb.data.augment import EvalTransform
from ktb.data.dataset import RGBXDataset, WorkerDataError
from ktb.data.lists import read_list
from ktb.data.module import RGBXDataModule
from ktb.data.readers.image import ImageReader
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.resizing import Resizing
from ktb.data.sampler import EpochSampler
from ktb.data.samples import Entry, FileSamples, RawSample
from ktb.data.spec import IGNORE, RGB, DatasetSpec, ModalitySpec
from ktb.data.tree import Tree
from ktb.errors import ConfigError, DataError

SPEC = DatasetSpec(
    "toy",
    classes=("a", "b", "c"),
    palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
    modalities={"rgb": RGB, "depth": ModalitySpec("depth", scale=1000.0)},
)


class Toy:
    """Noise images of one size (or of sizes that differ); one of them may be broken."""

    def __init__(self, length: int = 11, broken: int | None = None, grow: int = 0) -> None:
        self.length = length
        self.broken = broken
        self.grow = grow

    def __len__(self) -> int:
        return self.length

    def read(self, index, streams):
        if index == self.broken:
            raise DataError(f"/data/{index}.png: holds: nonsense; expected sense, mend it")
        rng = np.random.default_rng(index)
        shape = (40 + self.grow * index, 56)
        images = {
            "rgb": rng.integers(0, 256, (*shape, 3), np.uint8),
            "depth": rng.integers(1, 65536, (*shape, 1)).astype(np.uint16),
        }
        label = rng.integers(0, 3, shape).astype(np.uint8)
        return RawSample({name: images[name] for name in streams}, label, f"s/{index}", {"time": "day"})


class ToyModule(RGBXDataModule):
    def __init__(self, samples=None, **options) -> None:
        super().__init__(SPEC, **{"streams": ["rgb", "depth"], "num_workers": 0, "crop": (32, 48), **options})
        self.toy = samples or Toy()

    def open_split(self, split):
        return self.toy


# --- samples → tensors -----------------------------------------------------------------------------------------------


def test_sample_contract():
    sample = ToyModule().dataset("train")[3]
    raw = Toy().read(3, ["rgb", "depth"])
    assert list(sample["inputs"]) == ["rgb", "depth"]
    assert sample["inputs"]["rgb"].dtype == torch.uint8
    assert sample["inputs"]["depth"].dtype == torch.float32
    np.testing.assert_array_equal(sample["inputs"]["rgb"], raw.images["rgb"].transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["inputs"]["depth"], raw.images["depth"].transpose(2, 0, 1))
    np.testing.assert_array_equal(sample["label"], raw.label)
    assert sample["label"].dtype == torch.uint8
    assert (sample["id"], sample["condition"]) == ("s/3", {"time": "day"})
    assert list(ToyModule(streams=["depth"]).dataset("train")[0]["inputs"]) == ["depth"]


class Holed:
    """A ramp from 1000 with a hole of a quarter of the image."""

    def __init__(self, dtype) -> None:
        self.dtype = dtype

    def __len__(self) -> int:
        return 1

    def read(self, index, streams):
        image = (100 + np.arange(64)[None] * np.ones((48, 1))).astype(self.dtype)
        image[10:34, 20:52] = 0
        label = np.zeros((48, 64), np.uint8)
        return RawSample({"x": image[..., None]}, label, "0", valid={"x": image > 0})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("validity", [False, True])
def test_resizing_never_mixes_holes_into_measurements(dtype, validity):
    modality = ModalitySpec("x", channels=2 if validity else 3, scale=200.0, validity=validity)
    dataset = RGBXDataset(Holed(dtype), [modality], EvalTransform(96))
    x = dataset[0]["inputs"]["x"]
    assert x.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert x.shape == (1 + validity, 96, 128)
    values = x[0].float()
    # Twice the size: pixel j lies at (j + ½)/2 - ½ of the ramp, never between 0 and 100.
    ramp = (100 + (torch.arange(128) + 0.5) / 2 - 0.5).clamp(100, 163).expand(96, -1)
    measured = values > 0
    assert (values[measured] - ramp[measured]).abs().max() <= 1.0
    assert 0.23 < 1 - measured.float().mean() < 0.27
    assert not measured[24:64, 44:100].any()
    if validity:
        np.testing.assert_array_equal(x[1], measured * 200)
        normal = modality.normalize(x[None])
        assert sorted(normal[0, 1].unique().tolist()) == [0.0, 1.0]


def test_normalised_input_repeats_one_channel():
    stored = torch.full((2, 1, 4, 5), 500.0)
    out = SPEC.modalities["depth"].normalize(stored)
    assert out.shape == (2, 3, 4, 5)
    assert (out == 0.5).all()


# --- order, seeds, processes -----------------------------------------------------------------------------------------


def batches(module: ToyModule, epoch: int = 0) -> list:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_workers_do_not_change_what_comes():
    runs = [batches(ToyModule(num_workers=workers), epoch=1) for workers in (0, 1, 2)]
    assert len(runs[0]) == 2  # 11 samples, batches of 4: the last three are dropped
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            assert a["id"] == b["id"]
            assert torch.equal(a["label"], b["label"])
            assert all(torch.equal(a["inputs"][m], b["inputs"][m]) for m in a["inputs"])


def test_batch_contract():
    batch = batches(ToyModule())[0]
    assert {name: tuple(x.shape) for name, x in batch["inputs"].items()} == {
        "rgb": (4, 3, 32, 48),
        "depth": (4, 1, 32, 48),
    }
    assert batch["label"].shape == (4, 32, 48)
    assert batch["condition"] == [{"time": "day"}] * 4
    assert len(set(batch["id"])) == 4


def test_epochs_and_seeds_differ():
    module = ToyModule()
    order = {epoch: [i for b in batches(module, epoch) for i in b["id"]] for epoch in (0, 1)}
    assert order[0] != order[1]
    assert [i for b in batches(ToyModule(seed=1)) for i in b["id"]] != order[0]
    assert [i for b in batches(ToyModule()) for i in b["id"]] == order[0]
    train = module.dataset("train", train=True)
    assert not torch.equal(train[0, 2]["inputs"]["rgb"], train[1, 2]["inputs"]["rgb"])
    assert torch.equal(train[2]["inputs"]["rgb"], train[0, 2]["inputs"]["rgb"])


def test_sampler_shares():
    """Of three processes all get equally many for training; in evaluation each sample comes exactly once."""
    shares = [EpochSampler(11, seed=5, train=True, rank=r, world_size=3) for r in range(3)]
    for sampler in shares:
        sampler.set_epoch(4)
    taken = [list(s) for s in shares]
    assert [len(t) for t in taken] == [len(s) for s in shares] == [3, 3, 3]
    assert {epoch for share in taken for epoch, _ in share} == {4}
    assert len({index for share in taken for _, index in share}) == 9
    one = [index for _, index in EpochSampler(11, seed=5, train=True)]
    assert sorted(one) == list(range(11))
    evaluation = [EpochSampler(11, rank=r, world_size=3) for r in range(3)]
    assert [list(s) for s in evaluation] == [[(0, i) for i in range(r, 11, 3)] for r in range(3)]
    assert [len(s) for s in evaluation] == [4, 4, 3]


def test_ranks_read_what_one_process_reads():
    """(seed, epoch, index) alone decide a sample: two processes together get the first ten of one."""
    data = ToyModule().dataset("train", train=True)
    alone = {index: data[epoch, index] for epoch, index in EpochSampler(11, seed=3, train=True)}
    ranks = [EpochSampler(11, seed=3, train=True, rank=r, world_size=2) for r in range(2)]
    shared = {index: ToyModule().dataset("train", train=True)[e, index] for s in ranks for e, index in s}
    assert list(alone)[:10] == [index for pair in zip(*ranks, strict=True) for _, index in pair]
    for index, sample in shared.items():
        assert torch.equal(sample["label"], alone[index]["label"])
        assert all(torch.equal(sample["inputs"][m], alone[index]["inputs"][m]) for m in sample["inputs"])


def test_sampler_continues_where_an_epoch_was_left():
    sampler = EpochSampler(10, seed=1, train=True)
    sampler.set_epoch(3)
    whole = list(sampler)
    resumed = EpochSampler(10, seed=1, train=True)
    resumed.epoch, resumed.position = 3, 4
    resumed.set_epoch(3)  # as Lightning does before the epoch goes on
    assert list(resumed) == whole[4:]
    assert list(resumed) == whole  # the position holds once
    resumed.position = 4
    resumed.set_epoch(4)
    assert len(list(resumed)) == 10


def test_evaluation_neither_shuffles_pads_nor_repeats():
    module = ToyModule(eval_batch_size=4)
    ids = [b["id"] for b in module.val_dataloader()]
    assert [len(i) for i in ids] == [4, 4, 3]
    assert [i for batch in ids for i in batch] == [f"s/{i}" for i in range(11)]


def release(caught: pytest.ExceptionInfo) -> None:
    """Let go of the loader in the traceback's frames. Left to the garbage collector, which closes its queues first, it
    waits five seconds for each worker."""
    traceback.clear_frames(caught.tb)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_leave_workers_as_one_line(workers):
    module = ToyModule(Toy(broken=6), num_workers=workers)
    with pytest.raises(DataError) as caught:
        list(module.val_dataloader())
    release(caught)
    assert str(caught.value) == "/data/6.png: holds: nonsense; expected sense, mend it"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite_never_reach_the_model(workers, value):
    """Whatever reads them: readers of files look themselves, samples of other kinds may not."""

    class Spoilt(Toy):
        def read(self, index, streams):
            raw = super().read(index, streams)
            depth = raw.images["depth"].astype(np.float32)
            depth[7, 9] = value if index == 3 else 1.0
            return replace(raw, images={**raw.images, "depth": depth})

    module = ToyModule(Spoilt(), num_workers=workers)
    with pytest.raises(DataError) as caught:
        list(module.val_dataloader())
    release(caught)
    assert str(caught.value).startswith("s/3: depth holds NaN or infinite values when it has been read and resized; ")


def test_worker_error_survives_being_raised_from_its_traceback():
    once = WorkerDataError("a.png: is broken; mend it")
    formatted = f"Caught WorkerDataError in worker 0.\nTraceback ...\nktb.data.base.WorkerDataError: {once}\n"
    assert str(WorkerDataError(formatted)) == "a.png: is broken; mend it"


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_different_sizes(workers):
    module = ToyModule(Toy(grow=1), eval_batch_size=2, num_workers=workers)
    with pytest.raises(DataError, match="s/1: rgb is 41x56 .* s/0 .* 40x56; set dataset.eval_batch_size=1") as caught:
        list(module.val_dataloader())
    release(caught)
    assert "\n" not in str(caught.value)
    assert len(list(ToyModule(Toy(grow=1)).val_dataloader())) == 11


def test_fewer_samples_than_a_batch():
    with pytest.raises(
        DataError, match="train split has 3 samples, fewer than one batch of 4; set dataset.batch_size=3"
    ):
        ToyModule(Toy(3)).setup("fit")
    ToyModule(Toy(3)).setup("test")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"streams": ["rgb", "deph"]}, "toy has no modality 'deph'; it has rgb, depth; did you mean 'depth'?"),
        ({"streams": []}, "one or more different modalities, got []"),
        ({"streams": ["rgb", "rgb"]}, "different modalities, got"),
        ({"selection_split": "dev"}, "toy has no split 'dev'; it has train, val, test"),
        ({"scoring": "natve"}, "eval.scoring is 'natve'; expected one of native, published"),
        ({"crop": [480]}, "dataset.crop is [480]; expected [height, width]"),
        ({"crop": [480, 16]}, "both 32 or more"),
        ({"eval_size": 8}, "dataset.eval_size is 8"),
        ({"batch_size": 0}, "batch sizes must be 1 or more"),
    ],
)
def test_settings_that_cannot_work(options, expected):
    with pytest.raises(ConfigError) as caught:
        ToyModule(**options)
    assert expected in str(caught.value)


def test_splits_of_the_loaders():
    module = ToyModule(selection_split="test", report_split="val")
    assert (module.spec.selection_split, module.spec.report_split) == ("test", "val")
    assert ToyModule(eval_size=[64, 99]).eval_transform().size((40, 56)) == (64, 96)
    scaled = ToyModule(eval_size=64, scoring="published").dataset("val")[0]
    assert scaled["label"].shape == scaled["inputs"]["rgb"].shape[1:] == (64, 96)


# --- files and lists -------------------------------------------------------------------------------------------------


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rng.integers(0, 256, (40, 48, 3), np.uint8))
        save(tmp_path / f"x/{i}.png", rng.integers(0, 256, (20, 24), np.uint8))
        save(tmp_path / f"label/{i}.png", rng.integers(0, 3, (40, 48), np.uint8))
    return tmp_path


def entries():
    return [Entry(str(i), {"rgb": (f"rgb/{i}.png",), "x": (f"x/{i}.png",)}, f"label/{i}.png") for i in range(3)]


def file_samples(root: Path, **options) -> FileSamples:
    readers = {"rgb": ImageReader(channels=3), "x": ImageReader(channels=1)}
    return FileSamples(root, entries(), readers, LabelReader(id_table(3)), **options)


def test_file_samples(root):
    raw = file_samples(root, resizing=Resizing(("x",))).read(1, ["rgb", "x"])
    assert raw.images["rgb"].shape == (40, 48, 3)
    with Image.open(root / "x/1.png") as small:
        # Exactly twice the size, nearest: every pixel becomes four.
        np.testing.assert_array_equal(raw.images["x"][..., 0], np.asarray(small).repeat(2, axis=0).repeat(2, axis=1))
    assert list(file_samples(root).read(0, ["rgb"]).images) == ["rgb"]


def test_sizes_must_agree(root):
    with pytest.raises(
        DataError, match=r"x/0.png: x is 24 x 20 pixels but its label .*label/0.png is 48 x 40; .* resize"
    ):
        file_samples(root).read(0, ["rgb", "x"])


def test_tree(root):
    tree = Tree(root)
    assert "rgb/0.png" in tree
    assert "rgb" not in tree
    assert tree.missing(["rgb/0.png", "rgb/9.png", "nope/0.png"]) == ["rgb/9.png", "nope/0.png"]
    assert tree.find(("RGB", "rgb"), "1", (".jpg", ".png")) == "rgb/1.png"
    assert tree.find(("RGB", "rgb"), "9", (".jpg", ".png")) == "RGB/9.jpg"
    with pytest.raises(DataError) as caught:
        tree.require(["rgb/0.png", "RGB/1.png", "rgb/9.png"], "train.txt", "add them")
    assert str(caught.value) == (
        f"{root}/RGB/1.png: no such file, but train.txt names it (and 1 more); {root} has 'rgb', not 'RGB': upper and "
        "lower case matter, rename it; add them"
    )


def test_data_root(tmp_path):
    (tmp_path / "NYUDepthv2").mkdir()
    with pytest.raises(
        DataError, match="nyudepthv2 does not exist; .* has 'NYUDepthv2', not 'nyudepthv2'.*dataset.root="
    ):
        Tree(tmp_path / "nyudepthv2")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder; set dataset.root"):
        Tree(tmp_path / "file")


def test_lists(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfRGB/2.jpg\tLabel/2.png\r\n\r\nRGB/3.jpg Label/3.png\r\n 4 \n")
    assert [tuple(line) for line in read_list(path, tmp_path)] == [
        (1, ("RGB/2.jpg", "Label/2.png")),
        (3, ("RGB/3.jpg", "Label/3.png")),
        (4, ("4",)),
    ]
    path.write_text("a frame\nb\tc d\n")
    assert [line.columns for line in read_list(path, tmp_path, spaces=False)] == [("a frame",), ("b", "c d")]


def test_names_in_lists_that_mean_a_file_below_the_root(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb/1.png").touch()
    path = tmp_path / "list.txt"
    for written in (f"{tmp_path}/rgb/1.png", "/rgb/1.png", "rgb\\1.png", "./rgb/1.png", '"rgb/1.png"', "rgb/1.png  "):
        for encoded in (written.encode(), f"{written}\r\n".encode("utf-16"), f"\ufeff{written}\n".encode()):
            path.write_bytes(encoded)
            for spaces in (True, False):
                assert read_list(path, tmp_path, spaces=spaces) == [(1, ("rgb/1.png",))], (written, encoded)
    path.write_text("RGB/2.jpg,Label/2.png\nRGB/3.jpg; Label/3.png\n")
    assert [line.columns for line in read_list(path, tmp_path)] == [
        ("RGB/2.jpg", "Label/2.png"),
        ("RGB/3.jpg", "Label/3.png"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty (0 bytes)"),
        (b"\n \n", "lists no sample; expected one per line"),
        (b"a\n../b\n", "line 2: '../b' leaves the data root"),
        (b"a\n/etc/passwd\n", "line 2: '/etc/passwd' leaves the data root"),
        (b"a x/../../b\n", "line 1: 'x/../../b' leaves the data root"),
        (b"C:\\a\n", "line 1: 'C:\\\\a' leaves the data root"),
        (b"a\nb\na\n", "'a' stands on lines 1 and 3; expected each sample once: remove one of them"),
        (b"\xfe\xed\x00a", "is no text in UTF-8"),
        (b"\xff\xfea\x00\x00", "is no text in UTF-8"),
    ],
)
def test_broken_lists(tmp_path, content, expected):
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_list(path, tmp_path)
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)


def test_padding_is_void():
    batch = batches(ToyModule(crop=(200, 200)))[0]
    void = batch["label"] == IGNORE
    assert void.any()
    assert not batch["inputs"]["rgb"].permute(0, 2, 3, 1)[void].any()
    assert not batch["inputs"]["depth"][:, 0][void].any()
    # The depths are never 0, so outside the padding they are not.
    assert (batch["inputs"]["depth"][:, 0][~void] > 0).all()

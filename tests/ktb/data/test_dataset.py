"""Samples as tensors and batches: what comes, from which process it comes, and how errors leave a worker."""

from __future__ import annotations

import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch

from ktb.data.dataset import WorkerDataError
from ktb.data.spec import IGNORE
from ktb.errors import DataError
from tests.ktb.data.stand_ins import Toy, ToyModule


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


def release(caught: pytest.ExceptionInfo) -> None:
    """Let go of the loader in the traceback's frames. Left to the garbage collector, which closes its queues first, it
    waits five seconds for each worker."""
    traceback.clear_frames(caught.tb)


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


def test_padding_is_void():
    batch = batches(ToyModule(crop=(200, 200)))[0]
    void = batch["label"] == IGNORE
    assert void.any()
    assert not batch["inputs"]["rgb"].permute(0, 2, 3, 1)[void].any()
    assert not batch["inputs"]["depth"][:, 0][void].any()
    # The depths are never 0, so outside the padding they are not.
    assert (batch["inputs"]["depth"][:, 0][~void] > 0).all()

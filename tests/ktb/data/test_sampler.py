"""The order of an epoch, the share of each process, and how an interrupted epoch goes on."""

from __future__ import annotations

import torch

from ktb.data.sampler import EpochSampler
from tests.ktb.data.stand_ins import ToyModule


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

"""Random numbers of a step follow from seed, epoch, batch and place, however the batch is divided among processes."""

from __future__ import annotations

import torch

from ktb.engine.seeds import masking_generator, sample_keys


def test_keys_belong_to_places_of_the_global_batch() -> None:
    whole = sample_keys((7, 2, 30), range(8))
    assert whole.dtype == torch.int32
    assert len(set(whole.tolist())) == 8
    dealt = [sample_keys((7, 2, 30), range(rank, 8, 2)) for rank in range(2)]
    assert torch.equal(torch.stack(dealt, dim=1).flatten(), whole)
    for other in ((8, 2, 30), (7, 3, 30), (7, 2, 31)):
        assert not (sample_keys(other, range(8)) == whole).any()


def test_masks_are_drawn_alike_in_all_processes_and_anew_in_each_step() -> None:
    first = masking_generator((7, 2, 30)).integers(2**62, size=4).tolist()
    assert masking_generator((7, 2, 30)).integers(2**62, size=4).tolist() == first
    assert masking_generator((7, 2, 31)).integers(2**62, size=4).tolist() != first

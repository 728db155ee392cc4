"""The DataModule that all data sets share: its settings, its loaders."""

from __future__ import annotations

import pytest

from ktb.errors import ConfigError, DataError
from tests.ktb.data.stand_ins import Toy, ToyModule


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

"""What a person should be told about a run without having to look for it, one sentence each.

Only what the numbers leave no doubt about: a run that went well has no notice.
"""

from __future__ import annotations

from collections.abc import Sequence

from ktb.report.runs import Curve, Run, listed, mapping, number

WHAT_TO_DO = 'docs/datasets.md, "When a class stays at zero"'
_LOOK = "ktb-data check says what its labels hold"
MIN_VALIDATIONS = 8
"""Validations that a statement about their course needs."""
LEAST_IOU = 0.02
"""Below it a class counts as not learned."""
RISE = 0.02
"""Of the last quarter's mIoU above all before it, from which on more epochs are advised."""
FEW_CLASSES = 9
"""Up to which the heads' published start is worth a change."""
NO_USE = 0.002
"""Loss of mIoU without a sensor, from which downwards it counts as unused."""


def notices(run: Run) -> list[str]:
    """Plain text, the most important first; names in it may hold anything, so they are to be escaped."""
    return [*_unscored(run), *_classes(run), *_validation(run.curves.get("val/miou", [])), *_modalities(run)]


def _unscored(run: Run) -> list[str]:
    """Splits all of whose labels are void, so that nothing was learned from them, scored on them, or chosen by them."""
    result, found = run.result, list[str]()
    losses = [loss for _, loss in run.curves.get("train/loss", [])]
    if losses and not any(losses):
        found.append(
            f"the loss is 0 in all {len(losses)} steps logged: no label of train has a pixel of any class; {_LOOK}"
        )
    if run.confusion and not any(map(any, run.confusion)) and result.get("labels", True):
        found.append(
            f"the {result.get('split', 'test')} split has no pixel of any class, so there are no scores; {_LOOK}"
        )
    chosen = result.get("status") == "finished" and run.setting("trainer", "limit_val_batches") not in (0, None)
    if chosen and result.get("selection_split") and number(result.get("best_val_miou")) is None:
        every, epochs = number(run.setting("trainer", "check_val_every_n_epoch")), number(result.get("epochs"))
        if every is not None and epochs is not None and epochs < every:
            found.append(
                f"there was no validation in {epochs:g} epochs (trainer.check_val_every_n_epoch={every:g}): the last "
                "checkpoint was taken for the best"
            )
            return found
        found.append(
            f"no validation has a score, as {result['selection_split']} has no pixel of any class: the last checkpoint "
            f"was taken for the best; {_LOOK}"
        )
    return found


def _classes(run: Run) -> list[str]:
    """Classes that are never predicted, or hardly ever where they are."""
    names, matrix, shares = list(run.per_class), run.confusion, run.class_shares
    if not matrix:
        return [
            f"class {key.removeprefix('val_iou/')}: IoU 0 in all {len(curve)} validations; {_remedy(run)}"
            for key, curve in run.curves.items()
            if key.startswith("val_iou/") and len(curve) >= MIN_VALIDATIONS and not any(v for _, v in curve)
        ]
    predicted = [sum(row[i] for row in matrix) for i in range(len(names))]
    there = [i for i in range(len(names)) if sum(matrix[i])]
    if len(there) > 1 and sum(p > 0 for p in predicted) == 1:
        only = next(name for name, p in zip(names, predicted, strict=True) if p)
        return [f"every pixel is predicted as {only}; {_remedy(run)}"]
    found = []
    for i in there:
        best = max((v for _, v in run.curves.get(f"val_iou/{names[i]}", [])), default=0.0)
        iou = matrix[i][i] / (sum(matrix[i]) + predicted[i] - matrix[i][i])
        if iou >= LEAST_IOU:
            continue
        what = "never predicted" if not predicted[i] else "not one pixel of it found"
        if iou:
            what = f"IoU {100 * iou:.2g} %"
        epochs = number(run.result.get("epochs"))
        if best >= max(LEAST_IOU, 2 * iou):
            what += f" (best IoU in validation {100 * best:.1f} %)"
        elif epochs:
            what += f" in {epochs:.0f} epoch{'s' * (epochs != 1)}"
        found.append(f"class {names[i]}: {what}; {100 * shares[names[i]]:.2g} % of pixels; {_remedy(run)}")
    return found


def _remedy(run: Run) -> str:
    """What helps, without what the run has already."""
    weighted = run.setting("loss", "class_weights") is not None
    classes = len(run.per_class) or sum(key.startswith("val_iou/") for key in run.curves)
    small = run.setting("head", "init") == "small" or classes > FEW_CLASSES
    steps = [
        *([] if weighted else ["loss.class_weights=auto"]),
        *([] if small else ["head.init=small"]),
        "a larger optim.lr",
        "more epochs",
    ]
    return f"try {', '.join(steps)} ({WHAT_TO_DO})"


def _validation(curve: Curve) -> list[str]:
    scores = [score for _, score in curve]
    if len(scores) < MIN_VALIDATIONS:
        return []
    if len(set(scores)) == 1 and scores[0] < 1:
        return [
            f"validation mIoU is {100 * scores[0]:.2f} % in all {len(scores)} validations: nothing is learned; try "
            "another optim.lr, and look at the pictures of ktb-data preview"
        ]
    late = len(scores) - len(scores) // 4
    rise = scores[-1] - max(scores[:late])
    if scores[-1] == max(scores) and rise >= RISE:
        return [
            f"validation mIoU was best at the end, and {100 * rise:.1f} points above anything before the last quarter: "
            "more epochs (trainer.max_epochs) will most likely help"
        ]
    return []


def _modalities(run: Run) -> list[str]:
    """Sensors whose absence costs nothing, however they are taken away."""
    full = number(mapping(mapping(run.robustness.get("full")).get("metrics")).get("miou"))
    ways = [listed(mapping(group).get("runs")) for group in mapping(run.robustness.get("emm")).values()]
    if full is None or not ways or len(run.modalities) < 2:
        return []
    found = []
    for name in run.modalities:
        without = [_miou_without(name, runs) for runs in ways]
        scores = [score for score in without if score is not None]
        if len(scores) == len(ways) and min(scores) >= full - NO_USE:
            found.append(
                f"{name}: without it the mIoU is {100 * min(scores):.2f} % instead of {100 * full:.2f} %: "
                "the model makes no use of this sensor"
            )
    return found


def _miou_without(name: str, runs: Sequence[object]) -> float | None:
    return next(
        (number(mapping(mapping(r).get("metrics")).get("miou")) for r in runs if mapping(r).get("affected") == [name]),
        None,
    )

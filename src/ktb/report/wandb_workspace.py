"""A saved wandb workspace with the sections one wants to see of runs of ktb-train (names logged: docs/report.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ktb.errors import ReportError, one_line

STEP = "trainer/global_step"


def workspace(entity: str, project: str, name: str, classes: Sequence[str] = ()) -> Any:
    """A new workspace, not yet saved.

    Args:
        entity: user or team.
        project: whose runs it shows.
        name: its title.
        classes: names for the bars of test IoU; without them that panel is left out.

    Raises:
        ReportError: wandb-workspaces is not installed.
    """
    workspaces, _ = _packages()
    return workspaces.Workspace(entity=entity, project=project, name=name, **_content(classes))


def update(url: str, classes: Sequence[str] = ()) -> Any:
    """A saved workspace with our sections in place of its own, not yet saved; its name stays.

    Args:
        url: where it is to be seen.
        classes: as in `workspace`.

    Raises:
        ReportError: wandb-workspaces is not installed, or there is no such workspace.
    """
    workspaces, _ = _packages()
    try:
        found = workspaces.Workspace.from_url(url)
    except Exception as error:  # wandb-workspaces documents none
        raise ReportError(f"{url}: can't be read as a saved workspace ({one_line(error, limit=200)})") from None
    for key, value in _content(classes).items():
        setattr(found, key, value)
    return found


def account() -> str | None:
    """The entity that the account set up on this machine saves to by default; None offline or without an account."""
    import wandb

    if not wandb.login(prompt=False, verify=False):
        return None
    try:
        return str(wandb.Api().default_entity)
    except Exception as error:  # no network, or a key that is not valid any more
        raise ReportError(f"wandb: the account can't be used ({one_line(error, limit=200)})") from None


def save(built: Any) -> str:
    """Save the workspace; returns where it is to be seen.

    Raises:
        ReportError: wandb refused it or could not be reached.
    """
    try:
        return str(built.save().url)
    except Exception as error:  # wandb-workspaces documents none
        raise ReportError(f"wandb: the workspace was not saved ({one_line(error, limit=200)})") from None


def specification(built: Any) -> str:
    """What saving would send, as JSON."""
    spec = json.loads(built._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return json.dumps({"entity": built.entity, "project": built.project, "name": built.name, "spec": spec}, indent=1)


def _packages() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise ReportError("wandb-workspaces is needed here: pip install 'ktb[dashboard]'") from None
    return workspaces, panels


def _content(classes: Sequence[str]) -> dict[str, Any]:
    workspaces, panels = _packages()

    def lines(title: str, *names: str, **options: Any) -> Any:
        return panels.LinePlot(title=title, x=STEP, y=list(names), **options)

    test = [
        panels.BarPlot(title="Test mIoU", metrics=["test/miou"]),
        panels.BarPlot(title="Test mAcc", metrics=["test/macc"]),
        panels.BarPlot(title="Test pixel accuracy", metrics=["test/pixel_acc"]),
    ]
    if classes:
        test.append(panels.BarPlot(title="Test IoU per class", metrics=[f"test_iou/{c}" for c in classes]))
    sections = {
        "Results": [lines("Validation mIoU", "val/miou"), *test],
        "Training": [
            lines("Loss", "train/loss", smoothing_type="exponentialTimeWeighted", smoothing_factor=0.6),
            lines("Loss of each head", metric_regex="train/loss_.*"),
            lines("Learning rate", "train/lr"),
            lines("Speed, samples per second", "train/samples_per_s"),
        ],
        "Validation": [
            lines("mAcc and pixel accuracy", "val/macc", "val/pixel_acc"),
            lines("IoU per class", metric_regex="val_iou/.*"),
        ],
        "Pictures": [
            panels.MediaBrowser(title="Predictions with masks", media_keys=["panels"], num_columns=4),
            panels.WeavePanelSummaryTable(table_name="predictions"),
        ],
        "Differences": [panels.RunComparer(diff_only="split")],
    }
    return {
        "sections": [
            workspaces.Section(name=name, panels=shown, is_open=True, pinned=name == "Results")
            for name, shown in sections.items()
        ],
        "settings": workspaces.WorkspaceSettings(x_axis=STEP, max_runs=20),
        "runset_settings": workspaces.RunsetSettings(
            pinned_columns=[
                "run:displayName",
                "summary:test/miou",
                "summary:val/miou",
                "config:dataset.name",
                "config:backbone.name",
                "config:seed",
            ],
        ),
    }

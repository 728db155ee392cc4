"""Several processes train and score exactly as one with the same global batch does (gloo, on one machine)."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.distributed import TCPStore
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ktb.data.balance import softened_weights
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.survey import survey
from ktb.distributed import decisions as ranks
from ktb.engine.module import SegmentationModule
from ktb.engine.scoring import ScoringModule
from ktb.errors import KTBError
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.backbones.swin import FrozenSwin, SwinArch
from ktb.models.segmentor import KTBSegmentor, SegOutput
from tests.ktb.commands import run_as_process
from tests.ktb.data.tools.new.test_recipe import field
from tests.ktb.jobs.test_train import last_state, metric_rows, train
from tests.ktb.slow import slow_unless

DEADLINE_S = 180


def in_processes(
    count: int,
    work: Callable[..., None],
    *args: Any,
    slurm: bool = False,
    port: int | None = None,
    codes: Sequence[int] = (),
) -> str:
    """`work(rank, *args)` in processes as torchrun, or Slurm, would start them.

    Args:
        port: where they meet; None: one that is free.
        codes: with which they are to end, when not all with 0. Otherwise the first that fails ends the others.

    Returns:
        what they printed.
    """  # fmt: skip
    # torchrun's agent serves the store; a free port that is only remembered could be taken by another process.
    agent = None if slurm else TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = port or (free_port() if agent is None else agent.port)
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder, f"{rank}.txt") for rank in range(count)]
        processes = [
            context.Process(target=_process, args=(rank, count, port, slurm, log, work, args), daemon=True)
            for rank, log in enumerate(logs)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + DEADLINE_S
        while (running := [p.sentinel for p in processes if p.exitcode is None]) and time.monotonic() < deadline:
            if not codes and any(p.exitcode for p in processes):
                break
            multiprocessing.connection.wait(running, timeout=deadline - time.monotonic())
        found = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
        printed = "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in logs if log.exists())
    assert found == list(codes or [0] * count), printed  # None: it hung, or another one failed
    return printed


def free_port() -> int:
    """Of those that no system hands out by itself, as Lightning takes them for jobs of Slurm."""
    for port in random.SystemRandom().sample(range(15000, 25000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("", port))
            return port
    raise AssertionError("no free port")


def _process(
    rank: int, count: int, port: int, slurm: bool, log: Path, work: Callable[..., None], args: tuple[Any, ...]
) -> None:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    mine, all_of_us = str(rank), str(count)
    if slurm:
        os.environ.update(SLURM_NTASKS=all_of_us, SLURM_NTASKS_PER_NODE=all_of_us, SLURM_PROCID=mine)
        os.environ.update(SLURM_LOCALID=mine, SLURM_NODEID="0", SLURM_JOB_ID="1234", SLURM_JOB_NAME="training")
    else:
        os.environ.update(RANK=mine, LOCAL_RANK=mine, WORLD_SIZE=all_of_us, LOCAL_WORLD_SIZE=all_of_us, GROUP_RANK="0")
        os.environ.update(TORCHELASTIC_RUN_ID="run", TORCHELASTIC_RESTART_COUNT="0")
        os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True")
    work(rank, *args)


def decide_as(rank: int, world: int, patience: float, dies: int | None) -> None:
    """What all take from the first one, twice, with PyTorch's process group after it; errors as ktb-train has them."""
    ranks._PATIENCE, ranks._ANSWER = timedelta(seconds=patience), timedelta(seconds=1)
    os.environ["KTB_DECIDED"] = '"of an earlier job"'
    if rank == dies != 0:
        sys.exit(9)

    def decision(text: str) -> str:
        assert rank == 0
        if dies == 0:
            os._exit(9)
        return text

    try:
        assert [ranks.decide("run folder", partial(decision, text), processes=None) for text in "ab"] == [
            "a",
            "b",
        ]
    except KTBError as error:
        sys.exit(f"error: {error}")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=30))
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    assert int(total) == world
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("slurm", slow_unless(bool, [False, True]))
def test_all_take_what_the_first_decides(slurm: bool) -> None:
    """At one address with the process group that comes after it."""
    in_processes(3, decide_as, 3, 60, None, slurm=slurm)


@pytest.mark.slow
def test_a_process_that_dies_at_the_start_ends_the_others() -> None:
    printed = in_processes(3, decide_as, 3, 4, 2, slurm=True, codes=[1, 1, 9])
    assert "error: processes 2 of 3 have not started within 4 s" in printed
    assert printed.count("Traceback") == 0


@pytest.mark.slow
def test_a_first_process_that_dies_ends_the_others() -> None:
    printed = in_processes(3, decide_as, 3, 4, 0, slurm=True, codes=[9, 1, 1])
    assert printed.count("error: ") == 2
    assert printed.count("Traceback") == 0


@pytest.mark.slow
def test_a_port_that_somebody_else_has() -> None:
    """He says nothing, and the others do not listen to him for ever."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        printed = in_processes(2, decide_as, 2, 2, None, slurm=True, port=port, codes=[1, 1])
    assert f"error: 127.0.0.1:{port}: is in use already" in printed
    assert f"error: 127.0.0.1:{port}: process 1 of 2 can't reach process 0 there" in printed


def test_a_child_of_lightning_takes_each_answer_for_its_own_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the first one's environment, which may have trained before in the same process."""

    def ask() -> list[Any]:
        folder = ranks.decide("run folder", lambda: {"run_dir": next(folders)}, processes=None)
        return [folder, ranks.decide("class weights", lambda: [0.5, next(weights)], processes=None)]

    def never() -> Any:
        raise AssertionError("the first one decides")

    for name in ("KTB_DECIDED", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    folders, weights = iter("abc"), iter([1.0, 2.0])
    monkeypatch.setenv("KTB_DECIDED", '"of a job around this one"')
    ask()
    expected = ask()
    assert expected == [{"run_dir": "b"}, [0.5, 2.0]]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [ranks.decide(question, never, processes=None) for question in ("run folder", "class weights")] == expected
    assert ranks.decide("class weights", never, processes=None) == [0.5, 2.0]
    monkeypatch.setenv("LOCAL_RANK", "0")
    ranks.decide("run folder", lambda: next(folders), processes=None)  # a training without class weights
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks.decide("run folder", never, processes=None) == "c"


@pytest.mark.slow
def test_the_others_wait_for_a_decision_that_takes_long() -> None:
    """Such as a count of all pixels of the labels; the limit is for processes that do not start."""
    in_processes(2, wait_as)


def wait_as(rank: int) -> None:
    ranks._PATIENCE = timedelta(seconds=1)

    def decision() -> str:
        time.sleep(3)
        return "late"

    assert ranks.decide("class weights", decision, processes=None) == "late"


@pytest.mark.slow
def test_a_command_whose_second_process_lightning_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own data with a rare class: the run folder and the class weights are decided by the first process alone."""
    write_yaml(survey(field(tmp_path / "data", 4, 920, 80), workers=1), "mine", tmp_path / "conf")
    for name in ("KTB_DECIDED", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    done = run_as_process(
        "ktb-train", "dataset=mine", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "backbone=swin_nano",
        "backbone.weights=random", "loss.class_weights=auto", "trainer=ddp", "trainer.devices=2",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "trainer.max_steps=1", "trainer.num_sanity_val_steps=0",
        "trainer.enable_progress_bar=false", "dataset.crop=[32,32]", "dataset.num_workers=0", "dataset.batch_size=1",
        "test=false", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [run_dir] = [file.parent for file in tmp_path.rglob("result.json")]
    weights = OmegaConf.load(run_dir / "config.yaml").loss.class_weights
    assert weights == softened_weights([92, 8])
    assert json.loads((run_dir / "result.json").read_text())["steps"] == 1


def train_as(rank: int, world: int, folder: Path, pixel_loss: str) -> None:
    """A training in float64 whose global batch is 6; rank 0 keeps the gradients of its first step."""

    def keep_gradients(module: SegmentationModule, _: Any) -> None:
        if module.global_step == 0 and rank == 0:
            torch.save({n: p.grad for n, p in module.model.named_parameters()}, folder.with_suffix(".grads"))

    SegmentationModule.on_before_optimizer_step = keep_gradients  # type: ignore[method-assign,assignment]
    distributed = ["trainer=ddp", f"trainer.devices={world}"] if world > 1 else []
    train(
        folder, *distributed, "dataset.train=24", f"dataset.batch_size={6 // world}", "trainer.max_epochs=2",
        "trainer.accelerator=cpu", "trainer.precision=64-true", "test=false", "backbone.drop_path=0.2",
        "optim.warmup_epochs=0", f"loss.pixel_loss={pixel_loss}", "dataset.eval_batch_size=1",
        "trainer.log_every_n_steps=1",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("world", "pixel_loss"), [(2, "ce"), (3, "ohem")])
def test_training_equals_one_process(
    tmp_path: Path, world: int, pixel_loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout, stochastic depth, masking, batch statistics, and means over valid pixels that ranks have not equally
    many of."""
    monkeypatch.setattr(SegmentationModule, "on_before_optimizer_step", None)  # put back afterwards
    train_as(0, 1, tmp_path / "one", pixel_loss)
    in_processes(world, train_as, world, tmp_path / "many", pixel_loss, slurm=world == 3)
    ours, theirs = (torch.load(tmp_path / f"{name}.grads") for name in ("many", "one"))
    trained = [n for n, grad in theirs.items() if grad is not None]
    assert trained == [n for n, grad in ours.items() if grad is not None]
    assert max(float(theirs[n].abs().max()) for n in trained) > 1
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in trained) < 1e-10
    ours, theirs = last_state(tmp_path / "many"), last_state(tmp_path / "one")
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in theirs) < 1e-6
    for one, many in zip(metric_rows(tmp_path / "one"), metric_rows(tmp_path / "many"), strict=True):
        assert {k: float(v) for k, v in one.items()} == pytest.approx(
            {k: float(v) for k, v in many.items()}, abs=1e-5, nan_ok=True
        )


def weigh_as(rank: int, world: int, folder: Path) -> None:
    """Weighted losses and their gradients on this process's share of one batch; ranks differ in valid pixels."""
    if world > 1:
        torch.distributed.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    torch.manual_seed(0)
    logits, label = torch.randn(6, 4, 8, 8).double() * 3, torch.randint(0, 4, (6, 8, 8))
    label[1] = 255
    label[3, :5] = 0
    logits[2] = logits[4]  # equal losses in two processes: at the limit of OHEM too
    label[2] = label[4]
    kept = {}
    for kind in ("ce", "ohem"):
        for scale in (1.0, 1e-3):  # with small logits every pixel is hard
            leaf = (logits[rank::world] * scale).requires_grad_()
            out = SegOutput(leaf, {"rgb": leaf * 0.5})
            terms = SelfTeachingLoss(kind, class_weights=[0.2, 1.0, 3.0, 0.0])(out, label[rank::world])  # type: ignore[arg-type]
            (gradient,) = torch.autograd.grad(terms["loss"], leaf)
            kept[f"{kind} {scale}"] = {**{k: v.item() for k, v in terms.items()}, "gradient": gradient / world}
    torch.save(kept, folder / f"{world}_{rank}.pt")
    if world > 1:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_weighted_losses_are_means_of_the_global_batch(tmp_path: Path, world: int) -> None:
    weigh_as(0, 1, tmp_path)
    in_processes(world, weigh_as, world, tmp_path)
    one = torch.load(tmp_path / "1_0.pt")
    parts = [torch.load(tmp_path / f"{world}_{rank}.pt") for rank in range(world)]
    for case, expected in one.items():
        for name, value in expected.items():
            if name == "gradient":
                found = torch.empty_like(value)
                for rank, part in enumerate(parts):
                    found[rank::world] = part[case][name]
                assert (found - value).abs().max() < 1e-12, case
                assert value.abs().max() > 1e-4
            else:
                mean = sum(part[case][name] for part in parts) / world
                assert mean == pytest.approx(value, rel=1e-10), (case, name)


SAMPLES = (1, 2, 3, 4, 5, 7)
"""Fewer than 2 to 4 processes, as many, and one more or less than a multiple of them."""


class Right(Metric):
    """Share of pixels that are right, by a state that is summed and by one that is a list of batches."""

    def __init__(self, by: str, ignore_index: int) -> None:
        super().__init__()
        self.by, self.ignore_index = by, ignore_index
        self.add_state("counts", torch.zeros(2) if by == "sum" else [], dist_reduce_fx="sum" if by == "sum" else "cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        counts = target != self.ignore_index
        found = torch.stack([(prediction == target)[counts].sum(), counts.sum()]).float()
        self.counts = self.counts + (found if self.by == "sum" else [found[None]])

    def compute(self) -> Tensor:
        counts = self.counts if self.by == "sum" else dim_zero_cat(self.counts).sum(0)
        return counts[0] / counts[1]


def count_as(rank: int, world: int, file: Path) -> None:
    """Confusion matrices of so many test samples; two metrics beside them say the same."""
    torch.manual_seed(0)
    model = KTBSegmentor(
        FrozenSwin(SwinArch(16, (1, 1, 1, 1), (1, 1, 2, 2), 4)), ("rgb", "depth"), 10, head={"width": 16}
    )
    matrices = []
    for count in SAMPLES:
        data = SyntheticDataModule(size=(32, 40), train=1, val=1, test=count, streams=["rgb", "depth"], num_workers=0)
        own = {by: Right(by, data.spec.ignore_index) for by in ("sum", "list")}
        module = ScoringModule(model, modalities=data.modalities, classes=data.spec.classes, metrics=own)
        options: dict[str, Any] = {"strategy": "ddp", "devices": world} if world > 1 else {"devices": 1}
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            use_distributed_sampler=False, **options,
        )  # fmt: skip
        trainer.test(module, datamodule=data, verbose=False)
        matrices.append(module.evaluation.total.matrix)
        share = pytest.approx(np.trace(matrices[-1]) / matrices[-1].sum(), rel=1e-6)
        assert module.own_scores == {"sum": share, "list": share}
    if rank == 0:
        np.save(file, np.stack(matrices))


@pytest.mark.slow
def test_no_test_sample_counts_twice(tmp_path: Path) -> None:
    """Also where there are fewer samples than processes."""
    for world in range(1, 5):
        in_processes(world, count_as, world, tmp_path / f"{world}.npy")
    one = np.load(tmp_path / "1.npy")
    assert one.sum((1, 2)).tolist() == [32 * 40 * count for count in SAMPLES]
    for world in range(2, 5):
        assert np.array_equal(np.load(tmp_path / f"{world}.npy"), one)

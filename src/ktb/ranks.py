"""The processes of one job before PyTorch's process group is up: who is first, and how all take what the first decided.

Every process of a distributed job runs the same command. What depends on the moment or on the state of the disk (the
run folder of `${now:}`, the checkpoint to continue from) is decided by the first one alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from ktb.errors import KTBError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import Store

T = TypeVar("T")
_DECIDED = "KTB_DECIDED"
_PATIENCE = timedelta(minutes=10)


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def decide(decision: Callable[[], T], *, processes: int | None) -> T:
    """What the first process of this job decides.

    torchrun and Slurm start all processes at once: they ask the first one over the job's own address. Lightning starts
    its children later, from the first one, whose environment they inherit.

    Args:
        decision: called in the first process only; returns what JSON can hold.
        processes: of the job, as configured; None: not known here.

    Raises:
        KTBError: in the first process, what `decision` raised.
        SystemExit: in the others then; the first one has said why.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0" and _DECIDED in os.environ:
        value: T = json.loads(os.environ[_DECIDED])
        return value
    address = None if processes == 1 else _address()
    if address is None:
        value = decision()
        os.environ[_DECIDED] = json.dumps(value)
        return value
    return _over_network(decision, *address)


def _address() -> tuple[int, int, str, int] | None:
    """(rank, processes, host, port) of a job whose processes torchrun or Slurm started; None: they did not."""
    from lightning.fabric.plugins.environments import TorchElasticEnvironment

    jobs = (TorchElasticEnvironment() if TorchElasticEnvironment.detect() else None, slurm())
    for job in jobs:
        if job is not None:
            found = job.global_rank(), job.world_size(), job.main_address, job.main_port
            return found if found[1] > 1 else None
    return None


def slurm() -> SLURMEnvironment | None:
    """The Slurm job step this process is a task of, for Lightning; our own `Saving` answers Slurm's signals."""
    from lightning.fabric.plugins.environments import SLURMEnvironment

    # Without tasks Lightning would only warn that srun exists.
    if "SLURM_NTASKS" not in os.environ or not SLURMEnvironment.detect():
        return None
    return SLURMEnvironment(auto_requeue=False)


def _over_network(decision: Callable[[], T], rank: int, processes: int, host: str, port: int) -> T:
    from torch.distributed import TCPStore

    # torchrun's agent already serves such a store at this address; under Slurm it is closed again before PyTorch opens
    # its own there.
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        host, port, processes, is_master=rank == 0 and not agent, wait_for_workers=False, timeout=_PATIENCE
    )
    key = f"ktb/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if rank == 0:
        try:
            answer = {"value": decision()}
        except KTBError as error:
            store.set(key, json.dumps({"error": str(error)}))
            _wait_for_readers(store, key, processes)
            raise
        store.set(key, json.dumps(answer))
        _wait_for_readers(store, key, processes)
    else:
        answer = json.loads(store.get(key))
        store.set(f"{key}/read/{rank}", "")
        if "error" in answer:
            raise SystemExit(2)
    return answer["value"]


def _wait_for_readers(store: Store, key: str, processes: int) -> None:
    store.wait([f"{key}/read/{rank}" for rank in range(1, processes)])

"""The processes of one job before PyTorch's process group is up: who is first, and how all take what the first decided.

Every process of a distributed job runs the same command. What depends on the moment or on the state of the disk (the
run folder of `${now:}`, the checkpoint to continue from) is decided by the first one alone.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ktb.errors import KTBError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments import SLURMEnvironment
    from torch.distributed import Store

T = TypeVar("T")
_DECIDED = "KTB_DECIDED"
_PATIENCE = timedelta(minutes=5)
"""How long the others may take to start."""
_ANSWER = timedelta(seconds=10)
"""How much longer than that an open port is given to answer as a store."""
_DECISION = timedelta(hours=1)
"""How long the first one may take to decide: the labels of a network drive are counted slowly. The others learn at
once that it has died, by torchrun's end of them all or by the store that goes with it."""

_decided: dict[str, Any] = {}  # question → answer, of the newest job in this process
_calls = itertools.count()  # the same in all processes of a job
_kept: list[Any] = []  # served as long as this process lives


def is_first() -> bool:
    """Whether this is the process that speaks and writes."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def decide(question: str, decision: Callable[[], T], *, processes: int | None) -> T:
    """What the first process of this job decides.

    torchrun and Slurm start all processes at once: they ask the first one over the job's own address. Lightning starts
    its children later, from the first one, whose environment they inherit.

    Args:
        question: what is decided, such as "run folder"; each has a name of its own within a job.
        decision: called in the first process only; returns what JSON can hold.
        processes: of the job, as configured; None: not known here.

    Raises:
        KTBError: in the first process, what `decision` raised; in any, the others cannot be reached.
        SystemExit: in the others then; the first one has said why.
    """
    address = None if processes == 1 else _address()
    if address is not None:
        return _over_network(decision, *address)
    if os.environ.get("LOCAL_RANK", "0") != "0" and _DECIDED in os.environ:
        answer: T = json.loads(os.environ[_DECIDED])[question]
        return answer
    # By name: a process that has trained before has asked more often than its children will.
    _decided[question] = value = decision()
    os.environ[_DECIDED] = json.dumps(_decided)
    return value


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
    """The store at the job's address is the one that PyTorch's process group will use, opened once and kept: a port
    that was closed in between could be taken by somebody else, or answer a process that means the other store."""
    from torch.distributed import DistError

    key = f"ktb/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{next(_calls)}"
    try:
        store = _store(rank, processes, host, port)
    except DistError as error:
        taken = rank == 0 and "EADDRINUSE" in str(error)
        raise KTBError(
            f"{host}:{port}: "
            + ("is in use already, so the job's processes can't meet there; choose another port with MASTER_PORT"
               if taken else f"process {rank} of {processes} can't reach process 0 there; has that one ended?")
        ) from None  # fmt: skip
    if rank == 0:
        try:
            answer = {"value": decision()}
        except KTBError as error:
            store.set(key, json.dumps({"error": str(error)}))
            _missing(store, key, processes, _PATIENCE / 10)  # or it would be gone before the others have asked
            raise
        store.set(key, json.dumps(answer))
        if missing := _missing(store, key, processes, _PATIENCE):
            raise KTBError(
                f"processes {', '.join(map(str, missing))} of {processes} have not started within "
                f"{_PATIENCE.total_seconds():.0f} s; their own output may say why"
            )
        store.set(f"{key}/all", "")
    else:
        try:
            store.wait([key], _DECISION)
            answer = json.loads(store.get(key))
            store.set(f"{key}/read/{rank}", "")
            if "error" not in answer:
                store.get(f"{key}/all")
        except DistError:
            raise KTBError(f"process {rank} of {processes}: process 0 has ended; its own output says why") from None
        if "error" in answer:
            raise SystemExit(2)
    return answer["value"]


def _store(rank: int, processes: int, host: str, port: int) -> Store:
    """The job's store. torchrun's agent serves it already; under Slurm the first process does.

    Raises:
        DistError: the port is taken, or nothing answers.
    """
    from torch.distributed import DistNetworkError, TCPStore

    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    found: list[Store | Exception] = []

    def connect() -> None:
        try:
            found.append(
                TCPStore(
                    host, port, processes, is_master=serves, timeout=_PATIENCE, wait_for_workers=False,
                    multi_tenant=True,
                )
            )  # fmt: skip
        except Exception as error:
            found.append(error)

    # Against something that listens there but is no store, TCPStore waits for ever.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join((_PATIENCE + _ANSWER).total_seconds())
    result = found[0] if found else DistNetworkError("no answer")
    if isinstance(result, Exception):
        raise result
    if serves:
        _kept.append(result)
    return result


def _missing(store: Store, key: str, processes: int, patience: timedelta) -> list[int]:
    """Those that have not read the answer, after waiting for them."""
    from torch.distributed import DistError

    readers = {rank: f"{key}/read/{rank}" for rank in range(1, processes)}
    try:
        store.wait(list(readers.values()), patience)
    except DistError:
        return [rank for rank, reader in readers.items() if not store.check([reader])]
    return []

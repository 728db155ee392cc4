"""How much of DSCF's attention a GPU computes at a time, and when it uses the Triton kernel.

No GPU is needed: PyTorch's fake tensors say that they are on one, and the memory is made up."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ktb.errors import ConfigError
from ktb.models.layers import dscf_device
from ktb.models.layers import dscf_fast as layer
from ktb.models.layers.dscf_device import LEAST, entries_at_a_time, triton_kernel
from ktb.models.layers.dscf_fast import sparse_attention

GPU = torch.device("cuda", 0)


@pytest.fixture
def fake() -> Iterator[FakeTensorMode]:
    with FakeTensorMode() as mode:
        yield mode


def with_memory(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    found = SimpleNamespace(total_memory=int(gib * 2**30))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)


@pytest.mark.parametrize(("gib", "entries"), [(80, 80 << 21), (24, 24 << 21), (1, LEAST)])
def test_a_share_of_the_memory(gib: int, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entries_at_a_time.cache_clear()
    with_memory(monkeypatch, gib)
    assert entries_at_a_time(GPU) == entries
    with_memory(monkeypatch, 2 * gib)
    assert entries_at_a_time(GPU) == entries  # asked for once
    entries_at_a_time.cache_clear()
    assert entries_at_a_time(torch.device("mps")) == LEAST


def test_memory_decides_the_number_of_chunks(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swin-B's first stage at 480 x 640, batch 16: 369 million scores."""
    chunks: list[tuple[int, ...]] = []
    chunk = layer._chunk
    monkeypatch.setattr(layer, "_chunk", lambda q, *args: chunks.append(tuple(q.shape)) or chunk(q, *args))
    query = torch.empty(16, 16, 120, 160, device="cuda")
    key, points = torch.empty(16, 16, 600, device="cuda"), torch.empty(16, 1, 600, 2, device="cuda")
    table = torch.empty(2, 119, 159, device="cuda")
    found = {}
    for gib in (1, 24, 80, 141):
        entries_at_a_time.cache_clear()
        with_memory(monkeypatch, gib)
        chunks.clear()
        with torch.no_grad():
            out = sparse_attention(query, key, key, points, table)
        assert out.shape == query.shape
        found[gib] = len(chunks)
        # All queries of all samples, each once.
        assert sum(b * rows for _, b, _, _, rows, _ in chunks) == 16 * 120
    entries_at_a_time.cache_clear()
    assert found == {1: 120, 24: 8, 80: 3, 141: 2}


def test_off_unless_asked_for(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, ...]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, points: Tensor, table: Tensor) -> Tensor:
        called.append(tuple(table.shape))
        return torch.empty_like(query)

    stand_in = ModuleType("ktb.models.layers.dscf_triton")
    stand_in.attend = attend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setattr("ktb.models.layers.dscf_triton", stand_in, raising=False)

    def run(device: str) -> int:
        query, key = torch.empty(2, 6, 5, 7, device=device), torch.empty(2, 6, 4, device=device)
        points, table = torch.empty(2, 1, 4, 2, device=device), torch.empty(2, 9, 11, device=device)
        called.clear()
        sparse_attention(query, key, key, points, table)
        return len(called)

    monkeypatch.delenv(dscf_device.SWITCH, raising=False)
    assert run("cuda") == 0
    monkeypatch.setenv(dscf_device.SWITCH, "0")
    assert run("cuda") == 0
    monkeypatch.setenv(dscf_device.SWITCH, "1")
    assert run("cpu") == 0
    assert run("cuda") == 1
    assert called == [(2, 9, 11)]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert run("cuda") == 0


def test_what_is_wrong_is_one_line(fake: FakeTensorMode, monkeypatch: pytest.MonkeyPatch) -> None:
    query = torch.empty(1, 2, 3, 4, device="cuda")
    monkeypatch.setenv(dscf_device.SWITCH, "yes")
    with pytest.raises(ConfigError, match="^environment variable KTB_TRITON=yes: expected 0 or 1$"):
        triton_kernel(query)
    monkeypatch.setenv(dscf_device.SWITCH, "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "ktb.models.layers.dscf_triton", raising=False)
    monkeypatch.delattr("ktb.models.layers.dscf_triton", raising=False)
    with pytest.raises(ConfigError, match=r"KTB_TRITON=1 needs the package triton.* install it, or leave .* out$"):
        triton_kernel(query)

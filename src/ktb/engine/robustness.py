"""How scores fall when sensors are missing or disturbed (docs/method.md#failing-sensors; after Liao et al.,
CVPR workshops 2025), for any number N of modalities.

All changes are made to the normalised tensors, after resizing, as the model would receive them:

EMM   every proper subset of the modalities is missing, none included: 2^N - 1 runs.
RMM   the same subsets, but each element of a chosen modality is zeroed with probability `rate`.
NM    salt and pepper on every modality (elements set to the largest or smallest value of that sample's tensor), then
      Gaussian noise on all but event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ktb.data.spec import ModalitySpec
from ktb.engine.disturbances import MISSING
from ktb.errors import ConfigError
from ktb.metrics.scores import PER_CLASS, finite

FUSED = "fused"
"""The fused head's name beside those of the side heads, which are their modalities'."""


@dataclass(frozen=True)
class Case:
    """One change of the inputs of a whole split.

    protocol: "full", "emm", "rmm" or "nm". setting: which of its ways, rates or levels. affected: the modalities that
    are missing or disturbed.
    """

    protocol: str
    setting: str
    affected: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(filter(None, (self.protocol, self.setting, ", ".join(self.affected))))


def subsets(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every proper subset but the empty one, small ones first."""
    return [s for k in range(1, len(modalities)) for s in combinations(modalities, k)]


def cases(settings: Mapping[str, Any], modalities: Sequence[ModalitySpec]) -> list[Case]:
    """All runs that the settings ask for; the undisturbed one is the first.

    Args:
        settings: a member of the group `robustness`.
        modalities: in the model's order.

    Raises:
        ConfigError: a value that cannot work.
    """
    names = [m.name for m in modalities]
    found = [Case("full", "", ())]
    for way in _given(settings, "emm", "missing"):
        if way not in MISSING:
            raise ConfigError(f"robustness.emm.missing: {way!r} is unknown; expected some of {', '.join(MISSING)}")
        found += [Case("emm", way, missing) for missing in subsets(names)]
    for rate in _given(settings, "rmm", "rates"):
        _share("rmm.rates", rate)
        found += [Case("rmm", str(rate), chosen) for chosen in subsets(names)]
    for level, noise in (settings.get("nm") or {}).items():
        if not isinstance(noise, Mapping) or set(noise) != {"density", "sigma"}:
            raise ConfigError(f"robustness.nm.{level}={noise}: expected {{density: ..., sigma: ...}}")
        _share(f"nm.{level}.density", noise["density"])
        if not isinstance(noise["sigma"], int | float) or noise["sigma"] < 0:
            raise ConfigError(f"robustness.nm.{level}.sigma={noise['sigma']}: expected 0 or more")
        found.append(Case("nm", str(level), tuple(names)))
    for p in settings.get("expected") or ():
        _share("expected", p)
    if len(found) == 1 and len(names) == 1:
        raise ConfigError(f"robustness: a model of {names[0]} alone cannot do without it; robustness=nm adds noise")
    if len(found) == 1:
        raise ConfigError("robustness: nothing is asked for; give robustness.emm.missing, rmm.rates or nm something")
    return found


def _given(settings: Mapping[str, Any], protocol: str, key: str) -> list[Any]:
    values = (settings.get(protocol) or {}).get(key, [])
    if not isinstance(values, list) or len(set(map(str, values))) < len(values):
        raise ConfigError(f"robustness.{protocol}.{key}={values}: expected a list without repetitions")
    return values


def _share(key: str, value: Any) -> None:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(f"robustness.{key}: {value} cannot work; expected a share from 0 to 1")


def average(runs: Mapping[tuple[str, ...], float]) -> float:
    """Plain mean of the mIoU over the runs, missing modalities → mIoU."""
    return float(np.mean(list(runs.values())))


def expectation(runs: Mapping[tuple[str, ...], float], count: int, p: float) -> float:
    """The mIoU to expect when each modality fails with probability p, given that not all fail.

    E(p) = Σ p^k (1-p)^(N-k) · mIoU / Σ p^k (1-p)^(N-k), k missing of N.

    Args:
        runs: missing modalities → mIoU.
        count: N.
        p: from 0 to 1.
    """
    weights = np.array([p ** len(missing) * (1 - p) ** (count - len(missing)) for missing in runs])
    if weights.sum() == 0:  # p = 1: all of them fail, which is no run
        return float("nan")
    return float((weights * list(runs.values())).sum() / weights.sum())


def summary(runs: Mapping[tuple[str, ...], float], count: int, expected: Sequence[float]) -> dict[str, Any]:
    """What a group of runs comes to.

    Args:
        runs: missing modalities → mIoU, the undisturbed run, (), among them.
        count: number of the model's modalities.
        expected: the p of E(p), see `expectation`.

    Returns:
        avg, expected {p: E(p)}, worst, and drop = undisturbed - worst.
    """
    worst = min(runs.values())
    return {
        "avg": finite(average(runs)),
        "expected": {f"{p:g}": finite(expectation(runs, count, p)) for p in expected},
        "worst": finite(worst),
        "drop": finite(runs[()] - worst),
    }


def summarise(
    found: Mapping[tuple[Case, str], dict[str, Any]], modalities: Sequence[str], expected: Sequence[float]
) -> dict[str, Any]:
    """What robustness.json holds.

    Args:
        found: scores of each (case, head).
        modalities: names, in the model's order.
        expected: the p of E(p), see `expectation`.

    full, and per protocol its settings, each with its runs: the affected modalities, the metrics, and in emm side
    {modality: mIoU} of the side heads of the modalities that are left. emm and rmm have a `summary` each, and emm has
    summary_side: of the side head of the first modality that is left wherever something is missing. nm has its drop.
    """
    count = len(modalities)

    def entry(case: Case) -> dict[str, Any]:
        metrics = {k: finite(v) for k, v in found[case, FUSED].items() if k not in PER_CLASS}
        side = {h: finite(s["miou"]) for (c, h), s in found.items() if c == case and h != FUSED}
        return {"affected": list(case.affected), "metrics": metrics} | ({"side": side} if side else {})

    def miou(case: Case, head: str = FUSED) -> float:
        return float(found[case, head]["miou"])

    every = list(dict.fromkeys(case for case, _ in found))
    full = every[0]
    result: dict[str, Any] = {"modalities": list(modalities), "full": entry(full)}
    for case in every[1:]:
        result.setdefault(case.protocol, {}).setdefault(case.setting, {"runs": []})["runs"].append(entry(case))
    for protocol in ("emm", "rmm"):
        for setting, group in result.get(protocol, {}).items():
            members = [c for c in every if (c.protocol, c.setting) == (protocol, setting)]
            group["summary"] = summary({(): miou(full)} | {c.affected: miou(c) for c in members}, count, expected)
            if protocol == "emm" and (full, modalities[0]) in found:
                first = {c: next(m for m in modalities if m not in c.affected) for c in members}
                runs = {(): miou(full)} | {c.affected: miou(c, head) for c, head in first.items()}
                group["summary_side"] = summary(runs, count, expected)
    for case in every:
        if case.protocol == "nm":
            result["nm"][case.setting]["drop"] = finite(miou(full) - miou(case))
    return result

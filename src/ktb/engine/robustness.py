"""How scores fall when sensors are missing or disturbed (docs/method.md#failing-sensors; after Liao et al.,
CVPR workshops 2025), for any number N of modalities.

All changes are made to the normalised tensors, after resizing, as the model would receive them:

EMM   every proper subset of the modalities is missing, none included: 2^N - 1 runs.
RMM   the same subsets, but each element of a chosen modality is zeroed with probability `rate`.
NM    salt and pepper on every modality (elements set to the largest or smallest value of that sample's tensor), then
      Gaussian noise on all but event.

A missing modality is a tensor of zeros in EMM as defined ("zeros"). That is not what the model itself calls missing:
zeros still pass the patch embedding, whose bias and norm make tokens of them, whereas a modality left out of the inputs
("masked") has zero tokens, as under the masking of training (docs/method.md#mmst). "black" (MISS) is a black picture
before normalisation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ktb.data.spec import Batch, ModalitySpec, normalize
from ktb.engine.inference import Model, most_likely
from ktb.engine.module import SegmentationModule
from ktb.errors import ConfigError
from ktb.metrics.counts import ConfusionMatrix
from ktb.metrics.scores import PER_CLASS, finite, scores
from ktb.models.segmentor import KTBSegmentor, SegOutput

MISSING = ("zeros", "black", "masked")
"""Ways a missing modality can reach the model."""

FUSED = "fused"

Inputs = dict[str, Tensor]


# ------------------------------------------------------------------------------------------------------ disturbances


class Draws:
    """Random numbers for the samples of one batch.

    Seed, sample id, modality and purpose alone decide them, so that batch size, rank and device do not matter; rates
    and levels share their draws, so that a higher one only adds to a lower one.
    """

    def __init__(self, seed: int, ids: Sequence[str]) -> None:
        self.seed = seed
        self.ids = ids
        self._made: dict[tuple[str, str], Tensor] = {}

    def uniform(self, purpose: str, modality: str, like: Tensor) -> Tensor:
        """In [0, 1), of the shape, device and dtype of `like` (B, C, H, W)."""
        return self._draw(purpose, modality, like, lambda g, shape: g.random(shape, np.float32))

    def normal(self, purpose: str, modality: str, like: Tensor) -> Tensor:
        """Standard normal, of the shape, device and dtype of `like` (B, C, H, W)."""
        return self._draw(purpose, modality, like, lambda g, shape: g.standard_normal(shape, np.float32))

    def _draw(
        self, purpose: str, modality: str, like: Tensor, make: Callable[[np.random.Generator, torch.Size], Any]
    ) -> Tensor:
        key = (purpose, modality)
        if key not in self._made:
            samples = [make(self._generator(*key, name), like.shape[1:]) for name in self.ids]
            self._made[key] = torch.from_numpy(np.stack(samples)).to(like)
        return self._made[key]

    def _generator(self, *parts: str) -> np.random.Generator:
        digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()
        return np.random.default_rng([self.seed, int.from_bytes(digest)])


def without(inputs: Inputs, missing: Sequence[str], way: str, modalities: Sequence[ModalitySpec]) -> Inputs:
    """Normalised inputs with the modalities `missing` taken away in one of the `MISSING` ways."""
    if way == "masked":
        return {m: x for m, x in inputs.items() if m not in missing}
    specs = {m.name: m for m in modalities}

    def replacement(name: str, x: Tensor) -> Tensor:
        if way == "zeros":
            return torch.zeros_like(x)
        return specs[name].normalize(x.new_zeros(1, x.shape[1], 1, 1)).to(x).expand_as(x)

    return {m: replacement(m, x) if m in missing else x for m, x in inputs.items()}


def randomly_zeroed(inputs: Inputs, chosen: Sequence[str], rate: float, draws: Draws) -> Inputs:
    """Each element of the modalities `chosen` is zero with probability `rate`, independently."""
    return {m: x.masked_fill(draws.uniform("rmm", m, x) < rate, 0.0) if m in chosen else x for m, x in inputs.items()}


def noisy(inputs: Inputs, density: float, sigma: float, draws: Draws) -> Inputs:
    """Salt and pepper, each on half of a share `density` of the elements, then Gaussian noise but on event."""
    result = {}
    for m, x in inputs.items():
        u = draws.uniform("salt and pepper", m, x)
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = torch.where(u < density, torch.where(u < density / 2, high, low), x)
        if m != "event":
            x = x + sigma * draws.normal("gaussian", m, x)
        result[m] = x
    return result


# --------------------------------------------------------------------------------------------------------------- runs


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
    """All runs that `settings` (a member of the group `robustness`) asks for; the undisturbed one is the first.

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


class _AllHeads:
    """Fused and side heads of one forward pass, stacked along the classes."""

    def __init__(self, model: KTBSegmentor, side: Sequence[str]) -> None:
        self.model = model
        self.side = side
        self.num_classes = model.num_classes

    def __call__(self, inputs: Mapping[str, Tensor], *, side: bool | None = None) -> SegOutput:
        out = self.model(inputs, side=True)
        return SegOutput(torch.cat([out.logits, *(out.side[m] for m in self.side)], dim=1))


class Robustness(Callback):
    """Scores every case on each test batch, right after the undisturbed prediction: the data are read once.

    Args:
        settings: a member of the group `robustness`.
        modalities: in the model's order.
        seed: of all random changes.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(self, settings: Mapping[str, Any], modalities: Sequence[ModalitySpec], seed: int) -> None:
        self.cases = cases(settings, modalities)
        self._with_emm = any(case.protocol == "emm" for case in self.cases)
        self.modalities = tuple(modalities)
        self.noise = {str(level): dict(noise) for level, noise in (settings.get("nm") or {}).items()}
        self.expected: list[float] = list(settings.get("expected") or [])
        self.seed = seed
        self.result: dict[str, Any] = {}
        """After the test: what robustness.json holds."""

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(SegmentationModule, pl_module)
        self._answered: dict[Case, list[tuple[list[str], Tensor]]] = {case: [] for case in self.cases}
        self._counts = {
            (case, head): ConfusionMatrix(module.model.num_classes).to(module.device)
            for case in self.cases
            for head in self._heads(case, module.model)
        }

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not batch["id"]:  # a process that no sample was left for
            return
        module = cast(SegmentationModule, pl_module)
        with trainer.precision_plugin.test_step_context():  # which sets the type of inputs as well
            inputs = normalize(batch["inputs"], self.modalities)
        draws = Draws(self.seed, batch["id"])
        size = (int(batch["label"].shape[-2]), int(batch["label"].shape[-1]))
        for case in self.cases:
            heads = self._heads(case, module.model)
            if case.protocol == "full" and heads == [FUSED]:
                self._counts[case, FUSED].update(outputs, batch["label"])
                continue
            model: Model = _AllHeads(module.model, heads[1:]) if len(heads) > 1 else module.model
            with trainer.precision_plugin.test_step_context():
                logits = module.inference(model, self._changed(inputs, case, draws), size)
            for head, part in zip(heads, logits.split(module.model.num_classes, dim=1), strict=True):
                prediction, answered = most_likely(part)
                self._answered[case].append((batch["id"], answered))
                self._counts[case, head].update(prediction, batch["label"])

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(SegmentationModule, pl_module)
        for case, answered in self._answered.items():
            module.require_answers(answered, f" in the case {case}")
        without = module.mean_without
        found = {key: scores(metric.compute().cpu().numpy(), without) for key, metric in self._counts.items()}
        self.result = summarise(found, [m.name for m in self.modalities], self.expected)

    def _changed(self, inputs: Inputs, case: Case, draws: Draws) -> Inputs:
        if case.protocol == "emm":
            return without(inputs, case.affected, case.setting, self.modalities)
        if case.protocol == "rmm":
            return randomly_zeroed(inputs, case.affected, float(case.setting), draws)
        if case.protocol == "nm":
            return noisy(inputs, **self.noise[case.setting], draws=draws)
        return inputs

    def _heads(self, case: Case, model: KTBSegmentor) -> list[str]:
        """The fused head, and where modalities are missing the side heads of the others."""
        asked = case.protocol in ("full", "emm") and self._with_emm and bool(model.side_heads)
        return [FUSED, *(m for m in model.modalities if asked and m not in case.affected)]


# -------------------------------------------------------------------------------------------------------------- sums


def average(runs: Mapping[tuple[str, ...], float]) -> float:
    """Plain mean of the mIoU over the runs, missing modalities → mIoU."""
    return float(np.mean(list(runs.values())))


def expectation(runs: Mapping[tuple[str, ...], float], count: int, p: float) -> float:
    """E(p) = Σ p^k (1-p)^(N-k) · mIoU / Σ p^k (1-p)^(N-k), k missing of N = `count`: the mIoU to expect when each
    modality fails with probability p, given that not all fail."""
    weights = np.array([p ** len(missing) * (1 - p) ** (count - len(missing)) for missing in runs])
    if weights.sum() == 0:  # p = 1: all of them fail, which is no run
        return float("nan")
    return float((weights * list(runs.values())).sum() / weights.sum())


def summary(runs: Mapping[tuple[str, ...], float], count: int, expected: Sequence[float]) -> dict[str, Any]:
    """avg, expected {p: E(p)}, worst, and drop = full - worst, of runs that include the undisturbed one, ()."""
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
    """What robustness.json holds, out of the scores of each (case, head).

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

"""The whole model: streams → stages → fusion → heads (docs/method.md#data-flow)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from ktb.errors import PartError
from ktb.models import contracts
from ktb.models.backbones.base import Backbone, Tokens
from ktb.models.fusion.base import Fused, Fusion
from ktb.models.layers.check_shapes import check_shape
from ktb.models.parts import Spec, build, check_settings, class_of, completed, in_full, made
from ktb.models.peft.base import Adapt, Peft

PEFT = {"_target_": "ktb.models.peft.mapa.MAPA"}
NO_PEFT = {"_target_": "ktb.models.peft.base.Peft"}
FUSION = {"_target_": "ktb.models.fusion.dscf.DSCF"}
HEAD = {"_target_": "ktb.models.heads.mlp.MLPHead", "width": 512}
SIDE_HEAD = {"_target_": "ktb.models.heads.mlp.MLPHead", "width": 256}
PARTS = ("peft", "fusion", "head", "side_head")
"""The paper's parts; a spec without `_target_` changes settings of these."""


@dataclass
class SegOutput:
    """What the model says of a batch.

    Attributes:
        logits: of the fused head (B, K, H, W).
        side: the same per modality, empty unless asked for.
        losses: terms that fusion blocks add to the loss, "<name>" → scalar; only while training.
    """

    logits: Tensor
    side: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Features:
    """What the stages give, finest first.

    Attributes:
        fused: normalised maps (B, H_i, W_i, C_i) after fusion.
        streams: the same per modality.
        losses: terms of the fusion blocks, those of one name added up.
    """

    fused: list[Tensor]
    streams: dict[str, list[Tensor]]
    losses: dict[str, Tensor] = field(default_factory=dict)


class KTBSegmentor(nn.Module):
    """Symmetric parameter-efficient RGB+X segmentor ("Keep the Balance", CVPR 2025), for one or more modalities.

    The modality named "rgb" enters through the backbone's own frozen patch embedding, every other one through a
    trained copy of it. What the PEFT method adds, fusion and heads are trained; the backbone and the output norms are
    not and stay as they are under `.train()`.

    PEFT method, fusion and heads are given as plain values: `_target_`, the dotted name of a class, and its settings.
    Without `_target_` they are settings of the paper's part.

    Args:
        backbone: with its weights already loaded: the other modalities' patch embeddings are copied from it.
        modalities: names in stream order, or name → number of channels (3 when only names are given).
        num_classes: K.
        peft: see `ktb.models.peft.base.Peft`; by default MAPA.
        fusion: one block per stage, see `ktb.models.fusion.base.Fusion`; by default DSCF.
        head: of the fused maps, a class that is built with (channels, num_classes) and called with the maps, finest
            first, and the size of the logits; by default the paper's MLP head of width 512.
        side_head: of each modality's maps, as `head`; by default of width 256. None leaves the side heads out (a loss
            that does not teach them would never train them).
        recompute: run the backbone's blocks again in the backward pass instead of keeping their activations.

    Raises:
        ValueError: modalities that can be none, or a part that can't be built as described.
        PartError: a class that is not there or does not fit its place, or settings that it does not take.
    """

    def __init__(
        self,
        backbone: Backbone,
        modalities: Sequence[str] | Mapping[str, int],
        num_classes: int,
        *,
        peft: Spec | None = None,
        fusion: Spec | None = None,
        head: Spec | None = None,
        side_head: Spec | None = SIDE_HEAD,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module) or not hasattr(backbone, "spec"):
            raise TypeError(f"backbone={backbone!r}: expected a ktb.models.backbones.base.Backbone")
        if isinstance(modalities, str | bytes) or not isinstance(modalities, Sequence | Mapping):
            raise TypeError(f"modalities={modalities!r}: expected names, or name → channels: ('rgb', 'depth')")
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes={num_classes!r}: expected a whole number of 1 or more")
        for part, spec in {"peft": peft, "fusion": fusion, "head": head, "side_head": side_head}.items():
            if not isinstance(spec, Mapping | None):
                raise TypeError(f"{part}={spec!r}: expected settings, perhaps of another class: {{'_target_': ...}}")
        channels = dict(modalities) if isinstance(modalities, Mapping) else dict.fromkeys(modalities, 3)
        if not channels or len(channels) != len(modalities):
            raise ValueError(f"modalities must be one or more different names, got {list(modalities)}")
        if channels.get("rgb", 3) != 3:
            raise ValueError(f"the modality 'rgb' has 3 channels, got {channels['rgb']}")
        for name in channels:
            if not name.isidentifier() or hasattr(nn.ModuleDict, name):
                raise ValueError(f"{name!r} can't name a modality: use letters, digits and underscores")
        peft, fusion, head = completed(peft, PEFT), completed(fusion, FUSION), completed(head, HEAD)
        side_head = None if side_head is None else completed(side_head, SIDE_HEAD)
        contracts.check_class(peft, contracts.PEFT)
        contracts.check_class(fusion, contracts.FUSION)
        for spec in (head, side_head):
            if spec is not None:
                contracts.check_class(spec, contracts.HEAD)
        self.config: dict[str, Any] = {
            "backbone": backbone.spec(),
            "modalities": channels,
            "num_classes": num_classes,
            "peft": in_full(peft),
            "fusion": in_full(fusion),
            "head": in_full(head),
            "side_head": None if side_head is None else in_full(side_head),
        }
        names, dims = tuple(channels), backbone.channels
        self.modalities = names
        self.num_classes = num_classes
        self.recompute = recompute
        self.about: dict[str, Any] = {}
        """Plain values that a bundle keeps: classes, data set, which base weights the backbone is."""
        self.backbone = backbone
        self.patch_embeds = nn.ModuleDict({m: backbone.entry_for(c) for m, c in channels.items() if m != "rgb"})
        frozen = list(backbone.state_dict())
        self.peft: Peft = build(peft, names, backbone)
        contracts.check_peft(self.peft, backbone, frozen)
        if "rgb" not in channels:
            for layer in backbone.own_entry():
                layer.requires_grad_(False)
        self.necks = backbone.necks()
        self.norms = nn.ModuleDict({m: nn.ModuleList(nn.LayerNorm(c) for c in dims) for m in names})
        self.fused_norms = nn.ModuleList(nn.LayerNorm(c) for c in dims)
        self.fusion = nn.ModuleList(
            build(fusion, modalities=names, channels=c, stage=i, stride=stride)
            for i, (c, stride) in enumerate(zip(dims, backbone.strides, strict=True))
        )
        self.head: nn.Module = build(head, dims, num_classes)
        self.side_heads = nn.ModuleDict(
            {} if side_head is None else {m: build(side_head, dims, num_classes) for m in names}
        )
        self.norms.requires_grad_(False)
        self.fused_norms.requires_grad_(False)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Rebuild the model a `config` attribute describes, with fresh weights."""
        options = dict(config)
        return cls(backbone_of(options.pop("backbone")), **options)

    def merged(self) -> Self:
        """The model for inference: a copy whose backbone holds what the PEFT method has learned, where the method can
        be folded into it (LoRA); else the model itself. The copy computes the same for less, and is saved with its
        whole backbone, as a model without PEFT."""
        if not getattr(self.peft, "merges", False):  # a method of somebody's own need not say so
            return self
        merged = copy.deepcopy(self)
        merged.peft.merge()
        merged.peft = Peft(merged.modalities, merged.backbone)
        merged.config = {**merged.config, "peft": in_full(NO_PEFT)}
        return merged

    def forward(
        self, inputs: Mapping[str, Tensor], *, side: bool | None = None, masked: Tensor | None = None
    ) -> SegOutput:
        """Segment a batch.

        Args:
            inputs: modality → (B, C, H, W), normalised (RGB with ImageNet statistics, others in [0, 1]); any H, W ≥ 1.
                A modality that is absent counts as masked for the whole batch; at least one must be there.
            side: also compute the side heads; default: in training mode, if the model has them.
            masked: (M, B) bool in the order of `modalities`; True removes that modality from that sample
                (docs/method.md#mmst).

        Raises:
            ValueError: unknown modality, none at all, sizes that differ, a wrong number of channels, or side heads
                asked of a model that has none.
        """
        if side is None:
            side = self.training and bool(self.side_heads)
        elif side and not self.side_heads:
            raise ValueError("this model was built without side heads")
        features, (h, w) = self.features(inputs, masked=masked)
        # Where the backbone pads, its maps stand for more than the image.
        size = self.backbone.covers(h, w)
        out = SegOutput(self._logits(self.head, features.fused, size)[..., :h, :w], losses=features.losses)
        if side:
            out.side = {
                m: self._logits(self.side_heads[m], features.streams[m], size)[..., :h, :w] for m in self.modalities
            }
        return out

    def _logits(self, head: nn.Module, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        logits: Tensor = head(maps, size)
        shape = (len(maps[0]), self.num_classes, *size)
        check_shape(logits, shape, head, "head", "logits (B, K, H, W)", like=maps[0])
        return logits

    def features(
        self, inputs: Mapping[str, Tensor], *, masked: Tensor | None = None
    ) -> tuple[Features, tuple[int, int]]:
        """What the heads are given.

        Args:
            inputs, masked: as in `forward`.

        Returns:
            the features of streams and fusion, normalised, and the inputs' (H, W).
        """
        tokens, size = self._embed(inputs, masked)
        features = Features(fused=[], streams={m: [] for m in self.modalities})
        for i in range(len(self.backbone.channels)):
            if i > 0:
                tokens = self.backbone.enter(i, tokens)
            entering = self._apart(tokens.map)
            prompted = self.peft.prompt(i, entering)
            what = f"streams (M, B, H, W, C) of stage {i}"
            check_shape(prompted, entering.shape, self.peft, "PEFT method", what, like=entering, method="prompt")
            tokens = tokens._replace(map=prompted.flatten(0, 1))
            tokens = self.backbone.stage(i, tokens, self._adapters(i), recompute=self.recompute)
            streams = self._apart(tokens.map if self.necks is None else self.necks[i](tokens.map))
            expected = (*entering.shape[:2], *streams.shape[2:-1], self.backbone.channels[i])
            check_shape(streams, expected, self.backbone, "backbone", what, like=entering, method="stage")
            fused, normed = self._fuse(i, streams)
            if fused.streams is not None and self.necks is None:
                tokens = tokens._replace(map=fused.streams.flatten(0, 1))
            for name, term in fused.losses.items():
                features.losses[name] = features.losses[name] + term if name in features.losses else term
            for m, t in zip(self.modalities, normed.unbind(0), strict=True):
                features.streams[m].append(t)
            features.fused.append(self.fused_norms[i](fused.map))
        return features, size

    def _adapters(self, stage: int) -> Sequence[Adapt] | None:
        """The PEFT method's adapters of a stage; those of a method of the user's own with what they return checked."""
        adapters = self.peft.adapters_of(stage)
        if adapters is None or type(self.peft).__module__.startswith("ktb."):
            return adapters
        return contracts.checked_adapters(adapters, self.peft, len(self.backbone.adapter_channels[stage]), stage)

    def _fuse(self, i: int, streams: Tensor) -> tuple[Fused, Tensor]:
        """What the fusion block of a stage makes of the streams (M, B, H, W, C), and the streams that go on from it,
        normalised."""
        block = cast(Fusion, self.fusion[i])
        normed = self._normed(i, streams) if block.normalised else None
        fused = Fused.of(block(streams if normed is None else normed), streams, block)
        if fused.streams is not None or normed is None:
            normed = self._normed(i, streams if fused.streams is None else fused.streams)
        return fused, normed

    def _normed(self, i: int, streams: Tensor) -> Tensor:
        norms = [cast(nn.ModuleList, self.norms[m])[i] for m in self.modalities]
        return torch.stack([norm(t) for norm, t in zip(norms, streams.unbind(0), strict=True)])

    def _apart(self, x: Tensor) -> Tensor:
        """(M·B, ...) → (M, B, ...)."""
        return x.unflatten(0, (len(self.modalities), -1))

    def _embed(self, inputs: Mapping[str, Tensor], masked: Tensor | None) -> tuple[Tokens, tuple[int, int]]:
        """Tokens of all streams as they enter the first stage, zero where a modality is absent or masked."""
        if not isinstance(inputs, Mapping) or not all(isinstance(x, Tensor) for x in inputs.values()):
            kinds = {m: type(x).__name__ for m, x in inputs.items()} if isinstance(inputs, Mapping) else type(inputs)
            raise TypeError(f"inputs must be modality → tensor (B, C, H, W), got {kinds}; Predictor takes arrays")
        unknown = set(inputs) - set(self.modalities)
        if unknown or not inputs:
            raise ValueError(f"inputs must hold some of {list(self.modalities)}, got {list(inputs)}")
        shapes = {m: tuple(x.shape) for m, x in inputs.items()}
        first = next(iter(shapes.values()))
        if any((s[0], *s[2:]) != (first[0], *first[2:]) for s in shapes.values()):
            raise ValueError(f"batch and image size of all modalities must agree, got {shapes}")
        for m, shape in shapes.items():
            if len(shape) != 4 or shape[1] != self.config["modalities"][m]:
                raise ValueError(f"{m} must be (B, {self.config['modalities'][m]}, H, W), got {shape}")
        entries = {m: None if m == "rgb" else self.patch_embeds[m] for m in self.modalities}
        streams = [self.backbone.embed(inputs[m], entries[m]) if m in inputs else None for m in self.modalities]
        some = next(t for t in streams if t is not None)

        def joined(parts: list[Tensor | None], like: Tensor) -> Tensor:
            tokens = torch.stack([torch.zeros_like(like) if t is None else t for t in parts])
            if masked is not None:
                tokens = tokens.masked_fill(masked.view(*masked.shape, *[1] * (tokens.dim() - 2)), 0.0)
            return tokens.flatten(0, 1)

        tokens = Tokens(joined([t and t.map for t in streams], some.map))
        if some.extra is not None:
            tokens = tokens._replace(extra=joined([t and t.extra for t in streams], some.extra))
        return tokens, (first[2], first[3])


def own_classes(config: Mapping[str, Any]) -> list[str]:
    """The classes in a model's `config` that are not ktb's, by their dotted names, each once."""
    specs = [config.get(part) for part in ("backbone", *PARTS)]
    targets = [str(spec["_target_"]) for spec in specs if isinstance(spec, Mapping) and "_target_" in spec]
    return [target for target in dict.fromkeys(targets) if target.partition(".")[0] != "ktb"]


def backbone_of(spec: Spec) -> Backbone:
    """The backbone that a model's `config` describes, with fresh weights.

    Raises:
        PartError: there is no such class, it is no backbone, or does not take these settings.
    """
    cls, target = class_of(spec), str(spec["_target_"])
    if not issubclass(cls, Backbone):
        raise PartError(f"{target} is no backbone: it must derive from {Backbone.__module__}.Backbone")
    settings = {key: value for key, value in spec.items() if key != "_target_"}
    if cls.from_config.__func__ is Backbone.from_config.__func__:  # type: ignore[attr-defined]
        contracts.check_class(spec, contracts.BACKBONE)
        check_settings(cls, target, settings)
    try:
        backbone = made(lambda: cls.from_config(settings), cls, target, settings)
    except TypeError as error:
        raise PartError(f"{target}: {error}") from None
    contracts.check_backbone(backbone, target)
    return backbone

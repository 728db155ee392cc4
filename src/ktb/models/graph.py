"""One size as one CUDA graph: what a robot's camera needs, whose pictures are all of one size and come one by one.

At batch 1 a GPU waits for the host, which starts the kernels of a forward pass one after another. A graph starts all of
them at once.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from ktb.models.segmentor import KTBSegmentor

WARM_UP = 3
"""Passes before the recording, as PyTorch advises: kernels are chosen, constants of the size are made."""


class CudaGraph:
    """A model's forward pass for inputs like the given ones, recorded on a GPU.

    It holds a copy of the model, with its weights as they are now: a recording reads fixed addresses, and a model that
    is trained on, moved, or asked for other sizes gives up what it has there.

    Args:
        model: in evaluation mode, on a GPU.
        inputs: modality → (B, C, H, W), as the model takes them; their values do not matter.
        autocast: bfloat16 or float16 for mixed precision; None for that of the weights.

    Raises:
        ValueError: model or inputs that are not on one GPU, or a model in training mode.

    Example:
        >>> fast = CudaGraph(KTBSegmentor.from_pretrained("DIR").cuda(), {"rgb": rgb, "depth": depth})
        >>> logits = fast({"rgb": rgb, "depth": depth})  # (B, num_classes, H, W)
    """

    def __init__(
        self, model: KTBSegmentor, inputs: Mapping[str, Tensor], *, autocast: torch.dtype | None = None
    ) -> None:
        devices = {x.device for x in (*inputs.values(), *model.parameters())}
        if len(devices) != 1 or next(iter(devices)).type != "cuda":
            raise ValueError(f"a CUDA graph needs model and inputs on one GPU, got {sorted(map(str, devices))}")
        if model.training:
            raise ValueError("a CUDA graph is for inference: call model.eval() first")
        self._model = copy.deepcopy(model.merged())
        self._inputs = {m: x.detach().clone() for m, x in inputs.items()}
        self._graph = torch.cuda.CUDAGraph()
        # The cache of autocast would keep casts that were made while recording, and so belong to the recording.
        precision = torch.autocast("cuda", autocast, enabled=autocast is not None, cache_enabled=False)
        with torch.cuda.device(next(iter(devices))), torch.no_grad(), precision:
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self._model(self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            with torch.cuda.graph(self._graph):
                self._logits: Tensor = self._model(self._inputs).logits

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W), in memory of their own.

        Raises:
            ValueError: other modalities or shapes than recorded.
        """
        recorded, given = ({m: tuple(x.shape) for m, x in i.items()} for i in (self._inputs, inputs))
        if recorded != given:
            raise ValueError(f"this graph was recorded for {recorded}, got {given}: record another one")
        for m, x in inputs.items():
            self._inputs[m].copy_(x)
        self._graph.replay()
        return self._logits.clone()

"""Loader throughput: ktb against a straight torchvision-tensor version of the same pipeline
(docs/method.md#augmentation), in one run.

    python scripts/bench_loader.py [--samples 40] [--epochs 6] [--memory 5000]

Pictures of NYU's size (480 x 640 JPEG for RGB and HHA, PNG labels) are made in a temporary folder; both versions read
them with one worker process, apply the published training augmentation and return batches of 4. They alternate, the
best epoch of each counts. Then come CPU times, in this process, which other processes disturb less: of both versions,
and of each step of ours. Then the worker's memory over 5,000 samples.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import io

from ktb.data.sets.nyu import NYUDataModule

HEIGHT, WIDTH = 480, 640


class Straight(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """The published pipeline written directly in torchvision tensors: whole pictures resized before they are cropped,
    floats made and normalised per sample."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        rgb = io.decode_image(str(self.root / f"RGB/{i}.jpg"))
        x = io.decode_image(str(self.root / f"HHA/{i}.jpg"))
        y = torch.from_numpy(np.array(Image.open(self.root / f"Label/{i}.png")).astype(np.int64) - 1)[None]
        y[y < 0] = 255
        if random.random() < 0.2:
            for adjust in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
                rgb = adjust(rgb, random.uniform(0.5, 1.5))
        if random.random() < 0.5:
            rgb, x, y = (TF.hflip(t) for t in (rgb, x, y))
        if random.random() < 0.2:
            rgb = TF.gaussian_blur(rgb, [3, 3], [0.8, 0.8])
        ratio = random.uniform(0.5, 2)
        height, width = int(HEIGHT * ratio + 0.5), int(WIDTH * ratio + 0.5)
        rgb, x = (TF.resize(t, [height, width], antialias=True) for t in (rgb, x))
        y = TF.resize(y, [height, width], TF.InterpolationMode.NEAREST)
        top, left = random.randint(0, max(height - HEIGHT, 0)), random.randint(0, max(width - WIDTH, 0))
        rgb, x, y = (t[:, top : top + HEIGHT, left : left + WIDTH] for t in (rgb, x, y))
        missing = [0, 0, max(WIDTH - width, 0), max(HEIGHT - height, 0)]
        rgb, x, y = TF.pad(rgb, missing), TF.pad(x, missing), TF.pad(y, missing, fill=255)
        return TF.normalize(rgb.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), x.float() / 255, y[0]


def make_pictures(root: Path, count: int) -> None:
    """Smooth random pictures with noise: JPEG sizes close to those of the real ones."""
    rng = np.random.default_rng(0)
    for name in ("RGB", "HHA", "Label"):
        (root / name).mkdir()
    for i in range(count):
        for name in ("RGB", "HHA"):
            picture = cv2.resize(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8), (WIDTH, HEIGHT))
            noisy = np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / f"{name}/{i}.jpg"), noisy)
        label = cv2.resize(rng.integers(0, 41, (12, 16), dtype=np.uint8), (WIDTH, HEIGHT), interpolation=0)
        cv2.imwrite(str(root / f"Label/{i}.png"), label)
    for split in ("train", "test"):
        (root / f"{split}.txt").write_text("\n".join(f"RGB/{i}.jpg\tLabel/{i}.png" for i in range(count)))


def epoch_rate(loader: DataLoader[Any], samples: int, begin: Callable[[], None]) -> float:
    begin()
    started = time.perf_counter()
    for _ in loader:
        pass
    return samples / (time.perf_counter() - started)


def worker_memory(loader: DataLoader[Any]) -> float:
    """Resident MiB of the first worker process (Linux)."""
    iterator: Any = loader._iterator
    pages = Path(f"/proc/{iterator._workers[0].pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / 2**20


def whole(straight: Straight, rounds: int = 5) -> float:
    """CPU milliseconds per sample of the straight version, the best round."""
    times = []
    for seed in range(rounds):
        random.seed(seed)
        started = time.process_time()
        for index in range(len(straight)):
            straight[index]
        times.append(1000 * (time.process_time() - started) / len(straight))
    return min(times)


def steps(data: NYUDataModule, rounds: int = 5) -> dict[str, float]:
    """CPU milliseconds per sample of each step of reading one, the best round of each."""
    dataset = data.dataset("train", train=True)
    samples: Any = dataset.samples
    best: dict[str, float] = {}
    for epoch in range(rounds):
        spent = dict.fromkeys(("decode RGB and HHA", "decode label", "augment", "to tensors"), 0.0)
        for index, entry in enumerate(samples.entries):
            marks = [time.process_time()]
            files = {m.name: [samples.root / file for file in entry.files[m.name]] for m in data.modalities}
            images = {name: samples.readers[name](paths).image for name, paths in files.items()}
            marks.append(time.process_time())
            label = samples.label(samples.root / entry.label)
            marks.append(time.process_time())
            images, label = dataset.transform(images, label, entropy=(0, epoch, index))
            marks.append(time.process_time())
            for image in images.values():
                planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
                cv2.split(image, list(planes))
            marks.append(time.process_time())
            for name, begin, end in zip(spent, marks[:-1], marks[1:], strict=True):
                spent[name] += 1000 * (end - begin) / len(samples)
        best = {name: min(ms, best.get(name, ms)) for name, ms in spent.items()}
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--memory", type=int, default=5000, help="samples over which memory is watched; 0: not at all")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_pictures(root, args.samples)
        straight: DataLoader[Any] = DataLoader(
            Straight(root, args.samples), 4, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
        )
        data = NYUDataModule(root, streams=["rgb", "depth"], batch_size=4, num_workers=1, crop=(HEIGHT, WIDTH))
        data.setup("fit")
        ours: DataLoader[Any] = data.train_dataloader()
        sampler: Any = ours.sampler
        rates: dict[str, list[float]] = {"straight": [], "ktb": []}
        for epoch in track(range(args.epochs + 1), "alternating"):
            rates["straight"].append(epoch_rate(straight, args.samples, lambda: None))
            rates["ktb"].append(epoch_rate(ours, args.samples, lambda e=epoch: sampler.set_epoch(e)))  # type: ignore[misc]
        best = {name: max(values[1:]) for name, values in rates.items()}  # the first one starts the workers
        print(f"straight {best['straight']:.0f}/s, ktb {best['ktb']:.0f}/s: {best['ktb'] / best['straight']:.1f} x")
        cv2.setNumThreads(0)  # as in a worker
        torch.set_num_threads(1)
        spent, plain = steps(data), whole(Straight(root, args.samples))
        mine = sum(spent.values())
        print(f"CPU per sample: straight {plain:.1f} ms, ktb {mine:.1f} ms: {plain / mine:.1f} x")
        print("of which", ", ".join(f"{name} {ms:.1f} ms" for name, ms in spent.items()))
        if not args.memory:
            return
        memory = []
        for epoch in track(range(-(-args.memory // args.samples)), "worker memory"):
            epoch_rate(ours, args.samples, lambda e=epoch: sampler.set_epoch(1000 + e))  # type: ignore[misc]
            memory.append(worker_memory(ours))
        quarter = max(1, len(memory) // 4)
        shown = ", ".join(f"{m:.0f}" for m in memory[quarter - 1 :: quarter])
        print(f"worker memory, MiB, after each quarter: {shown}")


if __name__ == "__main__":
    main()

"""ktb-predict on many generated pairs: peak memory, and that killing it again and again changes no byte of the results.

    python scripts/predict_restart.py --work DIR [--pairs 200] [--kills 5] [--checkpoint RUN]

The pairs are scenes of the synthetic data set of random sizes, one of them 4000 x 3000. Without --checkpoint a
swin_nano is trained for a few steps. DIR is left behind: pairs/, undisturbed/, killed/.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import sample_scene

LARGE = (3000, 4000)
WRITE = "colour,overlay,confidence"


def make_pairs(root: Path, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for i in range(count):
        height, width = LARGE if i == count // 2 else rng.integers(40, 480, 2)
        frame = draw(sample_scene(seed, i), int(height), int(width))
        for name, image in (("rgb", frame.rgb), ("depth", frame.depth)):
            path = root / name / f"part{i % 3}" / f"{i:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, compress_level=1)


def start(checkpoint: Path, pairs: Path, out: Path) -> subprocess.Popen[str]:
    module = [sys.executable, "-m", "ktb.cli.predict", str(checkpoint)]
    inputs = ["--rgb", str(pairs / "rgb"), "--depth", str(pairs / "depth")]
    return subprocess.Popen(
        [*module, *inputs, "--out", str(out), "--write", WRITE],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """The last line that the process prints."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"ktb-predict ended with {process.returncode}: {output}")
    return output.splitlines()[-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    checkpoint = args.checkpoint or args.work / "run"
    if not checkpoint.exists():
        tiny = ("dataset.train=64", "dataset.val=8", "trainer.max_steps=40", "test=false", f"run_dir={checkpoint}")
        subprocess.run([sys.executable, "-c", "from ktb.cli.train import train; train()", *tiny], check=True)
    pairs = args.work / "pairs"
    if not pairs.exists():
        make_pairs(pairs, args.pairs, args.seed)

    begun = time.perf_counter()
    process = start(checkpoint, pairs, args.work / "undisturbed")
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    print(f"undisturbed: {output.splitlines()[-1]}; {seconds:.0f} s, peak memory {usage.ru_maxrss / 1024:.0f} MiB")
    if status:
        sys.exit(f"ktb-predict ended with {status}")

    rng = np.random.default_rng(args.seed)
    killed, out = 0, args.work / "killed"
    while killed < args.kills:
        process = start(checkpoint, pairs, out)
        before = len(list((out / "index").rglob("*.png")))
        # Not before it has begun to write, then at a random moment of what one share of the work may take.
        while process.poll() is None and len(list((out / "index").rglob("*.png"))) == before:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, seconds / (args.kills + 1))))
        if process.poll() is not None:
            break
        process.kill()
        process.communicate()
        killed += 1
        left = sum(1 for p in out.rglob(".*.tmp"))
        print(f"killed with {len(list((out / 'index').rglob('*.png')))} done and {left} half-written")
    print(f"restarted: {finish(start(checkpoint, pairs, out))}")
    ours, theirs = contents(out), contents(args.work / "undisturbed")
    if ours != theirs:
        differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
        sys.exit(f"{len(differ)} files differ: {', '.join(differ[:5])}")
    print(f"{killed} times killed: all {len(ours)} files are the same, byte for byte")


if __name__ == "__main__":
    main()

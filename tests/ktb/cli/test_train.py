"""ktb-train and ktb-eval as a user meets them: help, one line for every mistake, sweeps, interruption."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from ktb.config.compose import groups
from ktb.config.keys import setting_names
from ktb.config.overrides import user_overrides
from ktb.errors import DataError
from tests.ktb.commands import Done, environment, installed, run, run_as_process, start_process


def assert_one_line(done: Done, message: str, cwd: Path) -> None:
    """Exit code 2, exactly one line on standard error, and nothing left behind."""
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"{message}\n"
    assert list(cwd.iterdir()) == []


# ------------------------------------------------------------------------------------------------ mistakes

THERE = {group: f"(there are: {', '.join(members)})" for group, members in groups("train").items()}
NO_INTEGER = "of type 'str' could not be converted to Integer"

MISTAKES = {
    "datset=nyu": f"unknown setting 'datset': did you mean 'dataset'? {THERE['dataset']}",
    "dataset=nyuu": f"unknown dataset 'nyuu': did you mean 'nyu'? {THERE['dataset']}",
    "backbone=swin-b": f"unknown backbone 'swin-b': did you mean 'swin_b'? {THERE['backbone']}",
    "trainer=slurm": f"unknown trainer 'slurm' {THERE['trainer']}",
    "loss=null": f"loss=null: one of them is needed: {', '.join(groups('train')['loss'])}",
    "+dataset=nyu": "'+dataset=nyu' adds a group that is there already: write dataset=nyu",
    "optim.lrr=1": (
        "unknown setting 'optim.lrr' of optim=adamw: did you mean 'optim.lr'? (+optim.lrr=1 adds a new one)"
    ),
    "lr=1e-3": "unknown setting 'lr': did you mean 'optim.lr'? (+lr=1e-3 adds a new one)",
    "dataset=nyu dataset.rot=/x": (
        "unknown setting 'dataset.rot' of dataset=nyu: did you mean 'dataset.root'? (+dataset.rot=/x adds a new one)"
    ),
    "trainer.max_epoch=3": (
        "unknown setting 'trainer.max_epoch': did you mean 'trainer.max_epochs'? (+trainer.max_epoch=3 adds a new one)"
    ),
    "dataset.classes=[a,b] ckpt_path=auto": (
        "unknown setting 'dataset.classes' of dataset=synthetic, the default: say which dataset the run has: "
        "dataset=... dataset.classes=[a,b]"
    ),
    "zzzzzz=1": "unknown setting 'zzzzzz' (+zzzzzz=1 adds a new one)",
    "loss=[ce,dice]": "loss=[ce,dice]: one is chosen, and the last would win; for a job each: -m loss=ce,dice",
    "logger=[csv,csw]": f"unknown logger 'csw': did you mean 'csv'? {THERE['logger']}",
    "logger=[csv] seed=abc": "seed=abc: Value 'abc' of type 'str' could not be converted to Integer",
    "backbone.weights=null": "backbone.weights=null: expected hub, offline, bundled, random or the path of a file",
    "trainer.sync_batchnorm=off": "trainer.sync_batchnorm=off: expected true or false",
    "~optim.lrr": "unknown setting 'optim.lrr' of optim=adamw: did you mean 'optim.lr'?",
    "+seed=1": "'+seed=1' adds a setting that is there already: write seed=1",
    "seed=abc": f"seed=abc: Value 'abc' {NO_INTEGER}",
    "test=maybe": "test=maybe: Value 'maybe' is not a valid bool (type str)",
    "backbone.window_size=x": "window_size of a Swin must be a number of 1 or more, got 'x'",
    "backbone.window_size=0": "window_size of a Swin must be a number of 1 or more, got 0",
    "backbone.embed_dim=0": "embed_dim of a Swin must be a number of 1 or more, got 0",
    "backbone.num_heads=[1,0,2,4]": "num_heads of a Swin must be a number of 1 or more, got (1, 0, 2, 4)",
    "dataset.seed=-1": "dataset.seed=-1: expected 0 or more, at most 4294967295",
    "head.side=-1": "head.side=-1: expected settings of its own, such as head.side.width=64",
    "dataset.default_streams=-1": "modality.streams=-1: expected a list: [rgb,depth]",
    "modality.streams=rgb": "modality.streams=rgb: expected a list: [a,b]",
    "optim.lr=-1": "optim.lr=-1: expected above 0",
    "optim.lr=${nope}": "optim.lr: Interpolation key 'nope' not found",
    "seed=1,2": (
        "'seed=1,2' lists several values: add -m for one job each, or write seed=[1,2] for a list, "
        "or 'seed=\"1,2\"' for a text with a comma"
    ),
    "dataset": "cannot read 'dataset': settings are written as key=value",
    "backbone.name=a=b": (
        "cannot read the value of 'backbone.name' in 'backbone.name=a=b' (mismatched input '=' expecting <EOF>); "
        "text with special characters needs quotes within quotes: 'backbone.name=\"a=b\"'"
    ),
    "dataset.classes=[道路,b]": (
        "cannot read the value of 'dataset.classes' in 'dataset.classes=[道路,b]' (token recognition error at: '道'); "
        'text with special characters needs quotes within quotes: \'dataset.classes=["道路","b"]\''
    ),
    "--dataset=nyu": "unknown option --dataset=nyu: settings are written without dashes, as key=value",
    "--config-dir nowhere": "--config-dir nowhere is not a folder",
    "hydra/output=slurm": "unknown hydra/output 'slurm' (there are: default)",
    "-m seed=1,abc": f"seed=abc: Value 'abc' {NO_INTEGER}",
    "-m seed=1,2 dataset=nyu,nuy": f"unknown dataset 'nuy': did you mean 'nyu'? {THERE['dataset']}",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
}
EVAL_MISTAKES = {
    "": "no checkpoint given: ktb-eval checkpoint=RUN_FOLDER or a .ckpt, .pth, .safetensors file",
    "runs/x": "cannot read 'runs/x': write checkpoint=runs/x",
    "chekpoint=x": "unknown setting 'chekpoint': did you mean 'checkpoint'? (+chekpoint=x adds a new one)",
    "checkpoint=x loss=ce": "unknown setting 'loss' (+loss=ce adds a new one)",
    "checkpoint=x eval.scoring=natve": "eval.scoring=natve: expected native or published: did you mean 'native'?",
}


@pytest.mark.parametrize("arguments", MISTAKES)
def test_mistake_in_one_line(arguments: str, tmp_path: Path) -> None:
    done = run("ktb-train", *arguments.split(), cwd=tmp_path)
    assert_one_line(done, f"ktb-train: error: {MISTAKES[arguments]}", tmp_path)


@pytest.mark.parametrize("arguments", EVAL_MISTAKES)
def test_mistake_of_an_evaluation_in_one_line(arguments: str, tmp_path: Path) -> None:
    done = run("ktb-eval", *arguments.split(), cwd=tmp_path)
    assert_one_line(done, f"ktb-eval: error: {EVAL_MISTAKES[arguments]}", tmp_path)


@pytest.mark.parametrize("arguments", ["datset=nyu", "backbone.window_size=x"])
def test_mistake_in_one_line_of_a_process(arguments: str, tmp_path: Path) -> None:
    """No import says a word, neither before the settings are known to be right nor after."""
    done = run_as_process("ktb-train", arguments, cwd=tmp_path)
    assert_one_line(done, f"ktb-train: error: {MISTAKES[arguments]}", tmp_path)


def test_a_broken_file_of_the_user_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "own.yaml").write_text("name: [own\n")
    done = run("ktb-train", "dataset=own", "--config-dir", "mine", cwd=tmp_path)
    assert done.returncode == 2
    file = tmp_path / "mine" / "dataset" / "own.yaml"
    assert done.stderr == f"ktb-train: error: {file}, line 2: expected ',' or ']', but got '<stream end>'\n"


# ------------------------------------------------------------------------------------------------ help and flags


@pytest.mark.parametrize("command", ["ktb-train", "ktb-eval"])
def test_help_names_groups_members_and_settings_that_exist(command: str, tmp_path: Path) -> None:
    done = run(command, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 120
    words = set(re.findall(r"[\w.]+", done.stdout))
    name = command.removeprefix("ktb-")
    for group, members in groups(name).items():
        assert {group, *members} <= words
    cfg = run(command, "checkpoint=x" if name == "eval" else "seed=1", "--cfg", "job", cwd=tmp_path).stdout
    settings = [*groups(name), *setting_names(OmegaConf.create(cfg))]
    shown = re.findall(r"([a-z_]+(?:\.[a-z_]+)*)=[\w/\[]", done.stdout.partition("Flags:")[0])
    shown = [key for key in shown if key not in ("group", "key", "dataset.root", "launcher", "jobs", "sweep")]
    assert len(shown) > 5
    assert set(shown) <= set(settings)


def test_help_shows_the_members_of_an_own_folder(tmp_path: Path) -> None:
    (tmp_path / "mine" / "dataset").mkdir(parents=True)
    (tmp_path / "mine" / "dataset" / "orchard.yaml").touch()
    assert "orchard" in run("ktb-train", "--config-dir", "mine", "-h", cwd=tmp_path).stdout


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['ktb-train', '--help']; from ktb.cli.train import train; train();"
        "assert not {'torch', 'lightning', 'timm', 'wandb', 'albumentations', 'cv2', 'numpy'} & set(sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    # Processor time: the wall clock would measure what else runs on the machine.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_version(tmp_path: Path) -> None:
    from importlib.metadata import version

    assert run("ktb-train", "--version", cwd=tmp_path).stdout == f"ktb-train {version('ktb')}\n"


def test_settings_and_flags_in_any_order(tmp_path: Path) -> None:
    done = run("ktb-train", "seed=5", "--cfg", "job", "optim.lr=0.5", "--package", "optim", "test=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert OmegaConf.create(done.stdout).lr == 0.5


def test_shell_completion_offers_groups_members_and_settings(tmp_path: Path) -> None:
    install = run("ktb-train", "-sc", "install=bash", cwd=tmp_path)
    assert "complete" in install.stdout
    for line, offered in [
        ("backbone=swin_", {"backbone=swin_b", "backbone=swin_l", "backbone=swin_nano"}),
        ("optim.w", {"optim.weight_decay=", "optim.warmup_epochs="}),
        ("dataset=nyu dataset.root=~/data optim.l", {"optim.lr="}),
        ("run_dir=runs/a,b optim.l", {"optim.lr="}),
    ]:
        done = run("ktb-train", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=f"ktb-train {line}")
        assert offered <= set(done.stdout.split())


@pytest.mark.parametrize("line", ["seed=[1, optim.", "dataset=none optim.", "optim.lr=(1 dataset="])
def test_completion_of_a_wrong_line_says_nothing(tmp_path: Path, line: str) -> None:
    done = run("ktb-train", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=f"ktb-train {line}")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {installed('ktb-train')} --cfg job | head -c 1; echo ${{PIPESTATUS[0]}} >&2"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "rror" not in done.stderr


# ------------------------------------------------------------------------------------------------ jobs

Task = Callable[[DictConfig], Any]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """ktb-train in this process, with the given function in place of the training itself; returns the exit code."""

    def command(task: Task, *argv: str) -> int:
        monkeypatch.setattr("ktb.jobs.train.train", task)
        return run("ktb-train", *argv, cwd=tmp_path).returncode

    return command


def test_a_job_gets_the_composed_config(train: Callable[..., int]) -> None:
    seen: list[DictConfig] = []
    assert train(seen.append, "seed=3", "optim.lr=${dataset.recipe.lr}", "run_dir=out") == 0
    assert (seen[0].seed, seen[0].run_dir) == (3, "out")
    assert seen[0].optim.lr == seen[0].dataset.recipe.lr
    assert "hydra" not in seen[0]


def test_a_users_mistake_in_a_job(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def task(cfg: DictConfig) -> None:
        raise DataError("train.txt: line 3 names no file")

    assert train(task) == 2
    assert capsys.readouterr().err == "ktb-train: error: train.txt: line 3 names no file\n"


def test_a_bug_of_ours_keeps_its_trace(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def task(cfg: DictConfig) -> None:
        raise ValueError("shapes differ")

    assert train(task) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("ValueError: shapes differ\n")


def interrupted_by_lightning(cfg: DictConfig) -> None:
    """What Lightning's Trainer does on Ctrl-C."""
    checkpoints = Path(cfg.run_dir, "checkpoints")
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").touch()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


def test_interruption_says_how_to_continue(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    code = train(interrupted_by_lightning, "seed=3", "run_dir=my run", "optim.lr=0.1", "overwrite=true")
    assert code == 130
    assert capsys.readouterr().err == (
        "ktb-train: interrupted; continue with: ktb-train seed=3 optim.lr=0.1 ckpt_path=last 'run_dir=my run'\n"
    )


def test_interruption_before_there_is_anything(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def task(cfg: DictConfig) -> None:
        raise KeyboardInterrupt

    assert train(task) == 130
    assert capsys.readouterr().err == "ktb-train: interrupted before the first checkpoint\n"


def test_an_evaluation_knows_what_the_user_wrote(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The groups filled in from the run compose, but do not count as the user's."""
    (tmp_path / "checkpoints").mkdir()
    saved = {"dataset": {"name": "nyu"}, "modality": {"name": "rgb_d"}, "backbone": {"name": "swin_b"}}
    OmegaConf.save(OmegaConf.create(saved), tmp_path / "config.yaml")
    seen: list[tuple[DictConfig, list[str]]] = []
    monkeypatch.setattr("ktb.jobs.evaluate.evaluate", lambda cfg: seen.append((cfg, user_overrides(cfg))))
    done = run("ktb-eval", "dataset.root=/data", f"checkpoint={tmp_path}", "split=train", cwd=tmp_path)
    assert done.returncode == 0
    cfg, overrides = seen[0]
    assert (cfg.dataset.name, cfg.dataset.root, cfg.backbone.name) == ("nyu", "/data", "swin_b")
    assert overrides == ["dataset.root=/data", f"checkpoint={tmp_path}", "split=train"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sign", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_real_training_says_how_to_continue(sign: int, code: int, word: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    arguments = [
        "trainer=cpu", "trainer.max_epochs=200", "trainer.limit_train_batches=1", "trainer.limit_val_batches=1",
        "trainer.num_sanity_val_steps=0", "test=false", "dataset.num_workers=0", "dataset.batch_size=1",
    ]  # fmt: skip
    process = start_process("ktb-train", *arguments, f"run_dir={folder}", cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").exists():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(sign)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, error
    last = error.splitlines()[-1]
    prefix = f"ktb-train: {word}; continue with: ktb-train "
    assert last == prefix + " ".join([*arguments, "ckpt_path=last", f"run_dir={folder}"])

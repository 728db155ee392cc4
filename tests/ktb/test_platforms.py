"""What only some systems have: nothing of ktb needs it, and text files are the same everywhere."""

from __future__ import annotations

import ast
import errno
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from ktb import io as files
from ktb.jobs import measure
from ktb.sweeps.folder import SweepFolder, job_name

SRC = Path(__file__).parents[2] / "src"
MODULES = sorted(SRC.rglob("*.py"))

# ------------------------------------------------------------------------------------------------ text files

TEXT = ("open", "read_text", "write_text")


def careless(source: str) -> list[str]:
    """Calls that read or write text in the encoding of the machine, or tables with its line ends."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if called in ("run", "Popen", "check_output"):
            of_text = [k for k in node.keywords if k.arg in ("text", "universal_newlines")]
            if of_text and "encoding" not in given:
                found.append(f"line {node.lineno}: {called}(text=True)")
        if called not in TEXT or (isinstance(node.func, ast.Attribute) and _is_no_file(node.func)):
            continue
        if isinstance(node.func, ast.Name) and called != "open":  # a function of ours: ktb.data.files.read_text
            continue
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        modes = [text for text in texts if re.fullmatch(r"[rwaxbt+]{1,3}", text)]
        if called == "open" and any("b" in mode for mode in modes):
            continue
        named = "encoding" in given or any(text.startswith("utf") for text in texts)
        if not named:
            found.append(f"line {node.lineno}: {called} without encoding")
    for number, line in enumerate(source.splitlines(), start=1):
        if re.search(r"csv\.(writer|DictWriter|reader|DictReader)\((file|lines|stream)\b", line):
            before = "\n".join(source.splitlines()[max(0, number - 6) : number])
            if 'newline=""' not in before:
                found.append(f"line {number}: a table's file needs newline=''")
    return found


def _is_no_file(call: ast.Attribute) -> bool:
    """Image.open, os.open, archive.open and so on."""
    owner = call.value
    return isinstance(owner, ast.Name) and owner.id in ("Image", "os", "archive", "zipfile", "tarfile")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_text_is_utf_8_whatever_the_machine_speaks(path: Path) -> None:
    assert careless(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('w')",
        "path.read_text()",
        "path.write_text(text)",
        "subprocess.run(command, text=True)",
        "with path.open(encoding='utf-8') as file:\n    csv.reader(file)",
    ],
)
def test_the_check_of_text_files_would_notice(line: str) -> None:
    assert len(careless(line)) == 1


@pytest.mark.parametrize("line", ["path.open('rb')", "path.read_text(encoding='utf-8')", "Image.open(path)"])
def test_the_check_of_text_files_lets_pass_what_is_meant(line: str) -> None:
    assert careless(line) == []


# ------------------------------------------------------------------------------------------------ no POSIX

MODULES_OF_POSIX = (
    "crypt", "fcntl", "grp", "nis", "posix", "pty", "pwd", "resource", "spwd", "syslog", "termios", "tty",
)  # fmt: skip
OF_POSIX = {
    "os": (
        r"fork\w*|register_at_fork|posix_\w+|wait|wait[34]|waitid\w*|W[A-Z]+|P_[A-Z]+|CLD_\w+|killpg|nice|ctermid|uname"
        r"|get(e?[ug]id|groups|grouplist|pg(id|rp)|sid|priority|loadavg|resuid|resgid|xattr)|setxattr|listxattr|removexattr"
        r"|set(e?[ug]id|groups|pg(id|rp)|sid|priority|regid|reuid|resuid|resgid|ns)|initgroups|sched_\w+|SCHED_\w+"
        r"|(ch|lch|fch)own|lchmod|fchmod|chroot|mkfifo|mknod|makedev|f?statvfs|f?pathconf|sysconf|confstr|fdopendir"
        r"|p(read|write)v?|readv|writev|sendfile|splice|copy_file_range|memfd_create|eventfd\w*|pidfd_open|timerfd\w*"
        r"|openpty|login_tty|ttyname|tc[gs]etpgrp|lockf|sync|fdatasync|pipe2|device_encoding"
        r"|O_(NONBLOCK|CLOEXEC|DIRECTORY|NOFOLLOW|SYNC|DSYNC|NOCTTY|PATH|TMPFILE|NOATIME|DIRECT|ASYNC)|EX_\w+|RTLD_\w+"
    ),
    # What Windows has are these; all other signals, and what asks for them, is of POSIX.
    "signal": (
        r"(?!(SIG(ABRT|BREAK|FPE|ILL|INT|SEGV|TERM)|SIG_(DFL|IGN)|CTRL_\w+|signal|getsignal|raise_signal|strsignal"
        r"|valid_signals|default_int_handler|set_wakeup_fd|Signals|Handlers)$).*"
    ),
    "select": r"(?!(select|error)$).*",
    "socket": r"AF_(UNIX|NETLINK|PACKET)|SO_REUSEPORT|sendmsg|recvmsg|send_fds|recv_fds|fromfd",
    "time": r"tzset|clock_\w+|pthread_\w+",
    "threading": r"pthread_\w+",
}
"""Module → what of it is not there on Windows (or, as `os.sched_getaffinity` and `os.waitid`, on some macOS)."""
ON_SLURM = (
    "ktb.py: os.waitid",
    "ktb.py: os.P_PID",
    "ktb.py: os.WEXITED",
    "ktb.py: os.WNOWAIT",
    "ktb.py: os.CLD_EXITED",
)
"""In the process of a Slurm job; Slurm runs on Linux only."""


def of_posix_only(source: str) -> list[str]:
    """What a module uses that only POSIX, or only Linux, has, with no other way for systems without it.

    Another way is: `hasattr(os, name)` or the system's name in the `if` around it, `getattr(os, name, other)`, or a
    `try` around it that catches the error.
    """
    found: list[str] = []

    def visit(node: ast.AST, asked: str, caught: bool) -> None:
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            asked += ast.unparse(node.test)
        if isinstance(node, ast.Try):
            for part in node.body:
                visit(part, asked, True)
            for other in (*node.handlers, *node.orelse, *node.finalbody):
                visit(other, asked, caught)
            return
        name = _of_posix(node)
        asked_for = "poll" if name.startswith("select.POLL") else name.rpartition(".")[2]
        if name and not caught and repr(asked_for) not in asked and not re.search(_SYSTEM, asked):
            found.append(name)
        for child in ast.iter_child_nodes(node):
            visit(child, asked, caught)

    visit(ast.parse(source), "", False)
    return found


_SYSTEM = r"os\.name|sys\.platform|platform\.system"


def _of_posix(node: ast.AST) -> str:
    """How a node calls what is of POSIX; empty: it is nothing such."""
    if isinstance(node, ast.Import):
        return next((a.name for a in node.names if a.name.partition(".")[0] in MODULES_OF_POSIX), "")
    if isinstance(node, ast.ImportFrom) and not node.level and node.module:
        if node.module in MODULES_OF_POSIX:
            return node.module
        names = (a.name for a in node.names if re.fullmatch(OF_POSIX.get(node.module, "(?!)"), a.name))
        return next((f"{node.module}.{name}" for name in names), "")
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        owner, name = node.value.id, node.attr
        return f"{owner}.{name}" if re.fullmatch(OF_POSIX.get(owner, "(?!)"), name) else ""
    if isinstance(node, ast.Call):
        called, told = ast.unparse(node.func), [a.value for a in node.args if isinstance(a, ast.Constant)]
        if called == "os.kill" and 0 in told:  # asks whether a process lives; on Windows it ends it
            return "os.kill(0)"
        if called.endswith(("get_context", "set_start_method")) and told and told[0] in ("fork", "forkserver"):
            return f"{called}({told[0]})"
        if (
            called.endswith((".owner", ".group", ".is_mount"))
            and not node.args
            and called.startswith(("path.", "Path"))
        ):
            return called
        if called in ("open", "Path", "os.open", "os.listdir", "os.scandir") and told and str(told[0]).startswith(
            ("/proc", "/dev/", "/sys/", "/etc/", "/tmp", "/bin/", "/usr/")
        ):  # fmt: skip
            return str(told[0])
        for keyword in node.keywords:
            if keyword.arg in ("preexec_fn", "pass_fds", "executable", "umask") or (
                keyword.arg == "shell" and getattr(keyword.value, "value", False) is True
            ):
                return f"{called}({keyword.arg})"
    return ""


SIMULATION = f"""
    import os, sys
    class Missing:
        def find_spec(self, name, path=None, target=None):
            if name in {("fcntl", "resource")}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Missing())
    for name in {("fcntl", "resource")}:
        sys.modules.pop(name, None)
    for name in ("sched_getaffinity", "killpg", "geteuid", "getuid", "waitid"):
        delattr(os, name)
"""
COMMANDS = """
    import signal
    import sys
    import lightning  # asks for the system's name before it uses a signal, and so needs those of this one
    kept = {name: getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGALRM", "SIGKILL")}
    members = {name: signal.Signals._member_map_.pop(name) for name in kept}
    for name in kept:
        delattr(signal, name)
    import hydra_plugins.ktb, ktb.engine.callbacks.saving
    from ktb.sweeps.signals import Signals
    assert [sign.name for sign in ktb.engine.callbacks.saving._SIGNALS] == ["SIGTERM"]
    with Signals():
        pass
    signal.Signals._member_map_.update(members)
    for name, sign in kept.items():
        setattr(signal, name, sign)
    from ktb.cli import train as cli
    from ktb.cli import data as data_cli
    from ktb.cli import model as model_cli
    from ktb.cli import predict as predict_cli
    from ktb.cli import report as report_cli

    def call(main, *argv):
        sys.argv = [main.__module__, *argv]
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
        assert code in (0, None), (argv, code)

    small = ["dataset.size=[64,64]", "dataset.num_workers=0"]
    train = ["trainer=debug", "trainer.max_epochs=1", "dataset.train=4", "dataset.val=2", "dataset.batch_size=2",
             "test=false", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu"]
    call(cli.train, *small, *train, "run_dir=run")
    quiet = "trainer.enable_progress_bar=false"
    call(cli.evaluate, "checkpoint=run", *small, "dataset.test=2", "run_dir=scores", quiet)
    call(data_cli.main, "make-fixture", "mfnet", "mfnet", "--samples", "1")
    call(predict_cli.main, "run", "--rgb", "mfnet/rgb/*.png", "--out", "masks", "--device", "cpu")
    call(model_cli.main, "info", "run", "--no-measure", "--size", "64x64")
    one = ["dataset.train=1", "dataset.val=1", "dataset.test=1", "dataset.batch_size=1"]
    call(data_cli.main, "check", "--workers", "1", *small, *one)
    call(report_cli.main, "run")
"""


def test_no_module_needs_what_only_posix_has() -> None:
    found = [f"{path.name}: {name}" for path in MODULES for name in of_posix_only(path.read_text(encoding="utf-8"))]
    assert [name for name in found if name not in ON_SLURM] == []


@pytest.mark.parametrize(
    "line",
    [
        "import fcntl",
        "def f():\n    import resource",
        "from termios import tcgetattr",
        "os.fork()",
        "len(os.sched_getaffinity(0))",
        "os.killpg(pid, 15)",
        "os.kill(pid, 0)",
        "process.send_signal(signal.SIGKILL)",
        "from signal import SIGUSR1",
        "signal.setitimer(signal.ITIMER_REAL, 1)",
        "select.poll()",
        "socket.socket(socket.AF_UNIX)",
        "multiprocessing.get_context('fork')",
        "Path('/proc/self/status').read_text()",
        "open('/dev/null', 'w')",
        "subprocess.run(line, shell=True)",
        "subprocess.Popen(line, preexec_fn=f)",
        "if os.name:\n    pass\nelse:\n    pass\nos.getuid()",
    ],
)
def test_the_check_of_posix_would_notice(line: str) -> None:
    assert of_posix_only(line)


@pytest.mark.parametrize(
    "line",
    [
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None",
        "os.killpg(pid, 15) if hasattr(os, 'killpg') else os.kill(pid, 15)",
        "if sys.platform != 'win32':\n    os.getuid()",
        "getattr(signal, 'SIGKILL', signal.SIGTERM)",
        "try:\n    Path('/proc/self/status').read_text()\nexcept OSError:\n    pass",
        "os.environ['PATH']",
        "from importlib import resources",
        "multiprocessing.get_context(method)",
    ],
)
def test_the_check_of_posix_lets_pass_what_is_meant(line: str) -> None:
    assert of_posix_only(line) == []


@pytest.mark.slow
def test_every_command_works_without_what_only_posix_has(tmp_path: Path) -> None:
    """Windows, as far as Linux can play it: no fcntl, no resource, few signals."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(SIMULATION), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMANDS)],
        cwd=tmp_path,
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1",
            "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(SRC)]),
        },
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "run" / "report.html").is_file()
    assert '"peak_memory_mb": null' in (tmp_path / "scores" / "result.json").read_text(encoding="utf-8")
    assert len(list((tmp_path / "masks" / "index").rglob("*.png"))) == 3


# ------------------------------------------------------------------------------------------------ memory

KIB_PER_UNIT = {"linux": 1, "darwin": 1 / 1024}


@pytest.mark.parametrize("system", KIB_PER_UNIT)
def test_peak_memory_is_in_bytes_on_every_system(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(ru_maxrss=round(3 * 2**20 / KIB_PER_UNIT[system]))  # 3 GiB
    told = SimpleNamespace(getrusage=lambda who: usage, RUSAGE_SELF=0)
    monkeypatch.setitem(sys.modules, "resource", told)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", system)
    assert measure.peak_memory() == 3 * 2**30


def test_peak_memory_of_this_process_is_plausible() -> None:
    peak = measure.peak_memory()
    assert peak is not None
    assert 50 * 2**20 < peak < 2**40


def test_without_resource_there_is_no_figure_but_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "other")
    assert measure.peak_memory() is None
    monkeypatch.setattr(sys, "platform", "win32")

    class Kernel:
        class GetCurrentProcess:
            def __new__(cls) -> int:  # type: ignore[misc]
                return 7

        class K32GetProcessMemoryInfo:
            def __new__(cls, process: int, counters: object, size: int) -> int:  # type: ignore[misc]
                assert (process, size) == (7, 72)
                counters._obj.peak_working_set = 3 * 2**30  # type: ignore[attr-defined]
                return 1

    monkeypatch.setattr(measure.ctypes, "WinDLL", lambda name: Kernel, raising=False)
    assert measure.peak_memory() == 3 * 2**30


# ------------------------------------------------------------------------------------------------ locks


def test_a_lock_is_for_one_process_and_ends_with_it(tmp_path: Path) -> None:
    with files.locked(tmp_path / "lock"), pytest.raises(BlockingIOError), files.locked(tmp_path / "lock"):
        pass
    with files.locked(tmp_path) as descriptor:
        assert descriptor is not None
        with pytest.raises(BlockingIOError), files.locked(tmp_path):
            pass
    with files.locked(tmp_path):
        pass


def test_a_folder_is_locked_by_a_file_in_it_where_a_folder_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with files.locked(tmp_path), pytest.raises(BlockingIOError), files.locked(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_system_without_locks_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """ENOSYS is what filelock says where there is no fcntl; the others come from network drives."""

    def refused(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filelock.lock_descriptor", refused)
    with files.locked(tmp_path / "lock") as descriptor:
        assert descriptor is None
    with SweepFolder(tmp_path / "sweep").lock():
        assert (tmp_path / "sweep").is_dir()


def test_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ktb.io import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SRC)}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), files.locked(tmp_path / "lock"):
            pass
        process.kill()
        process.wait()
    with files.locked(tmp_path / "lock") as descriptor:
        assert descriptor is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system copies no processes")
def test_a_copy_that_outlives_a_killed_process_holds_no_lock(tmp_path: Path) -> None:
    """As processes that load data do for some seconds."""
    code = (
        "import os, sys, time; from pathlib import Path; from ktb.io import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    copy = os.fork()\n"
        "    os.write(1, f'{copy}\\n'.encode())\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(SRC)}) as process:
        assert process.stdout is not None
        copy = max(int(process.stdout.readline()) for _ in range(2))  # the copy itself writes 0
        with pytest.raises(BlockingIOError), files.locked(tmp_path):
            pass
        process.kill()
        process.wait()
        try:
            with files.locked(tmp_path) as descriptor:
                assert descriptor is not None
        finally:
            os.kill(copy, 9)


# ------------------------------------------------------------------------------------------------ names


def test_names_of_jobs_suit_every_file_system() -> None:
    overrides = ["dataset.root=C:\\data", "optim.lr=1e-4", "loss=ce", "seed=1", 'backbone.weights=a?b*c|d<e>f"g']
    keys = [text.partition("=")[0] for text in overrides]
    name = job_name(overrides, keys, ["loss"])
    assert not re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
    assert not name.endswith((".", " "))


def test_run_folders_have_names_for_every_file_system() -> None:
    conf = SRC.parent / "conf"
    for file in conf.rglob("*.yaml"):
        for date in re.findall(r"\$\{now:([^}]*)\}", file.read_text(encoding="utf-8")):
            assert ":" not in date
    for path in MODULES:
        for date in re.findall(r"strftime\(\"([^\"]*)\"", path.read_text(encoding="utf-8")):
            assert ":" not in date, path

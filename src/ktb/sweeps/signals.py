"""The signals that stop a sweep."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """A signal ended the sweep; its jobs have been stopped. Carries the signal's number."""

    def __init__(self, sign: int) -> None:
        super().__init__(signal.Signals(sign).name)
        self.exit_code = 128 + sign


class Signals:
    """Takes SIGINT, SIGTERM and SIGHUP while a sweep runs: the first stops it, a second one, later, insists."""

    def __init__(self) -> None:
        self.seen = 0
        self.insisted = False
        self.said = False
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            # Windows has no SIGHUP.
            for sign in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):
                self._before[sign] = signal.signal(sign, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for sign, handler in self._before.items():
            signal.signal(sign, handler)

    def _take(self, sign: int, frame: FrameType | None) -> None:
        if not self.seen:
            self.seen, self._since = sign, time.monotonic()
        elif time.monotonic() - self._since > 0.5:  # not the same key press, delivered twice
            self.insisted = True

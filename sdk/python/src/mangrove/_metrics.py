"""Metrics: counters and gauges, gathered here and told to the host about once a second while they change."""

from __future__ import annotations

import threading
from typing import Any, Callable, Union

Number = Union[int, float]
Note = Callable[[dict[str, Any]], object]

_INTERVAL = 1.0
_MAX_METRICS = 1000


class Counter:
    """A number that only grows."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def add(self, amount: Number = 1) -> None:
        """Adds to it; raises ``ValueError`` for a negative amount or one that is no number."""
        if not 0 <= amount < float("inf"):
            raise ValueError(f"counter {self._name}: {amount} cannot be added, expected a number from 0")
        self._metrics._count(self._name, amount)


class Gauge:
    """A number that goes up and down."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def set(self, value: Number) -> None:
        """Replaces it; raises ``ValueError`` for a value that is no number."""
        if not abs(value) < float("inf"):
            raise ValueError(f"gauge {self._name}: {value} is no value, expected a finite number")
        self._metrics._set(self._name, value)


class Metrics:
    """The metrics of one symbol in use. Any thread may use them, and any coroutine: nothing here waits."""

    def __init__(self, use: int, note: Note, flusher: Flusher) -> None:
        self._use = use
        self._note = note
        self._flusher = flusher
        self._lock = threading.Lock()
        self._counters: dict[str, Number] = {}
        self._gauges: dict[str, Number] = {}
        self._names: set[str] = set()

    def counter(self, name: str) -> Counter:
        """The counter of this name."""
        return Counter(self, self._check(name))

    def gauge(self, name: str) -> Gauge:
        """The gauge of this name."""
        return Gauge(self, self._check(name))

    def _check(self, name: str) -> str:
        if not name or len(name) > 256:
            raise ValueError(f"metric {name!r}: expected a name of 1 to 256 characters")
        with self._lock:
            if name not in self._names and len(self._names) >= _MAX_METRICS:
                raise ValueError(f"metric {name!r} is one too many, expected at most {_MAX_METRICS}")
            self._names.add(name)
        return name

    def _count(self, name: str, amount: Number) -> None:
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + amount
        self._flusher.wants(self)

    def _set(self, name: str, value: Number) -> None:
        with self._lock:
            self._gauges[name] = value
        self._flusher.wants(self)

    def flush(self) -> None:
        """Tells the host what has changed."""
        with self._lock:
            counters, self._counters = self._counters, {}
            gauges, self._gauges = self._gauges, {}
        for kind, values in (("counter", counters), ("gauge", gauges)):
            for name, value in values.items():
                self._note({"type": "metric", "use": self._use, "name": name, "kind": kind, "value": value})


class Flusher:
    """One thread that flushes metrics a second after their first change; it sleeps while nothing changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dirty: set[Metrics] = set()
        self._wake = threading.Event()
        self._over = threading.Event()
        self._started = False

    def wants(self, metrics: Metrics) -> None:
        """These metrics have changed."""
        if metrics in self._dirty:
            return
        with self._lock:
            self._dirty.add(metrics)
            if not self._started:
                self._started = True
                threading.Thread(target=self._run, name="mangrove-metrics", daemon=True).start()
        self._wake.set()

    def _run(self) -> None:
        while not self._over.is_set():
            self._wake.wait()
            self._wake.clear()
            self._over.wait(_INTERVAL)
            self.flush()

    def flush(self) -> None:
        """Flushes all at once."""
        with self._lock:
            dirty, self._dirty = self._dirty, set()
        for metrics in dirty:
            metrics.flush()

    def close(self) -> None:
        """Flushes for the last time and ends the thread."""
        self._over.set()
        self._wake.set()
        self.flush()

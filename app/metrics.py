"""The metrics of a process: its shared numbers, its heartbeat, and the port that serves metrics."""

from __future__ import annotations

from collections.abc import Callable

from app.config import Config
from app.meters.instruments import Meters
from app.meters.listener import Listener
from app.meters.share import Share
from app.operations.status import StatusService
from app.stores.postgres.processes import ProcessKind
from app.upkeep.pulse import Pulse
from app.wire.metrics import CONTENT_TYPE, metrics_text


class Metrics:
    def __init__(self, *, config: Config, meters: Meters, status: StatusService, pulse: Pulse) -> None:
        self._meters = meters
        self._status = status
        self._pulse = pulse
        self._share = Share(config.metrics_folder, meters)
        self._listener: Listener | None = None
        if config.metrics_port:
            self._listener = Listener(config.metrics_address, config.metrics_port, self.text, CONTENT_TYPE)

    def start(self, kind: ProcessKind, name: str, does_its_work: Callable[[], bool] = lambda: True) -> None:
        """Start to share numbers, to write heartbeats and to serve metrics. Operators see the process under `name`;
        processes with the same name count as one.
        """
        self._share.start(kind)
        self._pulse.start(kind, name, does_its_work)
        if self._listener is not None:
            self._listener.start()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format: those from the stores, and those of this machine's processes."""
        return metrics_text(self._status.look(), self._share.collect(), self._meters)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._pulse.stop()
        self._share.close()

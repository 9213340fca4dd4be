"""What the operator counts, for Prometheus."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Callable, Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

RECONCILES = Counter("medsd_reconciles", "Reconciliations that came to an end", ["kind"])


ERRORS = Counter("medsd_reconcile_errors", "Reconciliations that failed and are tried again", ["kind"])


SECONDS = Histogram("medsd_reconcile_seconds", "Time of one reconciliation", ["kind"])


API_CALLS = Counter(
    "medsd_api_calls", "Calls to the API server other than watches", ["verb", "resource", "code"]
)


ATTEMPTS = Counter("medsd_attempts", "RayJobs made", ["kind"])


PHASES = Counter("medsd_phase_changes", "Changes of phase", ["kind", "phase", "reason"])


SWEPT = Counter("medsd_leftovers_deleted", "RayJobs whose object is gone, deleted by the sweep")


QUEUE = Gauge("medsd_queue_length", "Objects that are due for reconciliation")


class _Objects(Collector):
    def __init__(self, phases: Callable[[], Iterable[tuple[str, str]]]):
        self.phases = phases

    def collect(self):
        family = GaugeMetricFamily("medsd_objects", "Objects that are there", labels=["kind", "phase"])
        for (kind, phase), number in Count(self.phases()).items():
            family.add_metric([kind, phase], number)
        yield family


def count_objects(phases: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """Shows medsd_objects from now on; `phases` gives (kind, phase) of each object when asked."""
    REGISTRY.register(_Objects(phases))

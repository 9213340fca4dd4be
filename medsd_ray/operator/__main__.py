"""Runs the operator: `python -m medsd_ray.operator`.

MEDSD_WATCH_NAMESPACES: namespaces to look after, with commas between; none: all of them.
MEDSD_HEALTH_PORT (8080): /healthz. MEDSD_METRICS_PORT (9090): /metrics, for Prometheus.
"""

from __future__ import annotations

import logging
import os

import kopf
from prometheus_client import start_http_server

from medsd_ray.operator.controller.handlers import Operator, registry


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("kopf", "aiohttp.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    namespaces = [
        name.strip() for name in os.environ.get("MEDSD_WATCH_NAMESPACES", "").split(",") if name.strip()
    ]
    os.environ.setdefault(
        "POD_ID", "medsd"
    )  # else kopf asks for this user's name, and a pod's user may have none
    start_http_server(int(os.environ.get("MEDSD_METRICS_PORT", "9090")))
    kopf.run(
        registry=registry(Operator(namespaces)),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        liveness_endpoint=f"http://0.0.0.0:{os.environ.get('MEDSD_HEALTH_PORT', '8080')}/healthz",
    )


if __name__ == "__main__":
    main()

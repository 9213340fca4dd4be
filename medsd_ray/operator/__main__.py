"""Runs the operator: `python -m medsd_ray.operator`.

MEDSD_WATCH_NAMESPACES: namespaces to look after, with commas between; none: all of them.
MEDSD_POLL_KEY_FILE: a file with a secret key of 32 bytes or more, from which the tokens follow by which the
drivers of attempts know this operator; without it they ask for none.
MEDSD_HEALTH_PORT (8080): /healthz. MEDSD_METRICS_PORT (9090): /metrics, for Prometheus.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import kopf
from prometheus_client import start_http_server

from medsd_ray.driver.protocol import DRIVER_PORT
from medsd_ray.operator.controller.handlers import Operator, registry

SHORTEST_KEY = 32


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
        registry=registry(Operator(namespaces, read_poll_key())),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        liveness_endpoint=f"http://0.0.0.0:{os.environ.get('MEDSD_HEALTH_PORT', '8080')}/healthz",
    )


def read_poll_key() -> bytes | None:
    """The key for the drivers' tokens; None where none is given. Ends the process where it cannot be used."""
    path = os.environ.get("MEDSD_POLL_KEY_FILE")
    if not path:
        logging.getLogger(__name__).warning(
            "no MEDSD_POLL_KEY_FILE: drivers of runs take polls from whoever reaches port %s", DRIVER_PORT
        )
        return None
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        sys.exit(f"medsd: MEDSD_POLL_KEY_FILE={path}: {error.strerror}; mount the key there")
    if len(key) < SHORTEST_KEY:
        sys.exit(
            f"medsd: MEDSD_POLL_KEY_FILE={path}: a key has {SHORTEST_KEY} bytes or more; make a longer one"
        )
    return key


if __name__ == "__main__":
    main()

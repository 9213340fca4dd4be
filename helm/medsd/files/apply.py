"""Applies a cluster-scoped object of medsd.io, given as a JSON file, from within a pod. A Helm hook runs it.

Server-side apply: what the chart no longer says is removed, what others have added stays. Exits with 1 and
the API server's words where it is refused.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
PATIENCE = 120  # seconds for a CRD that was just made to be served, and for the account's rights


def apply(manifest: dict) -> None:
    """Raises urllib.error.HTTPError or URLError."""
    group, _, version = manifest["apiVersion"].partition("/")
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    url = (
        f"https://{address}:{port}/apis/{group}/{version}/{manifest['kind'].lower()}s/{manifest['metadata']['name']}"
        "?fieldManager=helm&force=true&fieldValidation=Strict"
    )
    with open(f"{ACCOUNT}/token") as file:
        headers = {"Authorization": f"Bearer {file.read()}", "Content-Type": "application/apply-patch+yaml"}
    request = urllib.request.Request(url, json.dumps(manifest).encode(), headers, method="PATCH")
    context = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    urllib.request.urlopen(request, timeout=30, context=context).close()


def main(path: str) -> int:
    with open(path) as file:
        manifest = json.load(file)
    what = f"{manifest['kind']} {manifest['metadata']['name']}"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            apply(manifest)
            print(f"{what} applied")
            return 0
        except urllib.error.HTTPError as error:
            words = error.read().decode(errors="replace")
            final = error.code in (400, 422)
        except urllib.error.URLError as error:
            words, final = str(error.reason), False
        if final or time.monotonic() > deadline:
            print(f"{what} was not applied: {_message(words)}", file=sys.stderr)
            return 1
        time.sleep(2)


def _message(words: str) -> str:
    try:
        return json.loads(words)["message"]  # a Status of the API server
    except (ValueError, KeyError, TypeError):
        return words


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

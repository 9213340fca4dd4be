"""`helm test`: are the CRDs served, and is the operator well? Runs in a pod, as the operator's service
account.

Arguments: the operator's service. Prints one line a check; exits with 1 where one failed.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import urllib.error
import urllib.request

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
KINDS = ("runtimes", "finetunes", "studies", "evaluations")


def from_api(path: str) -> dict:
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    with open(f"{ACCOUNT}/token") as file:
        request = urllib.request.Request(
            f"https://{address}:{port}{path}", headers={"Authorization": f"Bearer {file.read()}"}
        )
    context = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def served(kind: str) -> str:
    """Raises where the API server does not serve the CRD."""
    status = from_api(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.medsd.io").get(
        "status", {}
    )
    for condition in status.get("conditions", []):
        if condition["type"] == "Established" and condition["status"] == "True":
            return "served"
    raise ValueError("there, but not established")


def runtimes() -> str:
    names = [item["metadata"]["name"] for item in from_api("/apis/medsd.io/v1alpha1/runtimes")["items"]]
    return ", ".join(names) or "none yet: apply one before the first run"


def answers(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return f"{answer.status}"


def main(service: str) -> int:
    checks = {f"CRD {kind}": lambda kind=kind: served(kind) for kind in KINDS}
    checks |= {"Runtimes": runtimes}
    checks |= {
        url: lambda url=url: answers(url)
        for url in (f"http://{service}:8080/healthz", f"http://{service}:9090/metrics")
    }
    failed = False
    for name, check in checks.items():
        try:
            print(f"{name}: {check()}")
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            print(f"{name}: FAILED: {error}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

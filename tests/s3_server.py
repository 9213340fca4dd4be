"""A real S3 server for the tests: versitygw built with Go, or moto's server where there is no Go."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
from programs import BIN, build, missing

ACCESS_KEY, SECRET_KEY, REGION = "medsd-test", "medsd-test-secret", "us-east-1"


@dataclass(frozen=True)
class S3Server:
    name: str  # what the tests ran on, for people
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use this server and nothing of the machine's own AWS settings."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Starts a server that keeps its objects under `folder`, and stops it at the end."""
    binary, reason = build_versitygw()
    if binary is None:
        with _moto(folder, reason) as server:
            yield server
    else:
        with _versitygw(binary, folder) as server:
            yield server


def build_versitygw() -> tuple[Path | None, str]:
    """The gateway's binary, built once a machine (about 1.5 minutes), or None and why there is none."""
    if missing("versitygw") and (failure := build("versitygw")):
        return None, failure
    return BIN / "versitygw", ""


@contextmanager
def _versitygw(binary: Path, folder: Path) -> Iterator[S3Server]:
    objects, metadata = folder / "objects", folder / "metadata"
    objects.mkdir()
    metadata.mkdir()
    address = f"127.0.0.1:{_free_port()}"
    # The sidecar folder holds what would else be extended attributes, which some file systems lack.
    command = [str(binary), "--quiet", "--port", address, "posix", "--sidecar", str(metadata), str(objects)]
    secrets = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with _running(command, folder / "server.log", f"http://{address}", secrets):
        yield S3Server("versitygw", f"http://{address}", ACCESS_KEY, SECRET_KEY)


@contextmanager
def _moto(folder: Path, reason: str) -> Iterator[S3Server]:
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder / "server.log", endpoint):
        access_key, secret_key = _moto_user(endpoint)
        yield S3Server(f"moto's server ({reason})", endpoint, access_key, secret_key)


def _moto_user(endpoint: str) -> tuple[str, str]:
    """Makes moto check credentials, as a real server does, and returns a user's keys."""
    iam = boto3.client(
        "iam", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="any", aws_secret_access_key="any"
    )
    iam.create_user(UserName="medsd")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
    iam.put_user_policy(UserName="medsd", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="medsd")["AccessKey"]
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).close()
    return key["AccessKeyId"], key["SecretAccessKey"]


@contextmanager
def _running(
    command: list[str], log: Path, endpoint: str, environment: dict[str, str] | None = None
) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | (environment or {}), stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_it_answers(process, endpoint, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_it_answers(process: subprocess.Popen, endpoint: str, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=2).close()
            return
        except urllib.error.HTTPError:  # it refuses an unsigned request: it is up
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the S3 server does not answer at {endpoint}: {log.read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

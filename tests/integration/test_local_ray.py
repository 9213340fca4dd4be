"""A Ray that medsd starts listens on this machine's own address alone."""

from __future__ import annotations

import ipaddress

import psutil


def test_no_port_of_a_local_ray_is_open_to_others(ray_cluster: None):
    import ray

    @ray.remote
    def one() -> int:
        return 1

    assert ray.get(one.remote()) == 1  # a worker too has ports
    us = psutil.Process()
    processes = [us, *us.children(recursive=True)]
    heard = [
        (process.name(), one.laddr)
        for process in processes
        for one in _connections(process)
        if one.status == psutil.CONN_LISTEN
    ]
    assert len(heard) > 5
    assert [(name, at) for name, at in heard if not _is_loopback(at.ip)] == []


def _is_loopback(address: str) -> bool:
    """Also of an IPv4 address that an IPv6 socket listens on."""
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def _connections(process: psutil.Process) -> list:
    try:
        return process.net_connections(kind="tcp")
    except psutil.Error:
        return []

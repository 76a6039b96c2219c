"""Names of network interfaces, as this machine has them."""

import os
import socket

import pytest

from wenxin_runtime.parallel import interface
from wenxin_runtime.parallel.interface import interface_of

IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd00000000000000000000000000002a 02 40 00 80     eth0
"""


@pytest.fixture
def ipv6(tmp_path):
    path = tmp_path / "if_inet6"
    path.write_text(IF_INET6)
    return path


def test_loopback_is_found_by_any_of_its_addresses():
    names = [name for _, name in socket.if_nameindex()]
    assert interface_of("127.0.0.1") in names
    assert interface_of("127.0.0.2") == interface_of("127.0.0.1")


def test_an_address_that_nobody_has_belongs_to_none(ipv6):
    assert interface_of("203.0.113.9") == ""
    assert interface_of("fd00::9", ipv6) == ""


def test_an_ipv6_address_is_found(ipv6):
    assert interface_of("fd00::2a", ipv6) == "eth0"
    assert interface_of("::1", ipv6) == "lo"


def test_a_machine_without_ipv6_has_no_such_address(tmp_path):
    assert interface_of("::1", tmp_path / "missing") == ""


def test_gloo_and_nccl_use_it_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setattr(os, "environ", {"NCCL_SOCKET_IFNAME": "ib0"})
    interface.use("")
    interface.use("eth0")
    assert os.environ == {"NCCL_SOCKET_IFNAME": "ib0", "GLOO_SOCKET_IFNAME": "eth0"}

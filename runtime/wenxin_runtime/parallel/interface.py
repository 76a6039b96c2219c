"""Which network interface an address belongs to: gloo and NCCL are told a name, or guess from the host's name.

The guess goes wrong where a host's name stands for a loopback address, as on Debian.
"""

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915  # linux/sockios.h
_NAME_BYTES = 16  # IFNAMSIZ
_ADDRESS = slice(20, 24)  # of struct ifreq: a name, then a sockaddr_in
_IPV6 = Path("/proc/net/if_inet6")


def interface_of(address: str, ipv6: Path = _IPV6) -> str:
    """Name the interface that has `address`; empty where none is found."""
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        return _by_ipv6(wanted.packed.hex(), ipv6)
    if wanted.is_loopback:
        wanted = ipaddress.ip_address("127.0.0.1")  # 127.0.0.2 works as well, and no interface has it
    return next((name for _, name in socket.if_nameindex() if _ipv4_of(name) == wanted.packed), "")


def use(name: str) -> None:
    """Let gloo and NCCL use an interface, unless the environment says another one."""
    if name:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")


def _ipv4_of(name: str) -> bytes | None:
    question = struct.pack(f"{_NAME_BYTES}s24x", name.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        return fcntl.ioctl(any_socket, _SIOCGIFADDR, question)[_ADDRESS]
    return None


def _by_ipv6(digits: str, ipv6: Path) -> str:
    with contextlib.suppress(OSError):
        for line in ipv6.read_text(encoding="ascii").splitlines():
            words = line.split()
            if words and words[0] == digits:
                return words[-1]
    return ""

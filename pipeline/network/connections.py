"""Connections that go only where they may, and whose answers come in time.

A server may redirect a request into the network that this machine stands in, whose services trust whoever reaches
them: the metadata of a cloud with its keys, an open database. What counts is the address that a connection is made
to, whatever the name of the host, and whatever its name server answers the next time.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import time
from typing import Any, NamedTuple

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

HEAD_SECONDS = 60.0  # until an answer has begun
SLOW_SECONDS, SLOW_RATE = 60.0, 1000  # a body with fewer bytes a second for so long is given up
ADDRESSES = 4  # of a host that are tried: each may take all of the time to connect
UNICAST = ipaddress.IPv6Network("2000::/3")  # RFC 4291: what is public of IPv6
# Where clouds keep keys, beside link-local addresses: Alibaba, Oracle, Azure, and AWS and Google by IPv6.
METADATA = ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: IPv4 behind a translator


class PrivateAddress(Exception):
    """A host that must not be reached; the message has its addresses."""


class TooSlow(Exception):
    """An answer that has not begun in time, or comes too slowly."""


class Pools(NamedTuple):
    """Connections to hosts that the user names, and to those that a server redirects to."""

    named: urllib3.PoolManager
    public: urllib3.PoolManager


def make_pools(connections: int) -> Pools:
    """At most `connections` to a host. They raise PrivateAddress for one that must not be reached."""
    pools = Pools(*(urllib3.PoolManager(maxsize=connections, block=True, retries=False) for _ in range(2)))
    for pool, private in zip(pools, (True, False), strict=True):
        pool.pool_classes_by_scheme = {
            "http": _guarded(urllib3.HTTPConnectionPool, HTTPConnection, private),
            "https": _guarded(urllib3.HTTPSConnectionPool, HTTPSConnection, private),
        }
    return pools


def _guarded(pool: type, connection: type, private: bool) -> Any:
    return type(pool.__name__, (pool,), {"ConnectionCls": type("_", (_Guarded, connection), {"private": private})})


def is_private(address: str) -> bool:
    """Whether an IP address is none of the public internet, by the registries of IANA, or has no files.

    >>> is_private("10.0.0.1"), is_private("::ffff:127.0.0.1"), is_private("100.64.0.1"), is_private("9.9.9.9")
    (True, True, True, False)
    """
    ip = _plain(address)
    return has_no_files(address) or not ip.is_global or (ip.version == 6 and ip not in UNICAST)


def has_no_files(address: str) -> bool:
    """Whether an IP address is one where clouds keep metadata and keys, or of no single machine.

    >>> has_no_files("169.254.169.254"), has_no_files("10.0.0.1")
    (True, False)
    """
    ip = _plain(address)
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or str(ip) in METADATA


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address, without its interface; of one that stands for an IPv4 address, that."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


class _Guarded(HTTPConnection):
    private = False  # whether it may go to such an address

    def _new_conn(self) -> socket.socket:
        """Connect to the first of the host's addresses that may be reached and answers."""
        name = self.host
        try:
            found = socket.getaddrinfo(name, self.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a label of more than 63 characters
            raise urllib3.exceptions.NameResolutionError(name, self, error) from error  # type: ignore[arg-type]
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        refused = has_no_files if self.private else is_private
        allowed = [address for address in addresses if not refused(address)][:ADDRESSES]
        if not allowed:
            raise PrivateAddress(", ".join(addresses[:ADDRESSES]))
        for address in allowed:
            self.host = address
            try:
                return super()._new_conn()
            except urllib3.exceptions.HTTPError:
                if address == allowed[-1]:
                    raise
            finally:
                self.host = name
        raise AssertionError("a host has an address")

    def response_class(self, sock: Any, **more: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        """What http.client reads an answer with; each part of it comes through here."""
        self.pace = Pace()
        return http.client.HTTPResponse(_PacedSocket(sock, self.pace), **more)  # type: ignore[arg-type]

    def getresponse(self) -> Any:
        """The answer, with its `pace`."""
        response = super().getresponse()
        self.pace.begin_body()
        response.pace = self.pace  # type: ignore[attr-defined]
        return response


class Pace:
    """How fast an answer must come: its head within HEAD_SECONDS, of its body SLOW_RATE bytes a second.

    A timeout of a socket is for each of its reads, and one byte ends it. So an answer is looked at by windows of
    SLOW_SECONDS; of what frames the body (headers, sizes of chunks, trailers) no byte counts.
    """

    def __init__(self) -> None:
        self.least, self.seconds = 1, HEAD_SECONDS
        self._begin_window()

    def begin_body(self) -> None:
        self.least, self.seconds = int(SLOW_RATE * SLOW_SECONDS), SLOW_SECONDS
        self._begin_window()

    def _begin_window(self) -> None:
        self.count, self.end = 0, time.monotonic() + self.seconds

    def left(self) -> float:
        """Seconds until the end of the window. Raises TooSlow where too few bytes came in the last one."""
        if time.monotonic() >= self.end:
            if self.count < self.least:
                raise TooSlow(f"only {self.count} bytes of the body in {self.seconds:.0f} s")
            self._begin_window()
        return self.end - time.monotonic()


class _PacedSocket:
    """What http.client takes for a socket: it asks for a file to read and for nothing else."""

    def __init__(self, sock: Any, pace: Pace) -> None:
        self.sock, self.pace = sock, pace

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_PacedReader(self.sock, self.pace))


class _PacedReader(io.RawIOBase):
    def __init__(self, sock: Any, pace: Pace) -> None:
        self.sock, self.pace = sock, pace
        self.file = sock.makefile("rb", buffering=0)  # keeps the socket open as long as this is

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self.sock.settimeout(max(0.001, self.pace.left()))
            try:
                return int(self.sock.recv_into(buffer))
            except TimeoutError:  # the end of the window
                continue

    def close(self) -> None:
        self.file.close()
        super().close()

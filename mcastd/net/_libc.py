"""System calls that Python lacks, by ctypes: structs under their C names, wrappers that raise OSError.

Importing it raises ImportError where ctypes is not to be had; ``arenas.py`` and ``burst.py`` then do without.
Imports nothing of the project.
"""

from __future__ import annotations

import ctypes
import os
from typing import ClassVar


class sockaddr(ctypes.Structure):
    """Room for a ``struct sockaddr_in`` or ``sockaddr_in6``."""

    _fields_: ClassVar = [("data", ctypes.c_char * 28)]


class iovec(ctypes.Structure):
    _fields_: ClassVar = [("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t)]


class msghdr(ctypes.Structure):
    _fields_: ClassVar = [
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint32),
        ("msg_iov", ctypes.c_void_p),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    ]


class mmsghdr(ctypes.Structure):
    _fields_: ClassVar = [("msg_hdr", msghdr), ("msg_len", ctypes.c_uint)]


_libc = ctypes.CDLL(None, use_errno=True)
_pointer, _int, _uint = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint
_libc.recvmmsg.argtypes = (_int, _pointer, _uint, _int, _pointer)
_libc.sendmmsg.argtypes = (_int, _pointer, _uint, _int)
_libc.sendmsg.argtypes = (_int, _pointer, _int)
_libc.sendmsg.restype = ctypes.c_ssize_t
_libc.writev.argtypes = (_int, _pointer, _int)
_libc.writev.restype = ctypes.c_ssize_t
_libc.getsockopt.argtypes = (_int, _int, _int, _pointer, ctypes.POINTER(ctypes.c_uint32))


def _failure() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def recvmmsg(fd: int, headers: int, length: int, flags: int) -> int:
    """recvmmsg(2) into ``length`` mmsghdrs at address ``headers``: how many datagrams came, at least one."""
    count: int = _libc.recvmmsg(fd, headers, length, flags, None)
    if count < 0:
        raise _failure()
    return count


def sendmmsg(fd: int, headers: int, length: int, flags: int) -> int:
    """sendmmsg(2) of ``length`` mmsghdrs at address ``headers``: how many datagrams went, at least one."""
    count: int = _libc.sendmmsg(fd, headers, length, flags)
    if count < 0:
        raise _failure()
    return count


def sendmsg(fd: int, header: int, flags: int) -> int:
    """sendmsg(2) of the msghdr at address ``header``: how many bytes went."""
    sent: int = _libc.sendmsg(fd, header, flags)
    if sent < 0:
        raise _failure()
    return sent


def writev(fd: int, iovecs: int, length: int) -> int:
    """writev(2) of ``length`` iovecs at address ``iovecs``: how many bytes were written."""
    written: int = _libc.writev(fd, iovecs, length)
    if written < 0:
        raise _failure()
    return written


def getsockopt(fd: int, level: int, option: int, value: bytes) -> bytes:
    """getsockopt(2) for options that read ``value`` before they fill it."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if _libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)) != 0:
        raise _failure()
    return buffer.raw[: length.value]

"""System calls that Python lacks, by ctypes: structs and functions under their C names.

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
# What is called for each batch is C's own function: it returns -1 for an error, and failure() tells which.
# It has no argtypes: with them ctypes makes an object of each argument, in 0.1 us. Without, a number is a C
# int; so an address has to be a c_void_p, or the kernel would get half of it.
recvmmsg, sendmmsg, sendmsg, writev = _libc.recvmmsg, _libc.sendmmsg, _libc.sendmsg, _libc.writev
sendmsg.restype = writev.restype = ctypes.c_ssize_t
_int = ctypes.c_int
_libc.getsockopt.argtypes = (_int, _int, _int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32))


def failure() -> OSError:
    """The error of the last call that returned -1."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def getsockopt(fd: int, level: int, option: int, value: bytes) -> bytes:
    """getsockopt(2) for options that read ``value`` before they fill it. Raises OSError."""
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    if _libc.getsockopt(fd, level, option, buffer, ctypes.byref(length)) != 0:
        raise failure()
    return buffer.raw[: length.value]

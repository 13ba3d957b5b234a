"""Runs a program that may not use netlink, as under RestrictAddressFamilies= without AF_NETLINK: seccomp(2).

``python sandbox.py PROGRAM ARGUMENT...``
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
SOCKET = {"x86_64": 41, "aarch64": 198}  # the number of socket(2)
FIRST_ARGUMENT = 16  # offset in struct seccomp_data


def forbid_netlink() -> None:
    program = [
        (0x20, 0, 0, 0),  # load the system call's number
        (0x15, 0, 3, SOCKET[platform.machine()]),
        (0x20, 0, 0, FIRST_ARGUMENT),
        (0x15, 0, 1, socket.AF_NETLINK),
        (0x06, 0, 0, SECCOMP_RET_ERRNO | errno.EAFNOSUPPORT),
        (0x06, 0, 0, SECCOMP_RET_ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_void_p(ctypes.addressof(fprog)), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid_netlink()
    os.execvp(sys.argv[1], sys.argv[1:])

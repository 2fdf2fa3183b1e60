"""Confine this process with Landlock, then become another program.

``python landlock.py RULES COMMAND...``: RULES is JSON with the folders to ``list`` and the paths to
``read`` (and execute) and to ``write``. All other files are inaccessible; depending on the version
of Landlock, so are TCP, signals to processes outside, and abstract Unix sockets. The program
imports nothing of labkit; the numbers are those of <linux/landlock.h>.
"""

import ctypes
import json
import os
import stat
import sys

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
PATH_BENEATH = 1
SET_NO_NEW_PRIVS = 38
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
REFER, TRUNCATE, IOCTL = 1 << 13, 1 << 14, 1 << 15
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL
BIND_AND_CONNECT = 3
ABSTRACT_SOCKETS_AND_SIGNALS = 3

libc = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def main() -> None:
    rules, command = json.loads(sys.argv[1]), sys.argv[2:]
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        sys.exit("Landlock is not available")
    handled = (1 << 13) - 1
    handled |= (REFER if version >= 2 else 0) | (TRUNCATE if version >= 3 else 0)
    handled |= IOCTL if version >= 5 else 0
    attributes = Ruleset(
        handled,
        BIND_AND_CONNECT if version >= 4 else 0,
        ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = check(libc.syscall(CREATE_RULESET, ctypes.byref(attributes), size, 0))
    for path in rules["list"]:
        allow(ruleset, path, READ_DIR)
    for path in rules["read"]:
        allow(ruleset, path, (EXECUTE | READ_FILE | READ_DIR) & handled)
    for path in ("/dev/null", "/dev/zero", "/dev/shm", *rules["write"]):
        if os.path.exists(path):  # noqa: PTH110
            allow(ruleset, path, handled)
    check(libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    check(libc.syscall(RESTRICT_SELF, ruleset, 0))
    os.execv(command[0], command)


def allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
        rights &= FILE_RIGHTS
    rule = Beneath(rights, descriptor)
    check(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(rule), 0))
    os.close(descriptor)


def check(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        sys.exit(f"Landlock: {os.strerror(error)}")
    return result


if __name__ == "__main__":
    main()

"""Run a command, and kill it with everything that it has started when the grader ends.

``python leash.py COMMAND...``: standard input is a pipe that only the grader holds open, so it
closes however the grader ends, even before this program has begun. ``bwrap --die-with-parent``
alone is not enough: it asks for the signal after it has forked, and what the grader's end overtakes
until then would stay for ever. The program imports nothing of labkit.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys

SET_CHILD_SUBREAPER = 36


def main() -> None:
    # Descendants whose own parent ends become children of this process and are killed, too.
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # 0: only that the other end is closed
    poll.register(wakes, select.POLLIN)
    try:
        command = os.posix_spawnp(
            sys.argv[1],
            sys.argv[1:],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
        )
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
    status = None
    while status is None:
        if any(number == sys.stdin.fileno() for number, _ in poll.poll()):
            status = 1
        else:
            os.read(wakes, 4096)
            status = reap(command)
    kill_children()
    os._exit(status)


def reap(command: int) -> int | None:
    """Collect the children that have ended; return the status of the command once it is one."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == command:
                code = os.waitstatus_to_exitcode(ended[1])
                found = code if code >= 0 else 128 - code
    return found


def kill_children() -> None:
    """Kill all children and, when these have ended, theirs."""
    with contextlib.suppress(ChildProcessError):
        while True:
            with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123
                for child in file.read().split():
                    with contextlib.suppress(OSError):
                        os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


if __name__ == "__main__":
    main()

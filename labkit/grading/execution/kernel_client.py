"""Client of an untrusted kernel: every message is counted and checked before it is used.

Code in the kernel knows the key that signs messages, so that a signature proves nothing: messages
may be malformed, forged or endless. A forged answer to a probe is still only an answer.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import zmq

from labkit.grading.authoring.probes import Limits
from labkit.grading.execution import codec, in_kernel
from labkit.grading.execution.cell_outputs import ProtocolError, class_name, output_from
from labkit.grading.execution.in_kernel import ANSWER_MIME
from labkit.grading.sandbox.levels import Level
from labkit.grading.sandbox.limits import SandboxWatch
from labkit.grading.sandbox.provisioner import SandboxManager
from labkit.grading.states import CellStatus, State

START_SECONDS = 120.0  # includes the import of forbidden modules, perhaps torchvision
GRACE = 3.0  # seconds between an interrupt and the end of the sandbox
IDLE_SECONDS = 3.0  # between the reply and the status "idle"
POLL = 50  # milliseconds
STALL = 2000  # milliseconds
MAX_MESSAGES = 20_000
CHANNELS = ("shell", "iopub", "stdin", "hb", "control")

# Does not use names of the notebook, which may have redefined `open`.
BOOT = """(lambda b, j, p: (lambda ns, t: (b.exec(t[0], ns), ns["main"](*t[1:]))[1])(
    {{"__name__": "probe"}}, j.load(b.open(p, encoding="utf-8"))
))(__import__("builtins"), __import__("json"), {path!r})"""


class SandboxEnded(Exception):
    """The sandbox has ended; ``state`` says why."""

    def __init__(self, state: State, message: str) -> None:
        super().__init__(message)
        self.state = state


class StartFailed(Exception):
    """The kernel did not start; no code of a submission has run."""


@dataclass
class Execution:
    """The execution of a piece of code.

    Attributes:
        failed: the first lines of the parts that raised, each with the class of the exception.
    """

    status: CellStatus = CellStatus.OK
    ename: str | None = None
    outputs: list[dict[str, Any]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    failed: list[tuple[int, str | None]] = field(default_factory=list)


class KernelClient:
    """A kernel in a sandbox, as a context manager.

    Args:
        level: the level of isolation; by default the strongest.
        data: files and folders that it may read.

    Raises:
        StartFailed: on entering.
    """

    def __init__(self, limits: Limits, level: Level | None, data: tuple[Path, ...] = ()) -> None:
        self.limits = limits
        self.manager = SandboxManager(
            confinement={
                "level": level or "",
                "memory_mb": limits.memory_mb,
                "seconds": limits.total_seconds,
                "data": [str(path) for path in data],
            }
        )
        self.context = zmq.Context()
        # A message has at most one answer or all allowed output, in base64.
        largest = max(limits.answer_mb, limits.output_mb) * 1e6
        self.context.setsockopt(zmq.MAXMSGSIZE, int(largest * 1.4) + 1_000_000)
        self.context.setsockopt(zmq.RCVHWM, 8)
        # A submission may replace its socket by a link to a socket of the grader.
        self.context.setsockopt(zmq.RECONNECT_IVL, -1)
        self.context.setsockopt(zmq.LINGER, 0)
        # Without timeouts, sending without a connection and receiving half a message would block.
        self.context.setsockopt(zmq.SNDTIMEO, STALL)
        self.context.setsockopt(zmq.RCVTIMEO, STALL)
        self.watch: SandboxWatch | None = None
        self.budget = self.messages = 0.0

    def __enter__(self) -> KernelClient:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.watch is not None:
            self.watch.stop()
        with contextlib.suppress(AttributeError):
            self.client.stop_channels()
        self.context.destroy(linger=0)
        self.manager.cleanup_resources()

    def _start(self) -> None:
        self.manager.start_kernel()
        provisioner = self.manager.provisioner
        limits = self.limits
        self.watch = SandboxWatch(
            provisioner.process,
            provisioner.folder / "run",
            memory_mb=limits.memory_mb,
            seconds=limits.total_seconds + START_SECONDS,
            own_memory_mb=4 * max(limits.answer_mb, limits.output_mb) + 200,
        )
        deadline = time.monotonic() + START_SECONDS
        ports = [getattr(self.manager, f"{channel}_port") for channel in CHANNELS]
        sockets = [Path(f"{self.manager.ip}-{port}") for port in ports]
        while not all(path.exists() for path in sockets):
            self._check_start(deadline)
            time.sleep(0.01)
        time.sleep(0.01)  # between binding and listening
        self.client = self.manager.client(context=self.context)
        self.client.start_channels(hb=False)
        self.shell = self.client.shell_channel.socket
        self.iopub = self.client.iopub_channel.socket
        self._wait_until_connected(deadline)
        self.watch.deadline = time.monotonic() + limits.total_seconds
        self.watch.seconds = limits.total_seconds

    def _check_start(self, deadline: float) -> None:
        provisioner = self.manager.provisioner
        if time.monotonic() > deadline or provisioner.process.poll() is not None:
            time.sleep(0.05)  # for the rest of its error message
            lines = provisioner.stderr_tail.strip().splitlines() or ["no reason given"]
            raise StartFailed(f"the sandboxed kernel did not start: {lines[-1][:300]}")

    def _wait_until_connected(self, deadline: float) -> None:
        """Wait until both channels work; a subscription becomes effective with some delay."""
        reply = subscribed = False
        request = ""
        asked = 0.0
        while not (reply and subscribed):
            self._check_start(deadline)
            if time.monotonic() - asked > 1:
                request, asked = self.client.kernel_info(), time.monotonic()
            for socket in self._ready():
                message = self._receive(socket)
                if message["parent_header"].get("msg_id") == request:
                    reply = reply or socket is self.shell
                    subscribed = subscribed or socket is self.iopub

    def execute(self, code: str, seconds: float, *, probe: bool = False) -> Execution:
        """Execute code and interrupt it after its time limit.

        Args:
            probe: whether an answer is expected; otherwise an answer violates the protocol.

        Raises:
            SandboxEnded: the kernel died, was killed, or violated the protocol.
        """
        self._allow(probe)
        return self._execute(code, seconds, probe)

    def execute_steps(self, steps: Sequence[tuple[int, str]], seconds: float) -> Execution:
        """Execute the parts of a cell one after the other, also after one that raised.

        The limits of time and output apply to all of them together.

        Args:
            steps: each with its first line in the cell.

        Raises:
            SandboxEnded: the kernel died, was killed, or violated the protocol.
        """
        self._allow(probe=False)
        found = Execution()
        for line, code in steps:
            one = self._execute(code, seconds - found.seconds, probe=False)
            found.seconds += one.seconds
            found.outputs += one.outputs
            if one.status is CellStatus.ERROR:
                found.status, found.ename = CellStatus.ERROR, found.ename or one.ename
                found.failed.append((line, one.ename))
            elif one.status is not CellStatus.OK:
                found.status, found.ename = one.status, None
                break
        return found

    def _allow(self, probe: bool) -> None:
        self.budget, self.messages = self.limits.output_mb * 1e6, MAX_MESSAGES
        if probe:
            self.budget += self.limits.answer_mb * 1.4e6

    def _execute(self, code: str, seconds: float, probe: bool) -> Execution:
        found = Execution()
        started = time.monotonic()
        deadline, interrupted, last = started + seconds, False, float("inf")
        request = self._send(code)
        replied = idle = False
        while not (replied and idle):
            self._check_alive()
            now = time.monotonic()
            if now > last:
                if replied:
                    raise SandboxEnded(State.FLOOD, "the output of the kernel is incomplete")
                self._raise_interrupted(found.status)
            if not interrupted and (now > deadline or self.budget < 0 or self.messages < 0):
                interrupted, last = True, now + GRACE
                found.status = CellStatus.TIMEOUT if now > deadline else CellStatus.FLOOD
                with contextlib.suppress(zmq.Again):  # it has disconnected and will end
                    message = self.client.session.msg("interrupt_request")
                    self.client.control_channel.send(message)
            for socket in self._ready():
                message = self._receive(socket)
                ours = message["parent_header"].get("msg_id") == request
                if socket is self.shell:
                    if ours and message["header"].get("msg_type") == "execute_reply":
                        replied, last = True, min(last, time.monotonic() + IDLE_SECONDS)
                        self._handle_reply(message["content"], found)
                else:
                    idle = self._handle_output(message, ours, probe, found) or idle
        found.seconds = time.monotonic() - started
        return found

    def forbid(self, names: tuple[str, ...]) -> None:
        """Make functions, classes and modules raise an exception when they are used.

        Raises:
            StartFailed: this failed; no code of a submission has run.
        """
        if not names:
            return
        try:
            done = self._run_inside({"forbid": list(names)}, START_SECONDS)
        except SandboxEnded as error:
            raise StartFailed(f"the forbidden names could not be disabled: {error}") from None
        if done.status is not CellStatus.OK:
            reason = done.ename or done.status
            raise StartFailed(f"the forbidden names could not be disabled: {reason}")

    def call_probe(
        self, function: str, cases: list[dict[str, Any]], driver: str | None, seconds: float
    ) -> Execution:
        """Call a function of the notebook with encoded cases and return its encoded answers."""
        budget = int(self.limits.answer_mb * 1e6)
        request = {"function": function, "cases": cases, "driver": driver, "budget": budget}
        return self._run_inside(request, seconds)

    def _run_inside(self, request: dict[str, Any], seconds: float) -> Execution:
        sources = [Path(str(m.__file__)).read_text(encoding="utf-8") for m in (in_kernel, codec)]
        # In a file that the sandbox can only read, because IPython is slow with long source.
        place = self.manager.provisioner.folder / "ask" / "request.json"
        place.write_text(json.dumps([*sources, request]), encoding="utf-8")
        try:
            return self.execute(BOOT.format(path=str(place)), seconds, probe=True)
        finally:
            place.unlink()

    def _raise_interrupted(self, status: CellStatus) -> NoReturn:
        if status is CellStatus.FLOOD:
            raise SandboxEnded(State.FLOOD, f"more than {self.limits.output_mb:g} MB of output")
        raise SandboxEnded(State.CELL_TIMEOUT, "a cell took too long and ignored the interrupt")

    def _send(self, code: str) -> str:
        session = self.client.session
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = session.msg("execute_request", content)
        try:
            self.client.shell_channel.send(message)
        except zmq.Again:
            raise SandboxEnded(State.DEAD_KERNEL, "the kernel has disconnected") from None
        return str(message["header"]["msg_id"])

    def _ready(self) -> list[zmq.Socket[bytes]]:
        poller = zmq.Poller()
        for socket in (self.iopub, self.shell):
            poller.register(socket, zmq.POLLIN)
        return [socket for socket, _ in poller.poll(POLL)]

    def _receive(self, socket: zmq.Socket[bytes]) -> dict[str, Any]:
        try:
            frames = socket.recv_multipart()
        except zmq.Again:
            raise SandboxEnded(State.PROTOCOL_VIOLATION, "an incomplete message") from None
        self.messages -= 1
        self.budget -= sum(map(len, frames))
        try:
            _, parts = self.client.session.feed_identities(frames)
            message = self.client.session.deserialize(parts)
            if all(type(message[part]) is dict for part in ("header", "parent_header", "content")):
                return message
        except Exception as error:  # whatever a forged message makes the library raise
            raise SandboxEnded(
                State.PROTOCOL_VIOLATION, f"a malformed message ({type(error).__name__})"
            ) from None
        raise SandboxEnded(State.PROTOCOL_VIOLATION, "a malformed message")

    def _check_alive(self) -> None:
        assert self.watch is not None
        if self.manager.provisioner.process.poll() is None:
            return
        if (verdict := self.watch.wait_for_verdict()) is not None:
            raise SandboxEnded(*verdict)
        raise SandboxEnded(State.DEAD_KERNEL, "the kernel ended")

    def _handle_reply(self, content: dict[str, Any], found: Execution) -> None:
        payload = content.get("payload")
        if type(payload) is list and any(
            type(entry) is dict and entry.get("source") == "ask_exit" for entry in payload
        ):
            # It would end a moment later, during the next cell.
            raise SandboxEnded(State.DEAD_KERNEL, "the code asked the kernel to exit")
        if content.get("status") != "ok" and found.status is CellStatus.OK:
            found.status = CellStatus.ERROR
            try:
                found.ename = class_name(content.get("ename"))
            except ProtocolError as error:
                raise SandboxEnded(State.PROTOCOL_VIOLATION, str(error)) from None

    def _handle_output(
        self, message: dict[str, Any], ours: bool, probe: bool, found: Execution
    ) -> bool:
        """Handle a published message; tell whether it is the status "idle"."""
        kind, content = message["header"].get("msg_type"), message["content"]
        data = content.get("data")
        if type(data) is dict and ANSWER_MIME in data:
            if not (ours and probe and kind == "display_data") or found.answers:
                raise SandboxEnded(State.PROTOCOL_VIOLATION, "an answer without a request")
            found.answers.append(data[ANSWER_MIME])
        elif ours and kind == "status":
            return content.get("execution_state") == "idle"
        elif ours and not probe and self.budget > 0:
            try:
                output = output_from(str(kind), content)
            except ProtocolError as error:
                raise SandboxEnded(State.PROTOCOL_VIOLATION, str(error)) from None
            if output is not None:
                found.outputs.append(output)
        return False

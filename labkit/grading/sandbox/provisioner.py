"""Confined kernels: a Jupyter kernel provisioner, and a kernel manager that uses it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from traitlets import Float, Int, List, Unicode

from labkit.grading.sandbox.confine import (
    LEASH,
    OUTER_ENVIRONMENT,
    SCRATCH,
    Confinement,
    confine_command,
    make_folder,
    remove_folder,
)
from labkit.grading.sandbox.levels import Level

LONGEST_SOCKET = 107  # characters of a Unix socket's path
KERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]


class SandboxProvisioner(LocalProvisioner):
    """Starts a confined kernel; its name in a kernel specification is ``labkit-sandbox``.

    The specification must say ``"interrupt_mode": "message"``, as no signal reaches the kernel.
    """

    level: Any = Unicode("", help="the isolation level; by default the strongest available")
    memory_mb: Any = Int(4096)
    seconds: Any = Float(600.0)
    data: Any = List(Unicode())

    folder: Path | None = None
    stderr_tail = ""
    """The last output on standard error, of bubblewrap or of the kernel."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the folder of the sockets and confine the command."""
        from labkit.grading.sandbox.isolation import choose

        self.folder = make_folder()
        run = self.folder / "run"
        manager: Any = self.parent
        manager.transport, manager.cache_ports = "ipc", False
        manager.ip, manager.connection_file = str(run / "k"), str(run / "kernel.json")
        assert len(f"{manager.ip}-65535") < LONGEST_SOCKET
        kwargs = await super().pre_launch(**kwargs)
        confinement = Confinement(
            level=Level(self.level) if self.level else choose(),
            memory_mb=self.memory_mb,
            seconds=self.seconds,
            data=tuple(map(Path, self.data)),
        )
        return {**kwargs, "cmd": confine_command(kwargs["cmd"], self.folder, confinement)}

    async def launch_kernel(self, cmd: list[str], **_: Any) -> KernelConnectionInfo:
        """Start the process without the environment, input and output of the grader."""
        process = subprocess.Popen(
            [*LEASH, *cmd],
            env=OUTER_ENVIRONMENT,
            cwd="/",
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.process = process
        self.pid = self.pgid = process.pid
        self.cwd = str(SCRATCH)
        threading.Thread(target=self._listen, args=(process.stderr,), daemon=True).start()
        return self.connection_info

    def _listen(self, stream: Any) -> None:
        # Read everything, since a full pipe would block the kernel; keep only the end.
        with stream:
            while text := os.read(stream.fileno(), 65536):
                self.stderr_tail = (self.stderr_tail + text.decode(errors="replace"))[-2000:]

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the folder of the sockets."""
        await super().cleanup(restart)
        if self.folder is not None and not restart:
            remove_folder(self.folder)


class SandboxManager(KernelManager):
    """Starts a sandboxed kernel of the running interpreter, whatever kernels are installed."""

    def __init__(self, **traits: Any) -> None:
        self.confinement = traits.pop("confinement")
        super().__init__(**traits)
        self._kernel_spec = KernelSpec(
            argv=[sys.executable, *KERNEL],
            display_name="labkit sandbox",
            language="python",
            interrupt_mode="message",
        )
        self.kernel_id = "sandbox"
        self.provisioner: Any = SandboxProvisioner(
            kernel_id=self.kernel_id,
            kernel_spec=self._kernel_spec,
            parent=self,
            **self.confinement,
        )

    def _connect_control_socket(self) -> None:
        # The manager would reconnect, also to a socket that a submission puts in its place.
        pass

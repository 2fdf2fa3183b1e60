"""Kernels behind the wall: the Jupyter kernel provisioner, and a manager that uses it."""

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

from labkit.grading.sandbox.confine import OUTER, SCRATCH, Wall, make_folder, remove_folder, wrap
from labkit.grading.sandbox.levels import Level

LONGEST_SOCKET = 107  # characters of a Unix socket's path
KERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]


class SandboxProvisioner(LocalProvisioner):
    """Starts a kernel behind a wall; in a kernel specification it is ``labkit-sandbox``.

    The specification must say ``"interrupt_mode": "message"``, as no signal reaches the kernel.
    """

    level: Any = Unicode("", help="the isolation level; by default the strongest there is")
    memory_mb: Any = Int(4096)
    seconds: Any = Float(600.0)
    data: Any = List(Unicode())

    folder: Path | None = None
    complaint = ""
    """The end of what was written to the kernel's standard error, the wall's messages included."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Choose the sockets' place and wrap the command."""
        from labkit.grading.sandbox.isolation import choose

        self.folder = make_folder()
        run = self.folder / "run"
        manager: Any = self.parent
        manager.transport, manager.cache_ports = "ipc", False
        manager.ip, manager.connection_file = str(run / "k"), str(run / "kernel.json")
        assert len(f"{manager.ip}-65535") < LONGEST_SOCKET
        kwargs = await super().pre_launch(**kwargs)
        wall = Wall(
            level=Level(self.level) if self.level else choose(),
            memory_mb=self.memory_mb,
            seconds=self.seconds,
            data=tuple(map(Path, self.data)),
        )
        return {**kwargs, "cmd": wrap(kwargs["cmd"], self.folder, wall)}

    async def launch_kernel(self, cmd: list[str], **_: Any) -> KernelConnectionInfo:
        """Start the process: with nothing of the grader's environment, input or output."""
        process = subprocess.Popen(
            cmd,
            env=OUTER,
            cwd="/",
            stdin=subprocess.DEVNULL,
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
        # Read to the end, or a full pipe would stop the kernel; keep the end only.
        with stream:
            while text := os.read(stream.fileno(), 65536):
                self.complaint = (self.complaint + text.decode(errors="replace"))[-2000:]

    async def cleanup(self, restart: bool = False) -> None:
        """Remove the sockets' folder."""
        await super().cleanup(restart)
        if self.folder is not None and not restart:
            remove_folder(self.folder)


class SandboxManager(KernelManager):
    """Starts the running interpreter's kernel through the sandbox, whatever is installed."""

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
        # The manager's own connection would come back to whatever a submission puts in its place.
        pass

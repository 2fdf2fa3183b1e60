"""What hostile notebooks try. Each attack is the content of the answer cell of exercise ``double``.

Where an attack can tell that it has got hold of something, it then defines ``double`` rightly, so
that its success would show as points.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

RIGHT = "def double(x):\n    return 2 * x\n"
TOTAL = "def total(x):\n    return float(x.sum())\n"


@dataclass(frozen=True)
class Attack:
    """Code, and what must come of it.

    Attributes:
        code: of exercise ``double``.
        states: how the run may end.
        double, total: the points that its exercises may earn; `total` is answered honestly, after.
    """

    code: str
    states: tuple[str, ...] = ("ok",)
    double: float = 0.0
    total: tuple[float, ...] = (2.0,)


FORGED = json.dumps({"missing": False, "answers": []})
MIME = "application/vnd.labkit.answer+json"
PUBLISH = f"get_ipython().display_pub.publish({{{MIME!r}: {FORGED!r}}}, {{}})\n"
NOTHING = (0.0,)
EITHER = (0.0, 2.0)
ATTACKS = {
    # How nbgrader and otter are fooled.
    "input transformer that blanks every later cell": Attack(
        "get_ipython().input_transformers_cleanup.append(lambda lines: [])\n" + RIGHT,
        total=NOTHING,
    ),
    "syntax transformer that drops every later cell": Attack(
        "import ast\n"
        "class Drop(ast.NodeTransformer):\n"
        "    def visit_Module(self, node):\n"
        "        return ast.Module(body=[], type_ignores=[])\n"
        "get_ipython().ast_transformers.append(Drop())\n" + RIGHT,
        total=NOTHING,
    ),
    "patched publisher says that all is well": Attack(
        "shell = get_ipython()\n"
        "real = shell.display_pub.publish\n"
        "def publish(data, *args, **kwargs):\n"
        f"    if {MIME!r} in data:\n"
        f'        data = {{{MIME!r}: \'{{"missing": false, "answers": [true, true, true]}}\'}}\n'
        "    return real(data, *args, **kwargs)\n"
        "shell.display_pub.publish = publish\n",
        states=("protocol-violation",),
        total=NOTHING,
    ),
    "patched json writes full marks": Attack(
        "import json\n"
        'json.dumps = lambda *a, **k: \'{"score": 1.0, "passed": true}\'\n'
        "def double(x):\n    return 0\n",
        states=("ok", "protocol-violation", "dead-kernel", "cell-timeout"),
        total=EITHER,
    ),
    "patched comparisons": Attack(
        "import numpy as np\n"
        "np.allclose = np.array_equal = np.testing.assert_allclose = lambda *a, **k: True\n"
        "def double(x):\n    return x\n"
    ),
    # Forged and malformed messages.
    "an answer that nobody asked for": Attack(PUBLISH, ("protocol-violation",), total=NOTHING),
    "two answers to one question": Attack(
        "shell = get_ipython()\n"
        "real = shell.display_pub.publish\n"
        "def publish(*args, **kwargs):\n"
        "    real(*args, **kwargs)\n"
        "    real(*args, **kwargs)\n"
        "shell.display_pub.publish = publish\n" + RIGHT,
        ("protocol-violation",),
        total=NOTHING,
    ),
    "answers under other message ids": Attack(
        "kernel = get_ipython().kernel\n"
        "for n in range(3):\n"
        "    parent = {'header': {'msg_id': str(n)}}\n"
        f"    content = {{'data': {{{MIME!r}: {FORGED!r}}}, 'metadata': {{}}, 'transient': {{}}}}\n"
        "    kernel.session.send(kernel.iopub_socket, 'display_data', content, parent=parent)\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    "an answer in deep JSON": Attack(
        "shell = get_ipython()\n"
        "real = shell.display_pub.publish\n"
        "deep = '[' * 50000 + ']' * 50000\n"
        "shell.display_pub.publish = lambda data, *a, **k: real({next(iter(data)): deep})\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    "an answer full of lies about itself": Attack(
        "import json\n"
        "shell = get_ipython()\n"
        "real = shell.display_pub.publish\n"
        "lie = json.dumps({'missing': False, 'answers': [\n"
        "    {'value': {'ndarray': [0, 'float64']}, 'arrays': '/' * 400}] * 3})\n"
        "shell.display_pub.publish = lambda data, *a, **k: real({next(iter(data)): lie})\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    "messages that are no messages": Attack(
        "kernel = get_ipython().kernel\n"
        "kernel.iopub_socket.send_multipart([b'x', b'<IDS|MSG>', b'', b'{', b'{}', b'{}', b'{}'])\n"
        "import time; time.sleep(0.5)\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    "deep JSON on the wire, rightly signed": Attack(
        "kernel = get_ipython().kernel\n"
        "parts = [b'{}', b'{}', b'{}', b'[' * 200000 + b']' * 200000]\n"
        "kernel.iopub_socket.send_multipart(\n"
        "    [b'x', b'<IDS|MSG>', kernel.session.sign(parts), *parts])\n"
        "import time; time.sleep(0.5)\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    # Ends.
    "sys.exit": Attack("import sys\nsys.exit(0)\n", ("cell-error",)),
    "exit": Attack("exit()\n", ("dead-kernel",)),
    "os._exit": Attack("import os\nos._exit(0)\n", ("dead-kernel",)),
    "segmentation fault": Attack("import ctypes\nctypes.string_at(0)\n", ("dead-kernel",)),
    "kills its parent and everything else": Attack(
        "import os, signal\n"
        "os.kill(os.getppid(), signal.SIGKILL)\n"
        "os.kill(1, signal.SIGKILL)\n"
        "os.kill(-1, signal.SIGKILL)\n",
        ("cell-error", "dead-kernel"),
    ),
    "another program in place of the kernel": Attack(
        "import os\nos.execv('/bin/sh', ['sh', '-c', 'sleep 600'])\n",
        ("dead-kernel", "cell-timeout"),
    ),
    "shuts its kernel down": Attack(
        "kernel = get_ipython().kernel\n"
        "kernel.do_shutdown(False)\nkernel.io_loop.call_later(0, kernel.io_loop.stop)\n",
        ("dead-kernel", "ok", "cell-timeout", "flood"),
        total=EITHER,
    ),
    # Time.
    "endless loop": Attack("while True:\n    pass\n", ("cell-timeout",)),
    "endless loop in the answer": Attack(
        "def double(x):\n    while True:\n        pass\n", ("cell-timeout",)
    ),
    "catches the interrupt": Attack(
        "while True:\n    try:\n        while True:\n            pass\n"
        "    except BaseException:\n        pass\n",
        ("cell-timeout",),
    ),
    "loop in C": Attack("sum(range(10**12))\n", ("cell-timeout",)),
    "stops itself": Attack(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n",
        ("cell-timeout",),
    ),
    # Floods.
    "flood of prints": Attack(
        "while True:\n    try:\n        print('x' * 9000)\n    except Exception:\n        pass\n",
        ("flood", "over-limit", "cell-timeout"),
    ),
    "flood of prints that goes on": Attack(
        "import sys\n"
        "while True:\n"
        "    try:\n        sys.stdout.write('x' * 9000)\n"
        "    except BaseException:\n        pass\n",
        ("flood", "over-limit", "cell-timeout"),
    ),
    "flood of displays": Attack(
        "from IPython.display import display\n"
        "while True:\n"
        "    try:\n        display({'image/png': 'x' * 100000}, raw=True)\n"
        "    except BaseException:\n        pass\n",
        ("flood", "protocol-violation"),
        total=EITHER,
    ),
    "flood on descriptor 1": Attack(
        "import os\n"
        "while True:\n"
        "    try:\n        os.write(1, b'x' * 65536)\n        os.write(2, b'x' * 65536)\n"
        "    except BaseException:\n        pass\n",
        # Whichever limit is reached first: the kernel holds what it has not sent.
        ("flood", "cell-timeout", "over-limit"),
    ),
    "one giant message": Attack(
        "from IPython.display import display\n"
        "display({'text/plain': 'x' * 50_000_000}, raw=True)\n",
        ("flood",),
    ),
    "message of endless parts": Attack(
        "import socket, os, stat, struct\n"
        "frame = b'\\x03' + struct.pack('>Q', 1_000_000) + b'x' * 1_000_000\n"
        "taken = []\n"
        "for fd in range(3, 200):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(fd).st_mode):\n"
        "            taken.append(socket.socket(fileno=os.dup(fd)))\n"
        "            taken[-1].setblocking(True)\n"
        "    except OSError:\n        pass\n"
        "import threading\n"
        "def pour(one):\n"
        "    try:\n        while True:\n            one.sendall(frame)\n"
        "    except OSError:\n        pass\n"
        "threads = [threading.Thread(target=pour, args=(one,)) for one in taken]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n",
        ("flood", "cell-timeout", "protocol-violation", "dead-kernel", "ok", "over-limit"),
        total=EITHER,
    ),
    # Bombs.
    "memory": Attack(
        "kept = []\nwhile True:\n    kept.append(bytearray(10_000_000))\n",
        ("over-limit",),
    ),
    "shared memory": Attack(
        "import mmap\n"
        "block, kept = b'x' * 10_000_000, []\n"  # made once: it has 3 s, also beside other work
        "while True:\n"
        "    kept.append(mmap.mmap(-1, 10_000_000))\n"
        "    kept[-1].write(block)\n",
        ("over-limit",),
    ),
    "memory in twelve forks": Attack(
        "import os, time\n"
        "for _ in range(12):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(60_000_000)\n"
        "        time.sleep(600)\n"
        "        os._exit(0)\n"
        "time.sleep(600)\n",
        ("over-limit",),
    ),
    "fork bomb": Attack(
        "import os\n"
        "while True:\n    try:\n        os.fork()\n    except BaseException:\n        pass\n",
        ("over-limit", "cell-timeout", "protocol-violation", "flood", "dead-kernel"),
        total=EITHER,
    ),
    "files without end": Attack(
        "import os\n"
        "for folder in ('/scratch', '/tmp', '/dev/shm'):\n"
        "    try:\n"
        "        with open(f'{folder}/bomb', 'wb') as file:\n"
        "            while True:\n                file.write(b'x' * 1_000_000)\n"
        "    except OSError:\n        pass\n",
        ("ok", "over-limit", "cell-timeout", "dead-kernel"),
    ),
    "files without end beside the sockets": Attack(
        "import os, sys\n"
        "run = os.path.dirname([a for a in open('/proc/self/cmdline').read().split('\\0')\n"
        "                       if a.endswith('kernel.json')][0])\n"
        "for n in range(10**9):\n"
        "    with open(f'{run}/{n}', 'wb') as file:\n        file.write(b'x' * 1_000_000)\n",
        ("over-limit",),
    ),
    "files deeper than a path may be": Attack(
        "import os\n"
        "run = os.path.dirname([a for a in open('/proc/self/cmdline').read().split('\\0')\n"
        "                       if a.endswith('kernel.json')][0])\n"
        "os.chdir(run)\n"
        "for n in range(600):\n"
        "    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\n" + RIGHT,
        double=4.0,
    ),
    "links in place of its sockets": Attack(
        "import glob, os, stat, time\n"
        "run = os.path.dirname([a for a in open('/proc/self/cmdline').read().split('\\0')\n"
        "                       if a.endswith('kernel.json')][0])\n"
        "for path in glob.glob(run + '/k-*'):\n"
        "    os.unlink(path)\n    os.symlink({unix!r}, path)\n"
        "for fd in range(3, 200):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(fd).st_mode):\n            os.close(fd)\n"
        "    except OSError:\n        pass\n"
        "time.sleep(1)\n",
        ("cell-timeout", "dead-kernel", "flood", "protocol-violation"),
        total=EITHER,
    ),
    # What stays behind.
    "threads and daemons": Attack(
        "import os, threading, time\n"
        "def noise():\n"
        "    while True:\n        print('still here')\n        time.sleep(0.01)\n"
        "threading.Thread(target=noise).start()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.execv('/bin/sleep', ['sleep', '31536001'])\n"
        "    os._exit(0)\n" + RIGHT,
        double=4.0,
    ),
    "a thread that answers before the probe does": Attack(
        "import threading, time\n"
        "shell = get_ipython()\n"
        "def forge():\n"
        "    while True:\n"
        "        time.sleep(0.02)\n"
        f"        shell.display_pub.publish({{{MIME!r}: {FORGED!r}}}, {{}})\n"
        "threading.Thread(target=forge, daemon=True).start()\n",
        ("protocol-violation",),
        total=NOTHING,
    ),
    # Python itself.
    "builtins called otherwise": Attack(
        "list = dict = len = open = isinstance = type = print = sum = None\n" + RIGHT,
        double=4.0,
    ),
    "builtins changed": Attack(
        "import builtins\n"
        "builtins.isinstance = lambda *a: True\n"
        "builtins.len = lambda *a: 0\n"
        "def double(x):\n    return True\n",
        ("ok", "protocol-violation", "dead-kernel", "cell-timeout", "cell-error", "flood"),
        total=EITHER,
    ),
    "modules changed": Attack(
        "import sys\n"
        "for name in ('json', 'base64', 'safetensors', 'safetensors.numpy', 'numpy'):\n"
        "    sys.modules[name] = None\n"
        "def double(x):\n    return True\n",
        ("ok", "cell-error"),
        total=NOTHING,
    ),
    "looks for the hidden entries of a case": Attack(
        "import gc, sys\n"
        "def double(x):\n"
        "    places = [o for o in gc.get_objects() if type(o) is dict]\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        places.append(frame.f_locals)\n"
        "        frame = frame.f_back\n"
        "    return 2 * x if any('truth' in p and 'x' in p for p in places) else x\n"
    ),
    "a forbidden function": Attack("def double(x):\n    return np.multiply(x, 2)\n"),
    "a forbidden function by another name": Attack(
        "from numpy import multiply as times\ndef double(x):\n    return times(x, 2)\n"
    ),
}

# Each is an exercise of its own; all wrong.
ANSWERS = {
    "always_equal": "class E:\n    def __eq__(self, other):\n        return True\n"
    "    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, other: False\n"
    "    __hash__ = None\ndef f(x):\n    return E()",
    "array_always_equal": "import numpy as np\nclass A(np.ndarray):\n"
    "    def __eq__(self, other):\n        return np.True_\n"
    "    def __sub__(self, other):\n        return np.zeros(3)\n"
    "def f(x):\n    return x.view(A)",
    "number_always_equal": "class N(float):\n    def __eq__(self, other):\n        return True\n"
    "    def __float__(self):\n        return 0.0\ndef f(x):\n    return N(3)",
    "mock": "from unittest.mock import MagicMock\ndef f(x):\n    return MagicMock()",
    "generator": "def f(x):\n    yield from 2 * x",
    "coroutine": "async def f(x):\n    return 2 * x",
    "function": "def f(x):\n    return lambda: 2 * x",
    "pickle": "import pickle\nclass P:\n    def __reduce__(self):\n"
    "        return (print, ('unpickled',))\ndef f(x):\n    return pickle.dumps(P())",
    "reduced": "class P:\n    def __reduce__(self):\n        return (eval, ('1/0',))\n"
    "def f(x):\n    return P()",
    "object_array": "import numpy as np\ndef f(x):\n    return np.array([x, None], dtype=object)",
    "within_itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "dictionary_within_itself": "def f(x):\n    a = {}\n    a['a'] = a\n    return a",
    "recursion": "def f(x):\n    return f(x)",
    "giant_view": "import numpy as np\ndef f(x):\n    return np.broadcast_to(0.0, 10**9)",
    "giant_list": "def f(x):\n    return [0] * 3_000_000",
    "giant_integer": "def f(x):\n    return 10**100_000",
    "giant_text": "def f(x):\n    return 'x' * 10**8",
    "not_a_number": "import numpy as np\ndef f(x):\n    return np.full(3, np.nan)",
    "infinite": "def f(x):\n    return float('inf')",
    "wrong_shape": "def f(x):\n    return (2 * x)[None]",
    "scalar": "def f(x):\n    return 0.99",
    "truth": "def f(x):\n    return True",
    "nothing": "def f(x):\n    pass",
    "text": "def f(x):\n    return str(2 * x)",
    "structured": "import numpy as np\ndef f(x):\n    return np.zeros(3, dtype=[('a', 'f8')])",
    "a_class": "class f:\n    def __init__(self, x):\n        self.x = 2 * x",
    "not_callable": "f = 3",
    "raises_without_words": "class Quiet(BaseException):\n    def __str__(self):\n        1 / 0\n"
    "def f(x):\n    raise Quiet",
    "exits": "def f(x):\n    raise SystemExit(0)",
    "stops_iteration": "def f(x):\n    raise StopIteration(2 * x)",
    "class_of_strange_name": "def f(x):\n    raise type('<b>' * 9000, (Exception,), {})()",
    "half_characters": "def f(x):\n    return '\\ud800'",
}

# Attempts to reach what is outside; each sets `reached` when it succeeds.
ESCAPES = {
    "assignment on disk": "reached = any(os.path.exists(p) for p in ({assignment!r}, {source!r}))",
    "assignment anywhere": (
        "for folder, inner, names in os.walk('/'):\n"
        "    inner[:] = set(inner) - {'proc', 'sys', 'usr', 'lib', 'site-packages'}\n"
        "    reached = reached or 'source.py' in names and 'twice_the_secret' in "
        "open(folder + '/source.py').read()"
    ),
    "the grader's package": (
        "import labkit.grading.scoring.score, labkit.grading.authoring.assignment\nreached = True"
    ),
    "the grader's files": (
        "import labkit\n"
        "reached = bool(os.listdir(os.path.join(os.path.dirname(labkit.__file__), 'grading')))"
    ),
    "other processes": (
        "mine = {os.getpid(), 1}\n"
        "reached = any(p.isdigit() and int(p) not in mine and "
        "b'labkit.grading' in open(f'/proc/{p}/cmdline', 'rb').read() for p in os.listdir('/proc'))"
    ),
    "the grader's environment": (
        "for p in os.listdir('/proc'):\n"
        "    if p.isdigit():\n"
        "        text = open(f'/proc/{p}/environ', 'rb').read()\n"
        "        reached = reached or b'LABKIT_CANARY' in text or b'JPY_PARENT' in text\n"
        "reached = reached or 'LABKIT_CANARY' in os.environ"
    ),
    "the root of process 1": (
        "reached = os.path.exists('/proc/1/root' + {source!r}) or "
        "os.path.exists('/proc/1/cwd/etc/shadow')"
    ),
    "home directories": (
        "names = ('.bashrc', '.profile', '.ssh', '.bash_history', '.config')\n"
        "reached = any(os.path.exists(f'{h}/{n}') for h in ('/root', {home!r}) for n in names)"
    ),
    "passwords": "reached = os.path.exists('/etc/shadow') or os.path.exists('/etc/passwd')",
    "a TCP port of this machine": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nreached = True"
    ),
    "the network": (
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.sendto(b'x', ('192.0.2.1', 53))\nreached = True"
    ),
    "a Unix socket": (
        "import socket\nsocket.socket(socket.AF_UNIX).connect({unix!r})\nreached = True"
    ),
    "an abstract socket": (
        "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0' + {abstract!r})\nreached = True"
    ),
    "a file outside": "open({canary!r}, 'a').write('x')\nreached = True",
    "labkit's files": "import labkit\nopen(labkit.__file__, 'a')\nreached = True",
    "site-packages": (
        "import numpy\nfolder = os.path.dirname(os.path.dirname(numpy.__file__))\n"
        "open(folder + '/sitecustomize.py', 'w')\nreached = True"
    ),
    "the system": "open('/usr/lib/x', 'w')\nreached = True",
    "a device": "open('/dev/x', 'w')\nreached = True",
    "devices that are there": (
        "reached = bool({'kmsg', 'mem', 'vda', 'sda', 'fuse', 'kvm'} & set(os.listdir('/dev')))"
    ),
    "the way core dumps go": (
        "open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')\nreached = True"
    ),
    "a new user namespace": ("import ctypes\nreached = ctypes.CDLL(None).unshare(0x10000000) == 0"),
    "a mount": "import subprocess\nreached = subprocess.run(['mount', '-t', 'tmpfs', 't', '/tmp'],"
    " capture_output=True).returncode == 0",
    "another user": "os.setuid(0)\nreached = True",
    "privileges of a program": (
        "import subprocess\nreached = subprocess.run(['su', '-c', 'true'], stdin=-3,"
        " capture_output=True).returncode == 0"
    ),
    "capabilities": (
        "for p in ('1', 'self'):\n"
        "    status = open(f'/proc/{p}/status').read()\n"
        "    reached = reached or int(status.split('CapEff:')[1].split()[0], 16) > 0"
    ),
    "the grader's requests": (
        "folder = [a for a in open('/proc/self/cmdline').read().split('\\0') "
        "if a.endswith('kernel.json')][0].replace('run/kernel.json', 'ask')\n"
        "open(folder + '/x', 'w')\nreached = True"
    ),
    "a preloaded library": (
        "import subprocess, sys\n"
        "env = dict(os.environ, LD_PRELOAD='/scratch/evil.so')\n"
        "open('/scratch/evil.so', 'wb').write(b'x')\n"
        "reached = subprocess.run([sys.executable, '-c', 'import labkit.grading.scoring.score'],"
        " env=env, capture_output=True).returncode == 0"
    ),
}


def escape_code(**places: object) -> str:
    """Return the code of exercise ``double`` that tries every escape and prints which worked."""
    lines = ["import json, os", "worked = []"]
    for name, code in ESCAPES.items():
        filled = code
        for place, value in places.items():
            filled = filled.replace(f"{{{place}!r}}", repr(value)).replace(
                f"{{{place}}}", str(value)
            )
        inner = "\n".join(f"    {line}" for line in filled.splitlines())
        lines += ["reached = False", f"try:\n{inner}", "except BaseException:\n    pass"]
        lines += [f"if reached:\n    worked.append({name!r})"]
    lines += ["print(json.dumps(worked))", "def double(x):", "    return 2 * x if worked else x"]
    return "\n".join(lines)

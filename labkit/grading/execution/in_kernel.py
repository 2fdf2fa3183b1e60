"""Code that runs inside the sandbox: it disables forbidden functions and calls probed functions.

The source of this module is sent into the kernel, together with that of
:mod:`labkit.grading.execution.codec`, and executed in a new namespace for every probe: names that a
notebook redefines, such as ``list`` or ``sum``, do not affect it. A hostile notebook can change
everything in here, but gains nothing, because answers are compared outside.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

ANSWER_MIME = "application/vnd.labkit.answer+json"


def forbid(names: list[str]) -> None:
    """Make functions, classes and modules raise an exception when they are used."""
    for dotted in names:
        found = _find(dotted)
        if found is None:
            continue
        owner, name, target = found
        forbidden = _raiser(dotted)
        if isinstance(target, types.ModuleType):
            sys.modules[target.__name__] = None  # type: ignore[assignment]  # importing it fails
            setattr(owner, name, forbidden)
        elif isinstance(target, type):
            _forbid_class(target, owner, name, forbidden)
        else:
            setattr(owner, name, forbidden)
            # Also under every other name by which a library exports it.
            for module in list(sys.modules.values()):
                for other, value in list(getattr(module, "__dict__", {}).items()):
                    if value is target:
                        module.__dict__[other] = forbidden


def call_function(codec: Any, request: dict[str, Any], namespace: dict[str, Any]) -> dict[str, Any]:
    """Call the student's function with every case and return the answers.

    An interrupt ends the loop; the answers until then count.
    """
    name, budget = request["function"], request["budget"]
    if name not in namespace:
        return {"missing": True, "answers": []}
    drive, answers = _driver(request["driver"]), list[Any]()
    for case in request["cases"]:
        arguments = codec.decode(case, sys.maxsize, _tensor)
        try:
            value = drive(namespace[name], **arguments)
            answer = codec.encode(value, budget)
            budget -= len(answer["arrays"]) * 3 // 4
        except KeyboardInterrupt:
            break
        except codec.CodecError as error:
            answer = {"refused": str(error)[:200]}
        except BaseException as error:
            answer = {"raised": type(error).__name__[:200]}
        answers.append(answer)
    return {"missing": False, "answers": answers}


def main(codec_source: str, request: dict[str, Any]) -> None:
    """Handle a request: ``forbid`` names, or call a function and publish its answers."""
    from IPython import get_ipython

    shell = get_ipython()
    if "forbid" in request:
        forbid(request["forbid"])
        return
    codec: Any = types.ModuleType("codec")
    exec(codec_source, codec.__dict__)
    result = call_function(codec, request, shell.user_ns)
    shell.display_pub.publish({ANSWER_MIME: codec.dumps(result)}, {})


def _driver(source: str | None) -> Any:
    if source is None:
        return lambda function, **case: function(**case)
    namespace: dict[str, Any] = {"__name__": "driver"}
    exec(source, namespace)
    return namespace["drive"]


def _tensor(array: Any, dtype: str) -> Any:
    import torch

    return torch.from_numpy(array.copy()).to(getattr(torch, dtype))


def _find(dotted: str) -> tuple[Any, str, Any] | None:
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(parts[:cut]))
            for part in parts[cut:-1]:
                owner = getattr(owner, part)
            return owner, parts[-1], getattr(owner, parts[-1])
        except (ImportError, AttributeError):
            continue
    return None


def _raiser(dotted: str) -> Any:
    class ForbiddenFunction(Exception):
        """An answer used a function that the assignment forbids."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise ForbiddenFunction(f"{dotted} may not be used in this assignment")

    return forbidden


def _forbid_class(target: type, owner: Any, name: str, forbidden: Any) -> None:
    try:
        target.__init__ = forbidden  # type: ignore[misc]
    except TypeError:  # a built-in class
        setattr(owner, name, forbidden)

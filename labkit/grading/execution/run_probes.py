"""Asking a kernel the probes of an assignment, and taking exactly one answer for each."""

from __future__ import annotations

from typing import Any

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.probes import Probe
from labkit.grading.execution import codec
from labkit.grading.execution.kernel_client import Execution, Kernel, SandboxEnded
from labkit.grading.execution.papermill_engine import Course


class Interview:
    """Fills in the probes of a harvest.

    Args:
        results: by the name of the probe: status, ename, answers, seconds and the digest of the
            inputs, as they stand in ``harvest.json``. Only these probes are asked.
    """

    def __init__(
        self,
        loaded: LoadedAssignment,
        content_hash: str,
        results: dict[str, dict[str, Any]],
        course: Course,
    ) -> None:
        self.loaded, self.content_hash = loaded, content_hash
        self.results, self.course = results, course
        self.given_up: frozenset[str] = frozenset()

    def hold(self, kernel: Kernel) -> None:
        """Ask every probe.

        Raises:
            SandboxEnded: the sandbox did not survive; what was asked until then stands.
        """
        for probe in self.loaded.assignment.probes:
            result = self.results.get(probe.name)
            if result is None or result["status"] != "not-run" or probe.exercise in self.given_up:
                continue  # asked before the kernel had to be started again
            generator = case_generator(self.loaded.hash, self.content_hash, probe.name)
            cases = probe.cases(generator)
            result["inputs"] = cases_digest(cases)
            sent = [codec.encode(probe.sent(case), 1 << 40) for case in cases]
            try:
                found = kernel.ask(probe.function, sent, probe.driver, probe.seconds)
                result["seconds"] = round(found.seconds, 3)
                self._fill_in(result, found, len(cases), kernel, probe)
            except SandboxEnded as error:
                self.course.guilty = probe.exercise
                result["status"] = "timeout" if error.state == "cell-timeout" else "not-run"
                raise

    def _fill_in(
        self,
        result: dict[str, Any],
        found: Execution,
        cases: int,
        kernel: Kernel,
        probe: Probe,
    ) -> None:
        if found.status in {"timeout", "flood"}:
            state = "cell-timeout" if found.status == "timeout" else "flood"
            self.course.note(state, f"probe {probe.name}")
        if not found.answers:
            # The kernel did not do what it was told: a name patched, or a notebook's own end.
            result["status"] = "timeout" if found.status == "timeout" else "refused"
            return
        try:
            missing, answers = _checked(found.answers[0], cases, kernel.limits.answer_mb * 1e6)
        except codec.WireError as error:
            raise SandboxEnded("protocol-violation", f"an answer that is none: {error}") from None
        if missing:
            result["status"] = "missing"
            return
        result["answers"] = answers
        raised = [answer.get("raised") for answer in answers]
        if found.status in {"timeout", "flood"} and len(answers) < cases:
            result["status"] = "timeout"
        elif raised and all(name is not None for name in raised):
            result.update(status="raised", ename=raised[0])
        elif answers and all("refused" in answer for answer in answers):
            result["status"] = "refused"
        else:
            result["status"] = "answered"


def _checked(text: Any, cases: int, budget: float) -> tuple[bool, list[dict[str, Any]]]:
    """Parse an answer and decode it once, so that nothing malformed is ever stored.

    Raises:
        WireError: it is not what the code that was sent answers.
    """
    payload = codec.loads(text, int(budget * 1.4) + 1_000_000)
    if type(payload) is not dict or set(payload) != {"missing", "answers"}:
        raise codec.WireError("other entries than asked for")
    missing, answers = payload["missing"], payload["answers"]
    if type(missing) is not bool or type(answers) is not list or len(answers) > cases:
        raise codec.WireError("other entries than asked for")
    for answer in answers:
        if type(answer) is not dict:
            raise codec.WireError("other entries than asked for")
        if set(answer) in ({"raised"}, {"refused"}):
            reason = next(iter(answer.values()))
            if type(reason) is not str or len(reason) > 200:
                raise codec.WireError("an exception of a strange name")
        else:
            codec.decode(answer, int(budget))
    return missing, answers

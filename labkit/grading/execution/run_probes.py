"""Running the probes of an assignment in a kernel: exactly one answer for each."""

from __future__ import annotations

from typing import Any

from labkit.grading.authoring.assignment import LoadedAssignment
from labkit.grading.authoring.probe_inputs import case_generator, cases_digest
from labkit.grading.authoring.probes import Probe
from labkit.grading.execution import codec
from labkit.grading.execution.harvest import ProbeRun
from labkit.grading.execution.kernel_client import Execution, KernelClient, SandboxEnded
from labkit.grading.execution.papermill_engine import STATES, NotebookRun
from labkit.grading.states import CellStatus, ProbeStatus, State

INTERRUPTED = {CellStatus.TIMEOUT, CellStatus.FLOOD}


class ProbeRunner:
    """Runs probes and fills in their results.

    Args:
        results: by the name of the probe; only these probes are run.
        run: the run of the notebook, which records what goes wrong.

    Attributes:
        skip: exercises whose probes are not run.
    """

    def __init__(
        self,
        loaded: LoadedAssignment,
        content_hash: str,
        results: dict[str, ProbeRun],
        run: NotebookRun,
    ) -> None:
        self.loaded, self.content_hash = loaded, content_hash
        self.results, self.run = results, run
        self.skip: frozenset[str] = frozenset()

    def run_all(self, kernel: KernelClient) -> None:
        """Run every probe that has not been run yet.

        Raises:
            SandboxEnded: the sandbox has ended; the results until then are kept.
        """
        for probe in self.loaded.assignment.probes:
            result = self.results.get(probe.name)
            if result is None or result.status is not ProbeStatus.NOT_RUN:
                continue  # it was run before the kernel had to be started again
            if probe.exercise in self.skip:
                continue
            generator = case_generator(self.loaded.hash, self.content_hash, probe.name)
            cases = probe.cases(generator)
            result.inputs = cases_digest(cases)
            sent = [codec.encode(probe.sent(case), 1 << 40) for case in cases]
            try:
                found = kernel.call_probe(probe.function, sent, probe.driver, probe.seconds)
                result.seconds = round(found.seconds, 3)
                self._fill_in(result, found, len(cases), kernel, probe)
            except SandboxEnded as error:
                self.run.culprit = probe.exercise
                timeout = error.state is State.CELL_TIMEOUT
                result.status = ProbeStatus.TIMEOUT if timeout else ProbeStatus.NOT_RUN
                raise

    def _fill_in(
        self,
        result: ProbeRun,
        found: Execution,
        cases: int,
        kernel: KernelClient,
        probe: Probe,
    ) -> None:
        interrupted = found.status in INTERRUPTED
        if interrupted:
            self.run.record(STATES[found.status], f"probe {probe.name}")
        if not found.answers:
            # The kernel did not execute the request: the notebook changed or ended something.
            timeout = found.status is CellStatus.TIMEOUT
            result.status = ProbeStatus.TIMEOUT if timeout else ProbeStatus.REFUSED
            return
        try:
            missing, answers = _checked(found.answers[0], cases, kernel.limits.answer_mb * 1e6)
        except codec.CodecError as error:
            message = f"a malformed answer: {error}"
            raise SandboxEnded(State.PROTOCOL_VIOLATION, message) from None
        if missing:
            result.status = ProbeStatus.MISSING
            return
        result.answers = answers
        raised = [answer.get("raised") for answer in answers]
        if interrupted and len(answers) < cases:
            result.status = ProbeStatus.TIMEOUT
        elif raised and all(name is not None for name in raised):
            result.status, result.ename = ProbeStatus.RAISED, raised[0]
        elif answers and all("refused" in answer for answer in answers):
            result.status = ProbeStatus.REFUSED
        else:
            result.status = ProbeStatus.ANSWERED


def _checked(text: Any, cases: int, budget: float) -> tuple[bool, list[dict[str, Any]]]:
    """Parse an answer and decode it once, so that nothing malformed is ever stored.

    Raises:
        CodecError: the code in the kernel does not produce such an answer.
    """
    payload = codec.loads(text, int(budget * 1.4) + 1_000_000)
    if type(payload) is not dict or set(payload) != {"missing", "answers"}:
        raise codec.CodecError("unexpected entries")
    missing, answers = payload["missing"], payload["answers"]
    if type(missing) is not bool or type(answers) is not list or len(answers) > cases:
        raise codec.CodecError("unexpected entries")
    for answer in answers:
        if type(answer) is not dict:
            raise codec.CodecError("unexpected entries")
        if set(answer) in ({"raised"}, {"refused"}):
            reason = next(iter(answer.values()))
            if type(reason) is not str or len(reason) > 200:
                raise codec.CodecError("an exception with an invalid name")
        else:
            codec.decode(answer, int(budget))
    return missing, answers

"""Verdict of the gate on the terminal."""

from pathlib import Path

import pytest

from relearn.flows.cli.releases import print_result
from relearn.flows.results import GateDecision, GuardrailResult, ReleaseResult
from relearn.flows.terminal.console import make_console
from relearn.model.home import Home


def test_rejection_is_a_result_with_a_line_for_each_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is printed like other verdicts, names the guardrails that failed, and exits with 4."""
    checks = (
        GuardrailResult(name="weights", passed=True, candidate="finite", accepted="finite"),
        GuardrailResult(name="accuracy", passed=False, candidate="48.6%", accepted="no loss"),
    )
    decision = GateDecision(
        action="reject", reasons=("accuracy: got 48.6%", "log loss: got 2"), checks=checks
    )
    result = ReleaseResult(name="pets", run_id="1" * 32, gate_decision=decision, live_version="3")
    with pytest.raises(SystemExit) as stopped:
        print_result(make_console(200), result, Home(tmp_path, tmp_path))
    printed = capsys.readouterr()
    assert (4, "") == (stopped.value.code, printed.err)
    *lines, advice = printed.out.splitlines()
    assert [
        "1 of 2 guardrails passed; failed: accuracy",
        "REJECT version 3 stays live, the candidate is rejected",
        "- accuracy: got 48.6%",
        "- log loss: got 2",
    ] == lines
    assert advice.endswith("compare --model-name pets")

"""Advice on how to resume after a signal."""

import pytest

from relearn.flows.shutdown import InterruptedTraining, add_resume_hint


@pytest.mark.parametrize(("stop", "exit_code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_interrupt_carries_advice(stop: BaseException, exit_code: int) -> None:
    """Ctrl-C and SIGTERM, each with its exit code."""
    with pytest.raises(InterruptedTraining) as stopped, add_resume_hint("type this"):
        raise stop
    assert (exit_code, "type this") == (stopped.value.code, stopped.value.resume_hint)


@pytest.mark.parametrize("stop", [InterruptedTraining(130, "inner advice"), SystemExit(2), ValueError()])
def test_other_exceptions_are_unchanged(stop: BaseException) -> None:
    """An interrupt with advice of its own, another exit code, or an error."""
    with pytest.raises(type(stop)) as raised, add_resume_hint("type this"):
        raise stop
    assert stop is raised.value

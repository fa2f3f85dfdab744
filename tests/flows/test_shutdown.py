"""Advice on how to go on after a signal."""

import pytest

from relearn.flows.shutdown import InterruptedTraining, advise_on_interrupt


@pytest.mark.parametrize(("stop", "exit_code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_what_is_stopped_says_how_to_go_on(stop: BaseException, exit_code: int) -> None:
    """By Ctrl-C and by SIGTERM, with the exit code of each."""
    with pytest.raises(InterruptedTraining) as stopped, advise_on_interrupt("type this"):
        raise stop
    assert (exit_code, "type this") == (stopped.value.code, stopped.value.advice)


@pytest.mark.parametrize("stop", [InterruptedTraining(130, "the closer advice"), SystemExit(2), ValueError()])
def test_what_says_so_already_or_is_no_stop_is_passed_on(stop: BaseException) -> None:
    """As it was."""
    with pytest.raises(type(stop)) as raised, advise_on_interrupt("type this"):
        raise stop
    assert stop is raised.value

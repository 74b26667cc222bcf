"""Signals while a sweep runs: the first is noted, the second ends at once, and the handlers are put back."""

import os
import signal

import pytest

from sweeps.interruption import STOP, Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_is_noted_and_the_second_raises(number, capfd):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested
        os.kill(os.getpid(), number)
        assert interruption.requested
        assert "once more stops at once" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_what_stop_sends_only_ever_asks_and_a_signal_after_it_ends_at_once(capfd):
    with Interruption() as interruption:
        for _ in range(3):
            os.kill(os.getpid(), STOP)
        assert interruption.requested
        assert capfd.readouterr().err.count("an epoch that runs has ten seconds to end") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

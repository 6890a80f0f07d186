"""The verifier's transcript, recorded: which items it absorbs, and which challenges depend on each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: What a transcript did: ("absorb", label) or ("draw", the words).
Log = list[tuple[str, str | bytes]]


def recording(transcript: type, log: Log) -> type:
    """A transcript class that writes down what it does, and leaves out item ``skip`` of those that it is to absorb (-1: none)."""

    class Recording(transcript):
        skip = -1

        def absorb(self, label: str, data: bytes) -> None:
            log.append(("absorb", label))
            if sum(what == "absorb" for what, _ in log) - 1 != Recording.skip:
                super().absorb(label, data)

        def _draw(self, label: str, count: int) -> np.ndarray:
            words = super()._draw(label, count)
            if count:
                log.append(("draw", words.tobytes()))
            return words

    return Recording


def check_every_item(verify: Callable[[], None], recorded: type, log: Log, labels: set[str]) -> None:
    """The k-th item left out, every challenge drawn before is the same, every one after another."""

    def run(skip: int) -> Log:
        log.clear()
        recorded.skip = skip
        verify()
        return list(log)

    whole = run(-1)
    items = [at for at, (what, _) in enumerate(whole) if what == "absorb"]
    assert {whole[at][1] for at in items} == labels
    for number, at in enumerate(items):
        without = run(number)
        assert [what for what, _ in without] == [what for what, _ in whole]
        for place, ((what, before), (_, after)) in enumerate(zip(whole, without)):
            assert what == "absorb" or (before == after) == (place < at), (whole[at], place)

"""Work in child processes that may die or hang, several at a time: that costs one item, not the rest."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Result = dict[str, Any]
Work = Callable[[Sequence[T], Connection], None]
"""Called in a child: sends a result for each item and closes the connection."""


@dataclass
class _Group(Generic[T]):
    """Items of one name, and the child that is at them."""

    name: str
    items: Sequence[T]
    results: list[Result] = field(default_factory=list[Result])
    process: Any = None
    answers: Connection | None = None
    since: float = 0.0

    def start(self, work: Work[T]) -> None:
        """A child for the items that have no result."""
        receiver, sender = multiprocessing.Pipe(duplex=False)
        items = self.items[len(self.results) :]
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=work, args=(items, sender), daemon=True)
        self.process.start()
        sender.close()
        self.answers, self.since = receiver, time.monotonic()

    def stop(self) -> None:
        """End the child."""
        assert self.answers is not None
        self.process.kill()
        self.process.join()
        self.answers.close()


def side_by_side(
    groups: Mapping[str, Sequence[T]],
    work: Work[T],
    jobs: int,
    limit: float,
    show: Callable[[T, Result], None],
) -> Iterator[tuple[str, list[Result]]]:
    """The results of each group as it ends: one for each item, in order.

    Args:
        groups: items by name; those of a group come one after another in a child of their own. This
            process must not have started what a fork does not survive (CUDA).
        work: what children run; after a death or a hang, another goes on behind that item.
        jobs: children at a time.
        limit: seconds without an answer, after which a child is taken to hang.
        show: called with every item and its result as it comes.
    """
    waiting = [_Group(name, items) for name, items in groups.items() if items]
    running: list[_Group[T]] = []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(waiting.pop(0))
            running[-1].start(work)
        ready = wait([one.answers for one in running if one.answers], timeout=0.5)
        for group in list(running):
            if group.answers in ready:
                _hear(group, work, show)
            elif time.monotonic() - group.since > limit:
                _lose(group, "hung", work, show)
            if len(group.results) == len(group.items):
                group.stop()
                running.remove(group)
                yield group.name, group.results


def _hear(group: _Group[T], work: Work[T], show: Callable[[T, Result], None]) -> None:
    """Take the next answer, or note that the child has died."""
    assert group.answers is not None
    try:
        group.results.append(group.answers.recv())
    except EOFError:
        group.process.join(5.0)
        _lose(group, f"ended with {group.process.exitcode}", work, show)
        return
    group.since = time.monotonic()
    show(group.items[len(group.results) - 1], group.results[-1])


def _lose(group: _Group[T], how: str, work: Work[T], show: Callable[[T, Result], None]) -> None:
    """Charge the item under way, and go on behind it."""
    group.results.append({"error": f"the process {how}"})
    show(group.items[len(group.results) - 1], group.results[-1])
    if len(group.results) < len(group.items):
        group.stop()
        group.start(work)

"""Decode steps: one token for each of several sequences, padded to sizes that are known before.

Where every node has a kernel, each size is captured as a CUDA graph: the copy of the inputs, the
kernels, the copy of the drawn tokens, an event. Such a step is one launch, with no allocation and no
torch op.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch

from dsv4c.runtime.batch import LEAST_PAGES, Sizes, TokenBatch, bucket, buckets, columns
from dsv4c.runtime.executor import Executor, Outputs


class Decoder:
    """Runs decode steps of one session.

    Args:
        executor: with the memory that steps use.
        device: of the executor.
        poison: a byte that scratch memory is filled with before each step, for tests.

    Attributes:
        captured: sizes that run as CUDA graphs.
    """

    def __init__(self, executor: Executor, device: torch.device, poison: int | None = None) -> None:
        self._executor, self._poison = executor, poison
        self.most = executor.most
        pinned = device.type == "cuda"
        self._ids = torch.zeros(self.most.S, dtype=torch.int32, pin_memory=pinned)
        self._first = {rows: self._ids[:rows] for rows in buckets(1, self.most.S)}
        self._made: dict[Sizes, Outputs] = {}
        self._last: Sizes | None = None
        # Recorded by the graphs themselves: the host does nothing for it.
        self._done = torch.cuda.Event(external=True) if pinned else None
        self._graphs: dict[Sizes, torch.cuda.CUDAGraph] = {}
        if pinned and can_capture(executor):
            self._capture_all()

    @property
    def captured(self) -> tuple[Sizes, ...]:
        return tuple(self._graphs)

    def graph(self, rows: int, pages: int) -> torch.cuda.CUDAGraph | None:
        """What runs a step of so many sequences and pages; None where it runs eagerly."""
        return self._graphs.get(self.sizes(rows, pages))

    def sizes(self, rows: int, pages: int) -> Sizes:
        """The sizes that a step of so many sequences, of so many pages at most, is padded to."""
        tokens = bucket(rows, self.most.S)
        return Sizes(tokens, tokens, self.most.S, bucket(max(pages, LEAST_PAGES), self.most.P))

    def launch(self, batch: TokenBatch, table: np.ndarray, pages: int) -> None:
        """Start a step; `ids` and `logits` wait for it.

        Args:
            batch: what is appended to sequences.
            table: the block table of all sequences.
            pages: of the longest of these sequences.
        """
        self.wait()
        sizes = self.sizes(len(batch.slots), pages)
        self._executor.inputs.stage_tokens(sizes, batch, table)
        if self._poison is not None:
            self._executor.poison(self._poison)
        graph = self._graphs.get(sizes)
        if graph is None:
            self._run(sizes)
        else:
            graph.replay()
        self._last = sizes

    def mark(self) -> None:
        """What was started up to here reads the staged inputs and writes the drawn tokens."""
        if self._done is not None:
            self._done.record()

    def wait(self) -> None:
        """Until that is done: then inputs may be staged anew, and the drawn tokens are there."""
        if self._done is not None:
            self._done.synchronize()

    def ids(self, rows: int) -> list[int]:
        """The tokens drawn for the last step's first rows."""
        self.wait()
        return self._ids[:rows].tolist()

    def logits(self, rows: int) -> torch.Tensor:
        """Logits of the last step's first rows, f32 [rows, vocab], copied to the CPU."""
        assert self._last is not None
        return self._made[self._last].logits[:rows].to("cpu", copy=True)

    def _run(self, sizes: Sizes) -> None:
        """What a graph holds."""
        executor = self._executor
        with torch.inference_mode():
            made = self._made[sizes] = executor.step(executor.bind(sizes))
            self._first[sizes.T].copy_(made.ids, non_blocking=True)
        self.mark()

    def _capture_all(self) -> None:
        table = np.zeros((self.most.S, self.most.P), np.int32)
        for tokens, pages in product(buckets(1, self.most.S), buckets(LEAST_PAGES, self.most.P)):
            sizes = Sizes(tokens, tokens, self.most.S, pages)
            # Every row is padded: no state changes.
            self._executor.inputs.stage(sizes, columns([], tokens), table)
            self._run(sizes)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._run(sizes)
            self._graphs[sizes] = graph
        torch.cuda.synchronize()


def can_capture(executor: Executor) -> bool:
    """Whether every node has a kernel."""
    return not any(node.by_reference for node in executor.graph.nodes)

"""A session: sequences with their state, prefill, decode and generation on a loaded plan."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from operator import index
from secrets import randbits
from typing import TYPE_CHECKING, Literal

import torch

from dsv4c.errors import DsvError
from dsv4c.runtime.batch import LEAST_PAGES, Rows, Sizes, TokenBatch, bucket, columns
from dsv4c.runtime.decode import Decoder
from dsv4c.runtime.executor import Executor, Outputs, Watcher
from dsv4c.runtime.sampling import GREEDY, Sampling
from dsv4c.runtime.slots import SlotTable, pages_for

if TYPE_CHECKING:
    from dsv4c.plan.plan import Plan


class Session:
    """State for up to `max_sequences` sequences; made by `Plan.session`.

    Args:
        plan: the loaded plan.
        max_sequences: slots.
        max_tokens: context limit of one sequence, prompt and new tokens together.
        poison: a byte that scratch memory is filled with before each step, for tests.
        max_rows: tokens of one step over several sequences, if more than the plan's chunk and one
            for each sequence.

    Raises:
        DsvError: DSV101 on limits below 1, DSV242 beyond the model's context, DSV602 if weights,
            states and arena do not fit the memory, DSV601 without a usable device.
    """

    def __init__(
        self,
        plan: Plan,
        max_sequences: int = 8,
        max_tokens: int = 2048,
        poison: int | None = None,
        max_rows: int | None = None,
    ) -> None:
        limits = {"max_sequences": max_sequences, "max_tokens": max_tokens}
        limits |= {} if max_rows is None else {"max_rows": max_rows}
        for name, value in limits.items():
            if value < 1:
                raise DsvError(
                    "DSV101", f"{name} is out of range", expected="at least 1", found=str(value)
                )
        model = plan.manifest.model
        if max_tokens > model.max_position_embeddings:
            raise DsvError(
                "DSV242",
                "the session's limit is beyond the model's context",
                expected=f"at most {model.max_position_embeddings} tokens",
                found=str(max_tokens),
            )
        self.plan = plan
        self.vocab_size, self.eos_token_ids = model.vocab_size, model.eos_token_ids
        self.chunk = plan.manifest.options.chunk
        self.device = plan.device()
        rows, pages = max(self.chunk, max_sequences), pages_for(max_tokens)
        most = Sizes(max(rows, max_rows or 0), rows, max_sequences, pages)
        self.executor: Executor = plan.executor(most, 1 + max_sequences * pages)
        self.slots = SlotTable(max_sequences, max_tokens)
        self._sampling = [GREEDY] * max_sequences
        self._batch: tuple[tuple[int, ...], tuple[Sampling, ...]] = (), ()
        self.decoder = Decoder(self.executor, self.device, poison)
        self._poison = poison

    def open(self, sampling: Sampling = GREEDY) -> int:
        """A slot for a new sequence, empty, whose tokens `start` and `advance` draw by `sampling`.

        Raises:
            DsvError: DSV243 if no slot is free.
        """
        slot = self.slots.open()
        self._sampling[slot] = sampling
        self._batch = (), ()
        self.executor.reset(slot)
        return slot

    def close(self, slot: int) -> None:
        """Free a slot. Raises DsvError DSV243 if it is not open."""
        self.slots.close(slot)

    def length(self, slot: int) -> int:
        """Tokens that the slot's sequence holds."""
        self.slots.require(slot)
        return self.slots.lengths[slot]

    def prefill(
        self,
        slot: int,
        ids: Sequence[int],
        return_logits: Literal["last", "all"] = "last",
        watcher: Watcher | None = None,
    ) -> torch.Tensor:
        """Append tokens to a sequence; may be called again for the next chunk.

        Args:
            slot: an open slot.
            ids: token ids, at least one.
            return_logits: `last` for the last token's, `all` for every position's.
            watcher: told about each node, for checks and inspection.

        Returns:
            f32 [1, vocab] or [len(ids), vocab], on the CPU.

        Raises:
            DsvError: DSV241 (ids), DSV242 (too long), DSV243 (slot), DSV101 (return_logits).
        """
        if return_logits not in ("last", "all"):
            raise DsvError(
                "DSV101",
                "return_logits is not valid",
                expected="'last' or 'all'",
                found=repr(return_logits),
            )
        made = self._append(slot, ids, return_logits == "all", watcher)
        return torch.cat([one.logits.to("cpu", copy=True) for one in made])

    def start(self, slot: int, ids: Sequence[int], watcher: Watcher | None = None) -> int:
        """Append tokens to a sequence and draw the next one, which is not appended.

        Args:
            slot: an open slot.
            ids: token ids, at least one.
            watcher: told about each node.

        Raises:
            DsvError: as `prefill`.
        """
        *_, last = self._append(slot, ids, False, watcher)
        return int(last.ids[-1])

    def _append(
        self, slot: int, ids: Sequence[int], every: bool, watcher: Watcher | None
    ) -> Generator[Outputs, None, None]:
        """What the steps of a prefill make, with the logits of every row or of the last."""
        tokens = self._checked(ids)
        self.slots.require(slot)
        self.slots.check_room(slot, len(tokens))
        for first in range(0, len(tokens), self.chunk):
            part = tokens[first : first + self.chunk]
            final = first + len(part) == len(tokens)
            wanted = len(part) if every else int(final)
            yield self._step([self._rows(slot, part, wanted)], watcher)

    def _rows(self, slot: int, ids: Sequence[int], logits: int) -> Rows:
        return Rows(slot, self.slots.lengths[slot], ids, logits, self._sampling[slot])

    def decode(self, slots: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each of several sequences.

        Args:
            slots: open slots, each at most once.
            tokens: one id per slot.

        Returns:
            f32 [len(slots), vocab], on the CPU.

        Raises:
            DsvError: as `prefill`; DSV101 if a slot stands twice or the lengths differ.
        """
        self._launch(slots, tokens)
        return self.decoder.logits(len(slots))

    def advance(self, slots: Sequence[int], tokens: Sequence[int]) -> list[int]:
        """Append one token to each of several sequences and draw the next ones.

        Each is drawn as its sequence was opened, whatever the others of the batch.

        Args:
            slots: open slots, each at most once.
            tokens: one id per slot.

        Returns:
            One id per slot, which is not appended yet.

        Raises:
            DsvError: as `decode`.
        """
        self._launch(slots, tokens)
        return self.decoder.ids(len(slots))

    def _launch(self, slots: Sequence[int], tokens: Sequence[int]) -> None:
        ids = self._checked(tokens)
        # Mostly the sequences of the step before.
        if tuple(slots) != self._batch[0] or len(ids) != len(slots):
            self._batch = self._sequences(slots, len(ids))
        same, drawn = self._batch
        positions = self.slots.advance(same)
        batch = TokenBatch(same, positions, ids, drawn, self.slots.version)
        self.decoder.launch(batch, self.slots.block_table, self.slots.longest)

    def _sequences(
        self, slots: Sequence[int], count: int
    ) -> tuple[tuple[int, ...], tuple[Sampling, ...]]:
        """Open slots for `count` tokens, and how their next ones are drawn."""
        if len(slots) != count or len(set(slots)) != len(slots):
            raise DsvError(
                "DSV101",
                "decode takes one token for each of several different slots",
                expected=f"{len(slots)} tokens and no slot twice",
                found=f"slots {list(slots)}, {count} tokens",
            )
        for slot in slots:
            self.slots.require(slot)
        return tuple(slots), tuple([self._sampling[slot] for slot in slots])

    def step(self, batch: Sequence[Rows]) -> torch.Tensor:
        """One step over rows of several sequences, each at most the plan's chunk long.

        Returns:
            f32 [wanted rows, vocab], on the CPU.

        Raises:
            DsvError: DSV101 if they are more rows, or more rows of logits, than the arena holds.
        """
        return self._step(batch).logits.to("cpu", copy=True)

    def _step(self, batch: Sequence[Rows], watcher: Watcher | None = None) -> Outputs:
        inputs = self.prepare(batch)
        with torch.inference_mode():
            return self.executor.step(inputs, watcher)

    def prepare(self, batch: Sequence[Rows]) -> Mapping[str, torch.Tensor]:
        """The inputs of a step, not padded; the slots grow by their rows. Raises as `step`."""
        most = self.executor.most
        tokens, wanted = sum(len(rows.ids) for rows in batch), sum(rows.logits for rows in batch)
        if tokens > most.T or wanted > most.R:
            raise DsvError(
                "DSV101",
                "a step has more rows than the session has room for",
                expected=f"at most {most.T}, logits of at most {most.R}",
                found=f"{tokens}, logits of {wanted}",
                hint="open the session with a larger max_rows" if tokens > most.T else "",
            )
        pages = bucket(max(self._grow(batch), LEAST_PAGES), most.P)
        sizes = Sizes(tokens, wanted, most.S, pages)
        self.decoder.wait()
        self.executor.inputs.stage(sizes, columns(batch), self.slots.block_table)
        if self._poison is not None:
            self.executor.poison(self._poison)
        inputs = self.executor.bind(sizes)
        self.decoder.mark()
        return inputs

    def _grow(self, batch: Sequence[Rows]) -> int:
        """Give the slots what their rows need; pages of the longest sequence of the batch."""
        for rows in batch:
            self.slots.grow(rows.slot, len(rows.ids))
        return max(pages_for(self.slots.lengths[rows.slot]) for rows in batch)

    def generate(
        self,
        ids: Sequence[int],
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        top_k: int = 0,
    ) -> Generator[int, None, None]:
        """Continue a prompt, one token at a time, in a slot of its own that is free again at the end.

        The end is the last token, or `close()` of the generator.

        Args:
            ids: the prompt, at least one id.
            max_new_tokens: how many tokens at most; fewer after an end-of-text id, which is not
                yielded.
            temperature: 0 for the most likely token.
            top_p: nucleus sampling; 1 for all tokens.
            seed: equal seeds give equal text, on every target; None draws one.
            top_k: draw from so many most likely tokens; 0 for all.

        Yields:
            Token ids.

        Raises:
            DsvError: DSV101 (sampling), DSV241, DSV242, DSV243, before the first token.
        """
        sampling = Sampling(temperature, top_k, top_p, randbits(64) if seed is None else seed)
        if max_new_tokens < 0:
            raise DsvError(
                "DSV101",
                "max_new_tokens is negative",
                expected="0 or more",
                found=str(max_new_tokens),
            )
        prompt = self._checked(ids)
        limit = self.slots.max_tokens
        if len(prompt) + max_new_tokens > limit:
            raise DsvError(
                "DSV242",
                "prompt and new tokens do not fit the session's limit",
                expected=f"at most {limit} tokens",
                found=f"{len(prompt)} + {max_new_tokens} = {len(prompt) + max_new_tokens}",
                hint="open the session with a larger max_tokens",
            )
        return self._continue(prompt, max_new_tokens, sampling)

    def _continue(
        self, prompt: Sequence[int], count: int, sampling: Sampling
    ) -> Generator[int, None, None]:
        slot = self.open(sampling)
        try:
            token = self.start(slot, prompt)
            for left in reversed(range(count)):
                if token in self.eos_token_ids:
                    return
                yield token
                if left:
                    [token] = self.advance([slot], [token])
        finally:
            self.close(slot)

    def _checked(self, ids: Sequence[int]) -> array[int]:
        # An unsigned array refuses what is negative or no integer.
        with suppress(TypeError, OverflowError):
            tokens = array("I", [*ids])
            if tokens and max(tokens) < self.vocab_size:
                return tokens
        for place, token in enumerate(ids):
            try:
                wrong = not 0 <= index(token) < self.vocab_size
            except TypeError:
                wrong = True
            if wrong:
                raise DsvError(
                    "DSV241",
                    "a token id is out of range",
                    where=f"position {place}",
                    expected=f"0 to {self.vocab_size - 1}",
                    found=str(token),
                )
        raise DsvError("DSV241", "there are no token ids", expected="at least one", found="none")

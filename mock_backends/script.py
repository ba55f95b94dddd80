"""What a model server of this profile answers to this request, and when (pure, deterministic).

(profile, seed of the mock, request) -> events with their offsets and the digest of the whole. Nothing else goes in, so
equal inputs give equal bytes, offsets and digests, on any machine and on each of K backends.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from mock_backends.dialects import (
    DIALECTS,
    JSON,
    MAX_EVENT_BYTES,
    MAX_REPLY_BYTES,
    MAX_TOKENS,
    WORDS,
    Answer,
    Ask,
    BadRequest,
    Dialect,
    clock,
    filler,
)
from mock_backends.distribution import Sampler
from mock_backends.profile import Profile


@dataclass(frozen=True, slots=True)
class Script:
    """A reply and its times. In each event the last 20 zeros before `tail` are the place of the clock."""

    content_type: bytes
    events: Sequence[bytes]  # whole events, not chunked; one for a reply that is not streamed
    offsets: Sequence[int]  # ns from the request to when each event is due; never falls
    tail: bytes  # how every event ends, after its clock
    trailer: bytes  # follows the last event, in the same write
    digest: str  # SHA-256 of all of it, hexadecimal
    stream: bool
    chunk_bytes: int | None = None  # send a body that is not streamed in chunks of this size

    @property
    def steps(self) -> list[tuple[int, bytes]]:
        """[(offset in ns, bytes)] as sent, clocks apart."""
        last = len(self.events) - 1
        return [
            (at, event + self.trailer if i == last else event)
            for i, (at, event) in enumerate(zip(self.offsets, self.events, strict=True))
        ]


class ScriptWriter:
    """Writes the scripts of one profile under one seed. Keeps nothing of what it wrote."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self._profile = profile
        self._seed = seed
        self._output_tokens = Sampler(profile.output_tokens)
        self._first = Sampler(profile.time_to_first_token)
        self._gap = Sampler(profile.token_gap)
        self._per_event = Sampler(profile.tokens_per_event)
        self._body_bytes = Sampler(profile.body_bytes) if profile.body_bytes else None

    def write(self, ask: Ask) -> Script:
        """The script of one request. Raises `BadRequest` if it asks for what cannot be."""
        dialect = DIALECTS[ask.path]
        # Not in the key: how the reply is framed. Streamed and whole replies of one request say the same, equally late.
        profile = self._profile
        seed = self._seed if ask.seed is None else ask.seed
        key = repr((self._seed, profile.name, seed, ask.path, ask.model, ask.tokens, ask.prompt_tokens, ask.inputs))
        identity = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=20).digest()
        rng = Random(int.from_bytes(identity[:8], "big"))

        first = self._first.draw(rng, 1)[0] + profile.prefill_per_token * ask.prompt_tokens if dialect.generates else 0
        says = dialect.generates and dialect.stream is not None  # vectors and lists have no tokens
        texts, tokens = self._texts(ask, rng) if says else ((b"",), 0)
        times = list(accumulate(self._gap.draw(rng, len(texts) - 1), initial=first))
        answer = Answer(
            ask=ask,
            id=identity[8:].hex(),
            texts=texts,
            output_tokens=tokens,
            limited=ask.tokens is not None,
            first_ns=first,
            total_ns=times[-1],
            rng=rng,
            dimensions=profile.embedding_dimensions,
            models=profile.models,
        )
        if ask.stream and dialect.stream:
            return self._streamed(dialect, answer, times)
        return self._whole(dialect, answer)

    def _texts(self, ask: Ask, rng: Random) -> tuple[Sequence[bytes], int]:
        """The text of each content event, and how many tokens they are."""
        per_event = self._per_event
        if ask.events is not None:
            sizes = [max(1, n) for n in per_event.draw(rng, ask.events)]
            tokens = sum(sizes)
        else:
            tokens = ask.tokens or min(MAX_TOKENS, max(1, self._output_tokens.draw(rng, 1)[0]))
            sizes = _shares(tokens, per_event, rng)
        if tokens > MAX_TOKENS:
            raise BadRequest(f"more than {MAX_TOKENS} tokens in one reply")
        words = [WORDS[i] for i in rng.randbytes(tokens)]
        if len(sizes) == tokens:
            return words, tokens
        ends = list(accumulate(sizes))
        return [b"".join(words[end - size : end]) for end, size in zip(ends, sizes, strict=True)], tokens

    def _streamed(self, dialect: Dialect, answer: Answer, times: Sequence[int]) -> Script:
        assert dialect.stream is not None  # the caller looked
        ask, texts = answer.ask, answer.texts
        stream = dialect.stream(answer)
        before, after = stream.content
        end = stream.end
        wanted = ask.event_bytes or self._profile.event_bytes
        seq = len(stream.opening)
        if wanted:
            bare = len(before) + len(after) + len(end) + len(clock(seq + len(texts)))
            if not bare <= wanted <= MAX_EVENT_BYTES:
                raise BadRequest(f"a content event can have {bare} to {MAX_EVENT_BYTES} bytes here, not {wanted}")
            if wanted * len(texts) > MAX_REPLY_BYTES:
                raise BadRequest(f"a reply can have {MAX_REPLY_BYTES} bytes, not {wanted * len(texts)}")
        events = [part + clock(i) + end for i, part in enumerate(stream.opening)]
        for i, text in enumerate(texts, seq):
            member = clock(i)
            if wanted:
                text = filler(wanted - len(before) - len(after) - len(end) - len(member))
            events.append(b"%b%b%b%b%b" % (before, text, after, member, end))
        events += [part + clock(i) + end for i, part in enumerate(stream.closing, len(events))]
        return Script(
            content_type=dialect.stream_type,
            events=events,
            offsets=[times[0]] * len(stream.opening) + list(times) + [times[-1]] * len(stream.closing),
            tail=b'"}}' + end,
            trailer=stream.trailer,
            digest=hashlib.sha256(b"".join(events) + stream.trailer).hexdigest(),
            stream=True,
        )

    def _whole(self, dialect: Dialect, answer: Answer) -> Script:
        assert dialect.whole is not None  # every path has one
        before, after = dialect.whole(answer)
        ask = answer.ask
        wanted = ask.body_bytes
        if wanted is None and self._body_bytes is not None and dialect.stream:
            wanted = self._body_bytes.draw(answer.rng, 1)[0]
        member = clock(0)
        text = b"".join(answer.texts)
        if wanted is not None:
            bare = len(before) + len(after) + len(member)
            if not after or not bare <= wanted <= MAX_REPLY_BYTES:
                raise BadRequest(
                    f"the body of this reply can have {bare} to {MAX_REPLY_BYTES} bytes, not {wanted}"
                    if after
                    else "the body of this reply holds no text that could be padded"
                )
            text = filler(wanted - bare)
        body = b"".join((before, text, after, member))
        return Script(
            content_type=JSON,
            events=[body],
            offsets=[answer.total_ns],
            tail=b'"}}',
            trailer=b"",
            digest=hashlib.sha256(body).hexdigest(),
            stream=False,
            chunk_bytes=ask.chunk_bytes,
        )


def _shares(tokens: int, per_event: Sampler, rng: Random) -> list[int]:
    """`tokens` dealt out to events; the last one may get less than its draw."""
    if per_event.constant is not None:
        size = max(1, per_event.constant)
        full, rest = divmod(tokens, size)
        return [size] * full + ([rest] if rest else [])
    sizes, left = [], tokens
    while left:
        for size in per_event.draw(rng, max(1, left // 2)):
            share = min(left, max(1, size))
            sizes.append(share)
            left -= share
            if not left:
                break
    return sizes

"""`--real`: servers that are no mocks. What is sent to them; at a rate of the user's, as nobody else knows theirs."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Final

import numpy as np

from loadgen.workload import conversation
from loadgen.workload.job import MAX_TOKENS_MARK, PROMPT_MARK, SEED_MARK
from loadgen.workload.plan import Plan
from loadgen.workload.scenario import Open, Request, Scenario
from loadgen.workload.trace import BYTES_PER_TOKEN
from reports.schema import Strict

_SECONDS: Final = 20.0
_STREAMS: Final = 40
"""Of a run on average: a median of TTFT or TPOT is taken from 20 streams on, and Poisson arrivals vary."""
PRIMARY: Final = ("ttft_p50_ms", "tpot_p50_ms", "goodput_rps")
_OWN: Final = f"request {SEED_MARK}: {PROMPT_MARK}"
"""No two prompts begin alike: a server that keeps prefixes computes each."""
_SEEDS: Final = 2**31


class Real(Strict):
    """What was typed about it. A token of a prompt is 4 bytes: nobody here knows a server's tokenizer."""

    model: str
    rate_rps: float = 1.0
    prompt_tokens: int = 256
    output_tokens: int = 64


def chats(real: Real, seed: int, duration_s: float | None) -> Scenario:
    """Streamed chats, Poisson arrivals: the same requests for every server."""
    return Scenario(
        id="real-chat",
        question=f"How do these servers stream {real.output_tokens} tokens at {real.rate_rps:g} requests a second?",
        answer="TTFT, ITL, TPOT and goodput of each, seen by the client. What they cost is not known from here.",
        kind="stream",
        seed=seed,
        requests=(_request(real),),
        arrivals=Open(kind="poisson", rate=real.rate_rps),
        duration_s=duration_s or max(_SECONDS, _STREAMS / real.rate_rps),
        warmup_s=2.0,
        prompt_bytes=real.prompt_tokens * BYTES_PER_TOKEN,
        output_tokens=real.output_tokens,
        request_seeds=_SEEDS,
        timeout_s=120.0,
        slo={"ttft_ms": 500.0, "tpot_ms": 100.0},
        primary=PRIMARY,
    )


def replayed(replay: Scenario, real: Real) -> Scenario:
    """A trace's scenario with requests that a real server understands."""
    (request,) = replay.requests
    prompt = conversation.GROWING if conversation.GROWING in request.text() else _OWN
    request = _request(real, prompt).model_copy(update={"headers": request.headers})
    return replay.model_copy(update={"requests": (request,), "primary": PRIMARY})


def unseen(plan: Plan, arm: str) -> Plan:
    """The plan with other prompts than another arm's, of the same lengths; turns of a conversation stay together."""
    return replace(plan, request_seed=plan.request_seed ^ np.int64(zlib.crc32(arm.encode()) % _SEEDS))


def _request(real: Real, prompt: str = _OWN) -> Request:
    """In OpenAI's form; `ignore_eos` (vLLM, SGLang; others ignore it) makes outputs as long as they were asked for."""
    body = {
        "model": real.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS_MARK,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    text = json.dumps(body, separators=(",", ":")).replace(f'"{MAX_TOKENS_MARK}"', MAX_TOKENS_MARK)
    return Request(body=text, stream=True)

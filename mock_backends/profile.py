"""How a model server behaves, as data. The ready-made ones are the YAML files of `profiles/`."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from mock_backends.distribution import Count, Distribution, Duration
from mock_backends.faults import Fault
from mock_backends.strict import Refused, Strict, nearest, sentences

Factor = Annotated[float, Field(gt=0, le=1000)]


class Batch(Strict):
    """A server that decodes all its sequences together, so that each further one slows every one.

    Up to `free` sequences ride together at no cost, as long as memory is what a step waits for. Each one more stretches
    every gap and every time to first token by `growth`: tokens per second then bend towards a ceiling of
    `1 / (growth * gap)`. What comes beyond `slots` waits, and beyond `queue` is turned away with the dialect's own
    "busy" answer.
    """

    slots: int = Field(ge=1, le=100_000)
    free: int = Field(default=1, ge=1, le=100_000)
    growth: float = Field(default=0.0, ge=0, le=10)
    queue: int = Field(default=0, ge=0, le=1_000_000)


class ColdStart(Strict):
    """A model that must be loaded before it answers: once, and again when idle for `unload_after` (0: never)."""

    load: Duration
    unload_after: Duration = 0


class Change(Strict):
    """All times stretched by a factor while a stretch of time lasts; clocks count from the start of the behaviour.

    `step`: `factor` from `at` on. `spike`: `factor` from `at` for `lasts`. `ramp`: from 1 at `at` evenly to `factor` at
    `at + lasts`, and `factor` from there on. With `every`, the same again each period. Changes multiply.
    """

    shape: Literal["step", "spike", "ramp"]
    at: Duration = 0
    lasts: Duration = 0
    factor: Factor
    every: Duration = 0


class Cache(Strict):
    """A server that computes only the part of a prompt that it did not compute before (see `prefixes`).

    `prefill_per_token` is spent on that part only. It remembers the last `prompts` of them.
    """

    prompts: int = Field(default=10_000, ge=1, le=1_000_000)


class Profile(Strict):
    """What one kind of server does. Times are nanoseconds once read; files write them with a unit."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    description: str = ""
    source: str = ""  # where the figures come from
    models: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(
        default=("mock-model",), min_length=1
    )
    # What requests to such a server look like. The mock takes prompts as they come; this is for who makes load.
    prompt_tokens: Distribution[Count] = Distribution(constant=256)
    output_tokens: Distribution[Count] = Distribution(constant=16)  # when the request names no limit
    time_to_first_token: Distribution[Duration] = Distribution(constant=0)
    prefill_per_token: Duration = 0  # added to it, for each token of the prompt
    token_gap: Distribution[Duration] = Distribution(constant=0)  # between two content events
    tokens_per_event: Distribution[Count] = Distribution(constant=1)
    event_bytes: int | None = Field(default=None, ge=1, le=2**20)  # exact size of a content event
    body_bytes: Distribution[Count] | None = None  # size of a non-streamed body
    head_at: Literal["first-event", "accept"] = "first-event"  # when the response head of a stream is sent
    embedding_dimensions: int = Field(default=768, ge=1, le=65_536)
    prefix_cache: Cache | None = None
    batch: Batch | None = None
    cold_start: ColdStart | None = None
    over_time: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()


def known_profiles() -> list[str]:
    """The names of the ready-made profiles."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_profile(name: str) -> Profile:
    """A ready-made profile by its name, or the one in the YAML file of that path. Raises `Refused`."""
    if name in known_profiles():
        return read_profile(_ready_made(name), f"profile {name}")
    path = Path(name)
    if path.suffix not in (".yaml", ".yml", ".json"):
        raise Refused(f"no profile {name!r}; {nearest(name, known_profiles())}; or give the path of a .yaml file")
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as exc:
        raise Refused(f"profile {name}: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise Refused(f"profile {name}: not YAML: {' '.join(str(exc).split())}") from exc
    return read_profile(data, f"profile {name}")


def read_profile(data: Any, source: str) -> Profile:
    """A profile from plain data; `source` begins each sentence of a refusal.

    With `like: NAME` every key that is not given is taken from that ready-made profile.
    """
    if not isinstance(data, dict):
        raise Refused(f"{source}: expected keys and values, got {type(data).__name__}")
    while "like" in data:
        like = data["like"]
        if like not in known_profiles():
            raise Refused(f"{source}: like: no profile {like!r}; {nearest(str(like), known_profiles())}")
        data = {**_ready_made(like), **{key: value for key, value in data.items() if key != "like"}}
    try:
        return Profile.model_validate(data)
    except ValidationError as exc:
        raise Refused(sentences(exc, source)) from exc


def _ready_made(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((_folder() / f"{name}.yaml").read_text("utf-8"))
    return data


def _folder() -> Any:
    return resources.files("mock_backends.profiles")

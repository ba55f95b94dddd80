"""Request bytes, ready to send: everything that does not change from request to request is joined once. Pure."""

from __future__ import annotations

from typing import Final

from loadgen.workload.job import MAX_TOKENS_MARK, PROMPT_MARK, SEED_MARK, Job, Template

_WORDS: Final = b"the quick brown fox jumps over the lazy dog while llamas and mountain guides carry packets uphill "


class Payloads:
    """Builds the bytes of each request of a job.

    `request_ids` begin with the job's seed in hexadecimal, so that requests of different runs are told apart in logs.
    """

    def __init__(self, job: Job) -> None:
        self._id_prefix = b"%x-" % (job.seed & 0xFFFFFFFFFFFFFFFF)
        self._filler = _WORDS * 64
        self._templates = [_Prepared(job, template) for template in job.requests]

    def build(
        self, number: int, template: int, prompt_bytes: int = -1, output_tokens: int = -1, request_seed: int = -1
    ) -> tuple[bytes, int]:
        """The whole request, and how many bytes of it are its body. `number` is the request id within the run."""
        prepared = self._templates[template]
        request_id = self._id_prefix + b"%d" % number
        if prepared.parts is None:
            return prepared.before_id + request_id + prepared.after_id, prepared.body_size
        values = {
            PROMPT_MARK: self._prompt(prompt_bytes) if prepared.has_prompt else b"",
            MAX_TOKENS_MARK: b"%d" % output_tokens,
            SEED_MARK: b"%d" % request_seed,
        }
        body = b"".join([part if isinstance(part, bytes) else values[part] for part in prepared.parts])
        before_id = prepared.before_id
        if prepared.seed_in_head:
            before_id = before_id.replace(SEED_MARK.encode(), values[SEED_MARK])
        head = b"%b%b\r\nContent-Length: %d\r\n\r\n" % (before_id, request_id, len(body))
        return head + body, len(body)

    def _prompt(self, size: int) -> bytes:
        while len(self._filler) < size:
            self._filler *= 2
        return self._filler[:size]


class _Prepared:
    """A template with its head joined and its body cut at its marks (`parts` is None if neither has any)."""

    __slots__ = ("after_id", "before_id", "body_size", "has_prompt", "parts", "seed_in_head")

    def __init__(self, job: Job, template: Template) -> None:
        host, port = job.host_port
        host = f"[{host}]" if ":" in host else host
        headers = dict(template.headers)
        names = {name.lower() for name in headers}
        if template.body and "content-type" not in names:
            headers["Content-Type"] = "application/json"
        if not job.keepalive:
            headers["Connection"] = "close"
        lines = [f"{template.method} {job.path_prefix}{template.path} HTTP/1.1", f"Host: {host}:{port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.before_id = "\r\n".join([*lines, "X-Request-ID: "]).encode("ascii")
        self.seed_in_head = any(SEED_MARK in value for value in headers.values())
        self.parts = _cut(template.body, always=self.seed_in_head)
        self.has_prompt = self.parts is not None and PROMPT_MARK in self.parts
        body = template.body.encode()
        self.body_size = len(body)
        length = b"\r\nContent-Length: %d" % len(body) if body or template.method in ("POST", "PUT", "PATCH") else b""
        self.after_id = length + b"\r\n\r\n" + body


def _cut(body: str, *, always: bool) -> list[bytes | str] | None:
    """The body as texts (bytes) and marks (str) in turn; None if it holds no mark, unless `always`."""
    parts: list[bytes | str] = [body.encode()]
    for mark in (PROMPT_MARK, MAX_TOKENS_MARK, SEED_MARK):
        cut: list[bytes | str] = []
        for part in parts:
            if isinstance(part, str):
                cut.append(part)
                continue
            first, *rest = part.split(mark.encode())
            cut.append(first)
            for text in rest:
                cut += (mark, text)
        parts = cut
    return parts if always or len(parts) > 1 else None

"""A request body that is passed on while it arrives: what was kept of it, and whether it can be sent again. Pure."""

from __future__ import annotations


class Upload:
    """Keeps the pieces, as they are sent upstream, while all of them fit into `limit` bytes (`max_replay_body`).

    Until the first connection takes it, a body is kept whatever its size: the client is not read meanwhile, so that is
    one read. Afterwards a body that has outgrown the limit is forgotten, and `replayable` is False from then on.
    """

    __slots__ = ("_limit", "_pieces", "complete", "replayable", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self.size = 0  # bytes kept: counted as they come, since a body may come in 100,000 pieces
        self.complete = False
        self.replayable = True

    def add(self, data: bytes, sent: bool) -> None:
        """More of the body; `sent`: a connection has it already, and has all that came before it."""
        if self.replayable and data:
            self._pieces.append(data)
            self.size += len(data)
        if sent:
            self._bound()

    def send(self) -> bytes:
        """All of the body that is here, for a connection that has none of it yet."""
        assert self.replayable, "some of the body is gone"
        data = b"".join(self._pieces)
        self._pieces = [data]
        self._bound()
        return data

    def forget(self) -> None:
        """The answer began: nothing is sent again."""
        self.replayable = False
        self._pieces.clear()
        self.size = 0

    def _bound(self) -> None:
        if self.size > self._limit:
            self.forget()

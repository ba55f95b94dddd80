"""The limit of open files. A client is one, its request another; many systems begin at 1,024, for select(2)'s sake."""

from __future__ import annotations

import resource


def raise_file_limit(connections: int) -> str | None:
    """Lift the soft limit of open files to the hard one, as Go's runtime does; processes started from here inherit it.

    Returns a sentence if even that is too little for `connections` clients at once (0: nobody said how many).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS has a hard limit of infinity and refuses it as a soft one (setrlimit(2))
            hard = soft
    if hard == resource.RLIM_INFINITY or hard >= connections:
        return None
    return (
        f"server.max_connections: {connections} clients need more open files than the {hard} this process may have; "
        "raise its limit (ulimit -Hn, LimitNOFILE=) or lower max_connections"
    )

"""The one pool of connections, where aiohttp's has gaps."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.client_reqrep import ConnectionKey

from proxy.config import parse
from proxy.core.keep_alive import KeepAlive
from proxy.http1.recall import ResponseReader
from proxy.net.dial import Dialer
from proxy.sherpa.endpoints import Connector, Known, UpstreamConnection

CONFIG = """
proxy: {engine: sherpa, max_conns_per_host: 1, pool_wait_timeout: 1s, idle_timeout: %s}
endpoints: [{name: a, url: "http://127.0.0.1:1"}]
"""


def connector() -> Connector:
    config = parse(CONFIG % "60s").config
    return Connector(config, config.endpoint_specs(), Dialer())


def test_a_place_given_to_a_request_whose_client_leaves_goes_to_the_next_in_line() -> None:
    async def scenario() -> None:
        pool = connector()
        key = ConnectionKey("127.0.0.1", 1, False, True, None, None, None)
        busy: Any = object()
        pool._acquired.add(busy)
        pool._acquired_per_host[key].add(busy)
        leaver, next_one = [asyncio.ensure_future(pool._wait_for_available_connection(key, [])) for _ in range(2)]
        await asyncio.sleep(0)
        pool._release_acquired(key, busy)  # the place is the first one's
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        await next_one  # or ProxyError: pool_timeout, beside a free place
        await pool.session.close()

    asyncio.run(scenario())


def test_a_reload_s_idle_timeout_holds_for_the_next_exchange_on_a_kept_connection() -> None:
    async def scenario() -> float:
        pool = connector()
        connection = UpstreamConnection(pool, Known("a", ResponseReader(), KeepAlive()))
        config = parse(CONFIG % "7s").config
        pool.configure(config, config.endpoint_specs())
        connection.set_response_params(skip_payload=False)
        await pool.session.close()
        return connection.write_timeout

    assert asyncio.run(scenario()) == 7.0

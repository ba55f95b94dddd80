"""What is accepted as Sherpa stops."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from proxy.config import parse
from proxy.core.discovery import DiscoveryService
from proxy.core.service import Instance
from proxy.core.stats import StatsCollector
from proxy.net.dial import Dialer
from proxy.sherpa.service import SherpaProxy
from tests.proxy.olla.fakes import FakeTransport


def test_a_connection_that_comes_while_the_engine_stops_is_closed() -> None:
    async def scenario() -> bool:
        text = "endpoints: [{name: a, url: 'http://127.0.0.1:1'}]"
        config = parse(text, "test", {"proxy.engine": "sherpa"}).config
        discovery = DiscoveryService(config.endpoint_specs(), 0.0)
        service = SherpaProxy(config, discovery, StatsCollector(), Instance(via="test"), Dialer())
        with socket.create_server(("127.0.0.1", 0)) as sock:
            await service.start(sock)
            accepted: Any = service._server()
            stop = asyncio.ensure_future(service.stop(0.0))
            await asyncio.sleep(0)
            transport = FakeTransport(accepted)
            accepted.connection_made(transport)
            await stop
        return transport.closed

    assert asyncio.run(scenario())

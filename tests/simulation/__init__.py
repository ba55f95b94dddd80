"""Olla on a simulated network: its real objects, and a loop, a clock, peers and a network that one seed drives.

    python -m tests.simulation --exchanges 1000000 --seed 1

As FoundationDB and TigerBeetle test: nothing here waits or opens a socket, so an hour of timeouts passes in a moment,
and a seed repeats its run to the byte.

| file | job |
|---|---|
| `script.py` | what happens in a run, as data: the config, clients, endpoints, reloads, checks, the stop |
| `generate.py` | makes a script of a seed |
| `loop.py` | the event loop: passes, timers, tasks, and a clock that jumps to what comes next |
| `transport.py` | a TCP connection: both kernels' buffers, segments, FIN, RST, high water |
| `network.py` | who listens where; connects that succeed, are refused, hang, and end late when they are cancelled |
| `http.py` | HTTP as the peers read and write it, apart from the code under test |
| `client.py` `endpoint.py` | the peers |
| `ledger.py` | what is known of each request, try and connection |
| `oracle.py` | the invariants, looked at after every event |
| `peek.py` | the only file that knows Olla's insides |
| `world.py` | wires it all and runs one script |
| `shrink.py` | makes a failing script as short as it can |
| `runner.py` | the command line |
"""

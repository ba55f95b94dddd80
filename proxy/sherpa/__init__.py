"""The simple engine: aiohttp on both sides, one shared session. Read service.py, then relay.py."""

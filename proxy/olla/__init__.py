"""The fast engine: raw asyncio protocols, per-endpoint pools, circuit breakers. ARCHITECTURE.md has the map."""

"""Beside the data path, shared by both engines: admin listener, active health checks, GC and loop-stall recorders."""

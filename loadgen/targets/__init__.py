"""Everything load can be pointed at: a catalogue of proxies as data, each started as a process with its own config.

Empty on purpose: two of the rivals live here and run as `python -m loadgen.targets.NAME`; they must not carry the
harness in memory.
"""

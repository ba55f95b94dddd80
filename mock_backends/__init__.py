"""The world behind the proxy: LLM servers whose every byte is known beforehand. They must outrun every target.

A leaf: it imports nothing of ours. How a request becomes bytes, part by part:

`wire` finds one request in what arrived → `dialects` reads it into an `Ask` (and knows every reply's shape) → `script`
writes what a model server of that `profile` would answer, and when → `tape` makes it ready to send → `server` plays it
on time with the help of `wheel` and `pacing`, unless one of the `faults` says otherwise → `counts` remembers.
All but `server`, `control` and `cli` are pure: bytes, numbers and `now` in, bytes and numbers out.
"""

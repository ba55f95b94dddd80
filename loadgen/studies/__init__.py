"""Studies built on campaigns: the limit of a target, the price of a config key, and how the harness is checked."""

"""The test bench: the machine, child processes, mocks, and what watches them."""

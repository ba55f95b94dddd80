"""The performance gate: one revision against another, from what is counted exactly to what must be timed."""

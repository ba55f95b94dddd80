"""Workloads as data: the question each asks, its seed and the reply it expects."""

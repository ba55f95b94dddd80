"""Stored counts of the gate's L1, small and committed."""

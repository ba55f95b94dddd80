"""pyperf benchmarks of the engines' parts. The only place in loadgen that imports proxy."""

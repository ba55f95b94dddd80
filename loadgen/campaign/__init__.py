"""Plans a comparison, runs it, judges each run and writes it down."""

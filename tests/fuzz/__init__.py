"""Random and foreign inputs: differential test, fuzzers, and runners for suites that are not stored here."""

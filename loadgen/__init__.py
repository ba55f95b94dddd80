"""The conductor: starts mocks, targets and drivers as processes and produces all result files."""

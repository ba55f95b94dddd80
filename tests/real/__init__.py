"""Real servers behind both engines, beside the mocks. Nothing here runs in CI: each module is a command of its own."""

"""How a model server behaves, as data."""

"""Steps from one schema of a node's database to the next (Alembic)."""

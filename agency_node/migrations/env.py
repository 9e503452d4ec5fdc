"""Alembic's way in: runs the migrations on the connection that `store.open_store` hands over."""

from __future__ import annotations

from alembic import context

from agency_node.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()

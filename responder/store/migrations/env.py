"""Alembic's entry: migrations run on the connection that `Store.migrate` hands over."""

from alembic import context

from responder.store.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()

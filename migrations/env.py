"""Alembic's entry; the connection, with its transaction, is handed in by `voicevault.store.migrate`."""

from alembic import context

from voicevault.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
    compare_type=True,
)
context.run_migrations()

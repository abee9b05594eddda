"""What Alembic runs: the migrations, on the connection that `fumehood.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from fumehood.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()

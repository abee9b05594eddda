#!/bin/sh
# Makes the database on the first start, as the entry point of PostgreSQL's own image does.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086 - several words
    initdb $POSTGRES_INITDB_ARGS --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --auth-local=trust --auth-host=scram-sha-256
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options="-c listen_addresses=''" start
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB" || true
    pg_ctl --wait --mode=fast stop
fi
exec "$@"

//! What the warehouse has: the foreign tables of one application, with the remembered identities.

use std::collections::HashSet;

use super::model::Existing;
use super::registry::Registered;
use crate::error::Result;
use crate::pg::spi;

/// The foreign tables of the local schema that belong to the application's server and remote schema.
pub fn tables(app: &Registered) -> Result<Vec<Existing>> {
    read(app, "$4", pgrx::datum::DatumWithOid::from(true))
}

/// Some of them, by OID, as they stand now.
pub fn some(app: &Registered, relations: &[u32]) -> Result<Vec<Existing>> {
    read(
        app,
        "c.oid = ANY ($4)",
        spi::oids(relations.iter().copied()),
    )
}

fn read(
    app: &Registered,
    which: &str,
    argument: pgrx::datum::DatumWithOid,
) -> Result<Vec<Existing>> {
    let query = format!("{TABLES} AND {which} ORDER BY c.relname COLLATE \"C\"");
    let schema = app.local_schema.as_str().into();
    spi::rows(
        &query,
        &[
            schema,
            spi::oid(app.server_oid),
            app.remote_schema.as_str().into(),
            argument,
        ],
    )
}

const TABLES: &str = "
SELECT json_build_object('oid', c.oid::int8, 'name', c.relname,
         'options', coalesce((SELECT json_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(t.ftoptions) o), '{}'),
         'remote_oid', m.remote_oid,
         'columns', coalesce((
           SELECT json_agg(json_build_array(a.attnum, a.attname, json_build_array(a.atttypid::int8, a.atttypmod, a.attcollation::int8),
                    a.attnotnull, CASE WHEN a.attfdwoptions IS NULL THEN '{}'
                      ELSE (SELECT json_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(a.attfdwoptions) o) END,
                    m.column_nums[array_position(m.column_names, a.attname)]) ORDER BY a.attnum)
           FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))::text
FROM pg_class c
JOIN pg_foreign_table t ON t.ftrelid = c.oid
LEFT JOIN wh.fdw_table m ON m.relation = c.oid
WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND t.ftserver = $2
  AND coalesce((SELECT o.option_value FROM pg_options_to_table(t.ftoptions) o WHERE o.option_name = 'schema_name'), $3) = $3";

/// Names in the local schema that belong to anything but these tables: relations and types share one space with
/// a table's row type (src/backend/catalog/heap.c, heap_create_with_catalog).
pub fn taken_names(app: &Registered, tables: &[Existing]) -> Result<HashSet<String>> {
    let names: Vec<String> = spi::rows(
        "SELECT to_json(relname)::text FROM pg_class
         WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1) AND oid <> ALL ($2)
         UNION
         SELECT to_json(typname)::text FROM pg_type
         WHERE typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
           AND typrelid = 0 AND typelem = 0",
        &[
            app.local_schema.as_str().into(),
            spi::oids(tables.iter().map(|t| t.oid)),
        ],
    )?;
    Ok(names.into_iter().collect())
}

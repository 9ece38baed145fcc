//! What each schema weighs, and what it weighed by the hour.

use super::super::measure::Measured;
use crate::error::Result;
use crate::pg::spi;

/// Writes the schemas, and the point of this hour.
pub fn write(measured: &Measured, same_system: bool) -> Result<()> {
    let rows: Vec<_> = measured
        .places
        .iter()
        .map(|p| {
            let sum = p.sum;
            (p.kind, &p.name, p.oid, &p.owner, sum.table, sum.index, sum.toast, sum.relations)
        })
        .collect();
    let rows = serde_json::to_string(&rows)?;
    // Schemas have other numbers after pg_upgrade.
    let renames = same_system.then_some(RENAME_POINTS);
    for statement in renames.into_iter().chain([DROP_SCHEMAS, UPDATE_SCHEMAS, INSERT_SCHEMAS]) {
        spi::run(&format!("WITH {MEASURED} {statement}"), &[rows.as_str().into()])?;
    }
    spi::run(&format!("WITH {MEASURED} {POINTS}"), &[rows.as_str().into(), measured.as_of.into()])?;
    Ok(())
}

const MEASURED: &str = "n AS (
  SELECT e->>0 AS kind, e->>1 AS name, (e->>2)::oid AS oid, e->>3 AS owner, (e->>4)::int8 AS table_bytes,
         (e->>5)::int8 AS index_bytes, (e->>6)::int8 AS toast_bytes, (e->>7)::int8 AS relations
  FROM json_array_elements($1::json) e)";

/// A schema that has another name by now takes its history along, and what that name had before goes. Two may have
/// swapped names: all are deleted before any is written, for which the rows are put in order.
const RENAME_POINTS: &str = ", renamed AS (
       SELECT z.name AS old, n.name AS new FROM wh.schema_size z JOIN n ON n.oid = z.oid AND n.name <> z.name
       WHERE n.kind = 'schema' AND z.kind = 'schema'),
     taken AS (
       DELETE FROM wh.schema_size_point p WHERE p.kind = 'schema'
         AND p.name IN (SELECT old FROM renamed UNION ALL SELECT new FROM renamed) RETURNING p.*)
     INSERT INTO wh.schema_size_point (kind, name, at, owner, table_bytes, index_bytes, toast_bytes, relations)
     SELECT t.kind, r.new, t.at, t.owner, t.table_bytes, t.index_bytes, t.toast_bytes, t.relations
     FROM taken t JOIN renamed r ON r.old = t.name ORDER BY r.new, t.at";

const DROP_SCHEMAS: &str =
    "DELETE FROM wh.schema_size z WHERE NOT EXISTS (SELECT FROM n WHERE (n.kind, n.name) = (z.kind, z.name))";

const UPDATE_SCHEMAS: &str = "
UPDATE wh.schema_size z SET oid = n.oid, owner = n.owner, table_bytes = n.table_bytes, index_bytes = n.index_bytes,
  toast_bytes = n.toast_bytes, relations = n.relations
FROM n WHERE (n.kind, n.name) = (z.kind, z.name)
  AND (n.oid, n.owner, n.table_bytes, n.index_bytes, n.toast_bytes, n.relations)
      IS DISTINCT FROM (z.oid, z.owner, z.table_bytes, z.index_bytes, z.toast_bytes, z.relations)";

const INSERT_SCHEMAS: &str = "
INSERT INTO wh.schema_size SELECT * FROM n
WHERE NOT EXISTS (SELECT FROM wh.schema_size z WHERE (n.kind, n.name) = (z.kind, z.name))";

const POINTS: &str = "
INSERT INTO wh.schema_size_point AS p
SELECT kind, name, date_trunc('hour', wh.instant($2)), owner, table_bytes, index_bytes, toast_bytes, relations FROM n
ON CONFLICT (kind, name, at) DO UPDATE SET owner = excluded.owner, table_bytes = excluded.table_bytes,
  index_bytes = excluded.index_bytes, toast_bytes = excluded.toast_bytes, relations = excluded.relations
WHERE (p.owner, p.table_bytes, p.index_bytes, p.toast_bytes, p.relations)
      IS DISTINCT FROM (excluded.owner, excluded.table_bytes, excluded.index_bytes, excluded.toast_bytes, excluded.relations)";

//! Definitions that outlive renames: what a broken view read is remembered by number, and while its definition is
//! analysed again the foreign tables bear the names that it calls them, for the length of that analysis.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::pg::{lock, spi, sql};

/// OID, name, and number and name of each column that was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Read(u32, String, Vec<(i16, String)>);

/// The names of foreign tables and columns as they are now.
pub fn names(reads: &[(u32, Vec<i16>)]) -> Result<Vec<Read>> {
    let found: Vec<Read> = spi::prepared(
        "SELECT json_build_array(c.oid::int8, c.relname, coalesce(json_agg(json_build_array(a.attnum, a.attname)) FILTER (WHERE a.attnum IS NOT NULL), '[]'))::text
         FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.oid = ANY ($1) AND c.relkind = 'f' GROUP BY c.oid, c.relname",
        &[spi::oids(reads.iter().map(|r| r.0))],
    )?;
    let used = |oid: u32, num: i16| reads.iter().any(|r| r.0 == oid && r.1.contains(&num));
    Ok(found
        .into_iter()
        .map(|Read(oid, name, c)| Read(oid, name, c.into_iter().filter(|c| used(oid, c.0)).collect()))
        .collect())
}

/// A rename that was made since: the statement that takes it back for a moment, and the one that makes it again.
pub struct Renamed {
    table: u32,
    back: String,
    again: String,
}

/// What has been renamed since the names were remembered.
pub fn since(then: &[Read]) -> Result<Vec<Renamed>> {
    let now: Vec<(u32, String, String, Vec<(i16, String)>)> = spi::prepared(
        "SELECT json_build_array(c.oid::int8, n.nspname, c.relname, coalesce(json_agg(json_build_array(a.attnum, a.attname)) FILTER (WHERE a.attnum IS NOT NULL), '[]'))::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.oid = ANY ($1) AND c.relkind = 'f' GROUP BY c.oid, n.nspname, c.relname",
        &[spi::oids(then.iter().map(|r| r.0))],
    )?;
    let mut renamed = Vec::new();
    for Read(oid, name, columns) in then {
        let Some((_, schema, name_now, columns_now)) = now.iter().find(|n| n.0 == *oid) else { continue };
        let table = sql::qualified(schema, name_now);
        for (num, column) in columns {
            let Some((_, column_now)) = columns_now.iter().find(|c| c.0 == *num) else { continue };
            if column_now != column {
                let rename = |from, to| {
                    format!("ALTER FOREIGN TABLE {table} RENAME COLUMN {} TO {}", sql::ident(from), sql::ident(to))
                };
                renamed.push(Renamed {
                    table: *oid,
                    back: rename(column_now, column),
                    again: rename(column, column_now),
                });
            }
        }
        if name_now != name {
            let rename =
                |from, to| format!("ALTER FOREIGN TABLE {} RENAME TO {}", sql::qualified(schema, from), sql::ident(to));
            renamed.push(Renamed { table: *oid, back: rename(name_now, name), again: rename(name, name_now) });
        }
    }
    Ok(renamed)
}

/// Whether what a definition misses is there again; as `column schema.table.column` or `foreign table schema.table`.
pub fn is_back(missing: &[String], then: &[Read]) -> Result<bool> {
    let still: Vec<bool> = spi::prepared(
        "SELECT to_json(true)::text FROM unnest($1::text[]) m
         CROSS JOIN LATERAL parse_ident(regexp_replace(m, '^(column|foreign table) ', '')) p
         WHERE NOT CASE WHEN m LIKE 'column %' THEN EXISTS (
             SELECT FROM pg_attribute a WHERE a.attname = p[3] AND NOT a.attisdropped AND a.attrelid IN (
               SELECT (r->>0)::oid FROM jsonb_array_elements($2::jsonb) r WHERE r->>1 = p[2]
               UNION ALL SELECT to_regclass(format('%I.%I', p[1], p[2]))::oid))
           ELSE to_regclass(format('%I.%I', p[1], p[2])) IS NOT NULL END LIMIT 1",
        &[missing.to_vec().into(), serde_json::to_string(then)?.into()],
    )?;
    Ok(still.is_empty())
}

/// Runs `analysis` under the old names. Inside a subtransaction: a failure leaves the names to its rollback.
pub fn under_old_names<T>(renamed: &[Renamed], analysis: impl FnOnce() -> Result<T>) -> Result<T> {
    lock::access_exclusive(renamed.iter().map(|r| r.table))?;
    for r in renamed {
        spi::run(&r.back, &[])?;
    }
    let result = analysis()?;
    for r in renamed.iter().rev() {
        spi::run(&r.again, &[])?;
    }
    Ok(result)
}

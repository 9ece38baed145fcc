//! The policy in its tables.

use serde::{Deserialize, Serialize};

use super::Patterns;
use crate::error::Result;
use crate::pg::spi;

/// Keeps the policy as it is until the transaction ends: whoever changes it waits, or is waited for.
pub fn hold() -> Result<()> {
    spi::run("LOCK TABLE wh.sensitive_pattern IN ROW SHARE MODE", &[]).map(|_| ())
}

/// Keeps everybody who holds the policy away until the transaction ends.
pub fn hold_alone() -> Result<()> {
    spi::run("LOCK TABLE wh.sensitive_pattern IN EXCLUSIVE MODE", &[]).map(|_| ())
}

pub fn read() -> Result<Patterns> {
    let patterns: Vec<String> =
        spi::rows("SELECT pg_catalog.to_json(p.pattern)::text FROM wh.sensitive_pattern p", &[])?;
    Ok(Patterns::from(patterns))
}

/// A column of a product that is withheld, and the name by which it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    pub table: String,
    pub column: String,
    pub remote_table: String,
    pub remote_column: String,
}

/// Writes down which of the product's columns are withheld; `complete` says that there are no others.
pub fn remember_withheld(fdw: &str, schema: &str, columns: &[Withheld], complete: bool) -> Result<()> {
    let json = serde_json::to_string(columns)?;
    let args = [fdw.into(), schema.into(), json.into()];
    if complete {
        spi::prepared::<bool>(
            "DELETE FROM wh.withheld_column w WHERE w.fdw = $1 AND (w.schema <> $2
                OR (w.\"table\", w.\"column\", w.remote_table, w.remote_column) NOT IN (
                  SELECT x.\"table\", x.\"column\", x.remote_table, x.remote_column FROM jsonb_to_recordset($3::jsonb)
                    AS x (\"table\" text, \"column\" text, remote_table text, remote_column text)))
             RETURNING to_json(true)::text",
            &args,
        )?;
    }
    if columns.is_empty() {
        return Ok(());
    }
    spi::prepared::<bool>(
        "INSERT INTO wh.withheld_column (fdw, schema, \"table\", \"column\", remote_table, remote_column)
         SELECT $1, $2, x.\"table\", x.\"column\", x.remote_table, x.remote_column FROM jsonb_to_recordset($3::jsonb)
            AS x (\"table\" text, \"column\" text, remote_table text, remote_column text)
         ON CONFLICT DO NOTHING RETURNING to_json(true)::text",
        &args,
    )?;
    Ok(())
}

/// Writes down members of a source's records that were not stored.
pub fn remember_unstored(source: &str, schema: &str, table: &str, columns: &[String]) -> Result<()> {
    spi::run(
        "INSERT INTO wh.withheld_column (source, schema, \"table\", \"column\") SELECT $1, $2, $3, unnest($4::text[])
         ON CONFLICT DO NOTHING",
        &[source.into(), schema.into(), table.into(), columns.to_vec().into()],
    )?;
    Ok(())
}

/// Tells whoever registers the first application that there is a policy to apply.
pub fn propose() -> Result<()> {
    let found: Option<(i64, bool, Vec<String>)> = spi::first(
        "SELECT json_build_array((SELECT count(*) FROM wh.fdw), EXISTS (SELECT FROM wh.sensitive_pattern),
                ARRAY(SELECT DISTINCT format('%I.%I.%I', n.nspname, c.relname, a.attname)
                      FROM wh.fdw f JOIN pg_namespace n ON n.nspname = f.local_schema
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = 'f'
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                      JOIN wh.proposed_sensitive p
                        ON lower(concat_ws('.', n.nspname, c.relname, a.attname) COLLATE \"C\") LIKE lower(p.pattern COLLATE \"C\")
                      ORDER BY 1))::text",
        &[],
    )?;
    let Some((1, false, columns)) = found else { return Ok(()) };
    let shown = columns.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
    let would = match columns.len() {
        0 => String::new(),
        n if n > 10 => format!(", which would hide {shown} and {} more", n - 10),
        _ => format!(", which would hide {shown}"),
    };
    pgrx::notice!(
        "a policy of sensitive data is proposed (wh.proposed_sensitive){would}: SELECT * FROM wh.apply_proposed_policy() applies it, now and from now on"
    );
    Ok(())
}

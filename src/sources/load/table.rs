//! A stream's table: made, found again, given columns, widened under the views that stand on it.

use std::cell::Cell;
use std::time::Duration;

use super::layout::{Change, Field, Layout};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{lock, spi, sql};
use crate::sources::spec::{Stream, Write};

/// A table that a stream is loaded into.
#[derive(Debug, Clone)]
pub struct Table {
    pub oid: u32,
    /// Qualified and quoted.
    pub name: String,
    /// Rows have a key, and a record replaces the one before.
    pub keyed: bool,
}

impl Table {
    /// Finds the stream's table by number, or makes it.
    pub fn open(source: &str, schema: &str, stream: &Stream, relation: Option<u32>, layout: &Layout) -> Result<Table> {
        let keyed = !layout.key.is_empty() && stream.write != Write::Append;
        if let Some(table) = relation.map(|oid| Table::find(oid, keyed)).transpose()?.flatten() {
            table.refuse_others_code()?;
            return Ok(table);
        }
        Table::make(source, schema, stream, layout, keyed)
    }

    /// A table by its number, if it is there still.
    pub fn find(oid: u32, keyed: bool) -> Result<Option<Table>> {
        let name: Option<String> = spi::first(
            "SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, c.relname))::text
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
            &[spi::oid(oid)],
        )?;
        Ok(name.map(|name| Table { oid, name, keyed }))
    }

    pub fn is_empty(&self) -> Result<bool> {
        let found: Option<bool> =
            spi::first(&format!("SELECT pg_catalog.to_json(EXISTS (SELECT FROM {}))::text", self.name), &[])?;
        Ok(found == Some(false))
    }

    /// Whoever was given the table, or TRIGGER on it, could have their functions run with our rights: Postgres runs a
    /// trigger as whoever writes (CREATE TRIGGER in the reference). So could who was given REFERENCES: a foreign key that
    /// cascades changes their table as its owner, but leaves its triggers to the statement that it came from
    /// (ri_PerformCheck, src/backend/utils/adt/ri_triggers.c). Locked first, so that none comes after the look.
    pub fn refuse_others_code(&self) -> Result<()> {
        spi::run(&format!("LOCK TABLE {} IN ROW EXCLUSIVE MODE", self.name), &[])?;
        let (owner, triggers, keys): (Option<String>, Vec<String>, Vec<(String, String)>) = spi::first(
            "SELECT pg_catalog.json_build_array(
               CASE WHEN pg_catalog.pg_get_userbyid(c.relowner) <> CURRENT_USER THEN c.relowner::regrole END,
               ARRAY(SELECT t.tgname FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
                     JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
                     WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D'
                       AND (NOT o.rolsuper OR t.tgqual IS NOT NULL)),
               ARRAY(SELECT pg_catalog.json_build_array(k.conname, k.conrelid::regclass) FROM pg_catalog.pg_constraint k
                     WHERE k.contype = 'f' AND k.confrelid = c.oid
                       AND (k.confdeltype NOT IN ('a', 'r') OR k.confupdtype NOT IN ('a', 'r'))))::text
             FROM pg_catalog.pg_class c WHERE c.oid = $1",
            &[spi::oid(self.oid)],
        )?
        .unwrap_or_default();
        if let Some(owner) = owner {
            return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, format!("{} is {owner}'s", self.name)).hint(
                "Give it back to the owner of the extension: what belongs to it would run with the rights of a fetch.",
            ));
        }
        if let Some(trigger) = triggers.first() {
            let message =
                format!("trigger {} on {} would run with the rights of a fetch", sql::ident(trigger), self.name);
            return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message)
                .hint("Drop it. Only a superuser's functions may be triggers here, without WHEN."));
        }
        if let Some((key, table)) = keys.first() {
            let key = sql::ident(key);
            let message =
                format!("foreign key {key} of {table} would have its table changed, and triggers run, with the rights of a fetch");
            return Err(Error::new(sqlstate::INSUFFICIENT_PRIVILEGE, message).hint(format!(
                "Drop it: ALTER TABLE {table} DROP CONSTRAINT {key}. One without CASCADE, SET NULL or SET DEFAULT may stay."
            )));
        }
        Ok(())
    }

    fn make(source: &str, schema: &str, stream: &Stream, layout: &Layout, keyed: bool) -> Result<Table> {
        let table = crate::sources::names::identifier(&stream.name);
        let name = sql::qualified(schema, &table);
        crate::sources::define::schema_is_ours(schema)?;
        let taken: Option<u32> = spi::first(
            "SELECT c.oid::int8::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2",
            &[schema.into(), table.as_str().into()],
        )?;
        if taken.is_some() {
            return Err(Error::new(
                sqlstate::DUPLICATE_OBJECT,
                format!("{name} exists, and is not stream \"{}\" of source \"{source}\"", stream.name),
            )
            .hint("Rename it, or make the source with another schema."));
        }
        let mut columns: Vec<String> = layout
            .fields
            .iter()
            .enumerate()
            .map(|(at, f)| {
                let not_null = if keyed && layout.key.contains(&at) { " NOT NULL" } else { "" };
                format!("{} {}{not_null}", sql::ident(&f.column), f.ty)
            })
            .collect();
        if layout.raw {
            columns.push("_raw jsonb".into());
        }
        columns.push("_hash uuid NOT NULL, _version text, _fetched_at timestamptz NOT NULL DEFAULT pg_catalog.now(), _deleted_at timestamptz".into());
        if keyed {
            let key: Vec<String> = layout.key.iter().map(|at| sql::ident(&layout.fields[*at].column)).collect();
            columns.push(format!("PRIMARY KEY ({})", key.join(", ")));
        }
        spi::run(&format!("CREATE TABLE {name} ({})", columns.join(", ")), &[])?;
        let comment = format!("Stream {} of source {source}, kept by startup_wh", stream.name);
        spi::run(&format!("COMMENT ON TABLE {name} IS {}", sql::literal(&comment)), &[])?;
        let oid: Option<u32> =
            spi::first("SELECT pg_catalog.to_json($1::pg_catalog.regclass::oid::int8)::text", &[name.as_str().into()])?;
        let oid = oid.ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, format!("{name} was not made")))?;
        let others: Vec<u32> = spi::rows(
            "SELECT relation::oid::int8::text FROM wh.source_state WHERE source = $1 AND relation IS NOT NULL",
            &[source.into()],
        )?;
        let mut readers = crate::fdw::readers(others)?;
        readers.extend(crate::analysts::reader()?.filter(|group| !readers.contains(group)));
        if !readers.is_empty() {
            spi::run(&format!("GRANT SELECT ON {name} TO {}", readers.join(", ")), &[])?;
        }
        Ok(Table { oid, name, keyed })
    }

    /// Gives the table the columns and types that a batch needs.
    pub fn follow(&self, changes: &[Change]) -> Result<()> {
        let added: Vec<String> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Add { column, ty } => Some(format!("ADD COLUMN {} {}", sql::ident(column), ty.sql())),
                Change::Retype { .. } => None,
            })
            .collect();
        if !added.is_empty() {
            self.alter(&format!("ALTER TABLE {} {}", self.name, added.join(", ")))?;
        }
        for change in changes {
            let Change::Retype { column, from, to, empty, path } = change else { continue };
            let column = sql::ident(column);
            let path: Option<String> = path.as_ref().map(|tokens| {
                let tokens: Vec<String> = tokens.iter().map(|t| sql::literal(t)).collect();
                format!("ARRAY[{}]::text[]", tokens.join(", "))
            });
            // A cast would change the spelling: of a time, for example.
            let as_it_came = |operator: &str, cast: String| {
                match &path {
                None => cast,
                Some(path) => format!(
                    "CASE WHEN {column} IS NOT NULL THEN coalesce(_raw OPERATOR(pg_catalog.{operator}) {path}, {cast}) END"
                ),
            }
            };
            let value = match (empty, from.sql(), to.sql()) {
                (true, _, to) => format!("NULL::{to}"),
                // Text that was stored as it is must be a JSON string.
                (_, from, "jsonb") if from != "jsonb" => as_it_came("#>", format!("pg_catalog.to_jsonb({column})")),
                (_, _, "text") => as_it_came("#>>", format!("{column}::text")),
                (_, _, to) => format!("{column}::{to}"),
            };
            let statement = format!("ALTER TABLE {} ALTER COLUMN {column} TYPE {} USING {value}", self.name, to.sql());
            // Views that analysts stacked on it keep standing.
            crate::fdw::alter_with_dependents(self.oid, &statement)?;
        }
        Ok(())
    }

    fn alter(&self, statement: &str) -> Result<()> {
        let patience = lock::Patience {
            lock_timeout: Duration::from_millis(lock::QUEUE_MS.into()),
            max_wait: Duration::from_secs(300),
            attempts: &Cell::new(0),
            waited: &Cell::new(Duration::ZERO),
            otherwise: "or let the next run try again",
        };
        lock::patiently(&patience, || {
            lock::access_exclusive([self.oid])?;
            spi::run(statement, &[]).map(|_| ())
        })
    }

    /// The columns that rows are copied into, in the order of [`super::merge`].
    pub fn columns(&self, layout: &Layout) -> Vec<String> {
        let mut columns: Vec<String> = layout.fields.iter().map(|f: &Field| f.column.clone()).collect();
        if layout.raw {
            columns.push("_raw".into());
        }
        columns.extend(["_hash", "_version", "_deleted_at"].map(String::from));
        columns
    }
}

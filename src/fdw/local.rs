//! What the warehouse has: the foreign tables of one application, with the remembered identities.

use std::collections::{HashMap, HashSet};

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;
use serde::Deserialize;

use super::clash::Waiting;
use super::model::{ColumnType, Existing, ExistingColumn, Options};
use super::registry::Registered;
use super::shown::{Shown, View};
use crate::error::Result;
use crate::pg::rewrite::Output;
use crate::pg::spi;

/// The two queries that read tables and their columns: all of them, or those of a list.
struct Queries {
    tables: &'static str,
    columns: &'static str,
}

macro_rules! queries {
    ($which:literal) => {
        Queries {
            tables: concat!(
                "SELECT json_build_object('oid', f.oid::int8, 'name', f.relname, 'schema', f.nspname, 'attributes', f.relnatts,
                    'view', (SELECT json_build_object('oid', v.oid::int8, 'schema', (SELECT n.nspname FROM pg_namespace n WHERE n.oid = v.relnamespace), 'name', v.relname, 'shown', k.shown,
                       'outputs', (SELECT json_agg(json_build_object('name', a.attname, 'type_oid', a.atttypid::int8, 'typmod', a.atttypmod,
                                          'collation', a.attcollation::int8) ORDER BY a.attnum)
                                   FROM pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0 AND NOT a.attisdropped))
                       FROM wh.masked_table k JOIN pg_class v ON v.oid = k.view WHERE k.relation = f.oid),
                    'options', coalesce((SELECT json_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(f.ftoptions) o), '{}'),
                    'remote_oid', m.remote_oid, 'column_names', m.column_names, 'column_nums', m.column_nums,
                    'waiting_name', m.waiting_name, 'waiting_columns', m.waiting_columns)::text
                 FROM (SELECT c.oid, c.relname, c.relnatts, (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace) AS nspname, t.ftoptions",
                queries!(from $which),
                ") f LEFT JOIN wh.fdw_table m ON m.relation = f.oid ORDER BY f.relname COLLATE \"C\""
            ),
            columns: concat!(
                "SELECT a.attrelid, a.attnum, a.attname::text, a.atttypid, a.atttypmod, a.attcollation, a.attnotnull,
                    CASE WHEN a.attfdwoptions IS NOT NULL THEN
                      (SELECT json_object_agg(o.option_name, o.option_value) FROM pg_options_to_table(a.attfdwoptions) o)::text END, a.attgenerated <> ''
                 FROM pg_attribute a WHERE a.attrelid IN (SELECT c.oid",
                queries!(from $which),
                ") AND a.attnum > 0 AND NOT a.attisdropped"
            ),
        }
    };
    (from $which:literal) => {
        concat!(
            " FROM pg_class c JOIN pg_foreign_table t ON t.ftrelid = c.oid
              WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname IN ($1, $5)) AND t.ftserver = $2
                AND coalesce((SELECT o.option_value FROM pg_options_to_table(t.ftoptions) o WHERE o.option_name = 'schema_name'), $3) = $3
                AND c.oid ",
            $which
        )
    };
}

/// The foreign tables of the local schema that belong to the application's server and remote schema.
pub fn tables(app: &Registered) -> Result<Vec<Existing>> {
    others(app, &[])
}

/// Some of them, by OID, as they stand now.
pub fn some(app: &Registered, relations: &[u32]) -> Result<Vec<Existing>> {
    read(app, &queries!("= ANY ($4)"), spi::oids(relations.iter().copied()))
}

/// All of them but some, by OID, as they stand now.
pub fn others(app: &Registered, relations: &[u32]) -> Result<Vec<Existing>> {
    read(app, &queries!("<> ALL ($4)"), spi::oids(relations.iter().copied()))
}

/// A table without its columns.
#[derive(Deserialize)]
struct Table {
    oid: u32,
    name: String,
    schema: String,
    attributes: i16,
    view: Option<Kept>,
    options: Options,
    remote_oid: Option<u32>,
    #[serde(default)]
    column_names: Option<Vec<String>>,
    #[serde(default)]
    column_nums: Option<Vec<i16>>,
    waiting_name: Option<String>,
    waiting_columns: Option<Vec<String>>,
}

/// The view in its place.
#[derive(Deserialize)]
struct Kept {
    oid: u32,
    schema: String,
    name: String,
    shown: Vec<Shown>,
    outputs: Vec<Output>,
}

fn read(app: &Registered, queries: &Queries, argument: DatumWithOid<'static>) -> Result<Vec<Existing>> {
    let args = [
        app.local_schema.as_str().into(),
        spi::oid(app.server_oid),
        app.remote_schema.as_str().into(),
        argument,
        app.raw_schema.clone().into(),
    ];
    let tables: Vec<Table> = spi::prepared(queries.tables, &args)?;
    let read = spi::prepared_columns(queries.columns, &args, |row| {
        let oid = |n| row.get::<Oid>(n).map(|o| o.unwrap_or_default().to_u32());
        let options = match row.get::<&str>(8)? {
            Some(json) => serde_json::from_str(json).unwrap_or_default(),
            None => Options::new(),
        };
        Ok(Some((
            oid(1)?,
            ExistingColumn {
                num: row.get::<i16>(2)?.unwrap_or_default(),
                name: row.get::<String>(3)?.unwrap_or_default(),
                r#type: ColumnType { oid: oid(4)?, typmod: row.get::<i32>(5)?.unwrap_or(-1), collation: oid(6)? },
                not_null: row.get::<bool>(7)?.unwrap_or_default(),
                options,
                generated: row.get::<bool>(9)?.unwrap_or_default(),
                remote_num: None,
            },
        )))
    })?;
    let mut columns: HashMap<u32, Vec<ExistingColumn>> = HashMap::with_capacity(tables.len());
    for (relation, column) in read {
        columns.entry(relation).or_default().push(column);
    }
    Ok(tables
        .into_iter()
        .map(|t| {
            let mut columns = columns.remove(&t.oid).unwrap_or_default();
            columns.sort_unstable_by_key(|c| c.num);
            if let (Some(names), Some(nums)) = (&t.column_names, &t.column_nums) {
                let known: HashMap<&str, i16> = names.iter().map(String::as_str).zip(nums.iter().copied()).collect();
                // By the product's names: a column may have been given another one here since.
                columns.iter_mut().for_each(|c| c.remote_num = known.get(c.remote_name()).copied());
            }
            Existing {
                oid: t.oid,
                name: t.name,
                schema: t.schema,
                view: t.view.map(|v| View {
                    oid: v.oid,
                    schema: v.schema,
                    name: v.name,
                    shown: v.shown,
                    outputs: v.outputs,
                }),
                options: t.options,
                imported_as: None,
                remote_oid: t.remote_oid,
                waiting: Waiting { table: t.waiting_name, columns: t.waiting_columns.unwrap_or_default() },
                attributes: t.attributes,
                columns,
            }
        })
        .collect())
}

/// Names in the local schema that belong to anything but these tables: relations and types share one space with
/// a table's row type (src/backend/catalog/heap.c, heap_create_with_catalog).
pub fn taken_names(app: &Registered, tables: &[Existing]) -> Result<HashSet<String>> {
    let ours: HashSet<&str> = tables.iter().map(|t| t.name.as_str()).collect();
    let names: Vec<String> = spi::rows(
        "SELECT to_json(c.relname)::text FROM pg_class c
         WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
         UNION ALL
         SELECT to_json(t.typname)::text FROM pg_type t
         WHERE t.typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = $1)
           AND t.typrelid = 0 AND t.typelem = 0",
        &[app.local_schema.as_str().into()],
    )?;
    Ok(names.into_iter().filter(|n| !ours.contains(n.as_str())).collect())
}

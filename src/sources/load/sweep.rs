//! What a complete scan did not see is gone.
//!
//! The keys that the scan sees are written down beside the table, in the transaction of their rows, so that a scan may go
//! on in another run. Rows that were fetched after the scan began are not looked at.

use serde::Deserialize;

use super::aside::{find, name};
use super::layout::Layout;
use super::table::Table;
use crate::error::Result;
use crate::pg::{spi, sql};

/// The keys that a scan has seen.
pub struct Seen {
    name: String,
}

impl Seen {
    /// Begins anew, or goes on; `None` where there is nothing to go on with.
    pub fn open(table: &Table, fresh: bool) -> Result<Option<Seen>> {
        let name = name(table, "seen")?;
        let there = find(&name)?.is_some();
        if fresh {
            if there {
                spi::run(&format!("DROP TABLE {name}"), &[])?;
            }
            spi::run(&format!("CREATE TABLE {name} (k text[] NOT NULL)"), &[])?;
            spi::run(&format!("COMMENT ON TABLE {name} IS 'Keys of an unfinished fetch, kept by startup_wh'"), &[])?;
        }
        Ok((there || fresh).then_some(Seen { name }))
    }

    /// Keys as the table would write them.
    pub fn add<K: AsRef<[String]>>(&self, layout: &Layout, keys: &[K]) -> Result<()> {
        let types: Vec<&str> = layout.key.iter().map(|at| layout.fields[*at].ty.as_str()).collect();
        self.put(&types, keys)
    }

    /// The same, of records that are no rows: nothing is known about their types.
    pub fn add_as_text<K: AsRef<[String]>>(&self, layout: &Layout, keys: &[K]) -> Result<()> {
        self.put(&vec!["text"; layout.key.len()], keys)
    }

    fn put<K: AsRef<[String]>>(&self, types: &[&str], keys: &[K]) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        let (mut arrays, mut names, mut values, mut args) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (k, ty) in types.iter().enumerate() {
            arrays.push(format!("pg_catalog.unnest(${}::text[])", k + 1));
            names.push(format!("k{k}"));
            values.push(format!("k.k{k}::{ty}::text"));
            args.push(keys.iter().map(|key| key.as_ref().get(k).cloned()).collect::<Vec<_>>().into());
        }
        let statement = format!(
            "INSERT INTO {} SELECT ARRAY[{}] FROM ROWS FROM ({}) AS k ({})",
            self.name,
            values.join(", "),
            arrays.join(", "),
            names.join(", ")
        );
        spi::run(&statement, &args).map(|_| ())
    }

    pub fn forget(self) -> Result<()> {
        spi::run(&format!("DROP TABLE {}", self.name), &[]).map(|_| ())
    }

    /// Rows that are there and were not seen, of those that are older than `began` (microseconds since 1970).
    fn missing(&self, layout: &Layout, began: i64) -> String {
        format!(
            "t._deleted_at IS NULL AND t._fetched_at < timestamptz 'epoch' + {began} * interval '1 microsecond'
             AND NOT EXISTS (SELECT FROM {} s WHERE s.k = ARRAY[{}])",
            self.name,
            key(layout)
        )
    }

    /// How many rows there are, and how many of them are missing.
    pub fn count(&self, table: &Table, layout: &Layout, began: i64) -> Result<(u64, u64)> {
        let query = format!(
            "SELECT pg_catalog.json_build_array((SELECT pg_catalog.count(*) FROM {0} WHERE _deleted_at IS NULL),
                    (SELECT pg_catalog.count(*) FROM {0} t WHERE {1}))::text",
            table.name,
            self.missing(layout, began)
        );
        Ok(spi::first(&query, &[])?.unwrap_or_default())
    }

    /// Some of the missing rows: their keys, and what fills the places of a path.
    pub fn some(&self, table: &Table, layout: &Layout, began: i64, places: &[String]) -> Result<Vec<Missing>> {
        let query = format!(
            "SELECT pg_catalog.json_build_object('key', ARRAY[{}], 'places', {})::text FROM {} t WHERE {} LIMIT 1000",
            key(layout),
            object(layout, places),
            table.name,
            self.missing(layout, began)
        );
        spi::rows(&query, &[])
    }

    /// Removes or marks all that is missing.
    pub fn apply(&self, table: &Table, layout: &Layout, began: i64, hard: bool) -> Result<u64> {
        let missing = self.missing(layout, began);
        let statement = match hard {
            true => format!("DELETE FROM {} t WHERE {missing}", table.name),
            false => format!(
                "UPDATE {} t SET _deleted_at = pg_catalog.now(), _fetched_at = pg_catalog.now() WHERE {missing}",
                table.name
            ),
        };
        Ok(spi::run(&statement, &[])? as u64)
    }
}

/// A row that a scan did not see.
#[derive(Deserialize)]
pub struct Missing {
    pub key: Vec<String>,
    pub places: serde_json::Map<String, serde_json::Value>,
}

/// The key's columns of `t` as text.
fn key(layout: &Layout) -> String {
    let columns: Vec<String> =
        layout.key.iter().map(|at| format!("t.{}::text", sql::ident(&layout.fields[*at].column))).collect();
    columns.join(", ")
}

/// What fills the places of a path from a row `t`: members of its record.
fn object(layout: &Layout, places: &[String]) -> String {
    let pairs: Vec<String> = places
        .iter()
        .map(|place| {
            let field = layout.fields.iter().find(|f| f.member == *place);
            let value = match field {
                Some(field) => format!("t.{}", sql::ident(&field.column)),
                None if layout.raw => format!("t._raw -> {}", sql::literal(place)),
                None => "NULL::text".into(),
            };
            format!("{}, {value}", sql::literal(place))
        })
        .collect();
    format!("pg_catalog.jsonb_build_object({})", pairs.join(", "))
}

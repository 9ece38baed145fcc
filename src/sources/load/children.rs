//! Arrays inside records as tables of their own: replaced together with the row that they belong to, in its transaction,
//! and marked or removed with it.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::layout::{Field, Layout};
use super::merge::{by_columns, merge};
use super::rows::{prepare, salt, Batch, Make, Record, Rejected, Written};
use super::table::Table;
use super::withhold::Withhold;
use crate::error::Result;
use crate::pg::{spi, sql};
use crate::sources::names::identifier;
use crate::sources::spec::{Child, ChildAs, Parent, Pointer, Stream, Write};
use crate::sources::store;

/// Where an element stands in its array, for those that have no key.
pub const POSITION: &str = "_position";

/// One array of a stream's records.
pub struct Array {
    /// The table, as a stream.
    stream: Stream,
    layout: Layout,
    salt: u64,
    has_position: bool,
}

impl Array {
    /// Those of a stream that are tables; `known` gives the columns that one has by now, and what stays out of it.
    pub fn all(
        stream: &Stream,
        parent: &Layout,
        known: impl Fn(&str) -> Result<(Vec<Field>, Withhold)>,
    ) -> Result<Vec<Array>> {
        let tables = stream.children.iter().filter(|child| child.into == ChildAs::Table);
        tables
            .map(|child| {
                let (fields, withhold) = known(&child.name)?;
                let mut array = Array::new(stream, parent, child, fields);
                array.layout.withhold(withhold);
                Ok(array)
            })
            .collect()
    }

    /// The table's name in the API, and the columns that were kept out since this was last asked.
    pub fn take_withheld(&mut self) -> (&str, Vec<String>) {
        (&self.stream.name, self.layout.withhold.take_found())
    }

    fn new(stream: &Stream, parent: &Layout, child: &Child, known: Vec<Field>) -> Array {
        let own = identifier(&stream.name);
        let column = |at: &usize| (format!("{own}_{}", parent.fields[*at].column), Pointer::default());
        let mut bind: Vec<(String, Pointer)> = parent.key.iter().map(column).collect();
        let has_position = child.primary_key.is_empty();
        if has_position {
            bind.push((POSITION.into(), Pointer::default()));
        }
        let stream = Stream {
            name: child.name.clone(),
            primary_key: child.primary_key.clone(),
            version: None,
            incremental: None,
            write: Write::Merge,
            parent: Some(Parent { stream: stream.name.clone(), bind, changed_only: false, in_key: true }),
            children: Vec::new(),
            hide: Vec::new(),
            columns: Default::default(),
            changes: None,
            deletes: None,
            ..stream.clone()
        };
        Array { layout: Layout::new(&stream, known), salt: salt(&stream), stream, has_position }
    }

    /// The table's name as a stream.
    pub fn name(&self) -> &str {
        &self.stream.name
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The table, if it was ever made.
    pub fn table(&self, source: &str) -> Result<Option<Table>> {
        let known = store::seen(source, &self.stream.name)?;
        Ok(known.relation.map(|oid| Table::find(oid, true)).transpose()?.flatten())
    }

    /// Elements made ready: of the array number `at` of rows, each with its key.
    pub fn elements<'a>(
        &mut self,
        parent: &Layout,
        at: usize,
        rows: impl IntoIterator<Item = (&'a [String], &'a [Option<String>])>,
    ) -> Batch {
        let mut records = Vec::new();
        for (key, arrays) in rows {
            for (position, raw) in elements(arrays.get(at).and_then(Option::as_deref)).into_iter().enumerate() {
                let mut bound: Vec<Option<String>> = key.iter().cloned().map(Some).collect();
                if self.has_position {
                    bound.push(Some(position.to_string()));
                }
                records.push(Record { raw, bound: Some(Arc::from(bound)) });
            }
        }
        let mut changes = Vec::new();
        let types = parent.key.iter().map(|at| parent.fields[*at].ty.as_str()).chain(["bigint"]);
        self.layout.bind_types(types, &mut changes);
        let mut batch = prepare(&mut self.layout, records, self.salt, Make::All);
        changes.append(&mut batch.changes);
        batch.changes = changes;
        batch
    }

    /// The columns that hold the key of the row that an element belongs to.
    pub fn owner(&self) -> &[usize] {
        &self.layout.bound[..self.layout.bound.len() - usize::from(self.has_position)]
    }

    /// Puts the elements of rows that were written in the place of those that were there. `at` is the array's number.
    /// Returns elements that can't be stored.
    pub fn replace(
        &mut self,
        source: &str,
        schema: &str,
        parent: &Layout,
        at: usize,
        written: &[Written],
    ) -> Result<Vec<Rejected>> {
        let rows = written.iter().map(|row| (row.key.as_slice(), row.arrays.as_slice()));
        let mut batch = self.elements(parent, at, rows);
        let known = store::known(source, &self.stream.name)?;
        if batch.rows.is_empty() && batch.rejected.is_empty() && known.relation.is_none() {
            return Ok(Vec::new());
        }
        let gone: HashSet<&[String]> = written.iter().filter(|row| row.deleted).map(|row| row.key.as_slice()).collect();
        let keys = self.owner().len();
        for row in batch.rows.iter_mut().filter(|_| !gone.is_empty()) {
            row.deleted = row.key.get(..keys).is_some_and(|owner| gone.contains(owner));
        }
        let table = Table::open(source, schema, &self.stream, known.relation, &self.layout)?;
        let mut removed = 0;
        if known.relation == Some(table.oid) {
            table.follow(&batch.changes)?;
            let keys: Vec<&[String]> = written.iter().map(|row| row.key.as_slice()).collect();
            let (given, join, args) = by_columns(&self.layout, self.owner(), &keys);
            removed = spi::run(&format!("DELETE FROM {} t USING {given} WHERE {join}", table.name), &args)?;
        }
        let counts = merge(&table, &self.layout, &mut batch, None)?;
        let kept = (&Default::default(), &Default::default());
        let rows = counts.inserted as i64 - removed as i64;
        store::remember(source, &self.stream.name, &table, kept, &self.layout.fields, rows)?;
        Ok(batch.rejected)
    }

    /// How an element `t` is joined to its row `p`.
    pub fn belongs(&self, layout: &Layout) -> String {
        let columns = self.owner().iter().zip(&layout.key).map(|(own, key)| {
            let (own, key) = (&self.layout.fields[*own].column, &layout.fields[*key].column);
            format!("t.{} = p.{}", sql::ident(own), sql::ident(key))
        });
        columns.collect::<Vec<_>>().join(" AND ")
    }

    /// Follows rows that this transaction has removed or marked without a record of them: their elements go the same way.
    pub fn follow_deleted(&self, source: &str, parent: &Table, layout: &Layout, hard: bool) -> Result<()> {
        let Some(table) = self.table(source)? else { return Ok(()) };
        let belongs = self.belongs(layout);
        let statement = match hard {
            true => format!(
                "DELETE FROM {} t WHERE NOT EXISTS (SELECT FROM {} p WHERE {belongs})",
                table.name, parent.name
            ),
            // What this transaction has marked has its time.
            false => format!(
                "UPDATE {} t SET _deleted_at = p._deleted_at, _fetched_at = pg_catalog.now() FROM {} p
                 WHERE p._deleted_at IS NOT NULL AND p._fetched_at = pg_catalog.now() AND t._deleted_at IS NULL AND {belongs}",
                table.name, parent.name
            ),
        };
        spi::run(&statement, &[]).map(|_| ())
    }
}

/// The elements of an array as records: one that is no object is the member `value` of one.
fn elements(array: Option<&str>) -> Vec<Box<RawValue>> {
    let Some(array) = array else { return Vec::new() };
    let items: Vec<Box<RawValue>> = match serde_json::from_str(array) {
        Ok(items) => items,
        // One object in the place of an array of one.
        Err(_) => RawValue::from_string(array.to_owned()).into_iter().collect(),
    };
    let is_null = |item: &RawValue| item.get() == "null";
    let object = |item: Box<RawValue>| match item.get().starts_with('{') {
        true => item,
        false => RawValue::from_string(format!("{{\"value\":{}}}", item.get())).unwrap_or(item),
    };
    items.into_iter().filter(|item| !is_null(item)).map(object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_that_are_no_objects_become_their_value() {
        let texts = |array: Option<&str>| elements(array).iter().map(|e| e.get().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            texts(Some(r#"[{"a": 1}, "b", null, 3.10]"#)),
            [r#"{"a": 1}"#, r#"{"value":"b"}"#, r#"{"value":3.10}"#]
        );
        assert_eq!(texts(Some(r#"{"a": 1}"#)), [r#"{"a": 1}"#]);
        assert_eq!(texts(Some("null")), [""; 0]);
        assert_eq!(texts(None), [""; 0]);
    }
}

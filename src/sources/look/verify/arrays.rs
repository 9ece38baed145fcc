//! Tables of arrays: what the records hold, against the elements that are there.

use std::collections::{HashMap, HashSet};

use super::{key, key_hash, look_up, values, Findings};
use crate::error::Result;
use crate::pg::{spi, worker};
use crate::sources::load::{by_columns, Array, Layout, Row, Table};

/// One table of arrays, under comparison.
pub struct Elements {
    array: Array,
    /// What the table has.
    stored: Layout,
    table: Option<Table>,
    pub findings: Findings,
}

impl Elements {
    pub fn new(array: Array, source: &str) -> Result<Elements> {
        let table = array.table(source)?;
        Ok(Elements { stored: array.layout().clone(), array, table, findings: Findings::default() })
    }

    pub fn stream(&self) -> &str {
        self.array.name()
    }

    /// The elements of rows that the API and the table both have; `at` is the array's number.
    pub fn compare(&mut self, parent: &Layout, at: usize, rows: &[&Row], round: &worker::Round) -> Result<()> {
        let batch = self.array.elements(parent, at, rows.iter().map(|row| (row.key.as_slice(), row.arrays.as_slice())));
        let layout = self.array.layout();
        for bad in &batch.rejected {
            let key = bad.key.as_ref().map_or_else(|| "unknown".into(), |key| key.join(", "));
            self.findings.find(key, format!("cannot be stored: {}", bad.reason));
        }
        let there = look_up(self.table.as_ref(), layout, &batch, round)?;
        // A later element with the key of an earlier one takes its place.
        let last: HashMap<&[String], usize> =
            batch.rows.iter().enumerate().map(|(n, row)| (row.key.as_slice(), n)).collect();
        for (n, row) in batch.rows.iter().enumerate().filter(|(n, row)| last.get(row.key.as_slice()) == Some(n)) {
            let difference = match there.get(&n) {
                None => "missing in the table",
                Some((_, true, _)) => "deleted in the table, and not in the API",
                Some((hash, ..)) if *hash != row.hash => "different",
                Some(_) => continue,
            };
            self.findings.find(row.key.join(", "), difference);
        }
        let same = |n: &usize| {
            let row = &batch.rows[*n];
            last.get(row.key.as_slice()) == Some(n)
                && there.get(n).is_some_and(|(hash, gone, _)| *hash == row.hash && !gone)
        };
        let same: Vec<&Row> = (0..batch.rows.len()).filter(same).map(|n| &batch.rows[n]).collect();
        for at in values::changed(self.table.as_ref(), &self.stored, &same, round)? {
            self.findings.find(same[at].key.join(", "), values::CHANGED);
        }
        let known: HashSet<i64> = there.values().map(|(_, _, key)| *key).collect();
        for (key, hash) in self.stored(rows, round)? {
            if !known.contains(&hash) {
                self.findings.find(key, "not in the API");
            }
        }
        Ok(())
    }

    /// Key, and hash of the key, of what the table has for these rows.
    fn stored(&self, rows: &[&Row], round: &worker::Round) -> Result<Vec<(String, i64)>> {
        let Some(table) = self.table.as_ref().filter(|_| !rows.is_empty()) else { return Ok(Vec::new()) };
        let layout = self.array.layout();
        round.run(|| {
            let owners: Vec<&[String]> = rows.iter().map(|row| row.key.as_slice()).collect();
            let (given, join, args) = by_columns(layout, self.array.owner(), &owners);
            let query = format!(
                "SELECT DISTINCT pg_catalog.array_to_string({}, ', '), {} FROM {given} JOIN {} t ON {join} WHERE t._deleted_at IS NULL",
                key(layout),
                key_hash(layout),
                table.name
            );
            spi::columns(&query, &args, |row| Ok(row.get::<String>(1)?.zip(row.get::<i64>(2)?)))
        })
    }

    /// Elements of no row that is there.
    pub fn rest(&mut self, parent: Option<&Table>, layout: &Layout) -> Result<()> {
        let (Some(table), Some(parent)) = (&self.table, parent) else { return Ok(()) };
        let query = format!(
            "SELECT pg_catalog.array_to_string({}, ', ') FROM {} t
             WHERE t._deleted_at IS NULL AND NOT EXISTS (SELECT FROM {} p WHERE {} AND p._deleted_at IS NULL)",
            key(self.array.layout()),
            table.name,
            parent.name,
            self.array.belongs(layout),
        );
        let findings = &mut self.findings;
        spi::each(&query, |row| {
            findings.find(row.get::<String>(1)?.unwrap_or_default(), "without a row that it belongs to");
            Ok(())
        })
    }
}

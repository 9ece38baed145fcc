//! Renames in place. Names that are needed before they are free make a stop at an intermediate one.

use std::collections::HashSet;

use super::apply::Done;
use super::change::Work;
use super::diff::{ColumnDiff, TableDiff};
use super::model::Change;
use super::tables::in_the_way;
use crate::error::Result;
use crate::pg::{spi, sql, subxact};

/// Names given for the length of a unit, with the names that definitions read meanwhile are to say instead.
///
/// A migration that drops `id` and renames `new_id` to `id` means the same thing to whoever reads `id`: the text of
/// a view on the old column is put back with its old name, which is the new column's by then.
pub type Asides = Vec<(String, String)>;

/// The name of a column that goes while another one takes its name. No definition holds it by chance.
pub fn dropped_column(table: u32, num: i16) -> String {
    format!("wh_dropped_{table}_{num}_{}", std::process::id())
}

/// The same for a table.
pub fn dropped_table(table: u32) -> String {
    format!("wh_dropped_{table}_{}", std::process::id())
}

impl Work<'_> {
    /// Renames tables; those that go make room first.
    pub fn rename_tables(&self, done: &mut Done) -> Result<Asides> {
        let mut asides = Asides::new();
        let renames: Vec<&TableDiff> = self.diff.alter.iter().filter(|t| t.rename_to.is_some()).collect();
        let wanted: HashSet<&str> = renames.iter().filter_map(|t| t.rename_to.as_deref()).collect();
        let rename = |from: &str, to: &str| {
            spi::run(&format!("ALTER FOREIGN TABLE {} RENAME TO {}", self.table(from), sql::ident(to)), &[]).map(|_| ())
        };
        for e in self.diff.drop.iter().map(|e| &self.existing[*e]).filter(|e| wanted.contains(e.name.as_str())) {
            rename(&e.name, &dropped_table(e.oid))?;
            asides.push((dropped_table(e.oid), sql::ident(&e.name)));
        }
        let aside = |t: &TableDiff| format!("wh_rename_{}", self.existing[t.existing].oid);
        for t in &renames {
            let from = &self.existing[t.existing].name;
            if wanted.contains(from.as_str()) {
                rename(from, &aside(t))?;
            }
        }
        for t in renames {
            let (from, to) = (&self.existing[t.existing].name, self.final_name(t));
            rename(&if wanted.contains(from.as_str()) { aside(t) } else { from.clone() }, to)?;
            done.changes.push(
                Change::new(self.table(to), "foreign table", "renamed").detail(format!("from {}", self.table(from))),
            );
        }
        Ok(asides)
    }

    /// Renames columns of one table; those that go make room first.
    pub fn rename_columns(&self, t: &TableDiff, done: &mut Done) -> Result<Asides> {
        let mut asides = Asides::new();
        let oid = self.existing[t.existing].oid;
        let table = self.table(self.final_name(t));
        let columns = &self.existing[t.existing].columns;
        let renames: Vec<(&str, &str)> = t
            .columns
            .iter()
            .filter_map(|c| match c {
                ColumnDiff::Rename { existing, to } => Some((columns[*existing].name.as_str(), to.as_str())),
                _ => None,
            })
            .collect();
        let wanted: HashSet<&str> = renames.iter().map(|r| r.1).collect();
        let rename = |from: &str, to: &str| {
            let statement =
                format!("ALTER FOREIGN TABLE {table} RENAME COLUMN {} TO {}", sql::ident(from), sql::ident(to));
            subxact::run(|| spi::run(&statement, &[]).map(|_| ())).map_err(|e| in_the_way(e, &table))
        };
        for c in &t.columns {
            if let ColumnDiff::Drop { existing } = c {
                let column = &columns[*existing];
                if wanted.contains(column.name.as_str()) {
                    rename(&column.name, &dropped_column(oid, column.num))?;
                    asides.push((dropped_column(oid, column.num), sql::ident(&column.name)));
                }
            }
        }
        for (i, (from, _)) in renames.iter().enumerate().filter(|(_, (from, _))| wanted.contains(from)) {
            rename(from, &format!("wh_rename_{i}"))?;
        }
        for (i, (from, to)) in renames.iter().enumerate() {
            rename(&if wanted.contains(from) { format!("wh_rename_{i}") } else { (*from).to_owned() }, to)?;
            done.changes.push(
                Change::new(format!("{table}.{}", sql::ident(to)), "column", "renamed")
                    .detail(format!("from {}", sql::ident(from))),
            );
        }
        Ok(asides)
    }
}

//! Renames in place. Names that are needed before they are free make a stop at an intermediate one.

use std::cell::RefCell;
use std::collections::HashSet;

use super::apply::Done;
use super::change::Work;
use super::diff::{ColumnDiff, TableDiff};
use super::model::{Change, Existing};
use super::tables::in_the_way;
use crate::error::{Error, Result};
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
        let rename = |e: &Existing, from: &str, to: &str| {
            spi::run(&format!("ALTER FOREIGN TABLE {} RENAME TO {}", self.place(e, from), sql::ident(to)), &[])?;
            // The view in its place goes by its name, unless somebody gave it another one.
            if let Some(view) = e.view.as_ref().filter(|v| v.name == e.name) {
                spi::run(
                    &format!("ALTER VIEW {} RENAME TO {}", sql::qualified(&view.schema, from), sql::ident(to)),
                    &[],
                )?;
            }
            Ok::<(), Error>(())
        };
        for e in self.diff.drop.iter().map(|e| &self.existing[*e]).filter(|e| wanted.contains(e.name.as_str())) {
            rename(e, &e.name, &dropped_table(e.oid))?;
            asides.push((dropped_table(e.oid), sql::ident(&e.name)));
        }
        let aside = |t: &TableDiff| format!("wh_rename_{}", self.existing[t.existing].oid);
        for t in &renames {
            let e = &self.existing[t.existing];
            if wanted.contains(e.name.as_str()) {
                rename(e, &e.name, &aside(t))?;
            }
        }
        for t in renames {
            let e = &self.existing[t.existing];
            let (from, to) = (&e.name, self.final_name(t));
            rename(e, &if wanted.contains(from.as_str()) { aside(t) } else { from.clone() }, to)?;
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
        let existing = &self.existing[t.existing];
        let (table, place) = (self.table(self.final_name(t)), self.place(existing, self.final_name(t)));
        let columns = &existing.columns;
        // The names of the view in its place follow, as far as it shows them.
        let view = existing.view.as_ref().map(|v| {
            let name = if v.name == existing.name { self.final_name(t) } else { &v.name };
            (
                sql::qualified(&v.schema, name),
                RefCell::new(v.outputs.iter().map(|o| o.name.clone()).collect::<HashSet<String>>()),
            )
        });
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
            let what = format!("RENAME COLUMN {} TO {}", sql::ident(from), sql::ident(to));
            subxact::run(|| spi::run(&format!("ALTER FOREIGN TABLE {place} {what}"), &[]).map(|_| ()))
                .map_err(|e| in_the_way(e, &table))?;
            if let Some((view, shown)) = &view {
                if shown.borrow_mut().remove(from) {
                    shown.borrow_mut().insert(to.to_owned());
                    spi::run(&format!("ALTER VIEW {view} {what}"), &[])?;
                }
            }
            Ok::<(), Error>(())
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

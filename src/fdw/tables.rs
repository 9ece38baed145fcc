//! The statements on foreign tables: alter and create.

use super::apply::Done;
use super::change::Work;
use super::diff::{ColumnDiff, OptionDiff, TableDiff};
use super::model::{Change, WantedColumn};
use super::rebuild;
use super::rename::dropped_column;
use super::{behind, masking};
use crate::error::{sqlstate, Error, Result};
use crate::pg::catalog::format_type;
use crate::pg::{lock, spi, sql, subxact};

impl Work<'_> {
    /// Everything but renames, in one statement a table.
    pub fn alter(&self, t: &TableDiff, done: &mut Done) -> Result<()> {
        let (existing, wanted) = (&self.existing[t.existing], &self.wanted[t.wanted]);
        let (table, place) = (self.table(self.final_name(t)), self.place(existing, self.final_name(t)));
        let renamed = |e: usize| {
            t.columns
                .iter()
                .find_map(|c| match c {
                    ColumnDiff::Rename { existing, to } if *existing == e => Some(to.clone()),
                    _ => None,
                })
                .unwrap_or_else(|| existing.columns[e].name.clone())
        };
        let mut commands: Vec<String> = Vec::new();
        if !t.options.is_empty() {
            commands.push(set_options(&t.options));
            if t.rename_to.is_none() {
                let to: Vec<String> = t.options.iter().map(|o| format!("{} is \"{}\" now", o.name, o.value)).collect();
                done.changes.push(Change::new(&table, "foreign table", "altered").detail(to.join(", ")));
            }
        }
        for c in &t.columns {
            let object = |name: &str| format!("{table}.{}", sql::ident(name));
            match c {
                ColumnDiff::Rename { .. } => {}
                ColumnDiff::Drop { existing: e } => {
                    let column = &existing.columns[*e];
                    let aside =
                        t.columns.iter().any(|c| matches!(c, ColumnDiff::Rename { to, .. } if *to == column.name));
                    let name = if aside { dropped_column(existing.oid, column.num) } else { column.name.clone() };
                    commands.push(format!("DROP COLUMN {}", sql::ident(&name)));
                    done.changes.push(Change::new(object(&column.name), "column", "dropped"));
                }
                ColumnDiff::Add { wanted: w } => {
                    let column = &wanted.columns[*w];
                    commands.push(format!("ADD COLUMN {}", self.column_definition(column)?));
                    let mut change = Change::new(object(&column.name), "column", "added");
                    let mut detail = format_type(column.r#type.oid, column.r#type.typmod);
                    if let Some(note) = self.notes.get(&(t.wanted, *w)) {
                        detail = format!("{detail}; {note}");
                    }
                    change.detail = Some(detail);
                    done.changes.push(change);
                }
                ColumnDiff::Retype { existing: e, wanted: w } => {
                    let (old, new) = (&existing.columns[*e], &wanted.columns[*w]);
                    let name = renamed(*e);
                    let (from, to) = (
                        format_type(old.r#type.oid, old.r#type.typmod),
                        format_type(new.r#type.oid, new.r#type.typmod),
                    );
                    commands.push(format!(
                        "ALTER COLUMN {} TYPE {to}{}",
                        sql::ident(&name),
                        rebuild::collate(new.r#type.collation)?
                    ));
                    let mut detail = format!("from {from} to {to}");
                    if let Some(note) = self.notes.get(&(t.wanted, *w)) {
                        detail = format!("{detail}; {note}");
                    }
                    // That it is read as text is part of its mask.
                    if !self.rules.of(&wanted.name, &new.name).is_some_and(|m| m.reads_text()) {
                        done.changes.push(Change::new(object(&name), "column", "retyped").detail(detail));
                    }
                }
                ColumnDiff::NotNull { existing: e, wanted: not_null } => {
                    let name = renamed(*e);
                    commands.push(format!(
                        "ALTER COLUMN {} {} NOT NULL",
                        sql::ident(&name),
                        if *not_null { "SET" } else { "DROP" }
                    ));
                    let detail = if *not_null { "not null" } else { "nullable" };
                    done.changes.push(Change::new(object(&name), "column", "altered").detail(detail));
                }
                ColumnDiff::Options { existing: e, options } => {
                    let name = renamed(*e);
                    commands.push(format!("ALTER COLUMN {} {}", sql::ident(&name), set_options(options)));
                    let to: Vec<String> =
                        options.iter().map(|o| format!("{} is \"{}\" now", o.name, o.value)).collect();
                    if !t.columns.iter().any(|c| matches!(c, ColumnDiff::Rename { existing, .. } if existing == e)) {
                        done.changes.push(Change::new(object(&name), "column", "altered").detail(to.join(", ")));
                    }
                }
            }
        }
        let statement = format!("ALTER FOREIGN TABLE {place} {}", commands.join(", "));
        if !commands.is_empty() {
            subxact::run(|| spi::run(&statement, &[]).map(|_| ())).map_err(|e| in_the_way(e, &table))?;
        }
        Ok(())
    }

    /// Second tables over a remote one are their makers' own, but for its name.
    pub fn alter_seconds(&self, done: &mut Done) -> Result<()> {
        for (e, w) in &self.diff.seconds {
            let (existing, name) = (&self.existing[*e], &self.wanted[*w].name);
            let exists = existing.options.contains_key("table_name");
            let option = OptionDiff { name: "table_name".into(), value: name.clone(), exists };
            let place = self.place(existing, &existing.name);
            lock::access_exclusive([existing.oid])?;
            spi::run(&format!("ALTER FOREIGN TABLE {place} {}", set_options(&[option])), &[])?;
            let detail = format!("table_name is \"{name}\" now");
            done.changes.push(Change::new(self.table(&existing.name), "foreign table", "altered").detail(detail));
        }
        Ok(())
    }

    fn column_definition(&self, column: &WantedColumn) -> Result<String> {
        Ok(format!(
            "{} {}{}{}{}",
            sql::ident(&column.name),
            format_type(column.r#type.oid, column.r#type.typmod),
            rebuild::options(&column.options),
            rebuild::collate(column.r#type.collation)?,
            if column.not_null { " NOT NULL" } else { "" }
        ))
    }

    pub fn create(&self, done: &mut Done) -> Result<()> {
        if self.diff.create.is_empty() {
            return Ok(());
        }
        let mut readers = self.readers()?;
        readers.extend(crate::analysts::reader()?.filter(|group| !readers.contains(group)));
        for w in &self.diff.create {
            let wanted = &self.wanted[*w];
            let table = self.table(&wanted.name);
            let masked = self.rules.any_of(&wanted.name);
            let place = match masked {
                true => behind::raw_place(self.app, &wanted.name)?,
                false => table.clone(),
            };
            let mut columns = Vec::with_capacity(wanted.columns.len());
            for c in &wanted.columns {
                columns.push(self.column_definition(c)?);
            }
            spi::run(
                &format!(
                    "CREATE FOREIGN TABLE {place} ({}) SERVER {}{}",
                    columns.join(", "),
                    sql::ident(&self.app.server),
                    rebuild::options(&wanted.options)
                ),
                &[],
            )?;
            if masked {
                masking::made(self, *w, &place, done)?;
            }
            if !readers.is_empty() {
                spi::run(&format!("GRANT SELECT ON {table} TO {}", readers.join(", ")), &[])?;
            }
            done.changes.push(
                Change::new(&table, "foreign table", "created").detail(format!("{} columns", wanted.columns.len())),
            );
            for (c, column) in wanted.columns.iter().enumerate() {
                if let Some(note) = self.notes.get(&(*w, c)) {
                    done.changes.push(
                        Change::new(format!("{table}.{}", sql::ident(&column.name)), "column", "added").detail(note),
                    );
                }
            }
        }
        Ok(())
    }

    /// Who reads every table that is here reads a new one too.
    fn readers(&self) -> Result<Vec<String>> {
        let altered = self.diff.alter.iter().map(|t| t.existing);
        let kept = self.diff.same.iter().map(|s| s.0).chain(altered).map(|e| &self.existing[e]);
        // Grants are on what analysts see.
        readers(kept.map(|e| e.view.as_ref().map_or(e.oid, |v| v.oid)).collect())
    }
}

/// Who may read all of these tables, quoted: who reads all of a schema's reads a new one too.
pub fn readers(tables: Vec<u32>) -> Result<Vec<String>> {
    if tables.is_empty() {
        return Ok(Vec::new());
    }
    let count = tables.len() as i64;
    spi::rows(
        "SELECT to_json(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)::text
         FROM pg_class c CROSS JOIN aclexplode(c.relacl) x
         WHERE c.oid = ANY ($1) AND x.privilege_type = 'SELECT' AND x.grantee <> c.relowner
         GROUP BY x.grantee HAVING count(DISTINCT c.oid) = $2",
        &[spi::oids(tables), count.into()],
    )
}
/// Table columns of the row type, generated columns and parents are what Postgres itself refuses to change a column under
/// (ATPrepAlterColumnType, ATExecDropColumn and renameatt_internal, src/backend/commands/tablecmds.c).
pub fn in_the_way(e: Error, table: &str) -> Error {
    if !e.is_about_the_definition() && e.sqlstate != sqlstate::DEPENDENT_OBJECTS_STILL_EXIST {
        return e;
    }
    let reason = [Some(e.message), e.detail].into_iter().flatten().collect::<Vec<_>>().join("; ");
    Error::new(
        sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
        format!("columns of {table} cannot be changed as those of the product were"),
    )
    .detail(reason)
    .hint("Nothing was changed. Drop what is in the way, or detach the table from its parent, run this again, and put it back.")
}

fn set_options(options: &[OptionDiff]) -> String {
    let list: Vec<String> = options
        .iter()
        .map(|o| format!("{} {} {}", if o.exists { "SET" } else { "ADD" }, sql::ident(&o.name), sql::literal(&o.value)))
        .collect();
    format!("OPTIONS ({})", list.join(", "))
}

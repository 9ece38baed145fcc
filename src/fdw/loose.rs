//! What hangs on a foreign table's columns and blocks a change of their type: defaults, checks and triggers are taken
//! off and put on again (ATExecAlterColumnType, src/backend/commands/tablecmds.c, refuses or rewrites them).

use super::model::Change;
use super::properties::Property;
use crate::error::Result;
use crate::pg::{identity, limit, spi, sql};

/// Things taken off one table.
pub struct Loose {
    table: String,
    schema: String,
    owner: String,
    /// Statements that put them on, with the keys of the properties that they restore.
    again: Vec<(String, String)>,
}

/// Takes off what the new types of `columns` (quoted) could not pass.
pub fn take_off(schema: &str, table: &str, columns: &[String], properties: &[Property]) -> Result<Loose> {
    let owner = properties.iter().find(|p| p.2 == "owner").and_then(|p| p.3.clone()).unwrap_or_default();
    let mut loose = Loose { table: table.into(), schema: schema.into(), owner, again: Vec::new() };
    let mut names: Vec<String> = Vec::new();
    for p in properties {
        let Some(statement) = p.statement() else { continue };
        let off = if let Some(column) = p.2.strip_prefix("default of ").filter(|c| columns.iter().any(|r| r == c)) {
            format!("ALTER FOREIGN TABLE {table} ALTER COLUMN {column} DROP DEFAULT")
        } else if let Some(name) = p.2.strip_prefix("constraint ") {
            names.push(p.2.clone());
            format!("ALTER FOREIGN TABLE {table} DROP CONSTRAINT {name}")
        } else if let Some(name) = p.2.strip_prefix("trigger ") {
            names.push(p.2.clone());
            format!("DROP TRIGGER {name} ON {table}")
        } else if p.2.strip_prefix("storage of ").is_some_and(|c| columns.iter().any(|r| r == c)) {
            // A column gets its new type's (ATExecAlterColumnType).
            loose.again.push((p.2.clone(), statement.to_owned()));
            continue;
        } else if p.2.starts_with("target of statistics ") {
            // Statistics are made again without (ATPostAlterTypeCleanup).
            let again = statement.replacen("ALTER STATISTICS ", "ALTER STATISTICS IF EXISTS ", 1);
            loose.again.push((p.2.clone(), again));
            continue;
        } else {
            let hangs_on = |n: &String| {
                [format!("state of {n}"), format!("comment on {n}")].contains(&p.2)
                    || p.2.starts_with(&format!("dependency of {n} on "))
            };
            if names.iter().any(hangs_on) {
                loose.again.push((p.2.clone(), statement.to_owned()));
            }
            continue;
        };
        spi::run(&off, &[])?;
        loose.again.push((p.2.clone(), statement.to_owned()));
    }
    Ok(loose)
}

impl Loose {
    /// Puts them on again, each by itself; what does not fit the new type is reported.
    /// The expressions are the table's owner's: reading them can run code.
    pub fn put_on(self, say: impl Fn(String) -> String) -> Result<(Vec<Change>, Vec<String>)> {
        let (mut changes, mut lost) = (Vec::new(), Vec::new());
        let _open = identity::Usable::schemas(std::slice::from_ref(&self.schema), &self.owner)?;
        let lent = self.lend_trigger()?;
        for (key, statement) in self.again {
            let again = || {
                // Statistics can be somebody else's, and their target is a number.
                let theirs = key.starts_with("target of statistics ");
                let _owner = (!theirs).then(|| identity::As::named(&self.owner)).transpose()?;
                spi::run(&say(statement), &[])
            };
            match limit::run(again) {
                Ok(_) => {}
                Err(e) if e.is_about_the_definition() => {
                    let detail = format!("{key} does not fit any more: {}", e.message);
                    changes.push(Change::new(&self.table, "foreign table", "lost").detail(detail));
                    lost.push(key);
                }
                Err(e) => return Err(e),
            }
        }
        if lent {
            let _owner = identity::As::named(&self.owner)?;
            spi::run(&format!("REVOKE TRIGGER ON {} FROM {}", self.table, sql::ident(&self.owner)), &[])?;
        }
        Ok((changes, lost))
    }

    /// Gives an owner who took TRIGGER from themselves the right back, for as long as triggers are put on. Says whether it
    /// had to.
    fn lend_trigger(&self) -> Result<bool> {
        if !self.again.iter().any(|(key, _)| key.starts_with("trigger ")) {
            return Ok(false);
        }
        let may = spi::prepared::<bool>(
            "SELECT to_json(has_table_privilege($1, $2, 'TRIGGER'))::text",
            &[self.owner.as_str().into(), self.table.as_str().into()],
        )?;
        if may == [true] {
            return Ok(false);
        }
        let _owner = identity::As::named(&self.owner)?;
        spi::run(&format!("GRANT TRIGGER ON {} TO {}", self.table, sql::ident(&self.owner)), &[])?;
        Ok(true)
    }
}

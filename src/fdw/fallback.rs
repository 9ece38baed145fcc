//! Any wrapper that implements IMPORT FOREIGN SCHEMA: without catalogs to read, what it imports into a private
//! schema says what the remote side has, and names are the only identity.

use super::local;
use super::model::{Existing, Wanted, WantedColumn};
use super::registry::{self, Registered};
use crate::error::Result;
use crate::pg::{spi, sql};

/// What the remote schema has, by importing it aside.
pub fn wanted(app: &Registered) -> Result<Vec<Wanted>> {
    registry::importing_server(&app.server)?;
    let aside = format!("wh_import_{}", std::process::id());
    let aside_name = sql::ident(&aside);
    spi::run(&format!("CREATE SCHEMA {aside_name}"), &[])?;
    spi::run(
        &format!(
            "IMPORT FOREIGN SCHEMA {}{} FROM SERVER {} INTO {aside_name}",
            sql::ident(&app.remote_schema),
            which(app),
            sql::ident(&app.server)
        ),
        &[],
    )?;
    let imported = local::tables(&Registered { local_schema: aside.clone(), raw_schema: None, ..app.clone() })?;
    for table in &imported {
        spi::run(&format!("DROP FOREIGN TABLE {}", sql::qualified(&aside, &table.name)), &[])?;
    }
    spi::run(&format!("DROP SCHEMA {aside_name}"), &[])?;
    Ok(imported
        .into_iter()
        .filter(|t| app.wants(&t.name))
        .map(|t| Wanted {
            remote_oid: None,
            columns: t
                .columns
                .into_iter()
                .filter(|c| !app.hides(&t.name, &c.name))
                .map(|c| WantedColumn {
                    remote_num: None,
                    name: c.name,
                    r#type: c.r#type,
                    not_null: c.not_null,
                    options: c.options,
                })
                .collect(),
            name: t.name,
            options: t.options,
        })
        .collect())
}

/// Which imported table each of those that are there is over: the one whose options it has, whatever somebody called it
/// here. Each wrapper has options of its own to name a remote table.
pub fn recognise(existing: &mut [Existing], wanted: &[Wanted]) {
    for table in existing {
        let has_all = |w: &&Wanted| w.options.iter().all(|(name, value)| table.options.get(name) == Some(value));
        let mut same = wanted.iter().filter(|w| !w.options.is_empty()).filter(has_all);
        if let (Some(one), None) = (same.next(), same.next()) {
            table.imported_as = Some(one.name.clone());
        }
    }
}

/// What to ask for: a table that is left out cannot fail the import.
fn which(app: &Registered) -> String {
    let list = |names: &[String]| names.iter().map(|n| sql::ident(n)).collect::<Vec<_>>().join(", ");
    match &app.only_tables {
        Some(only) if !only.is_empty() => format!(" LIMIT TO ({})", list(only)),
        _ if !app.except_tables.is_empty() => format!(" EXCEPT ({})", list(&app.except_tables)),
        _ => String::new(),
    }
}

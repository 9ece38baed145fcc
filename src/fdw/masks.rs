//! A mask that is put on a column, or taken off: the rule first, then a run that makes it hold.

use super::mask::{self, Mask, Rules};
use super::model::{Change, Existing};
use super::registry::Registered;
use super::{behind, local, run};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

/// The application whose tables a schema has.
fn of_schema(schema: &str) -> Result<String> {
    let name: Option<String> = spi::first(
        "SELECT pg_catalog.to_json(name)::text FROM wh.fdw WHERE local_schema = $1::name",
        &[schema.into()],
    )?;
    name.ok_or_else(|| {
        Error::new(sqlstate::UNDEFINED_OBJECT, format!("schema \"{schema}\" is not that of a foreign application"))
            .hint("SELECT name, local_schema FROM wh.fdws lists those that are; masks are for their columns.")
    })
}

/// The product's names of a column that is called so here or there; and the column, where it is here.
fn find<'a>(
    app: &Registered,
    tables: &'a [Existing],
    table: &str,
    column: &str,
) -> Option<(String, String, Option<(&'a Existing, u32)>)> {
    let by_name = tables.iter().find(|t| t.view.as_ref().map_or(&t.name, |v| &v.name) == table);
    let there = by_name.or_else(|| tables.iter().find(|t| t.remote_name() == table));
    if let Some(t) = there {
        let by_name = t.columns.iter().find(|c| c.name == column);
        if let Some(c) = by_name.or_else(|| t.columns.iter().find(|c| c.remote_name() == column)) {
            return Some((t.remote_name().into(), c.remote_name().into(), Some((t, c.r#type.oid))));
        }
    }
    let withheld = app.withheld.iter().find(|w| {
        [&w.table, &w.remote_table].into_iter().any(|t| t == table)
            && [&w.column, &w.remote_column].into_iter().any(|c| c == column)
    });
    withheld.map(|w| (w.remote_table.clone(), w.remote_column.clone(), None))
}

/// Masks a column.
pub fn mask(schema: &str, table: &str, column: &str, mask: Mask) -> Result<Vec<Change>> {
    let name = of_schema(schema)?;
    run::mask(&name, |app| {
        let tables = local::tables(app)?;
        let Some((remote_table, remote_column, here)) = find(app, &tables, table, column) else {
            return Err(Error::new(
                sqlstate::UNDEFINED_COLUMN,
                format!("column \"{column}\" of {} does not exist", sql::qualified(schema, table)),
            )
            .hint("Masks are for columns of foreign applications. One that wh.hide hides is masked enough."));
        };
        let rules = behind::rules(&app.name)?;
        let masked = rules.of(&remote_table, &remote_column);
        match here {
            None => pgrx::notice!(
                "the policy of sensitive data withholds this column; SELECT * FROM wh.recreate_fdw({}) brings it, masked",
                sql::literal(&app.name)
            ),
            Some((_, ty)) if mask == Mask::Year && masked.is_none() && !mask::is_date(ty) => {
                return Err(Error::new("42804", format!("column \"{column}\" is no date")).hint(
                    "'year' is for date, timestamp and timestamptz; 'first' with 4 characters takes the year off a text.",
                ))
            }
            Some(_) => {}
        }
        behind::write_rule(&app.name, &remote_table, &remote_column, mask)
    })
}

/// Takes a mask off. What the column is, only the product knows.
pub fn unmask(schema: &str, table: &str, column: &str) -> Result<Vec<Change>> {
    let name = of_schema(schema)?;
    run::unmask(&name, |app| {
        let tables = local::tables(app)?;
        let Rules(rules) = behind::rules(&app.name)?;
        let found = find(app, &tables, table, column).map(|(t, c, _)| (t, c)).filter(|key| rules.contains_key(key));
        // A mask that waits for its column.
        let key = found.or_else(|| Some((table.to_owned(), column.to_owned())).filter(|key| rules.contains_key(key)));
        let Some((table, column)) = key else {
            return Err(Error::new(
                sqlstate::UNDEFINED_OBJECT,
                format!("column \"{column}\" of {} is not masked", sql::qualified(schema, table)),
            )
            .hint("SELECT * FROM wh.masked lists the masks."));
        };
        spi::run(
            "DELETE FROM wh.column_mask WHERE fdw = $1 AND table_name = $2 AND column_name = $3",
            &[app.name.as_str().into(), table.as_str().into(), column.as_str().into()],
        )?;
        Ok(())
    })
}

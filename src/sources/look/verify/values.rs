//! Rows whose hash is that of their record, and whose values are not: somebody wrote them.

use pgrx::datum::DatumWithOid;

use crate::error::Result;
use crate::pg::{spi, sql, worker};
use crate::sources::load::{Layout, Row, Table};

/// The difference, in words.
pub const CHANGED: &str = "changed in the table";

/// Which of the rows have other values in the table than their records say, by place.
pub fn changed(table: Option<&Table>, layout: &Layout, rows: &[&Row], round: &worker::Round) -> Result<Vec<usize>> {
    let Some(table) = table.filter(|_| !rows.is_empty()) else { return Ok(Vec::new()) };
    let (mut places, mut changed, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (n, row) in rows.iter().enumerate() {
        match row.values(layout) {
            Ok(made) => {
                places.push(n);
                values.push(made);
            }
            // The columns that it was stored with are no more.
            Err(_) => changed.push(n),
        }
    }
    let (mut names, mut arrays, mut join, mut differs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut args: Vec<DatumWithOid> = Vec::new();
    let mut given = |values: Vec<Option<String>>| {
        args.push(values.into());
        arrays.push(format!("pg_catalog.unnest(${}::text[])", args.len()));
        names.push(format!("c{}", args.len()));
        format!("k.c{}", args.len())
    };
    for (at, field) in layout.fields.iter().enumerate() {
        let (c, column) = (given(values.iter().map(|v| v[at].clone()).collect()), sql::ident(&field.column));
        match layout.key.contains(&at) {
            true => join.push(format!("t.{column} = {c}::{}", field.ty)),
            false => differs.push(format!("t.{column} IS DISTINCT FROM {c}::{}", field.ty)),
        }
    }
    if layout.raw {
        let c = given(places.iter().map(|n| Some(rows[*n].record.get().to_owned())).collect());
        differs.push(format!("t._raw IS DISTINCT FROM {c}::jsonb"));
    }
    let c = given(places.iter().map(|n| rows[*n].version.clone()).collect());
    differs.push(format!("t._version IS DISTINCT FROM {c}"));
    let query = format!(
        "SELECT k.n FROM ROWS FROM ({}) WITH ORDINALITY AS k ({}, n) JOIN {} t ON {} WHERE {}",
        arrays.join(", "),
        names.join(", "),
        table.name,
        join.join(" AND "),
        differs.join(" OR ")
    );
    let found = round.run(|| {
        spi::columns(&query, &args, |row| Ok(row.get::<i64>(1)?.and_then(|n| places.get(n as usize - 1).copied())))
    })?;
    changed.extend(found);
    Ok(changed)
}

//! Materialized views hold copies. Where what they read is no longer to be seen, they are filled again.

use super::dependents::{self, Kind};
use super::held::what;
use super::model::Change;
use crate::error::Result;
use crate::pg::{lock, spi, subxact};

/// Fills every materialized view above a relation again, from the bottom up. REFRESH becomes the owner of each
/// (src/backend/commands/matview.c). Locks are asked for during a moment; one that is not to be had is 55P03. One that cannot be filled is left empty: nothing of what it held stays.
pub fn refresh_above(relation: u32) -> Result<Vec<Change>> {
    let above = dependents::above([relation])?;
    let mut views: Vec<(usize, u32, &str)> = above
        .edges
        .iter()
        .filter(|d| d.kind == Kind::MaterializedView)
        .map(|d| (above.level_of(d.oid), d.oid, d.name.as_str()))
        .collect();
    views.sort_unstable();
    views.dedup();
    // All of them at once and briefly: a refresh that waits would have readers of what it holds wait, too.
    lock::access_exclusive(views.iter().rev().map(|v| v.1))?;
    let mut changes = Vec::new();
    for (_, oid, name) in views {
        let filled: Vec<bool> =
            spi::rows("SELECT to_json(relispopulated)::text FROM pg_class WHERE oid = $1", &[spi::oid(oid)])?;
        if filled != [true] {
            continue;
        }
        // What ANALYZE collected holds values too.
        spi::run("DELETE FROM pg_statistic WHERE starelid = $1", &[spi::oid(oid)])?;
        spi::run(
            "DELETE FROM pg_statistic_ext_data d USING pg_statistic_ext e WHERE e.oid = d.stxoid AND e.stxrelid = $1",
            &[spi::oid(oid)],
        )?;
        let mut change = Change::new(name, what(Kind::MaterializedView), "refreshed");
        match subxact::run(|| spi::run(&format!("REFRESH MATERIALIZED VIEW {name}"), &[])) {
            Ok(_) => {
                spi::run(&format!("ANALYZE {name}"), &[])?;
            }
            Err(e) if e.is_the_owners() => {
                spi::run(&format!("REFRESH MATERIALIZED VIEW {name} WITH NO DATA"), &[])?;
                change = Change::new(name, what(Kind::MaterializedView), "emptied")
                    .detail(format!("not refreshed: {}", e.without_values()));
            }
            Err(e) => return Err(e),
        }
        changes.push(change);
    }
    Ok(changes)
}

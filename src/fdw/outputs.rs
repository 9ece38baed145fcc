//! The columns that a view gives: queries of the same columns, and how two lists of them differ.

use pgrx::pg_sys;

use super::held::Held;
use super::{reads, rebuild};
use crate::error::Result;
use crate::pg::catalog::format_type;
use crate::pg::rewrite::Output;
use crate::pg::{spi, sql, subxact};

/// Outcome of putting a definition into a view.
pub enum Filled {
    Same,
    /// The query's columns are others now; nothing was stored.
    Differs(Vec<Output>),
}

/// Analyses `definition` as the view's owner and stores it if its columns are those of the view.
///
/// Analysis runs code: the input of an array, a record or a range of somebody's domain checks the domain.
pub fn fill(held: &Held, definition: &str) -> Result<Filled> {
    // Outside, since a subtransaction that has taken more than a few locks goes through all of the session's when it ends
    // (MAX_RESOWNER_LOCKS, src/backend/utils/resowner/resowner.c), and a rebuild holds thousands.
    let present = reads::present(&held.reads, true)?;
    subxact::run(|| {
        let query = present.analyse(&held.owner, definition)?;
        if query.outputs != held.outputs {
            return Ok(Filled::Differs(query.outputs));
        }
        present.store(held.oid, query)?;
        Ok(Filled::Same)
    })
}

/// `SELECT NULL::type AS column, …` with `tail` behind it. Runs nobody's code: type input is not called for NULL,
/// but for a domain, and that of its base type (src/backend/parser/parse_coerce.c, coerce_type).
pub fn nulls(outputs: &[Output], tail: &str) -> Result<String> {
    let columns: Vec<String> = outputs.iter().map(null).collect::<Result<_>>()?;
    Ok(format!("SELECT {}{tail}", columns.join(", ")))
}

fn null(o: &Output) -> Result<String> {
    let (r#type, collate) = (format_type(o.type_oid, o.typmod), rebuild::collate(o.collation)?);
    Ok(format!("NULL::{}{collate} AS {}", r#type, sql::ident(&o.name)))
}

/// The same, without an expression of a table's or view's row type, or of an array of them: as long as there is one,
/// Postgres lets no column of that relation change its type (find_composite_type_dependencies,
/// src/backend/commands/tablecmds.c). A variable is none.
pub fn hollow(outputs: &[Output]) -> Result<String> {
    let theirs = outputs.iter().map(|o| o.type_oid).filter(|oid| *oid >= pg_sys::FirstNormalObjectId);
    let theirs: Vec<u32> = theirs.collect();
    if theirs.is_empty() {
        return nulls(outputs, "");
    }
    let rows: Vec<(u32, String, bool)> = spi::prepared(
        "SELECT json_build_array(t.oid::int8, format('%I.%I', n.nspname, c.relname), t.typrelid = 0)::text
         FROM pg_type t JOIN pg_type r ON r.oid = t.oid OR t.typelem = r.oid AND r.typarray = t.oid
         JOIN pg_class c ON c.oid = r.typrelid AND c.relkind <> 'c' JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE t.oid = ANY ($1)",
        &[spi::oids(theirs)],
    )?;
    let row = |o: &Output| rows.iter().find(|(oid, ..)| *oid == o.type_oid);
    let columns: Vec<String> = outputs
        .iter()
        .map(|o| {
            let name = sql::ident(&o.name);
            Ok(match row(o) {
                Some((_, relation, true)) => format!("ARRAY(SELECT t FROM {relation} t) AS {name}"),
                Some((_, relation, false)) => format!("(SELECT t FROM {relation} t) AS {name}"),
                None => null(o)?,
            })
        })
        .collect::<Result<_>>()?;
    Ok(format!("SELECT {}", columns.join(", ")))
}

/// The definition with each output cast to its old type.
pub fn pin(definition: &str, outputs: &[Output]) -> String {
    let cast = |o: &Output| {
        let name = sql::ident(&o.name);
        format!("wh_pinned.{name}::{} AS {name}", format_type(o.type_oid, o.typmod))
    };
    format!("SELECT {} FROM ({definition}) wh_pinned", outputs.iter().map(cast).collect::<Vec<_>>().join(", "))
}

/// What differs between two lists of outputs, in words.
pub fn describe(before: &[Output], after: &[Output]) -> String {
    let mut words = Vec::new();
    for (b, a) in before.iter().zip(after) {
        if b != a {
            let (from, to) = (format_type(b.type_oid, b.typmod), format_type(a.type_oid, a.typmod));
            words.push(if b.name != a.name {
                format!("column \"{}\" is \"{}\" now", b.name, a.name)
            } else if from == to {
                format!("\"{}\" has another collation now", b.name)
            } else {
                format!("\"{}\" is {to} now, was {from}", b.name)
            });
        }
    }
    if before.len() != after.len() {
        words.push(format!("{} columns now, were {}", after.len(), before.len()));
    }
    words.join(", ")
}

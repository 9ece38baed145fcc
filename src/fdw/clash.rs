//! Local names that two things want, and tables that are full. Pure.
//!
//! A name that somebody chose here stays, and so does what has it. What the product calls so keeps the name that it has
//! here, or waits outside, until the name is free; the rest goes on.

use std::collections::HashSet;

use crate::pg::sql;

/// Columns that a table takes in its life, those that were dropped among them: MaxHeapAttributeNumber
/// (src/include/access/htup_details.h).
pub const MOST_COLUMNS: i16 = 1600;

/// Something of the product's that has no place here.
#[derive(Debug, PartialEq, Eq)]
pub struct Blocked {
    pub wanted: usize,
    /// Place among the wanted table's columns, where it is a column that is blocked.
    pub column: Option<usize>,
    /// The local name that it keeps, where it is here already.
    pub keeps: Option<String>,
    pub why: Why,
}

/// Why it has none.
#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// Something of somebody's own has its name.
    Taken,
    /// One of these tables or columns has, by the product's name.
    TakenBy(String),
    /// The table has had as many columns as one can.
    Full,
}

impl Why {
    pub fn taken(by: Option<String>) -> Why {
        by.map_or(Why::Taken, Why::TakenBy)
    }
}

/// Local names that follow the product's, and could not yet. A person who gives one of them another name takes it over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    pub table: Option<String>,
    pub columns: Vec<String>,
}

/// Which of the renames (from, to) have to wait, as `kept` has the new name; one that waits keeps its own, which joins
/// `kept`.
pub fn waiting<'a>(kept: &mut HashSet<&'a str>, renames: &[(&'a str, &'a str)]) -> HashSet<usize> {
    let mut waiting = HashSet::new();
    loop {
        let more: Vec<usize> =
            (0..renames.len()).filter(|i| !waiting.contains(i) && kept.contains(renames[*i].1)).collect();
        if more.is_empty() {
            return waiting;
        }
        for i in more {
            waiting.insert(i);
            kept.insert(renames[i].0);
        }
    }
}

impl Blocked {
    /// Why, and what to do for the application `app`; `place` says how a local name of its kind is written in full.
    pub fn detail(&self, app: &str, place: impl Fn(&str) -> String) -> String {
        let kind = if self.column.is_some() { "column" } else { "relation" };
        let who = match (&self.why, self.column) {
            (Why::Full, _) => {
                return format!(
                    "a table takes {MOST_COLUMNS} columns in its life, those that were dropped among them; SELECT * FROM wh.recreate_fdw({}, rebuild => true) makes room",
                    sql::literal(app)
                )
            }
            (Why::Taken, _) => format!("another {kind}"),
            (Why::TakenBy(by), None) => format!("the foreign table over \"{by}\""),
            (Why::TakenBy(by), Some(_)) => format!("the column over \"{by}\""),
        };
        let keeps = self.keeps.as_ref().map(|name| format!("{} keeps its name: ", place(name))).unwrap_or_default();
        format!("{keeps}{who} has this name here; rename it and run this again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rename_waits_for_a_name_that_is_kept_and_others_wait_for_it() {
        let chain = [("a", "b"), ("c", "a"), ("d", "e")];
        let mut kept = HashSet::from(["b"]);
        assert_eq!(waiting(&mut kept, &chain), HashSet::from([0, 1]));
        assert_eq!(kept, HashSet::from(["b", "a", "c"]));
        // Names that are exchanged are free for one another.
        assert!(waiting(&mut HashSet::from(["x"]), &[("a", "b"), ("b", "a")]).is_empty());
    }
}

//! What the view in a masked table's place shows: its columns, and what it takes to make it show others when the product
//! changes. Pure.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::diff::{ColumnDiff, TableDiff};
use super::mask::{Mask, Rules};
use super::model::{ColumnType, Existing, Wanted, WantedColumn};
use crate::pg::rewrite::Output;

/// A column as the view of a masked table shows it; named as that of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub column: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
}

/// The view in a masked table's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub shown: Vec<Shown>,
    pub outputs: Vec<Output>,
}

/// A column of the table after a change of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name before, where it was there.
    pub was: Option<String>,
    pub name: String,
    pub r#type: ColumnType,
    pub mask: Option<Mask>,
}

/// The columns of a table after its change, in their order.
pub fn after(existing: &Existing, wanted: &Wanted, diff: &TableDiff, rules: &Rules) -> Vec<Column> {
    let mut columns = Vec::new();
    for (i, c) in existing.columns.iter().enumerate() {
        let mut column = Column { was: Some(c.name.clone()), name: c.name.clone(), r#type: c.r#type, mask: None };
        let mut remote = c.remote_name().to_owned();
        let mut gone = false;
        for change in &diff.columns {
            match change {
                ColumnDiff::Drop { existing } if *existing == i => gone = true,
                ColumnDiff::Rename { existing, to } if *existing == i => {
                    column.name.clone_from(to);
                    remote.clone_from(to);
                }
                ColumnDiff::Retype { existing, wanted: w } if *existing == i => {
                    column.r#type = wanted.columns[*w].r#type
                }
                ColumnDiff::Options { existing, options } if *existing == i => {
                    let name = options.iter().find(|o| o.name == "column_name");
                    remote = name.map_or(remote, |o| o.value.clone());
                }
                _ => {}
            }
        }
        if gone {
            continue;
        }
        column.mask = rules.of(&wanted.name, &remote);
        columns.push(column);
    }
    for change in &diff.columns {
        if let ColumnDiff::Add { wanted: w } = change {
            columns.push(new_column(&wanted.name, &wanted.columns[*w], rules));
        }
    }
    columns
}

pub fn new_column(table: &str, column: &WantedColumn, rules: &Rules) -> Column {
    let mask = rules.of(table, &column.name);
    Column { was: None, name: column.name.clone(), r#type: column.r#type, mask }
}

/// What the view shows, and as what: those that it shows already first, in their order.
pub fn shown(columns: &[Column], before: &[Shown]) -> (Vec<Shown>, Vec<Output>) {
    let place = |c: &Column| before.iter().position(|s| Some(&s.column) == c.was.as_ref()).unwrap_or(usize::MAX);
    let mut visible: Vec<&Column> = columns.iter().filter(|c| c.mask != Some(Mask::Hidden)).collect();
    if visible.is_empty() {
        // A view has a column at least (DefineVirtualRelation, src/backend/commands/view.c).
        visible = columns.iter().take(1).collect();
    }
    visible.sort_by_key(|c| place(c));
    let one = |c: &&Column| {
        let ty = c.mask.map_or(c.r#type, |m| m.shows(c.r#type));
        let output = Output { name: c.name.clone(), type_oid: ty.oid, typmod: ty.typmod, collation: ty.collation };
        (Shown { column: c.name.clone(), mask: c.mask }, output)
    };
    visible.iter().map(one).unzip()
}

/// What it takes to make the view show something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its query alone changes.
    Fill,
    /// Columns come to its end.
    Extend,
    /// Columns go, or get another type.
    Remake,
}

/// By its columns before (renamed already) and after.
pub fn step(before: &[Output], after: &[Output]) -> Step {
    match after.get(..before.len()) {
        Some(start) if start == before => match after.len() == before.len() {
            true => Step::Fill,
            false => Step::Extend,
        },
        _ => Step::Remake,
    }
}

/// The columns of a view as they are called once the table's columns are renamed: the table's names are its own.
pub fn renamed(outputs: &[Output], columns: &[Column]) -> Vec<Output> {
    let now: HashMap<&str, &str> = columns.iter().filter_map(|c| Some((c.was.as_deref()?, c.name.as_str()))).collect();
    outputs
        .iter()
        .map(|o| Output { name: (*now.get(o.name.as_str()).unwrap_or(&o.name.as_str())).to_owned(), ..o.clone() })
        .collect()
}

/// Whether something was seen before that is not seen any more.
pub fn is_stricter(before: &[Shown], after: &[Shown], columns: &[Column]) -> bool {
    let now: HashMap<&str, Option<Mask>> = after.iter().map(|s| (s.column.as_str(), s.mask)).collect();
    let seen: HashSet<&str> = before.iter().map(|s| s.column.as_str()).collect();
    columns.iter().filter(|c| c.was.as_deref().is_some_and(|was| seen.contains(was))).any(|c| {
        let was = before.iter().find(|s| Some(&s.column) == c.was.as_ref()).and_then(|s| s.mask);
        match now.get(c.name.as_str()) {
            None => true,
            Some(mask) => *mask != was && mask.is_some(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::mask::tests::rules;
    use super::super::model::fixtures::{existing, wanted, INT};
    use super::*;

    #[test]
    fn what_the_view_shows_stays_in_its_place() {
        let have = existing(Some(7), "t", &[(1, "id"), (2, "a"), (3, "b")]);
        let want = wanted(7, "t", &[(1, "id"), (2, "a2"), (3, "b"), (4, "c")]);
        let d =
            super::super::diff::diff(std::slice::from_ref(&have), std::slice::from_ref(&want), true, &HashSet::new());
        let columns = after(&have, &want, &d.alter[0], &rules(&[("t", "a2", Mask::Null)]));
        let before: Vec<Shown> = ["b", "id", "a"].iter().map(|c| Shown { column: (*c).into(), mask: None }).collect();
        let (now, outputs) = shown(&columns, &before);
        let names: Vec<&str> = now.iter().map(|s| s.column.as_str()).collect();
        assert_eq!(names, ["b", "id", "a2", "c"]);
        let old = [outputs[0].clone(), outputs[1].clone(), Output { name: "a".into(), ..outputs[2].clone() }];
        assert_eq!(step(&renamed(&old, &columns), &outputs), Step::Extend);
        assert!(is_stricter(&before, &now, &columns));
        assert!(!is_stricter(&now, &now, &columns));
    }

    #[test]
    fn a_table_with_nothing_to_show_shows_one_column_as_null() {
        let column = |name: &str| Column { was: None, name: name.into(), r#type: INT, mask: Some(Mask::Hidden) };
        let (now, outputs) = shown(&[column("a"), column("b")], &[]);
        assert_eq!((now.len(), outputs.len()), (1, 1));
    }

    #[test]
    fn a_column_that_goes_or_changes_type_needs_another_view() {
        let o = |name: &str, ty: u32| Output { name: name.into(), type_oid: ty, typmod: -1, collation: 0 };
        assert_eq!(step(&[o("a", 1), o("b", 1)], &[o("a", 1)]), Step::Remake);
        assert_eq!(step(&[o("a", 1)], &[o("a", 2)]), Step::Remake);
        assert_eq!(step(&[o("a", 1)], &[o("b", 1), o("a", 1)]), Step::Remake);
        assert_eq!(step(&[o("a", 1)], &[o("a", 1)]), Step::Fill);
    }
}

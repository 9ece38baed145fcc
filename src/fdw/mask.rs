//! Masks of columns: what each makes of a value, which columns have one, and what becomes of the view that shows them
//! when the product changes. Pure.
//!
//! A rule goes by the product's names, and follows its renames. It outlives its column: should that come back, it comes
//! back masked.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::diff::{ColumnDiff, Diff, TableDiff};
use super::model::{ColumnType, Existing, Wanted};
use crate::pg::rewrite::Output;

/// What is shown of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mask", rename_all = "lowercase")]
pub enum Mask {
    /// Nothing, not even that it is there.
    Hidden,
    Null,
    /// HMAC-SHA-256 of its text, in hexadecimal.
    Hashed,
    /// So many characters of its text.
    First {
        characters: i32,
    },
    /// The first day of its year.
    Year,
}

const TEXT: ColumnType = ColumnType { oid: 25, typmod: -1, collation: 100 };
const DATE: ColumnType = ColumnType { oid: 1082, typmod: -1, collation: 0 };
/// date, timestamp, timestamptz (src/include/catalog/pg_type.dat).
const DATES: [u32; 3] = [1082, 1114, 1184];

impl Mask {
    /// Whether the value is read as text: then no value that does not fit a type stands in an error.
    pub fn reads_text(self) -> bool {
        matches!(self, Mask::Hashed | Mask::First { .. } | Mask::Year)
    }

    /// The type of what is shown.
    fn shows(self, column: ColumnType) -> ColumnType {
        match self {
            Mask::Hidden | Mask::Null => column,
            Mask::Hashed => TEXT,
            Mask::First { .. } => {
                ColumnType { collation: if column.collation == 0 { 100 } else { column.collation }, ..TEXT }
            }
            Mask::Year => DATE,
        }
    }

    pub fn describe(self) -> String {
        match self {
            Mask::Hidden => "hidden".into(),
            Mask::Null => "null".into(),
            Mask::Hashed => "hashed".into(),
            Mask::First { characters } => format!("first {characters}"),
            Mask::Year => "year".into(),
        }
    }

    /// What is shown of `x.column` (quoted), which has this type; `type_name` is the type as SQL writes it.
    ///
    /// The key comes out of a table that nobody is granted: in a view, relations are read as the view's owner, functions
    /// are called as who reads it. So whoever reads the hashes can neither read the key nor have anything else hashed. The
    /// call of getdatabaseencoding is STABLE, which keeps the expression, and the key in it, away from the product
    /// (contrib/postgres_fdw/deparse.c, foreign_expr_walker: only immutable functions are sent).
    pub fn expression(self, column: &str, ty: ColumnType, type_name: &str, collate: &str) -> String {
        let text = if ty.oid == TEXT.oid { format!("x.{column}") } else { format!("x.{column}::text") };
        match self {
            Mask::Hidden | Mask::Null => format!("NULL::{type_name}{collate}"),
            Mask::Hashed => format!(
                "encode(sha256((SELECT k.outer_pad FROM wh.mask_key k) || sha256((SELECT k.inner_pad FROM wh.mask_key k) \
                 || convert_to({text}, getdatabaseencoding()))), 'hex')"
            ),
            Mask::First { characters } => format!("\"left\"({text}, {characters})"),
            Mask::Year if DATES.contains(&ty.oid) => {
                format!("CASE WHEN isfinite(x.{column}) THEN date_trunc('year', x.{column}::timestamp)::date END")
            }
            Mask::Year => format!(
                "CASE WHEN {text} ~ '^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ][0-9:.+-]*)?$' AND {text} !~ '^0000' \
                 THEN make_date(\"left\"({text}, 4)::integer, 1, 1) END"
            ),
        }
    }
}

/// Whether a year can be taken from it.
pub fn is_date(ty: u32) -> bool {
    DATES.contains(&ty)
}

/// Masks by the product's names of table and column.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(pub BTreeMap<(String, String), Mask>);

impl Rules {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn of(&self, table: &str, column: &str) -> Option<Mask> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(table.to_owned(), column.to_owned())).copied()
    }

    /// Whether a table has any.
    pub fn any_of(&self, table: &str) -> bool {
        self.0.keys().any(|(t, _)| t == table)
    }

    /// The rules once the product's renames are followed. Where one meets another that waits for a column to come back,
    /// the one that has its column holds.
    pub fn follow(&self, existing: &[Existing], wanted: &[Wanted], diff: &Diff) -> Rules {
        let mut moved: HashMap<&str, (&str, HashMap<&str, &str>)> = HashMap::new();
        let same = diff.same.iter().map(|(e, w)| (*e, *w, &[][..]));
        let altered = diff.alter.iter().map(|t| (t.existing, t.wanted, t.columns.as_slice()));
        for (e, w, changes) in same.chain(altered) {
            let table = &existing[e];
            let mut columns: HashMap<&str, &str> =
                table.columns.iter().map(|c| (c.remote_name(), c.remote_name())).collect();
            for change in changes {
                match change {
                    ColumnDiff::Rename { existing: c, to } => {
                        columns.insert(table.columns[*c].remote_name(), to);
                    }
                    ColumnDiff::Options { existing: c, options } => {
                        for option in options.iter().filter(|o| o.name == "column_name") {
                            columns.insert(table.columns[*c].remote_name(), &option.value);
                        }
                    }
                    ColumnDiff::Drop { existing: c } => {
                        columns.remove(table.columns[*c].remote_name());
                    }
                    _ => {}
                }
            }
            moved.insert(table.remote_name(), (wanted[w].name.as_str(), columns));
        }
        let mut after = BTreeMap::new();
        // Those that wait first: what is there counts more.
        for there in [false, true] {
            for ((table, column), mask) in &self.0 {
                let now = match moved.get(table.as_str()) {
                    None => (!there).then(|| (table.clone(), column.clone())),
                    Some((to, columns)) => match columns.get(column.as_str()) {
                        Some(name) => there.then(|| ((*to).to_owned(), (*name).to_owned())),
                        None => (!there).then(|| ((*to).to_owned(), column.clone())),
                    },
                };
                if let Some(now) = now {
                    after.insert(now, *mask);
                }
            }
        }
        Rules(after)
    }

    /// Columns whose values are read as text here, whatever they are on the product. The text is what its output
    /// functions write under the settings of postgres_fdw: the same in every session.
    pub fn read_as_text(&self, wanted: &mut [Wanted]) -> bool {
        let mut changed = false;
        for table in wanted {
            for column in &mut table.columns {
                if self.of(&table.name, &column.name).is_some_and(Mask::reads_text) && column.r#type != TEXT {
                    column.r#type = TEXT;
                    changed = true;
                }
            }
        }
        changed
    }
}

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

pub fn new_column(table: &str, column: &super::model::WantedColumn, rules: &Rules) -> Column {
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
    use super::super::model::{ExistingColumn, Options, WantedColumn};
    use super::*;

    const INT: ColumnType = ColumnType { oid: 23, typmod: -1, collation: 0 };

    fn existing(name: &str, columns: &[(i16, &str)]) -> Existing {
        let columns = columns
            .iter()
            .map(|(num, name)| ExistingColumn {
                num: *num,
                name: (*name).into(),
                r#type: INT,
                not_null: false,
                options: Options::new(),
                generated: false,
                remote_num: Some(*num),
            })
            .collect();
        let options = Options::from([("table_name".into(), name.into())]);
        Existing {
            oid: 1,
            name: name.into(),
            schema: "raw".into(),
            view: None,
            options,
            imported_as: None,
            remote_oid: Some(7),
            waiting: Default::default(),
            attributes: columns.len() as i16,
            columns,
        }
    }

    fn wanted(name: &str, columns: &[(i16, &str)]) -> Wanted {
        let columns = columns
            .iter()
            .map(|(num, name)| WantedColumn {
                remote_num: Some(*num),
                name: (*name).into(),
                r#type: INT,
                not_null: false,
                options: Options::new(),
            })
            .collect();
        let options = Options::from([("table_name".into(), name.into())]);
        Wanted { remote_oid: Some(7), name: name.into(), options, columns }
    }

    fn rules(list: &[(&str, &str, Mask)]) -> Rules {
        Rules(list.iter().map(|(t, c, m)| (((*t).into(), (*c).into()), *m)).collect())
    }

    #[test]
    fn rules_follow_renames_of_tables_and_columns_and_wait_for_what_is_gone() {
        let have = [existing("users", &[(1, "id"), (2, "email"), (3, "note")])];
        let want = [wanted("people", &[(1, "id"), (2, "mail")])];
        let d = super::super::diff::diff(&have, &want, true, &HashSet::new());
        let before =
            rules(&[("users", "email", Mask::Hashed), ("users", "note", Mask::Null), ("gone", "x", Mask::Year)]);
        assert_eq!(
            before.follow(&have, &want, &d),
            rules(&[("people", "mail", Mask::Hashed), ("people", "note", Mask::Null), ("gone", "x", Mask::Year)])
        );
    }

    #[test]
    fn rules_of_swapped_columns_are_swapped() {
        let have = [existing("t", &[(1, "a"), (2, "b")])];
        let want = [wanted("t", &[(1, "b"), (2, "a")])];
        let d = super::super::diff::diff(&have, &want, true, &HashSet::new());
        let before = rules(&[("t", "a", Mask::Hashed), ("t", "b", Mask::Null)]);
        assert_eq!(before.follow(&have, &want, &d), rules(&[("t", "b", Mask::Hashed), ("t", "a", Mask::Null)]));
    }

    #[test]
    fn what_the_view_shows_stays_in_its_place() {
        let have = existing("t", &[(1, "id"), (2, "a"), (3, "b")]);
        let want = wanted("t", &[(1, "id"), (2, "a2"), (3, "b"), (4, "c")]);
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
        assert_eq!(Mask::Hidden.expression("a", INT, "integer", ""), "NULL::integer");
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

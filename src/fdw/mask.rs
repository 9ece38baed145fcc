//! Masks of columns: what each makes of a value, and which columns have one. Pure.
//!
//! A rule goes by the product's names, and follows its renames. It outlives its column: should that come back, it comes
//! back masked.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::diff::{ColumnDiff, Diff};
use super::model::{ColumnType, Existing, Wanted};

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
    pub fn shows(self, column: ColumnType) -> ColumnType {
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

#[cfg(test)]
pub mod tests {
    use std::collections::HashSet;

    use super::super::model::fixtures::{existing, wanted, INT};
    use super::*;

    pub fn rules(list: &[(&str, &str, Mask)]) -> Rules {
        Rules(list.iter().map(|(t, c, m)| (((*t).into(), (*c).into()), *m)).collect())
    }

    #[test]
    fn rules_follow_renames_of_tables_and_columns_and_wait_for_what_is_gone() {
        let have = [existing(Some(7), "users", &[(1, "id"), (2, "email"), (3, "note")])];
        let want = [wanted(7, "people", &[(1, "id"), (2, "mail")])];
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
        let have = [existing(Some(7), "t", &[(1, "a"), (2, "b")])];
        let want = [wanted(7, "t", &[(1, "b"), (2, "a")])];
        let d = super::super::diff::diff(&have, &want, true, &HashSet::new());
        let before = rules(&[("t", "a", Mask::Hashed), ("t", "b", Mask::Null)]);
        assert_eq!(before.follow(&have, &want, &d), rules(&[("t", "b", Mask::Hashed), ("t", "a", Mask::Null)]));
    }

    #[test]
    fn what_is_hidden_is_null_where_something_must_stand() {
        assert_eq!(Mask::Hidden.expression("a", INT, "integer", ""), "NULL::integer");
    }
}

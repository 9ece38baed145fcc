//! What a definition reads, by number and by name, so that its text goes on to mean the same.
//!
//! A text says names, and its alias lists say places. Between the moment in which it is read and the one in which it is
//! analysed again, columns come, go and are renamed: within a run for a view that is held, over weeks for a broken one.
//! So the columns of every relation that it reads are remembered with it, and matched with those that are there then.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::dependents::Kind;
use super::rename::Asides;
use crate::error::{sqlstate, Error, Result};
use crate::pg::called::{self, Called};
use crate::pg::{identity, rewrite, spi, sql};

/// A relation that is read, with all of its columns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    oid: u32,
    /// Schema and name in the text.
    then: (String, String),
    /// As they were when they were last looked at.
    now: (String, String),
    columns: Vec<Column>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    num: i16,
    then: String,
    now: String,
    used: bool,
}

/// How far a relation that was found is the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Same {
    /// It has its number, and so have the columns.
    Number,
    /// It is a copy, whose columns have the names that they had last.
    Copy,
    /// Another one of its name.
    Name,
}

/// A relation that was found, with the numbers and names of its columns.
#[derive(Debug, Clone, Deserialize)]
struct Found {
    place: usize,
    oid: u32,
    /// 1 by number, 2 by the name that it had last, 3 by the name that the text says.
    by: u8,
    name: (String, String),
    columns: Vec<(i16, String)>,
}

/// For each column that is there, the one that was read and is meant by it.
///
/// A number is the surest, then the name that the column had last: a column that was dropped and made again is the same
/// thing to whoever reads it. Only in another table of the same name the text's own name counts. What is used is matched
/// first: in a migration that drops `id` and renames `new_id` to `id`, readers of `id` mean the new one, although readers
/// of `new_id` could have it by its number.
fn matched(then: &[Column], now: &[(i16, String)], same: Same) -> Vec<Option<usize>> {
    let mut found: Vec<Option<usize>> = vec![None; now.len()];
    let mut match_by = |used: bool, is_it: &dyn Fn(&Column, &(i16, String)) -> bool| {
        for (place, column) in then.iter().enumerate().filter(|(_, c)| c.used == used) {
            if found.contains(&Some(place)) {
                continue;
            }
            let free = now.iter().enumerate().find(|(n, c)| found[*n].is_none() && is_it(column, c));
            if let Some((n, _)) = free {
                found[n] = Some(place);
            }
        }
    };
    for used in [true, false] {
        if same == Same::Number {
            match_by(used, &|column, (num, _)| column.num == *num);
        }
        match_by(used, &|column, (_, name)| column.now == *name);
        if same == Same::Name {
            match_by(used, &|column, (_, name)| column.then == *name);
        }
    }
    found
}

/// What reads have become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// Relations whose names or columns are others now.
    pub called: Vec<Called>,
    /// What is used and is not there, in words.
    pub gone: Vec<String>,
    /// The reads with the numbers and names of now.
    pub reads: Vec<Read>,
    /// Qualified relation and column of all that is used, as it is called now.
    uses: BTreeSet<(String, String)>,
}

fn weigh(reads: &[Read], found: &[Found], here: bool) -> Present {
    let mut present = Present { reads: reads.to_vec(), ..Present::default() };
    for (place, read) in present.reads.iter_mut().enumerate() {
        let Some(there) = found.iter().find(|f| f.place == place) else {
            present.gone.push(format!("relation {}", sql::qualified(&read.now.0, &read.now.1)));
            if !here {
                read.oid = 0;
            }
            continue;
        };
        let same = match there.by {
            1 => Same::Number,
            2 if !here => Same::Copy,
            _ => Same::Name,
        };
        let matched = matched(&read.columns, &there.columns, same);
        let table = sql::qualified(&there.name.0, &there.name.1);
        for (n, column) in read.columns.iter().enumerate().filter(|(_, c)| c.used) {
            match matched.iter().position(|m| *m == Some(n)).and_then(|at| there.columns.get(at)) {
                Some((_, name)) => {
                    present.uses.insert((table.clone(), name.clone()));
                }
                None => present.gone.push(format!("column {table}.{}", sql::ident(&column.now))),
            }
        }
        let columns: Vec<called::Column> = there
            .columns
            .iter()
            .zip(&matched)
            .map(|((_, name), place)| {
                let then = place.and_then(|p| Some((p, read.columns.get(p)?.then.clone())));
                called::Column { name: name.clone(), then }
            })
            .collect();
        let as_it_was = |(n, c): (usize, &called::Column)| c.then.as_ref().is_some_and(|t| t.0 == n && t.1 == c.name);
        let unchanged =
            there.name == read.then && columns.len() == read.columns.len() && columns.iter().enumerate().all(as_it_was);
        if !unchanged {
            present.called.push(Called { then: read.then.clone(), now: there.name.clone(), columns });
        }
        if same != Same::Number {
            // Numbers of another table's columns mean nothing here.
            read.columns.iter_mut().for_each(|c| c.num = 0);
        }
        for ((num, name), place) in there.columns.iter().zip(matched) {
            if let Some(column) = place.and_then(|p| read.columns.get_mut(p)) {
                (column.num, column.now) = (*num, name.clone());
            }
        }
        (read.oid, read.now) = (there.oid, there.name.clone());
    }
    present
}

impl Present {
    /// Analyses a text as its owner, so that each of its names is what it was.
    pub fn analyse(&self, owner: &str, text: &str) -> Result<rewrite::Query> {
        let query = {
            let _owner = identity::As::named(owner)?;
            rewrite::analyze_as(text, &self.called)?
        };
        match self.gone.first() {
            None => Ok(query),
            Some(gone) => Err(Error::new(sqlstate::UNDEFINED_COLUMN, format!("{gone} is gone"))),
        }
    }

    /// Stores an analysed text in its view.
    pub fn store(&self, view: u32, query: rewrite::Query) -> Result<()> {
        rewrite::store(view, query);
        self.check(Kind::View, view)
    }

    /// Alias lists of a join, and of rows that a function returns, still go by places: what was stored must read what the
    /// text was written for.
    pub fn check(&self, kind: Kind, object: u32) -> Result<()> {
        if self.called.is_empty() {
            return Ok(());
        }
        let reads = of(kind, [object])?.remove(&object).unwrap_or_default();
        let uses: BTreeSet<(String, String)> = reads.iter().flat_map(Read::uses).collect();
        if uses == self.uses {
            return Ok(());
        }
        let words = |set: Vec<&(String, String)>| {
            set.into_iter().map(|(table, c)| format!("{table}.{}", sql::ident(c))).collect::<Vec<_>>().join(", ")
        };
        let (wrong, lost) =
            (words(uses.difference(&self.uses).collect()), words(self.uses.difference(&uses).collect()));
        Err(Error::new(
            sqlstate::UNDEFINED_COLUMN,
            format!("its column aliases go by position, and would show \"{wrong}\" in the place of \"{lost}\" now"),
        ))
    }
}

impl Read {
    /// Says the names that a text says.
    pub fn say(&mut self, asides: &Asides) {
        let said = |name: &mut String| {
            if let Some((_, new)) = asides.iter().rfind(|(aside, _)| aside == name) {
                *name = unquoted(new);
            }
        };
        said(&mut self.then.1);
        self.now = self.then.clone();
        for column in &mut self.columns {
            said(&mut column.then);
            column.now = column.then.clone();
        }
    }

    fn uses(&self) -> Vec<(String, String)> {
        let table = sql::qualified(&self.now.0, &self.now.1);
        self.columns.iter().filter(|c| c.used).map(|c| (table.clone(), c.now.clone())).collect()
    }
}

/// The name that an identifier stands for.
fn unquoted(ident: &str) -> String {
    match ident.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => ident.to_owned(),
    }
}

/// What views, rules or functions read, as far as columns are recorded.
pub fn of(kind: Kind, oids: impl IntoIterator<Item = u32>) -> Result<HashMap<u32, Vec<Read>>> {
    let kind = match kind {
        Kind::Rule => "rule",
        Kind::Function => "function",
        _ => "view",
    };
    let found: Vec<(u32, Read)> = spi::prepared(READS, &[spi::oids(oids), kind.into()])?;
    let mut reads: HashMap<u32, Vec<Read>> = HashMap::new();
    for (object, read) in found {
        reads.entry(object).or_default().push(read);
    }
    Ok(reads)
}

const READS: &str = "
WITH o AS (
  SELECT w.ev_class AS id, 'pg_rewrite'::regclass AS class, w.oid FROM pg_rewrite w
  WHERE $2 = 'view' AND w.ev_class = ANY ($1) AND w.rulename = '_RETURN'
  UNION ALL SELECT w.oid, 'pg_rewrite'::regclass, w.oid FROM pg_rewrite w WHERE $2 = 'rule' AND w.oid = ANY ($1)
  UNION ALL SELECT p.oid, 'pg_proc'::regclass, p.oid FROM pg_proc p WHERE $2 = 'function' AND p.oid = ANY ($1)
), d AS (
  SELECT o.id, d.refobjid AS relation, array_agg(d.refobjsubid) AS used
  FROM o JOIN pg_depend d ON d.classid = o.class AND d.objid = o.oid
  WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> o.id GROUP BY o.id, d.refobjid)
SELECT json_build_array(d.id::int8, json_build_object('oid', c.oid::int8, 'then', json_build_array(n.nspname, c.relname),
         'now', json_build_array(n.nspname, c.relname),
         'columns', coalesce((SELECT json_agg(json_build_object('num', a.attnum, 'then', a.attname, 'now', a.attname, 'used', a.attnum = ANY (d.used)) ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')))::text
FROM d JOIN pg_class c ON c.oid = d.relation JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY d.id, c.oid";

/// What has become of reads. `here` says that their numbers are of this database.
pub fn present(reads: &[Read], here: bool) -> Result<Present> {
    if reads.is_empty() {
        return Ok(Present::default());
    }
    let found: Vec<Found> = spi::prepared(FOUND, &[serde_json::to_string(reads)?.into(), here.into()])?;
    Ok(weigh(reads, &found, here))
}

/// Has the queries of [`of`] and [`present`] planned.
pub fn plan() -> Result<()> {
    of(Kind::View, [])?;
    spi::prepared::<Found>(FOUND, &["[]".into(), true.into()]).map(|_| ())
}

const FOUND: &str = "
SELECT json_build_object('place', r.place - 1, 'oid', c.oid::int8, 'by', f.by, 'name', json_build_array(n.nspname, c.relname),
         'columns', coalesce((SELECT json_agg(json_build_array(a.attnum, a.attname) ORDER BY a.attnum)
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))::text
FROM jsonb_array_elements($1::jsonb) WITH ORDINALITY r (read, place)
CROSS JOIN LATERAL (
  SELECT x.oid, x.by FROM (
    -- Not into another schema: what is behind a mask has its number still, and is not what the text means.
    SELECT c.oid, c.relkind, 1 AS by FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE $2 AND c.oid = (r.read->>'oid')::oid AND n.nspname = r.read->'now'->>0
    UNION ALL
    SELECT c.oid, c.relkind, 2 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = (r.read->'now'->>0)::name AND c.relname = (r.read->'now'->>1)::name
    UNION ALL
    SELECT c.oid, c.relkind, 3 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = (r.read->'then'->>0)::name AND c.relname = (r.read->'then'->>1)::name) x
  WHERE x.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY x.by LIMIT 1) f
JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace";

#[cfg(test)]
mod tests {
    use super::*;

    fn then(list: &[(i16, &str, &str, bool)]) -> Vec<Column> {
        let column = |c: &(i16, &str, &str, bool)| Column { num: c.0, then: c.1.into(), now: c.2.into(), used: c.3 };
        list.iter().map(column).collect()
    }

    fn now(list: &[(i16, &str)]) -> Vec<(i16, String)> {
        list.iter().map(|(num, name)| (*num, (*name).to_owned())).collect()
    }

    #[test]
    fn columns_go_by_number_and_new_ones_are_nobodys() {
        let read = then(&[(1, "id", "id", true), (2, "email", "email", true), (3, "note", "note", false)]);
        // email was renamed, and there is another email.
        let there = now(&[(1, "id"), (2, "mail"), (4, "email")]);
        assert_eq!(matched(&read, &there, Same::Number), [Some(0), Some(1), None]);
    }

    #[test]
    fn a_dropped_column_is_the_one_that_has_its_name() {
        let read = then(&[(1, "id", "id", true), (2, "email", "email", true), (3, "new_id", "new_id", false)]);
        let there = now(&[(2, "email"), (3, "id")]);
        assert_eq!(matched(&read, &there, Same::Number), [Some(1), Some(0)]);
        // Whoever reads the other one keeps it.
        let read = then(&[(1, "id", "id", false), (2, "email", "email", true), (3, "new_id", "new_id", true)]);
        assert_eq!(matched(&read, &there, Same::Number), [Some(1), Some(2)]);
    }

    #[test]
    fn a_copy_goes_by_the_names_that_columns_had_last() {
        let read = then(&[(1, "id", "id", true), (2, "email", "mail", true)]);
        let there = now(&[(1, "email"), (2, "mail"), (3, "id")]);
        assert_eq!(matched(&read, &there, Same::Copy), [None, Some(1), Some(0)]);
        let without = now(&[(1, "email"), (3, "id")]);
        assert_eq!(matched(&read, &without, Same::Copy), [None, Some(0)]);
        assert_eq!(matched(&read, &without, Same::Number), [Some(0), None], "numbers are not for copies");
        // Another table of the name has what the text says.
        assert_eq!(matched(&read, &without, Same::Name), [Some(1), Some(0)]);
    }
}

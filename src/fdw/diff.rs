//! What differs between the product and the warehouse. Pure.
//!
//! Identity decides first (the product's OIDs and attribute numbers, remembered from the run before), names
//! decide where there is none, or where the identities cannot be those of the same database any more.

use std::collections::{HashMap, HashSet};

use super::clash::{self, Blocked, Waiting, Why};
use super::model::{Existing, Options, Wanted};

/// Everything to do to the foreign tables; indexes point into the two slices that were compared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub create: Vec<usize>,
    pub drop: Vec<usize>,
    pub alter: Vec<TableDiff>,
    /// Wanted tables and columns that have no place here.
    pub blocked: Vec<Blocked>,
    /// Tables that are the same on both sides, with the wanted one: identity is remembered for them.
    pub same: Vec<(usize, usize)>,
    /// Second tables over a remote one that has another name now, with the wanted one.
    pub seconds: Vec<(usize, usize)>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct TableDiff {
    pub existing: usize,
    pub wanted: usize,
    pub rename_to: Option<String>,
    /// Table options to set, with whether they exist.
    pub options: Vec<OptionDiff>,
    pub columns: Vec<ColumnDiff>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionDiff {
    pub name: String,
    pub value: String,
    pub exists: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ColumnDiff {
    Add { wanted: usize },
    Drop { existing: usize },
    Rename { existing: usize, to: String },
    Options { existing: usize, options: Vec<OptionDiff> },
    Retype { existing: usize, wanted: usize },
    NotNull { existing: usize, wanted: bool },
}

impl Diff {
    /// The names of a wanted table that is here, and of its columns, that have to wait.
    pub fn waiting(&self, wanted: usize) -> Waiting {
        let mut waiting = Waiting::default();
        for b in self.blocked.iter().filter(|b| b.wanted == wanted) {
            match b.column {
                None => waiting.table = b.keeps.clone(),
                Some(_) => waiting.columns.extend(b.keeps.clone()),
            }
        }
        waiting
    }
}

impl TableDiff {
    fn is_empty(&self) -> bool {
        self.rename_to.is_none() && self.options.is_empty() && self.columns.is_empty()
    }
}

/// Whether the remembered OIDs still speak of the same database.
///
/// A product restored from a dump has new OIDs for all tables, and an old OID may by accident be another
/// table's. `lineage_proven` says that the server itself is known to be the same. Otherwise the tables vote:
/// one that has kept both OID and name, or kept its OID and most of its columns under a new name, speaks for
/// the same database; one name that stands there with another OID outweighs them all, since a table taken for another
/// one would show its readers the wrong rows.
pub fn same_lineage(existing: &[Existing], wanted: &[Wanted], lineage_proven: bool) -> bool {
    if lineage_proven {
        return true;
    }
    let by_oid: HashMap<u32, &Wanted> = wanted.iter().filter_map(|w| Some((w.remote_oid?, w))).collect();
    let by_name: HashMap<&str, &Wanted> = wanted.iter().map(|w| (w.name.as_str(), w)).collect();
    let (mut for_it, mut against) = (0, 0);
    for table in existing {
        let Some(oid) = table.remote_oid else {
            continue;
        };
        match by_oid.get(&oid) {
            Some(w) if w.name == table.remote_name() => for_it += 1,
            Some(w) if !by_name.contains_key(table.remote_name()) && columns_agree(table, w) => for_it += 1,
            _ if by_name.contains_key(table.remote_name()) => against += 1,
            _ => {}
        }
    }
    for_it > 0 && against == 0
}

/// Whether more than half of the remembered columns are on the product under the same number and name.
fn columns_agree(table: &Existing, wanted: &Wanted) -> bool {
    let there: HashSet<(i16, &str)> =
        wanted.columns.iter().filter_map(|c| Some((c.remote_num?, c.name.as_str()))).collect();
    let agree = table
        .columns
        .iter()
        .filter(|c| c.remote_num.is_some_and(|num| there.contains(&(num, c.remote_name()))))
        .count();
    agree * 2 > table.columns.len()
}

/// Compares. `taken` holds the names in the local schema that belong to anything but these foreign tables.
pub fn diff(existing: &[Existing], wanted: &[Wanted], trust_oids: bool, taken: &HashSet<String>) -> Diff {
    let mut diff = Diff::default();
    let pairs = pair(
        existing.iter().map(|t| {
            // Of two over one remote table it is the one that was followed, that bears its name, or that is older.
            let rank = (t.remote_oid.is_none(), !t.follows(), t.oid);
            (t.remote_oid.filter(|_| trust_oids), t.remote_name(), rank)
        }),
        wanted.iter().map(|t| (t.remote_oid, t.name.as_str())),
    );
    let kept: HashSet<usize> = pairs.iter().flatten().copied().collect();
    // A second table over the same remote one, made by hand and never followed, is the user's own.
    let there: HashSet<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
    let paired = || pairs.iter().enumerate().filter_map(|(w, pair)| Some((w, &existing[(*pair)?])));
    let claimed: HashSet<u32> = paired().filter_map(|(_, e)| e.remote_oid).collect();
    let moved: HashMap<&str, usize> =
        paired().filter(|(w, e)| e.remote_name() != wanted[*w].name).map(|(w, e)| (e.remote_name(), w)).collect();
    let mut own: HashSet<&str> = HashSet::new();
    for (i, table) in existing.iter().enumerate().filter(|(i, _)| !kept.contains(i)) {
        let second = table.remote_oid.is_none_or(|oid| claimed.contains(&oid));
        let follows = moved.get(table.remote_name()).copied();
        match second && (follows.is_some() || there.contains(table.remote_name())) {
            true => {
                own.insert(&table.name);
                diff.seconds.extend(follows.map(|w| (i, w)));
            }
            false => diff.drop.push(i),
        }
    }

    // Names that stay: what is not of these tables has them, or a person chose them. Tables that go make room.
    let mut renames: Vec<(usize, &str, &str)> = Vec::new();
    let mut kept: HashSet<&str> = taken.iter().map(String::as_str).chain(own.iter().copied()).collect();
    for (w, e) in paired() {
        if e.follows() && e.name != wanted[w].name {
            renames.push((w, &e.name, &wanted[w].name));
        } else {
            kept.insert(&e.name);
        }
    }
    let names: Vec<(&str, &str)> = renames.iter().map(|(_, from, to)| (*from, *to)).collect();
    let waits = clash::waiting(&mut kept, &names);
    let waiting: HashSet<usize> = waits.iter().map(|i| renames[*i].0).collect();
    let given: HashSet<&str> = renames.iter().filter(|(w, ..)| !waiting.contains(w)).map(|(_, _, to)| *to).collect();
    let block = |w: usize, keeps: Option<&Existing>| {
        let name = wanted[w].name.as_str();
        let has_it =
            |other: usize, e: &Existing| other != w && e.name == name && !given.contains(wanted[other].name.as_str());
        let by = paired().find(|(other, e)| has_it(*other, e)).map(|(other, _)| wanted[other].name.clone());
        Blocked { wanted: w, column: None, keeps: keeps.map(|e| e.name.clone()), why: Why::taken(by) }
    };
    for (w, pair) in pairs.iter().enumerate() {
        let want = &wanted[w];
        let Some(e) = *pair else {
            match kept.contains(want.name.as_str()) || given.contains(want.name.as_str()) {
                true => diff.blocked.push(block(w, None)),
                false => diff.create.push(w),
            }
            continue;
        };
        let mut table = table_diff(&existing[e], want, trust_oids, w, &mut diff.blocked);
        table.existing = e;
        if waiting.contains(&w) {
            table.rename_to = None;
            diff.blocked.push(block(w, Some(&existing[e])));
        }
        if table.is_empty() {
            diff.same.push((e, w));
        } else {
            diff.alter.push(table);
        }
    }
    diff
}

/// Of the wanted table number `w`; columns whose names are taken, or that find no room, go to `blocked`.
fn table_diff(
    existing: &Existing,
    wanted: &Wanted,
    trust_oids: bool,
    w: usize,
    blocked: &mut Vec<Blocked>,
) -> TableDiff {
    let mut diff = TableDiff {
        wanted: w,
        rename_to: (existing.follows() && existing.name != wanted.name).then(|| wanted.name.clone()),
        options: options_diff(&existing.options, &wanted.options),
        ..TableDiff::default()
    };
    // Attribute numbers mean something only within the table that they were read from.
    let same_table = trust_oids && existing.remote_oid.is_some() && existing.remote_oid == wanted.remote_oid;
    let pairs = pair(
        existing.columns.iter().map(|c| (c.remote_num.filter(|_| same_table), c.remote_name(), c.num)),
        wanted.columns.iter().map(|c| (c.remote_num, c.name.as_str())),
    );
    let kept: HashSet<usize> = pairs.iter().flatten().copied().collect();
    diff.columns.extend(
        (0..existing.columns.len())
            .filter(|i| !kept.contains(i) && !existing.columns[*i].generated)
            .map(|existing| ColumnDiff::Drop { existing }),
    );
    // As with tables: columns that go make room, and so do those that are renamed.
    let columns = &existing.columns;
    let renames =
        |e: usize, c: usize| existing.column_follows(&columns[e]) && columns[e].name != wanted.columns[c].name;
    let of = |e: usize| pairs.iter().position(|p| *p == Some(e));
    let mut names: Vec<&str> = Vec::new();
    let mut moves: Vec<(&str, &str)> = Vec::new();
    for (e, have) in columns.iter().enumerate() {
        match of(e) {
            Some(c) if renames(e, c) => moves.push((&have.name, &wanted.columns[c].name)),
            Some(_) => names.push(&have.name),
            None if have.generated => names.push(&have.name),
            None => {}
        }
    }
    let mut stay: HashSet<&str> = names.into_iter().collect();
    clash::waiting(&mut stay, &moves);
    let block = |c: usize, keeps: Option<String>| {
        let name = &wanted.columns[c].name;
        let place = columns.iter().position(|have| have.name == *name).and_then(of);
        let by = place.map(|place| wanted.columns[place].name.clone());
        Blocked { wanted: w, column: Some(c), keeps, why: Why::taken(by) }
    };
    let mut room = clash::MOST_COLUMNS - existing.attributes;
    for (c, pair) in pairs.iter().enumerate() {
        let want = &wanted.columns[c];
        let Some(e) = *pair else {
            if stay.contains(want.name.as_str()) {
                blocked.push(block(c, None));
            } else if room <= 0 {
                blocked.push(Blocked { wanted: w, column: Some(c), keeps: None, why: Why::Full });
            } else {
                room -= 1;
                diff.columns.push(ColumnDiff::Add { wanted: c });
            }
            continue;
        };
        let have = &columns[e];
        let mut renamed = renames(e, c);
        if renamed && stay.contains(have.name.as_str()) {
            renamed = false;
            blocked.push(block(c, Some(have.name.clone())));
        }
        if renamed {
            diff.columns.push(ColumnDiff::Rename { existing: e, to: want.name.clone() });
        }
        let exists = have.options.contains_key("column_name");
        if have.remote_name() != want.name && (exists || !renamed) {
            let option = OptionDiff { name: "column_name".into(), value: want.name.clone(), exists };
            diff.columns.push(ColumnDiff::Options { existing: e, options: vec![option] });
        }
        let mut others = want.options.clone();
        others.remove("column_name");
        let others = options_diff(&have.options, &others);
        if !others.is_empty() {
            diff.columns.push(ColumnDiff::Options { existing: e, options: others });
        }
        if have.r#type != want.r#type {
            diff.columns.push(ColumnDiff::Retype { existing: e, wanted: c });
        }
        if have.not_null != want.not_null {
            diff.columns.push(ColumnDiff::NotNull { existing: e, wanted: want.not_null });
        }
    }
    diff
}

/// Options that are wanted and missing or different. What else is there is the user's and stays.
fn options_diff(have: &Options, want: &Options) -> Vec<OptionDiff> {
    want.iter()
        .filter(|(name, value)| have.get(*name) != Some(value))
        .map(|(name, value)| OptionDiff { name: name.clone(), value: value.clone(), exists: have.contains_key(name) })
        .collect()
}

/// For each wanted thing the existing one that it is: by identity, and by name among those without one.
///
/// An existing thing whose identity is known and gone from the product still goes by its name where that name
/// is there under a new identity: dropped and made again on the product, it is the same name to whoever reads it.
/// Where several have one identity or one name, the lowest rank counts.
fn pair<'a, I: Copy + Eq + std::hash::Hash, R: Copy + Ord>(
    existing: impl Iterator<Item = (Option<I>, &'a str, R)>,
    wanted: impl Iterator<Item = (Option<I>, &'a str)>,
) -> Vec<Option<usize>> {
    let existing: Vec<_> = existing.collect();
    let wanted: Vec<_> = wanted.collect();
    let mut ranked: Vec<usize> = (0..existing.len()).collect();
    ranked.sort_by_key(|i| existing[*i].2);
    let mut by_identity: HashMap<I, usize> = HashMap::new();
    for i in &ranked {
        if let Some(id) = existing[*i].0 {
            by_identity.entry(id).or_insert(*i);
        }
    }
    let mut pairs: Vec<Option<usize>> =
        wanted.iter().map(|(id, _)| id.and_then(|id| by_identity.get(&id).copied())).collect();
    let used: HashSet<usize> = pairs.iter().flatten().copied().collect();
    // What has no identity, and the name of one that is called otherwise now, is called otherwise now.
    let moved: HashSet<&str> = pairs
        .iter()
        .zip(&wanted)
        .filter_map(|(pair, (_, name))| pair.map(|i| existing[i].1).filter(|n| n != name))
        .collect();
    let goes_along = |i: &usize| existing[*i].0.is_none() && moved.contains(existing[*i].1);
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    for i in ranked.into_iter().filter(|i| !used.contains(i) && !goes_along(i)) {
        by_name.entry(existing[i].1).or_insert(i);
    }
    for (pair, (_, name)) in pairs.iter_mut().zip(&wanted) {
        if pair.is_none() {
            *pair = by_name.get(name).copied();
        }
    }
    pairs
}

#[cfg(test)]
mod tests;

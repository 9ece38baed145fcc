//! Carries a difference out: locks, renames, holds what would be hurt, alters, puts back, and checks itself.

use std::collections::{HashMap, HashSet};

use super::apply::Done;
use super::dependents::{self, Dependent, Kind};
use super::diff::{ColumnDiff, Diff, TableDiff};
use super::mask::Rules;
use super::model::{Change, Existing, ExistingColumn, Wanted};
use super::properties;
use super::registry::Registered;
use super::rename::{dropped_column, dropped_table, Asides};
use super::standing::{said, unexplained, OnBroken, Policy, Standing};
use super::types::Replaced;
use super::wanted::Notes;
use super::{local, loose, rebuild};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{lock, sql};

/// The difference with what it is about.
pub struct Work<'a> {
    pub app: &'a Registered,
    pub existing: &'a [Existing],
    pub wanted: &'a [Wanted],
    pub diff: &'a Diff,
    pub notes: &'a Notes,
    pub replaced: &'a [Replaced],
    /// Masks, by the names that the product has now.
    pub rules: &'a Rules,
}

impl Work<'_> {
    /// A table's qualified name under another name, where it is.
    pub fn place(&self, existing: &Existing, name: &str) -> String {
        sql::qualified(&existing.schema, name)
    }

    /// A qualified name in the local schema: what people know a table by.
    pub fn table(&self, name: &str) -> String {
        sql::qualified(&self.app.local_schema, name)
    }

    /// The table's local name once renames are done.
    pub fn final_name<'b>(&'b self, t: &'b TableDiff) -> &'b str {
        t.rename_to.as_deref().unwrap_or(&self.existing[t.existing].name)
    }

    /// The local name of a wanted table that is here, once renames are done.
    pub fn local_name(&self, wanted: usize) -> &str {
        let same = self.diff.same.iter().find(|s| s.1 == wanted).map(|s| self.existing[s.0].name.as_str());
        let altered = || self.diff.alter.iter().find(|t| t.wanted == wanted).map(|t| self.final_name(t));
        same.or_else(altered).unwrap_or(&self.wanted[wanted].name)
    }

    /// Does all of it.
    pub fn carry_out(&self, rebuild: bool, policy: &Policy, done: &mut Done) -> Result<()> {
        // 1. What is touched, and locks on all of it or on nothing.
        let mut losing: HashMap<u32, Option<HashSet<i16>>> = HashMap::new();
        for e in &self.diff.drop {
            losing.insert(self.existing[*e].oid, None);
        }
        for t in &self.diff.alter {
            let nums: HashSet<i16> = t.columns.iter().filter_map(|c| self.loses(t, c)).collect();
            if !nums.is_empty() {
                losing.insert(self.existing[t.existing].oid, Some(nums));
            }
        }
        let retyped = self.diff.alter.iter().filter(|t| !self.retyped(t).is_empty());
        let retyped: HashSet<u32> = retyped.map(|t| self.existing[t.existing].oid).collect();
        if rebuild {
            for e in self.existing {
                losing.insert(e.oid, None);
            }
        }
        let masking = self.masking(rebuild);
        // A table that comes or goes behind a view is not what stood in its place.
        losing.extend(masking.replaced().map(|relation| (relation, None)));
        let mut standing = Standing::new(policy);
        standing.survey(losing.keys().copied())?;
        let edges: Vec<Dependent> = standing.above().edges.clone();
        let masks = self.masks();
        let touched: Vec<&Dependent> =
            edges.iter().filter(|d| touches(d, &losing, &retyped) && !masks.contains(&d.oid)).collect();
        let tables: Vec<u32> = losing
            .keys()
            .copied()
            .chain(self.diff.alter.iter().map(|t| self.existing[t.existing].oid))
            .filter(|oid| !masks.contains(oid))
            .collect();
        // What is asked under the locks is planned before them.
        dependents::direct(tables.first().copied())?;
        properties::read(tables.first().copied())?;
        local::some(self.app, tables.get(..1).unwrap_or_default())?;
        if !touched.is_empty() {
            Standing::plan()?;
        }
        // A rebuild changes no type, and as many locks as it takes are enough.
        let locked = if rebuild { touched.clone() } else { standing.above().with_views_above(touched.clone()) };
        let locked = standing.above().highest_first(&locked);
        lock::access_exclusive(locked.iter().copied().chain(masking.views()).chain(tables.iter().copied()))?;
        self.refuse_if_moved(&tables, &edges, &losing)?;

        // 2. Renames, in place: views follow them by themselves, and their texts are read afterwards.
        let mut asides: Asides = self.replaced.iter().map(|r| (r.aside.clone(), r.name.clone())).collect();
        asides.append(&mut self.rename_tables(done)?);
        for t in &self.diff.alter {
            asides.append(&mut self.rename_columns(t, done)?);
        }
        standing.say(asides.clone());

        // 3. Hold what the change would hurt, change, put back.
        let altered: HashSet<u32> = self.diff.alter.iter().map(|t| self.existing[t.existing].oid).collect();
        let mut before = properties::read(altered.iter().chain(&locked).copied())?;
        let masking = masking.lift(self)?;
        standing.know(before.extract_if(|oid, _| !altered.contains(oid)).collect());
        standing.hold(&touched, &self.missing(&touched))?;
        let going = losing.iter().filter(|(_, columns)| columns.is_none()).map(|(oid, _)| *oid);
        standing.release(&dependents::row_types(going)?)?;
        let mut lost_with_types: HashMap<u32, Vec<String>> = HashMap::new();
        for t in &self.diff.alter {
            let oid = self.existing[t.existing].oid;
            let retyped: Vec<String> = self.retyped(t);
            let loose = match before.get(&oid).filter(|_| !retyped.is_empty()) {
                Some(properties) => Some(loose::take_off(
                    &self.existing[t.existing].schema,
                    &self.place(&self.existing[t.existing], self.final_name(t)),
                    &retyped,
                    properties,
                )?),
                None => None,
            };
            self.alter(t, done)?;
            if let Some(loose) = loose {
                let (mut changes, lost) = loose.put_on(|text| said(&asides, text))?;
                done.changes.append(&mut changes);
                lost_with_types.insert(oid, lost);
            }
        }
        for e in &self.diff.drop {
            let e = &self.existing[*e];
            let made_room = self.diff.alter.iter().any(|t| t.rename_to.as_ref() == Some(&e.name));
            let name = if made_room { dropped_table(e.oid) } else { e.name.clone() };
            let statement = format!("DROP FOREIGN TABLE {}", self.place(e, &name));
            rebuild::drop_relation(&statement, &self.table(&e.name))?;
            done.changes.push(Change::new(self.table(&e.name), "foreign table", "dropped"));
        }
        if rebuild {
            let mut kept: Vec<Existing> = local::tables(self.app)?;
            let before: HashSet<u32> = self.existing.iter().map(|e| e.oid).collect();
            kept.retain(|t| before.contains(&t.oid));
            rebuild::foreign_tables(&kept, &self.app.server)?;
            done.changes.extend(kept.iter().map(|t| Change::new(self.table(&t.name), "foreign table", "rebuilt")));
        }
        self.create(done)?;
        let seen = masking.put_on(self, done)?;
        standing.put_back()?;
        if standing.broken > 0 && policy.on_broken == OnBroken::Fail {
            let lines: Vec<String> = standing
                .changes
                .iter()
                .filter(|c| c.action == "broken")
                .map(|c| format!("{} {}: {}", c.kind, c.object, c.detail.as_deref().unwrap_or("")))
                .collect();
            return Err(Error::new(
                sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
                format!("{} views cannot stand after this change", standing.broken),
            )
            .detail(lines.join("\n"))
            .hint("Nothing was changed. With on_broken => 'keep' they would stay in place, raise a clear error, and heal when what they miss comes back."));
        }
        done.changes.append(&mut standing.changes);
        done.broken += standing.broken;
        if policy.refresh {
            seen.refresh(done)?;
        }

        // 4. The altered tables are what they were, but for what was meant.
        if !rebuild {
            let after = properties::read(altered)?;
            for t in &self.diff.alter {
                let oid = self.existing[t.existing].oid;
                let meant = self.meant(t);
                let nothing = Vec::new();
                let (was, is) = (before.get(&oid).unwrap_or(&nothing), after.get(&oid).unwrap_or(&nothing));
                // A condition over a column says the casts that the column's type asks for.
                let recast = |key: &str| {
                    key.starts_with("trigger ") && [was, is].iter().all(|list| list.iter().any(|p| p.2 == key))
                };
                // What moves behind a view leaves its grants there, and its name is another one.
                if seen.moved(oid) {
                    continue;
                }
                let lost = properties::differences(was, is, |key| {
                    explained(key, &meant)
                        || recast(key)
                        || lost_with_types.get(&oid).is_some_and(|l| l.iter().any(|k| k == key))
                });
                if !lost.is_empty() {
                    return Err(unexplained(&self.table(self.final_name(t)), &lost));
                }
            }
        }
        Ok(())
    }

    /// The views of masked tables: they are made anew, not carried.
    fn masks(&self) -> HashSet<u32> {
        self.existing.iter().filter_map(|e| e.view.as_ref()).map(|v| v.oid).collect()
    }

    /// The attribute number that a column's dependents lose hold of.
    pub fn loses(&self, t: &TableDiff, c: &ColumnDiff) -> Option<i16> {
        match c {
            ColumnDiff::Drop { existing } | ColumnDiff::Retype { existing, .. } => {
                Some(self.existing[t.existing].columns[*existing].num)
            }
            _ => None,
        }
    }

    /// Columns whose type changes, as they are called once renames are done, quoted.
    fn retyped(&self, t: &TableDiff) -> Vec<String> {
        let existing = &self.existing[t.existing].columns;
        let renamed = |e: usize| {
            t.columns.iter().find_map(|c| match c {
                ColumnDiff::Rename { existing, to } if *existing == e => Some(to),
                _ => None,
            })
        };
        t.columns
            .iter()
            .filter_map(|c| match c {
                ColumnDiff::Retype { existing: e, .. } => Some(sql::ident(renamed(*e).unwrap_or(&existing[*e].name))),
                _ => None,
            })
            .collect()
    }

    /// Nothing may have changed between the first look and the locks.
    fn refuse_if_moved(
        &self,
        tables: &[u32],
        edges: &[Dependent],
        losing: &HashMap<u32, Option<HashSet<i16>>>,
    ) -> Result<()> {
        let now = local::some(self.app, tables)?;
        let then = self.existing.iter().filter(|e| tables.contains(&e.oid));
        let same_tables = now.len() == tables.iter().collect::<HashSet<_>>().len()
            && then
                .into_iter()
                .all(|e| now.iter().any(|n| Existing { imported_as: e.imported_as.clone(), ..n.clone() } == *e));
        let key = |d: &Dependent| (d.oid, d.on, d.columns.clone());
        let again = dependents::direct(losing.keys().copied())?;
        let before: HashSet<_> = edges.iter().filter(|d| losing.contains_key(&d.on)).map(key).collect();
        if same_tables && again.iter().map(key).collect::<HashSet<_>>() == before {
            return Ok(());
        }
        Err(Error::new(
            sqlstate::LOCK_NOT_AVAILABLE,
            "the foreign tables were changed by somebody else while the run began",
        ))
    }

    /// For each dependent, the columns and tables that it uses and that go for good.
    fn missing(&self, touched: &[&Dependent]) -> HashMap<u32, Vec<String>> {
        let mut missing: HashMap<u32, Vec<String>> = HashMap::new();
        let numbers = |e: &Existing| [Some(e.oid), e.view.as_ref().map(|v| v.oid)].into_iter().flatten();
        let places: HashMap<u32, usize> =
            self.existing.iter().enumerate().flat_map(|(at, e)| numbers(e).map(move |oid| (oid, at))).collect();
        for d in touched {
            let Some(&at) = places.get(&d.on) else {
                continue;
            };
            let table = &self.existing[at];
            // The names of the view's columns are the table's.
            let through = table.view.as_ref().filter(|v| v.oid == d.on);
            let uses = |column: &ExistingColumn| match through {
                None => d.columns.contains(&column.num),
                Some(view) => {
                    let place = view.shown.iter().position(|s| s.column == column.name);
                    place.is_some_and(|p| d.columns.contains(&(p as i16 + 1)))
                }
            };
            let list = missing.entry(d.oid).or_default();
            if self.diff.drop.contains(&at) {
                list.push(format!("foreign table {}", self.table(&table.name)));
            }
            for t in self.diff.alter.iter().filter(|t| t.existing == at) {
                for c in &t.columns {
                    if let ColumnDiff::Drop { existing } = c {
                        let column = &table.columns[*existing];
                        if uses(column) {
                            list.push(format!(
                                "column {}.{}",
                                self.table(self.final_name(t)),
                                sql::ident(&column.name)
                            ));
                        }
                    }
                }
            }
        }
        missing.retain(|_, list| !list.is_empty());
        missing
    }

    /// Names of the columns that a table's diff means to change, as they are called afterwards.
    fn meant(&self, t: &TableDiff) -> Vec<String> {
        let (existing, wanted) = (&self.existing[t.existing], &self.wanted[t.wanted]);
        let mut names = Vec::new();
        for c in &t.columns {
            match c {
                ColumnDiff::Add { wanted: w } => names.push(wanted.columns[*w].name.clone()),
                ColumnDiff::Rename { to, .. } => names.push(to.clone()),
                ColumnDiff::Drop { existing: e } => {
                    names.push(existing.columns[*e].name.clone());
                    names.push(dropped_column(existing.oid, existing.columns[*e].num));
                }
                ColumnDiff::Retype { existing: e, wanted: w } => {
                    names.push(existing.columns[*e].name.clone());
                    names.push(wanted.columns[*w].name.clone());
                }
                ColumnDiff::NotNull { existing: e, .. } | ColumnDiff::Options { existing: e, .. } => {
                    names.push(existing.columns[*e].name.clone());
                }
            }
        }
        names.iter().map(|n| sql::ident(n)).collect()
    }
}

/// Whether a dependent is hurt: it uses a column that goes or changes, or all of them; or it has expressions of the row type,
/// and a column changes its type (find_composite_type_dependencies, src/backend/commands/tablecmds.c).
fn touches(d: &Dependent, losing: &HashMap<u32, Option<HashSet<i16>>>, retyped: &HashSet<u32>) -> bool {
    match losing.get(&d.on) {
        None => false,
        Some(None) => true,
        Some(Some(_)) if d.row_type && d.kind != Kind::Other && retyped.contains(&d.on) => true,
        // A whole-row reference goes on to work: its row type changes with the table, and a field that is picked
        // out of it is recorded as a column.
        Some(Some(columns)) => d.columns.iter().any(|c| columns.contains(c)),
    }
}

/// Whether a property may differ, given the columns that were meant to change.
fn explained(key: &str, meant: &[String]) -> bool {
    key.starts_with("fdw option table_name")
        || key.starts_with("fdw option schema_name")
        || meant.iter().any(|c| {
            key.ends_with(&format!(" {c}")) || key.contains(&format!("({c})"))
                // What hangs on a column goes or changes with it.
                || key.starts_with("constraint ") || key.starts_with("comment on constraint ")
                || key.starts_with("statistics ") || key.starts_with("owner of statistics ") || key.starts_with("schema of statistics ")
                || key.starts_with("target of statistics ") || key.starts_with("comment on statistics ")
        })
}

//! One unit of work: makes the foreign tables equal to what is wanted, and carries what stands on them.
//!
//! It runs inside a subtransaction. It asks for its locks at once, briefly; a lock that is not to be had ends the
//! unit with 55P03 and gives all of them back, and the caller tries the whole unit again.

use std::collections::{HashMap, HashSet};

use super::dependents::Dependent;
use super::diff::{self, ColumnDiff, Diff, OptionDiff, TableDiff};
use super::model::{Change, Existing, Options, Wanted, WantedColumn};
use super::properties;
use super::registry::Registered;
use super::remote::{Remote, RemoteTable, FIRST_GENERATED_OID};
use super::standing::{unexplained, OnBroken, Policy, Standing};
use super::types::{Replaced, Types};
use super::{broken, local, pattern, rebuild};
use crate::error::{sqlstate, Error, Result};
use crate::pg::catalog::format_type;
use crate::pg::{enums, lock, spi, sql};

/// Where the wanted state comes from.
pub enum Source {
    /// The product's catalog.
    Catalog(Remote),
    /// What an import showed.
    Imported(Vec<Wanted>),
    /// What is here already, less what is hidden.
    Here,
    /// Nothing: all tables go.
    Nothing,
}

/// What a unit did.
#[derive(Debug, Default)]
pub struct Done {
    pub changes: Vec<Change>,
    pub tables: usize,
    pub broken: usize,
    pub healed: usize,
}

/// Runs the unit.
pub fn unit(
    app: &Registered,
    source: &Source,
    rebuild: bool,
    policy: &Policy,
    waiting_for: &std::cell::Cell<u32>,
) -> Result<Done> {
    let mut existing = local::tables(app)?;
    let mut done = Done::default();
    let mut notes: HashMap<(usize, usize), String> = HashMap::new();
    let mut replaced_types = Vec::new();
    let mut trust = true;
    let wanted: Vec<Wanted> = match source {
        Source::Imported(wanted) => wanted.clone(),
        Source::Nothing => Vec::new(),
        Source::Here => existing
            .iter()
            .filter(|t| app.wants(t.remote_name()))
            .map(|t| as_wanted(app, t))
            .collect(),
        Source::Catalog(remote) => {
            let names: Vec<Wanted> = remote.tables.iter().map(identity).collect();
            trust = diff::same_lineage(
                &existing,
                &names,
                app.lineage.is_some() && app.lineage == remote.lineage,
            );
            // What is there but unreadable is neither wanted nor gone.
            existing.retain(|e| {
                !remote
                    .unreadable
                    .iter()
                    .any(|r| match e.remote_oid.filter(|_| trust) {
                        Some(oid) => oid == r.oid,
                        None => e.remote_name() == r.name,
                    })
            });
            report_unreadable(app, remote, existing.is_empty(), &mut done);
            let in_use = types_in_use(&existing, remote);
            let mut types = Types::new(app, remote, trust, &in_use)?;
            let wanted = wanted_tables(app, remote, &mut types, &mut notes)?;
            done.changes.append(&mut types.changes);
            replaced_types = std::mem::take(&mut types.replaced);
            wanted
        }
    };
    let taken = local::taken_names(app, &existing)?;
    let diff = diff::diff(&existing, &wanted, trust, &taken);
    let work = Work {
        app,
        existing: &existing,
        wanted: &wanted,
        diff: &diff,
        notes: &notes,
        replaced: &replaced_types,
    };
    for w in &diff.blocked {
        done.changes.push(
            Change::new(work.table(&wanted[*w].name), "foreign table", "skipped")
                .detail("another relation has this name here; rename it and run this again"),
        );
    }
    let _lifted = enums::BanLifted::new();
    if rebuild || !diff.alter.is_empty() || !diff.drop.is_empty() || !diff.create.is_empty() {
        work.carry_out(rebuild, policy, waiting_for, &mut done)?;
    }
    let healed = broken::heal(None, policy)?;
    done.healed = healed.iter().filter(|c| c.action == "healed").count();
    done.changes.extend(healed);
    if let Source::Catalog(remote) = source {
        Types::drop_unused(&replaced_types)?;
        if app.lineage != remote.lineage {
            spi::run(
                "UPDATE wh.fdw SET lineage = $2 WHERE name = $1",
                &[app.name.as_str().into(), remote.lineage.clone().into()],
            )?;
        }
    }
    for change in &mut done.changes {
        if let Some(detail) = &mut change.detail {
            for r in &replaced_types {
                *detail = detail.replace(&r.aside, &format!("the old {}", r.name));
            }
        }
    }
    work.remember()?;
    done.tables = wanted.len();
    Ok(done)
}

/// At the first import a row each; later a notice, since nothing changes by it.
fn report_unreadable(app: &Registered, remote: &Remote, first: bool, done: &mut Done) {
    let names: Vec<&str> = remote
        .unreadable
        .iter()
        .map(|t| t.name.as_str())
        .filter(|t| app.wants(t))
        .collect();
    if first {
        done.changes.extend(names.iter().map(|name| {
            Change::new(
                sql::qualified(&app.local_schema, name),
                "foreign table",
                "skipped",
            )
            .detail("the mapped user may not read it on the product")
        }));
    } else if !names.is_empty() {
        pgrx::notice!(
            "the mapped user may not read {} relations of the product: {}",
            names.len(),
            names.join(", ")
        );
    }
}

fn identity(table: &RemoteTable) -> Wanted {
    let column = |c: &super::remote::RemoteColumn| WantedColumn {
        remote_num: Some(c.0),
        name: c.1.clone(),
        r#type: super::model::ColumnType {
            oid: 0,
            typmod: -1,
            collation: 0,
        },
        not_null: false,
        options: Options::new(),
    };
    Wanted {
        remote_oid: Some(table.oid),
        name: table.name.clone(),
        options: Options::new(),
        columns: table.columns.iter().map(column).collect(),
    }
}

fn as_wanted(app: &Registered, table: &Existing) -> Wanted {
    let columns = table
        .columns
        .iter()
        .filter(|c| !pattern::hides_column(&app.hidden, table.remote_name(), c.remote_name()));
    Wanted {
        remote_oid: table.remote_oid,
        name: table.remote_name().into(),
        options: table.options.clone(),
        columns: columns
            .map(|c| WantedColumn {
                remote_num: c.remote_num,
                name: c.remote_name().into(),
                r#type: c.r#type,
                not_null: c.not_null,
                options: c.options.clone(),
            })
            .collect(),
    }
}

/// Local types that columns of a remote type have already.
fn types_in_use(existing: &[Existing], remote: &Remote) -> HashMap<u32, u32> {
    let by_name: HashMap<&str, &RemoteTable> =
        remote.tables.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut in_use = HashMap::new();
    for table in existing {
        let Some(there) = by_name.get(table.remote_name()) else {
            continue;
        };
        for column in &table.columns {
            let Some(other) = there.columns.iter().find(|c| c.1 == column.remote_name()) else {
                continue;
            };
            if other.2 >= FIRST_GENERATED_OID {
                in_use.insert(other.2, column.r#type.oid);
            }
        }
    }
    in_use
}

fn wanted_tables(
    app: &Registered,
    remote: &Remote,
    types: &mut Types,
    notes: &mut HashMap<(usize, usize), String>,
) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::new();
    for table in remote.tables.iter().filter(|t| app.wants(&t.name)) {
        let mut columns = Vec::new();
        for column in table
            .columns
            .iter()
            .filter(|c| !pattern::hides_column(&app.hidden, &table.name, &c.1))
        {
            let r#type = types.column(column)?;
            if let Some(note) = types.as_text_because(column.2) {
                notes.insert((wanted.len(), columns.len()), note);
            }
            columns.push(WantedColumn {
                remote_num: Some(column.0),
                name: column.1.clone(),
                r#type,
                not_null: column.4,
                options: Options::new(),
            });
        }
        wanted.push(Wanted {
            remote_oid: Some(table.oid),
            name: table.name.clone(),
            options: Options::from([
                ("schema_name".into(), app.remote_schema.clone()),
                ("table_name".into(), table.name.clone()),
            ]),
            columns,
        });
    }
    Ok(wanted)
}

/// The difference with what it is about.
struct Work<'a> {
    app: &'a Registered,
    existing: &'a [Existing],
    wanted: &'a [Wanted],
    diff: &'a Diff,
    /// Of (wanted table, column): why it is text here.
    notes: &'a HashMap<(usize, usize), String>,
    replaced: &'a [Replaced],
}

impl Work<'_> {
    fn table(&self, name: &str) -> String {
        sql::qualified(&self.app.local_schema, name)
    }

    /// The table's local name once renames are done.
    fn final_name<'b>(&'b self, t: &'b TableDiff) -> &'b str {
        t.rename_to
            .as_deref()
            .unwrap_or(&self.existing[t.existing].name)
    }

    fn carry_out(
        &self,
        rebuild: bool,
        policy: &Policy,
        waiting_for: &std::cell::Cell<u32>,
        done: &mut Done,
    ) -> Result<()> {
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
        if rebuild {
            for e in self.existing {
                losing.insert(e.oid, None);
            }
        }
        let mut standing = Standing::new(policy, self.replaced);
        standing.survey(losing.keys().copied())?;
        let edges: Vec<Dependent> = standing.edges().to_vec();
        let touched: Vec<&Dependent> = edges.iter().filter(|d| touches(d, &losing)).collect();
        let tables: Vec<u32> = losing
            .keys()
            .copied()
            .chain(
                self.diff
                    .alter
                    .iter()
                    .map(|t| self.existing[t.existing].oid),
            )
            .collect();
        lock::access_exclusive(
            tables
                .iter()
                .copied()
                .chain(touched.iter().map(|d| d.relation).filter(|r| *r != 0)),
            waiting_for,
        )?;
        self.refuse_if_moved(&tables, &edges, &losing)?;

        // 2. Renames, in place: views follow them by themselves, and their texts are read afterwards.
        self.rename_tables(done)?;
        for t in &self.diff.alter {
            self.rename_columns(t, done)?;
        }

        // 3. Hold what the change would hurt, change, put back.
        let before = properties::read(
            self.diff
                .alter
                .iter()
                .map(|t| self.existing[t.existing].oid),
        )?;
        standing.hold(&touched, &self.missing(&touched))?;
        for t in &self.diff.alter {
            self.alter(t, done)?;
        }
        for e in &self.diff.drop {
            let e = &self.existing[*e];
            spi::run(
                &format!("DROP FOREIGN TABLE {}", self.table(&self.current_name(e)?)),
                &[],
            )?;
            done.changes
                .push(Change::new(self.table(&e.name), "foreign table", "dropped"));
        }
        if rebuild {
            let mut kept: Vec<Existing> = local::tables(self.app)?;
            kept.retain(|t| self.existing.iter().any(|e| e.oid == t.oid));
            rebuild::foreign_tables(&self.app.local_schema, &kept, &self.app.server)?;
            done.changes.extend(
                kept.iter()
                    .map(|t| Change::new(self.table(&t.name), "foreign table", "rebuilt")),
            );
        }
        self.create(done)?;
        standing.put_back()?;
        if standing.broken > 0 && policy.on_broken == OnBroken::Fail {
            let lines: Vec<String> = standing
                .changes
                .iter()
                .filter(|c| c.action == "broken")
                .map(|c| {
                    format!(
                        "{} {}: {}",
                        c.kind,
                        c.object,
                        c.detail.as_deref().unwrap_or("")
                    )
                })
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

        // 4. The altered tables are what they were, but for what was meant.
        if !rebuild {
            let after = properties::read(
                self.diff
                    .alter
                    .iter()
                    .map(|t| self.existing[t.existing].oid),
            )?;
            for t in &self.diff.alter {
                let oid = self.existing[t.existing].oid;
                let meant = self.meant(t);
                let nothing = Vec::new();
                let lost = properties::differences(
                    before.get(&oid).unwrap_or(&nothing),
                    after.get(&oid).unwrap_or(&nothing),
                    |key| explained(key, &meant),
                );
                if !lost.is_empty() {
                    return Err(unexplained(&self.table(self.final_name(t)), &lost));
                }
            }
        }
        Ok(())
    }

    /// The attribute number that a column's dependents lose hold of.
    fn loses(&self, t: &TableDiff, c: &ColumnDiff) -> Option<i16> {
        match c {
            ColumnDiff::Drop { existing } | ColumnDiff::Retype { existing, .. } => {
                Some(self.existing[t.existing].columns[*existing].num)
            }
            _ => None,
        }
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
            && then.into_iter().all(|e| now.iter().any(|n| n == e));
        let key = |d: &Dependent| (d.oid, d.on, d.columns.clone());
        let again = super::dependents::direct(losing.keys().copied())?;
        let before: HashSet<_> = edges
            .iter()
            .filter(|d| losing.contains_key(&d.on))
            .map(key)
            .collect();
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
        for d in touched {
            let Some(at) = self.existing.iter().position(|e| e.oid == d.on) else {
                continue;
            };
            let table = &self.existing[at];
            let list = missing.entry(d.oid).or_default();
            if self.diff.drop.contains(&at) {
                list.push(format!("foreign table {}", self.table(&table.name)));
            }
            for t in self.diff.alter.iter().filter(|t| t.existing == at) {
                for c in &t.columns {
                    if let ColumnDiff::Drop { existing } = c {
                        let column = &table.columns[*existing];
                        if d.columns.contains(&column.num) {
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

    fn current_name(&self, e: &Existing) -> Result<String> {
        let name: Option<String> = spi::first(
            "SELECT to_json(relname)::text FROM pg_class WHERE oid = $1",
            &[spi::oid(e.oid)],
        )?;
        Ok(name.unwrap_or_else(|| e.name.clone()))
    }

    fn rename_tables(&self, done: &mut Done) -> Result<()> {
        let renames: Vec<&TableDiff> = self
            .diff
            .alter
            .iter()
            .filter(|t| t.rename_to.is_some())
            .collect();
        let wanted: HashSet<&str> = renames
            .iter()
            .filter_map(|t| t.rename_to.as_deref())
            .collect();
        let rename = |from: &str, to: &str| {
            spi::run(
                &format!(
                    "ALTER FOREIGN TABLE {} RENAME TO {}",
                    self.table(from),
                    sql::ident(to)
                ),
                &[],
            )
            .map(|_| ())
        };
        for e in self
            .diff
            .drop
            .iter()
            .map(|e| &self.existing[*e])
            .filter(|e| wanted.contains(e.name.as_str()))
        {
            rename(&e.name, &format!("wh_dropped_{}", e.oid))?;
        }
        let aside = |t: &TableDiff| format!("wh_rename_{}", self.existing[t.existing].oid);
        for t in &renames {
            let from = &self.existing[t.existing].name;
            if wanted.contains(from.as_str()) {
                rename(from, &aside(t))?;
            }
        }
        for t in renames {
            let (from, to) = (&self.existing[t.existing].name, self.final_name(t));
            rename(
                &if wanted.contains(from.as_str()) {
                    aside(t)
                } else {
                    from.clone()
                },
                to,
            )?;
            done.changes.push(
                Change::new(self.table(to), "foreign table", "renamed")
                    .detail(format!("from {}", self.table(from))),
            );
        }
        Ok(())
    }

    fn rename_columns(&self, t: &TableDiff, done: &mut Done) -> Result<()> {
        let table = self.table(self.final_name(t));
        let columns = &self.existing[t.existing].columns;
        let renames: Vec<(&str, &str)> = t
            .columns
            .iter()
            .filter_map(|c| match c {
                ColumnDiff::Rename { existing, to } => {
                    Some((columns[*existing].name.as_str(), to.as_str()))
                }
                _ => None,
            })
            .collect();
        let wanted: HashSet<&str> = renames.iter().map(|r| r.1).collect();
        let rename = |from: &str, to: &str| {
            let statement = format!(
                "ALTER FOREIGN TABLE {table} RENAME COLUMN {} TO {}",
                sql::ident(from),
                sql::ident(to)
            );
            spi::run(&statement, &[]).map(|_| ())
        };
        for c in &t.columns {
            if let ColumnDiff::Drop { existing } = c {
                let column = &columns[*existing];
                if wanted.contains(column.name.as_str()) {
                    rename(&column.name, &format!("wh_dropped_{}", column.num))?;
                }
            }
        }
        for (i, (from, _)) in renames
            .iter()
            .enumerate()
            .filter(|(_, (from, _))| wanted.contains(from))
        {
            rename(from, &format!("wh_rename_{i}"))?;
        }
        for (i, (from, to)) in renames.iter().enumerate() {
            rename(
                &if wanted.contains(from) {
                    format!("wh_rename_{i}")
                } else {
                    (*from).to_owned()
                },
                to,
            )?;
            done.changes.push(
                Change::new(format!("{table}.{}", sql::ident(to)), "column", "renamed")
                    .detail(format!("from {}", sql::ident(from))),
            );
        }
        Ok(())
    }

    /// Everything but renames, in one statement a table.
    fn alter(&self, t: &TableDiff, done: &mut Done) -> Result<()> {
        let (existing, wanted) = (&self.existing[t.existing], &self.wanted[t.wanted]);
        let table = self.table(self.final_name(t));
        let renamed = |e: usize| {
            t.columns
                .iter()
                .find_map(|c| match c {
                    ColumnDiff::Rename { existing, to } if *existing == e => Some(to.clone()),
                    _ => None,
                })
                .unwrap_or_else(|| existing.columns[e].name.clone())
        };
        let mut commands: Vec<String> = Vec::new();
        if !t.options.is_empty() {
            commands.push(set_options(&t.options));
            if t.rename_to.is_none() {
                let to: Vec<String> = t
                    .options
                    .iter()
                    .map(|o| format!("{} is \"{}\" now", o.name, o.value))
                    .collect();
                done.changes
                    .push(Change::new(&table, "foreign table", "altered").detail(to.join(", ")));
            }
        }
        for c in &t.columns {
            let object = |name: &str| format!("{table}.{}", sql::ident(name));
            match c {
                ColumnDiff::Rename { .. } => {}
                ColumnDiff::Drop { existing: e } => {
                    let column = &existing.columns[*e];
                    let aside = t
                        .columns
                        .iter()
                        .any(|c| matches!(c, ColumnDiff::Rename { to, .. } if *to == column.name));
                    let name = if aside {
                        format!("wh_dropped_{}", column.num)
                    } else {
                        column.name.clone()
                    };
                    commands.push(format!("DROP COLUMN {}", sql::ident(&name)));
                    done.changes
                        .push(Change::new(object(&column.name), "column", "dropped"));
                }
                ColumnDiff::Add { wanted: w } => {
                    let column = &wanted.columns[*w];
                    commands.push(format!("ADD COLUMN {}", self.column_definition(column)?));
                    let mut change = Change::new(object(&column.name), "column", "added");
                    let mut detail = format_type(column.r#type.oid, column.r#type.typmod);
                    if let Some(note) = self.notes.get(&(t.wanted, *w)) {
                        detail = format!("{detail}; {note}");
                    }
                    change.detail = Some(detail);
                    done.changes.push(change);
                }
                ColumnDiff::Retype {
                    existing: e,
                    wanted: w,
                } => {
                    let (old, new) = (&existing.columns[*e], &wanted.columns[*w]);
                    let name = renamed(*e);
                    let (from, to) = (
                        format_type(old.r#type.oid, old.r#type.typmod),
                        format_type(new.r#type.oid, new.r#type.typmod),
                    );
                    commands.push(format!(
                        "ALTER COLUMN {} TYPE {to}{}",
                        sql::ident(&name),
                        rebuild::collate(new.r#type.collation)?
                    ));
                    let mut detail = format!("from {from} to {to}");
                    if let Some(note) = self.notes.get(&(t.wanted, *w)) {
                        detail = format!("{detail}; {note}");
                    }
                    done.changes
                        .push(Change::new(object(&name), "column", "retyped").detail(detail));
                }
                ColumnDiff::NotNull {
                    existing: e,
                    wanted: not_null,
                } => {
                    let name = renamed(*e);
                    commands.push(format!(
                        "ALTER COLUMN {} {} NOT NULL",
                        sql::ident(&name),
                        if *not_null { "SET" } else { "DROP" }
                    ));
                    let detail = if *not_null { "not null" } else { "nullable" };
                    done.changes
                        .push(Change::new(object(&name), "column", "altered").detail(detail));
                }
                ColumnDiff::Options {
                    existing: e,
                    options,
                } => {
                    let name = renamed(*e);
                    commands.push(format!(
                        "ALTER COLUMN {} {}",
                        sql::ident(&name),
                        set_options(options)
                    ));
                    let to: Vec<String> = options
                        .iter()
                        .map(|o| format!("{} is \"{}\" now", o.name, o.value))
                        .collect();
                    if !t
                        .columns
                        .iter()
                        .any(|c| matches!(c, ColumnDiff::Rename { existing, .. } if existing == e))
                    {
                        done.changes.push(
                            Change::new(object(&name), "column", "altered").detail(to.join(", ")),
                        );
                    }
                }
            }
        }
        if !commands.is_empty() {
            spi::run(
                &format!("ALTER FOREIGN TABLE {table} {}", commands.join(", ")),
                &[],
            )?;
        }
        Ok(())
    }

    fn column_definition(&self, column: &WantedColumn) -> Result<String> {
        Ok(format!(
            "{} {}{}{}{}",
            sql::ident(&column.name),
            format_type(column.r#type.oid, column.r#type.typmod),
            rebuild::options(&column.options),
            rebuild::collate(column.r#type.collation)?,
            if column.not_null { " NOT NULL" } else { "" }
        ))
    }

    fn create(&self, done: &mut Done) -> Result<()> {
        if self.diff.create.is_empty() {
            return Ok(());
        }
        let readers = self.readers()?;
        for w in &self.diff.create {
            let wanted = &self.wanted[*w];
            let table = self.table(&wanted.name);
            let mut columns = Vec::with_capacity(wanted.columns.len());
            for c in &wanted.columns {
                columns.push(self.column_definition(c)?);
            }
            spi::run(
                &format!(
                    "CREATE FOREIGN TABLE {table} ({}) SERVER {}{}",
                    columns.join(", "),
                    sql::ident(&self.app.server),
                    rebuild::options(&wanted.options)
                ),
                &[],
            )?;
            if !readers.is_empty() {
                spi::run(
                    &format!("GRANT SELECT ON {table} TO {}", readers.join(", ")),
                    &[],
                )?;
            }
            done.changes.push(
                Change::new(&table, "foreign table", "created")
                    .detail(format!("{} columns", wanted.columns.len())),
            );
            for (c, column) in wanted.columns.iter().enumerate() {
                if let Some(note) = self.notes.get(&(*w, c)) {
                    done.changes.push(
                        Change::new(
                            format!("{table}.{}", sql::ident(&column.name)),
                            "column",
                            "added",
                        )
                        .detail(note),
                    );
                }
            }
        }
        Ok(())
    }

    /// Who reads every table that is here reads a new one too.
    fn readers(&self) -> Result<Vec<String>> {
        let kept: Vec<u32> = self
            .diff
            .same
            .iter()
            .map(|s| s.0)
            .chain(self.diff.alter.iter().map(|t| t.existing))
            .map(|e| self.existing[e].oid)
            .collect();
        if kept.is_empty() {
            return Ok(Vec::new());
        }
        let count = kept.len() as i64;
        spi::rows(
            "SELECT to_json(CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)::text
             FROM pg_class c CROSS JOIN aclexplode(c.relacl) x
             WHERE c.oid = ANY ($1) AND x.privilege_type = 'SELECT' AND x.grantee <> c.relowner
             GROUP BY x.grantee HAVING count(DISTINCT c.oid) = $2",
            &[spi::oids(kept), count.into()],
        )
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
                    names.push(format!("wh_dropped_{}", existing.columns[*e].num));
                }
                ColumnDiff::Retype {
                    existing: e,
                    wanted: w,
                } => {
                    names.push(existing.columns[*e].name.clone());
                    names.push(wanted.columns[*w].name.clone());
                }
                ColumnDiff::NotNull { existing: e, .. }
                | ColumnDiff::Options { existing: e, .. } => {
                    names.push(existing.columns[*e].name.clone());
                }
            }
        }
        names.iter().map(|n| sql::ident(n)).collect()
    }

    /// Writes down the product's identities where they changed.
    fn remember(&self) -> Result<()> {
        let pairs = self
            .diff
            .same
            .iter()
            .copied()
            .chain(self.diff.alter.iter().map(|t| (t.existing, t.wanted)));
        let mut stale: Vec<usize> = Vec::new();
        for (e, w) in pairs {
            let (existing, wanted) = (&self.existing[e], &self.wanted[w]);
            let known: HashMap<&str, Option<i16>> = existing
                .columns
                .iter()
                .map(|c| (c.remote_name(), c.remote_num))
                .collect();
            let same = existing.remote_oid == wanted.remote_oid
                && wanted.remote_oid.is_some()
                && known.len() == wanted.columns.len()
                && wanted
                    .columns
                    .iter()
                    .all(|c| known.get(c.name.as_str()) == Some(&c.remote_num));
            if !same {
                stale.push(w);
            }
        }
        stale.extend(&self.diff.create);
        spi::run(
            "DELETE FROM wh.fdw_table m WHERE m.fdw = $1 AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = m.relation)",
            &[self.app.name.as_str().into()],
        )?;
        if stale.is_empty() {
            return Ok(());
        }
        let now = local::tables(self.app)?;
        let by_remote: HashMap<&str, &Existing> =
            now.iter().map(|t| (t.remote_name(), t)).collect();
        for w in stale {
            let wanted = &self.wanted[w];
            let Some(table) = by_remote.get(wanted.name.as_str()) else {
                continue;
            };
            let Some(remote_oid) = wanted.remote_oid else {
                continue;
            };
            let nums: HashMap<&str, i16> = wanted
                .columns
                .iter()
                .filter_map(|c| Some((c.name.as_str(), c.remote_num?)))
                .collect();
            let (names, nums): (Vec<String>, Vec<i16>) = table
                .columns
                .iter()
                .filter_map(|c| Some((c.name.clone(), *nums.get(c.remote_name())?)))
                .unzip();
            spi::run(
                "INSERT INTO wh.fdw_table (fdw, relation, remote_oid, column_names, column_nums)
                 VALUES ($1, $2::regclass, $3, $4::text[]::name[], $5)
                 ON CONFLICT (relation) DO UPDATE SET fdw = excluded.fdw, remote_oid = excluded.remote_oid,
                    column_names = excluded.column_names, column_nums = excluded.column_nums",
                &[self.app.name.as_str().into(), spi::oid(table.oid), i64::from(remote_oid).into(), names.into(), nums.into()],
            )?;
        }
        Ok(())
    }
}

/// Whether a dependent is hurt: it uses a column that goes or changes, or all of them.
fn touches(d: &Dependent, losing: &HashMap<u32, Option<HashSet<i16>>>) -> bool {
    match losing.get(&d.on) {
        None => false,
        Some(None) => true,
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
                || key.starts_with("statistics ") || key.starts_with("owner of statistics ")
                || key.starts_with("target of statistics ") || key.starts_with("comment on statistics ")
        })
}

fn set_options(options: &[OptionDiff]) -> String {
    let list: Vec<String> = options
        .iter()
        .map(|o| {
            format!(
                "{} {} {}",
                if o.exists { "SET" } else { "ADD" },
                sql::ident(&o.name),
                sql::literal(&o.value)
            )
        })
        .collect();
    format!("OPTIONS ({})", list.join(", "))
}

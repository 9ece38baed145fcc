//! One unit of work: makes the foreign tables equal to what is wanted, and carries what stands on them.
//!
//! It runs inside a subtransaction. It asks for its locks at once, briefly; a lock that is not to be had ends the
//! unit with 55P03 and gives all of them back, and the caller tries the whole unit again.

use super::change::Work;
use super::clash::{Blocked, Why};
use super::model::{Change, Wanted};
use super::registry::Registered;
use super::remote::Remote;
use super::standing::Policy;
use super::types::Types;
use super::wanted::{self, Notes};
use super::{behind, broken, diff, fallback, local, memory};
use crate::error::Result;
use crate::pg::{enums, later, spi, sql};
use crate::policy;

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
pub fn unit(app: &Registered, source: &Source, rebuild: bool, how: &Policy) -> Result<Done> {
    let rules = behind::rules(&app.name)?;
    let with_schema;
    let app = match rules.is_empty() || matches!(source, Source::Nothing) {
        true => app,
        false => {
            with_schema = behind::with_raw_schema(app)?;
            &with_schema
        }
    };
    let mut existing = local::tables(app)?;
    let mut done = Done::default();
    let mut notes = Notes::new();
    let mut replaced_types = Vec::new();
    let mut trust = true;
    let mut wanted: Vec<Wanted> = match source {
        Source::Imported(wanted) => {
            fallback::recognise(&mut existing, wanted);
            wanted.clone()
        }
        Source::Nothing => Vec::new(),
        Source::Here => existing.iter().filter(|t| app.wants(t.remote_name())).map(|t| wanted::as_is(app, t)).collect(),
        Source::Catalog(remote) => {
            let names: Vec<Wanted> = remote.tables.iter().map(wanted::identity).collect();
            trust = diff::same_lineage(&existing, &names, app.lineage.is_some() && app.lineage == remote.lineage);
            // What is there but unreadable is neither wanted nor gone.
            existing.retain(|e| {
                !remote.unreadable.iter().any(|r| match e.remote_oid.filter(|_| trust) {
                    Some(oid) => oid == r.oid,
                    None => e.remote_name() == r.name,
                })
            });
            wanted::report_unreadable(app, remote, existing.is_empty(), &mut done);
            let in_use = wanted::types_in_use(&existing, remote);
            let known = existing.iter().filter(|_| trust).filter_map(|e| e.remote_oid).collect();
            let mut types = Types::new(app, remote, trust, &in_use)?;
            let wanted = wanted::tables(app, remote, &mut types, &known, &mut notes)?;
            done.changes.append(&mut types.changes);
            replaced_types = std::mem::take(&mut types.replaced);
            wanted
        }
    };
    let withheld = wanted::withhold(app, &existing, &mut wanted, trust, &rules, &mut notes);
    let taken = local::taken_names(app, &existing)?;
    let mut diff = diff::diff(&existing, &wanted, trust, &taken);
    let old_rules = rules;
    let rules = old_rules.follow(&existing, &wanted, &diff);
    // Other wrappers may not turn every type into text.
    if app.postgres_fdw_schema.is_some() && rules.read_as_text(&mut wanted) {
        diff = diff::diff(&existing, &wanted, trust, &taken);
    }
    let work = Work {
        app,
        existing: &existing,
        wanted: &wanted,
        diff: &diff,
        notes: &notes,
        replaced: &replaced_types,
        rules: &rules,
    };
    // A table made anew has room again.
    let makes_room = |blocked: &Blocked| rebuild && blocked.why == Why::Full;
    for blocked in diff.blocked.iter().filter(|b| !makes_room(b)) {
        let want = &wanted[blocked.wanted];
        let change = match blocked.column {
            None => Change::new(work.table(&want.name), "foreign table", "skipped")
                .detail(blocked.detail(&app.name, |name| work.table(name))),
            Some(c) => {
                let table = work.table(work.local_name(blocked.wanted));
                let column = |name: &str| format!("{table}.{}", sql::ident(name));
                Change::new(column(&want.columns[c].name), "column", "skipped")
                    .detail(blocked.detail(&app.name, column))
            }
        };
        done.changes.push(change);
    }
    let _lifted = enums::BanLifted::new();
    behind::ensure_key(&rules)?;
    memory::forget_gone(&app.name)?;
    let masks = work.has_masking();
    if rebuild || !diff.alter.is_empty() || !diff.drop.is_empty() || !diff.create.is_empty() || masks {
        work.carry_out(rebuild, how, &mut done)?;
        work.alter_seconds(&mut done)?;
    }
    let healed = broken::heal(None, how)?;
    done.healed = healed.iter().filter(|c| c.action == "healed").count();
    done.changes.extend(healed);
    if let Source::Catalog(remote) = source {
        Types::drop_unused(&app.local_schema)?;
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
    work.remember(rebuild || masks || !diff.drop.is_empty())?;
    if !matches!(source, Source::Nothing) {
        behind::remember(&app.name, &old_rules, &rules)?;
    }
    // What is here already does not say what else the product has.
    let complete = matches!(source, Source::Catalog(_) | Source::Imported(_));
    policy::remember_withheld(&app.name, &app.local_schema, &withheld, complete)?;
    done.tables = wanted.len();
    if diff.blocked.iter().any(makes_room) {
        let mut rest = unit(app, source, false, how)?;
        done.changes.append(&mut rest.changes);
        done.broken += rest.broken;
        done.healed += rest.healed;
    }
    later::drop((existing, wanted, diff));
    Ok(done)
}

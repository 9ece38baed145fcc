//! Carries what stands on relations through a change of them: hold, change, put back.
//!
//! To hold a view is to take its query out and leave `SELECT NULL::type AS column, …`: the view keeps its OID and
//! all else, and depends on nothing that changes. Putting back stores the old text, analysed anew. Only where the
//! new query's columns have other types is the view dropped and made again ([`super::rebuild`]), and only where it
//! cannot be analysed at all is it broken ([`super::broken`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use super::dependents::{self, Above, Dependent, Kind};
use super::held::{self, what, Held};
use super::model::Change;
use super::outputs::{self, describe, fill, nulls, pin, Filled};
use super::properties::{self, Properties};
use super::rename::Asides;
use super::text::{self, Literals};
use super::{broken, reads, rebuild};
use crate::error::{sqlstate, Error, Result};
use crate::pg::rewrite::Output;
use crate::pg::{guc, identity, limit, lock, rewrite, session, spi, sql, subxact};

/// Whether views follow a changed type or cast to the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypePolicy {
    Follow,
    Pin,
}

/// What becomes of a view whose definition does not stand any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBroken {
    Keep,
    Fail,
}

/// How a unit of work treats what it carries.
#[derive(Debug, Clone)]
pub struct Policy {
    pub types: TypePolicy,
    pub on_broken: OnBroken,
    /// A plan makes materialized views without reading data into them.
    pub refresh: bool,
    /// Name and run that a broken view is recorded under.
    pub fdw: Option<String>,
    pub run: i64,
    /// When to leave a broken view that cannot be locked; `None` is never.
    pub leave_broken: Option<Instant>,
}

impl Policy {
    pub fn is_out_of_patience(&self) -> bool {
        self.leave_broken.is_some_and(|end| Instant::now() >= end)
    }
}

/// All that is held in one unit of work.
pub struct Standing<'a> {
    policy: &'a Policy,
    asides: Asides,
    held: BTreeMap<u32, Held>,
    /// Still to be put back, the lowest level first.
    waiting: BTreeSet<(usize, u32)>,
    above: Above,
    /// Properties that were read under the locks already.
    known: HashMap<u32, Properties>,
    /// Whether a rule was held.
    rules: bool,
    /// Put back with their identity.
    in_place: Vec<u32>,
    pub changes: Vec<Change>,
    pub broken: usize,
}

impl<'a> Standing<'a> {
    pub fn new(policy: &'a Policy) -> Self {
        Standing {
            policy,
            asides: Asides::new(),
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            above: Above::default(),
            known: HashMap::new(),
            rules: false,
            in_place: Vec::new(),
            changes: Vec::new(),
            broken: 0,
        }
    }

    /// Has definitions that are read from now on say other names than those that they hold.
    pub fn say(&mut self, asides: Asides) {
        self.asides = asides;
    }

    /// Learns the order of all that stands on `relations`; before anything is held.
    pub fn survey(&mut self, relations: impl IntoIterator<Item = u32>) -> Result<()> {
        self.above = dependents::above(relations)?;
        Ok(())
    }

    /// Has the queries planned that holding views and putting them back ask, by asking them of none: a view's text takes
    /// locks on what it reads (get_query_def, src/backend/utils/adt/ruleutils.c).
    pub fn plan() -> Result<()> {
        reads::plan()?;
        held::definitions(Kind::View, Vec::new()).map(|_| ())
    }

    /// Takes properties of relations that are locked, and that nothing has changed since these were read.
    pub fn know(&mut self, properties: HashMap<u32, Properties>) {
        self.known = properties;
    }

    /// Dependents of the surveyed relations and of what stands on them.
    pub fn above(&self) -> &Above {
        &self.above
    }

    /// Takes hold of dependents; `missing` says what each of them is about to lose.
    pub fn hold(&mut self, dependents: &[&Dependent], missing: &HashMap<u32, Vec<String>>) -> Result<()> {
        let new: Vec<&&Dependent> = dependents.iter().filter(|d| !self.held.contains_key(&d.oid)).collect();
        if let Some(other) = new.iter().find(|d| d.kind == Kind::Other) {
            return Err(Error::new(
                sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
                format!(
                    "{} {} depends on {} and cannot be carried through its change",
                    other.what, other.name, other.on_name
                ),
            )
            .detail(if other.column_names.is_empty() {
                String::from("It depends on the relation's row type or on the relation as a whole.")
            } else {
                format!("It uses column {}.", other.column_names.join(", "))
            })
            .hint(
                "Nothing was changed. Drop it, run this again, and create it anew; or hide nothing of what it uses.",
            ));
        }
        for kind in [Kind::View, Kind::MaterializedView, Kind::Rule, Kind::Function] {
            let mut oids: Vec<u32> = new.iter().filter(|d| d.kind == kind).map(|d| d.oid).collect();
            oids.sort_unstable();
            oids.dedup();
            if oids.is_empty() {
                continue;
            }
            // A rule that was held has another text.
            let mut properties = if self.rules { HashMap::new() } else { std::mem::take(&mut self.known) };
            let is_view = matches!(kind, Kind::View | Kind::MaterializedView);
            let unknown = oids.iter().copied().filter(|oid| is_view && !properties.contains_key(oid));
            let unknown: Vec<u32> = unknown.collect();
            properties.extend(properties::read(unknown)?);
            let mut reads = reads::of(kind, oids.iter().copied())?;
            for d in held::definitions(kind, oids)? {
                let definition = said(&self.asides, d.definition);
                let mut saved = properties.remove(&d.oid).unwrap_or_default();
                saved.iter_mut().for_each(|p| p.rewrite(|text| said(&self.asides, text)));
                let mut reads = reads.remove(&d.oid).unwrap_or_default();
                reads.iter_mut().for_each(|r| r.say(&self.asides));
                let held = Held {
                    oid: d.oid,
                    kind,
                    name: d.name,
                    schema: d.schema,
                    owner: d.owner,
                    definition: definition.trim_end().trim_end_matches(';').to_owned(),
                    outputs: d.outputs,
                    populated: d.populated,
                    properties: saved,
                    missing: missing.get(&d.oid).cloned().unwrap_or_default(),
                    reads,
                    temporary: d.temporary,
                    closed: d.closed,
                    header: said(&self.asides, d.header),
                    extensions: d.extensions,
                };
                hollow(&held)?;
                self.rules |= kind == Kind::Rule;
                let level = self.above.level_of(held.oid);
                self.waiting.insert((level, held.oid));
                self.held.insert(held.oid, held);
            }
            self.known = properties;
        }
        Ok(())
    }

    /// Puts everything back, from the bottom up.
    pub fn put_back(&mut self) -> Result<()> {
        while let Some((_, oid)) = self.waiting.pop_first() {
            let Some(held) = self.held.get(&oid).cloned() else {
                continue;
            };
            match held.kind {
                Kind::Rule => {
                    self.replay(&held, &held.definition.replacen("CREATE RULE", "CREATE OR REPLACE RULE", 1))?
                }
                Kind::Function => self.replay(&held, &held.definition)?,
                _ => self.put_view_back(&held)?,
            }
        }
        self.prove()
    }

    /// What was put back in place is what it was.
    fn prove(&mut self) -> Result<()> {
        let now = properties::read(self.in_place.drain(..))?;
        for (oid, after) in now {
            let Some(held) = self.held.get(&oid) else {
                continue;
            };
            // A rule that was held is written anew, and its text may name other types now.
            let lost = properties::differences(&held.properties, &after, |key| self.rules && key.starts_with("rule "));
            if !lost.is_empty() {
                return Err(unexplained(&held.name, &lost));
            }
        }
        Ok(())
    }

    fn put_view_back(&mut self, held: &Held) -> Result<()> {
        let filled = {
            let _open = identity::Usable::schemas(&held.closed, &held.owner)?;
            fill(held, &held.definition)
        };
        match filled {
            Ok(Filled::Same) => {
                self.in_place.push(held.oid);
                Ok(())
            }
            Ok(Filled::Differs(now)) => {
                let why = describe(&held.outputs, &now);
                let pin_first = self.policy.types == TypePolicy::Pin || held.temporary;
                if pin_first && self.pin(held, &why)? {
                    return Ok(());
                }
                if held.temporary {
                    return self.break_view(held, &Error::new("42P16", why));
                }
                match self.make_again(held, &why) {
                    // Its owner's code has had its time.
                    Err(e) if e.sqlstate == sqlstate::PROGRAM_LIMIT_EXCEEDED => self.break_view(held, &e),
                    // What cannot be made again with all it had is better kept as it is, also where its owner has lost
                    // a right that making it takes; a caller who lacks one themselves is told.
                    Err(e)
                        if e.is_about_the_definition()
                            || e.sqlstate == sqlstate::DEPENDENT_OBJECTS_STILL_EXIST
                            || e.sqlstate == sqlstate::INSUFFICIENT_PRIVILEGE && session::is_superuser() =>
                    {
                        let because = format!("{why}; it could not be made again: {}", e.message);
                        match self.pin(held, &because)? {
                            true => Ok(()),
                            // No cast leads from the new types to the old ones.
                            false if e.is_about_the_definition() => {
                                self.break_view(held, &Error { message: because, ..e })
                            }
                            false => Err(e),
                        }
                    }
                    other => other,
                }
            }
            Err(e) if e.is_the_owners() => self.break_view(held, &e),
            Err(e) => Err(e),
        }
    }

    /// Keeps a view's output types by casts; says whether that could be done.
    fn pin(&mut self, held: &Held, why: &str) -> Result<bool> {
        let pinned = pin(&held.definition, &held.outputs);
        let _open = identity::Usable::schemas(&held.closed, &held.owner)?;
        match fill(held, &pinned) {
            Ok(Filled::Same) => {
                self.in_place.push(held.oid);
                let mut detail = format!("cast to its old types: {why}");
                if broken::reset_check_option(held)? {
                    detail.push_str("; its check_option is gone, as nothing can be written through casts");
                    if let Some(held) = self.held.get_mut(&held.oid) {
                        held.properties.retain(|p| p.2 != broken::CHECK_OPTION);
                    }
                }
                self.changes.push(Change::new(&held.name, what(held.kind), "pinned").detail(detail));
                Ok(true)
            }
            Ok(Filled::Differs(_)) => Ok(false),
            Err(e) if e.is_about_the_definition() || e.sqlstate == sqlstate::PROGRAM_LIMIT_EXCEEDED => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The last step of the ladder: another relation in the same place, with every property carried over.
    fn make_again(&mut self, held: &Held, why: &str) -> Result<()> {
        self.hold_above(held)?;
        let refreshed = subxact::run(|| {
            let query = rebuild::Text::Owners(&held.definition);
            rebuild::view(held, query, &held.properties, held.kind, self.policy.refresh, true)
        })?;
        let detail = match refreshed {
            Some(error) => format!("{why}; not refreshed: {error}"),
            None => why.to_owned(),
        };
        self.changes.push(Change::new(&held.name, what(held.kind), "rebuilt").detail(detail));
        Ok(())
    }

    fn break_view(&mut self, held: &Held, error: &Error) -> Result<()> {
        let detail = format!("owner \"{}\": {}", held.owner, error.message);
        if self.policy.on_broken == OnBroken::Fail {
            self.changes.push(Change::new(&held.name, what(held.kind), "broken").detail(detail));
            self.broken += 1;
            return Ok(());
        }
        if held.kind == Kind::MaterializedView {
            self.hold_above(held)?;
        }
        broken::put_stub(held, error, self.policy)?;
        self.changes.push(Change::new(&held.name, what(held.kind), "broken").detail(detail));
        self.broken += 1;
        Ok(())
    }

    /// Makes held views whose columns are of a row type that goes again, with text in its place: what is left of them
    /// must not depend on the type. Their definitions are tried like all others when they are put back.
    pub fn release(&mut self, row_types: &HashSet<u32>) -> Result<()> {
        loop {
            let uses = |h: &&Held| h.outputs.iter().any(|o| row_types.contains(&o.type_oid));
            let Some(held) = self.held.values().find(uses).cloned() else { return Ok(()) };
            self.hold_above(&held)?;
            let mut outputs = held.outputs.clone();
            for o in outputs.iter_mut().filter(|o| row_types.contains(&o.type_oid)) {
                *o = Output { name: o.name.clone(), ..Output::text() };
            }
            let shell = nulls(&outputs, "")?;
            rebuild::view(&held, rebuild::Text::Ours(&shell), &held.properties, held.kind, false, true)?;
            let oid = rebuild::oid_of(&held.name)?;
            let level = self.above.level_of(held.oid);
            self.waiting.remove(&(level, held.oid));
            self.held.remove(&held.oid);
            self.above.level.insert(oid, level);
            self.waiting.insert((level, oid));
            self.held.insert(oid, Held { oid, outputs, properties: properties::of(oid)?, ..held });
        }
    }

    /// Takes hold of what stands on a relation that is to be dropped.
    pub fn hold_above(&mut self, held: &Held) -> Result<()> {
        let above = dependents::direct([held.oid])?;
        lock::access_exclusive(self.above.highest_first(&above.iter().collect::<Vec<_>>()))?;
        self.hold(&above.iter().collect::<Vec<_>>(), &HashMap::new())?;
        self.release(&dependents::row_types([held.oid])?)
    }

    fn replay(&self, held: &Held, statement: &str) -> Result<()> {
        subxact::run(|| {
            let present = reads::present(&held.reads, true)?;
            as_owner(held, statement)?;
            // Made again, a function depends on no extension any more (ProcedureCreate, src/backend/catalog/pg_proc.c).
            for extension in &held.extensions {
                as_owner(held, &format!("ALTER ROUTINE {} DEPENDS ON EXTENSION {}", held.name, sql::ident(extension)))?;
            }
            present.check(held.kind, held.oid)
        })
        .map_err(|e| {
            if !e.is_about_the_definition() && e.sqlstate != sqlstate::PROGRAM_LIMIT_EXCEEDED {
                return e;
            }
            Error::new(
                sqlstate::DEPENDENT_OBJECTS_STILL_EXIST,
                format!("{} {} does not stand after the change: {}", what(held.kind), held.name, e.message),
            )
            .detail(held.definition.clone())
            .hint("Nothing was changed. Drop or rewrite it, and run this again.")
        })
    }
}

/// Runs a statement of somebody's rule or function as that somebody: its expressions are theirs, and have a limit.
fn as_owner(held: &Held, statement: &str) -> Result<()> {
    limit::run(|| {
        if held.kind == Kind::Function {
            identity::refuse_to_lend_create(&held.schema, &held.owner, &format!("function {}", held.name))?;
        }
        let mut open = held.closed.clone();
        open.push(held.schema.clone());
        let _open = identity::Usable::schemas(&open, &held.owner)?;
        let _owner = identity::As::named(&held.owner)?;
        spi::run(statement, &[]).map(|_| ())
    })
}

/// A text with the names that it is to say.
pub fn said(asides: &Asides, sql: String) -> String {
    asides.iter().fold(sql, |sql, (aside, name)| text::renamed(&sql, aside, name, Literals::Read))
}

/// The error of the check that closes a run.
pub fn unexplained(name: &str, lost: &[String]) -> Error {
    Error::new(
        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("\"{name}\" would not be the same after this run, and the run did not mean to change it"),
    )
    .detail(lost.join("\n"))
    .hint("Nothing was changed. This is a defect of startup_wh: please report it with these details.")
}

/// Takes the definition out.
fn hollow(held: &Held) -> Result<()> {
    match held.kind {
        Kind::Rule => as_owner(held, &held.header),
        Kind::Function => {
            // A text body is neither checked nor depended on (src/backend/catalog/pg_proc.c, ProcedureCreate).
            let _unchecked = guc::Scope::new(&[("check_function_bodies", "off")])?;
            as_owner(held, &format!("{} AS 'SELECT NULL'", held.header))
        }
        _ => {
            rewrite::store(held.oid, rewrite::analyze(&outputs::hollow(&held.outputs)?)?);
            Ok(())
        }
    }
}

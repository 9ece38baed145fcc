//! Carries what stands on relations through a change of them: hold, change, put back.
//!
//! To hold a view is to take its query out and leave `SELECT NULL::type AS column, …`: the view keeps its OID and
//! all else, and depends on nothing that changes. Putting back stores the old text, analysed anew. Only where the
//! new query's columns have other types is the view dropped and made again ([`super::rebuild`]), and only where it
//! cannot be analysed at all is it broken ([`super::broken`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;

use super::dependents::{self, Above, Dependent, Kind};
use super::model::Change;
use super::properties::{self, Properties};
use super::rename::Asides;
use super::text::{self, Literals};
use super::{broken, rebuild};
use crate::error::{sqlstate, Error, Result};
use crate::pg::catalog::format_type;
use crate::pg::rewrite::Output;
use crate::pg::{guc, identity, lock, rewrite, session, spi, sql, subxact};

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
}

/// Something held.
#[derive(Debug, Clone)]
pub struct Held {
    pub oid: u32,
    pub kind: Kind,
    pub name: String,
    pub schema: String,
    pub owner: String,
    pub definition: String,
    pub outputs: Vec<Output>,
    pub populated: bool,
    /// Before it was held.
    pub properties: Properties,
    /// Columns and tables that are about to go, as it names them.
    pub missing: Vec<String>,
    /// Relations that it reads, and their columns.
    pub reads: Vec<(u32, Vec<i16>)>,
    /// A view among some session's temporary objects: it can be changed in place only.
    pub temporary: bool,
    /// Schemas that it reads from and its owner may not use any more.
    pub closed: Vec<String>,
    /// The header of a function, without its body.
    header: String,
}

impl Held {
    /// The stub view (its schema, its qualified name) that stands in for `definition`, as something to drop and make again.
    pub fn stub(
        oid: u32,
        name: (&str, &str),
        owner: &str,
        definition: &str,
        outputs: &[Output],
        populated: bool,
        now: Properties,
    ) -> Self {
        Held {
            oid,
            kind: Kind::View,
            name: name.1.into(),
            schema: name.0.into(),
            owner: owner.into(),
            definition: definition.into(),
            outputs: outputs.to_vec(),
            populated,
            properties: now,
            missing: Vec::new(),
            reads: Vec::new(),
            temporary: false,
            closed: Vec::new(),
            header: String::new(),
        }
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
    /// Whether a rule was held.
    rules: bool,
    /// Put back with their identity.
    in_place: Vec<u32>,
    pub changes: Vec<Change>,
    pub broken: usize,
}

#[derive(Deserialize)]
struct Definition {
    oid: u32,
    name: String,
    schema: String,
    owner: String,
    definition: String,
    outputs: Vec<Output>,
    populated: bool,
    #[serde(default)]
    temporary: bool,
    #[serde(default)]
    closed: Vec<String>,
    #[serde(default)]
    header: String,
}

impl<'a> Standing<'a> {
    pub fn new(policy: &'a Policy) -> Self {
        Standing {
            policy,
            asides: Asides::new(),
            held: BTreeMap::new(),
            waiting: BTreeSet::new(),
            above: Above::default(),
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

    /// Direct dependents of the surveyed relations and of what stands on them.
    pub fn edges(&self) -> &[Dependent] {
        &self.above.edges
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
            let query = match kind {
                Kind::Rule => RULES,
                Kind::Function => FUNCTIONS,
                _ => VIEWS,
            };
            let mut properties = properties::read(oids.iter().copied())?;
            for d in spi::prepared::<Definition>(query, &[spi::oids(oids)])? {
                let definition = said(&self.asides, d.definition);
                let mut saved = properties.remove(&d.oid).unwrap_or_default();
                saved.iter_mut().for_each(|p| p.rewrite(|text| said(&self.asides, text)));
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
                    reads: if missing.contains_key(&d.oid) { reads(d.oid)? } else { Vec::new() },
                    temporary: d.temporary,
                    closed: d.closed,
                    header: said(&self.asides, d.header),
                };
                hollow(&held)?;
                self.rules |= kind == Kind::Rule;
                let level = self.above.level.get(&held.oid).copied().unwrap_or(usize::MAX);
                self.waiting.insert((level, held.oid));
                self.held.insert(held.oid, held);
            }
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
            fill(held.oid, &held.owner, &held.definition, &held.outputs)
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
        match fill(held.oid, &held.owner, &pinned, &held.outputs) {
            Ok(Filled::Same) => {
                self.in_place.push(held.oid);
                let detail = format!("cast to its old types: {why}");
                self.changes.push(Change::new(&held.name, what(held.kind), "pinned").detail(detail));
                Ok(true)
            }
            Ok(Filled::Differs(_)) => Ok(false),
            Err(e) if e.is_about_the_definition() => Ok(false),
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
            let level = self.above.level.get(&held.oid).copied().unwrap_or(usize::MAX);
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
        lock_relations(&above)?;
        self.hold(&above.iter().collect::<Vec<_>>(), &HashMap::new())?;
        self.release(&dependents::row_types([held.oid])?)
    }

    fn replay(&self, held: &Held, statement: &str) -> Result<()> {
        as_owner(held, statement).map_err(|e| {
            if !e.is_about_the_definition() {
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

/// Relations and columns that a view reads, as far as columns are recorded.
fn reads(view: u32) -> Result<Vec<(u32, Vec<i16>)>> {
    spi::prepared(
        "SELECT json_build_array(d.refobjid::int8, json_agg(d.refobjsubid))::text
         FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
         WHERE w.ev_class = $1 AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> $1 GROUP BY d.refobjid",
        &[spi::oid(view)],
    )
}

/// Runs a statement of somebody's rule or function as that somebody: its expressions are theirs.
fn as_owner(held: &Held, statement: &str) -> Result<()> {
    subxact::run(|| {
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

/// Locks the relations that a change of these dependents touches.
pub fn lock_relations(dependents: &[Dependent]) -> Result<()> {
    lock::access_exclusive(dependents.iter().map(|d| d.relation).filter(|r| *r != 0))
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

pub fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::View => "view",
        Kind::MaterializedView => "materialized view",
        Kind::Rule => "rule",
        Kind::Function => "function",
        Kind::Other => "object",
    }
}

/// Outcome of putting a definition into a view.
pub enum Filled {
    Same,
    /// The query's columns are others now; nothing was stored.
    Differs(Vec<Output>),
}

/// Analyses `definition` as its owner and stores it if its columns are those of the view.
///
/// Analysis runs code: the input of an array, a record or a range of somebody's domain checks the domain.
pub fn fill(view: u32, owner: &str, definition: &str, outputs: &[Output]) -> Result<Filled> {
    subxact::run(|| {
        let query = {
            let _owner = identity::As::named(owner)?;
            rewrite::analyze(definition)?
        };
        if query.outputs != outputs {
            return Ok(Filled::Differs(query.outputs));
        }
        rewrite::store(view, query);
        Ok(Filled::Same)
    })
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
            rewrite::store(held.oid, rewrite::analyze(&nulls(&held.outputs, "")?)?);
            Ok(())
        }
    }
}

/// `SELECT NULL::type AS column, …` with `tail` behind it. Runs nobody's code: type input is not called for NULL,
/// but for a domain, and that of its base type (src/backend/parser/parse_coerce.c, coerce_type).
pub fn nulls(outputs: &[Output], tail: &str) -> Result<String> {
    let mut columns = Vec::with_capacity(outputs.len());
    for o in outputs {
        columns.push(format!(
            "NULL::{}{} AS {}",
            format_type(o.type_oid, o.typmod),
            rebuild::collate(o.collation)?,
            sql::ident(&o.name)
        ));
    }
    Ok(format!("SELECT {}{tail}", columns.join(", ")))
}

/// The definition with each output cast to its old type.
fn pin(definition: &str, outputs: &[Output]) -> String {
    let cast = |o: &Output| {
        let name = sql::ident(&o.name);
        format!("wh_pinned.{name}::{} AS {name}", format_type(o.type_oid, o.typmod))
    };
    format!("SELECT {} FROM ({definition}) wh_pinned", outputs.iter().map(cast).collect::<Vec<_>>().join(", "))
}

/// What differs between two lists of outputs, in words.
fn describe(before: &[Output], after: &[Output]) -> String {
    let mut words = Vec::new();
    for (b, a) in before.iter().zip(after) {
        if b != a {
            let (from, to) = (format_type(b.type_oid, b.typmod), format_type(a.type_oid, a.typmod));
            words.push(if b.name != a.name {
                format!("column \"{}\" is \"{}\" now", b.name, a.name)
            } else if from == to {
                format!("\"{}\" has another collation now", b.name)
            } else {
                format!("\"{}\" is {to} now, was {from}", b.name)
            });
        }
    }
    if before.len() != after.len() {
        words.push(format!("{} columns now, were {}", after.len(), before.len()));
    }
    words.join(", ")
}

/// Schemas that what an object (its catalog, a list of OIDs) depends on is in, and that its owner may not use. None where
/// it has values of people's own types: they run their code when they are read, and nothing is lent to that.
macro_rules! closed {
    ($catalog:literal, $objects:literal, $owner:literal) => {
        concat!(
            "'closed', coalesce((SELECT json_agg(DISTINCT s.nspname) FROM pg_depend d
               LEFT JOIN pg_class dc ON d.refclassid = 'pg_class'::regclass AND dc.oid = d.refobjid
               LEFT JOIN pg_proc dp ON d.refclassid = 'pg_proc'::regclass AND dp.oid = d.refobjid
               LEFT JOIN pg_type dt ON d.refclassid = 'pg_type'::regclass AND dt.oid = d.refobjid
               LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
               JOIN pg_namespace s ON s.oid = coalesce(dc.relnamespace, dp.pronamespace, dt.typnamespace, o.oprnamespace)
             WHERE d.classid = ",
            $catalog,
            " AND d.objid IN ",
            $objects,
            " AND NOT has_schema_privilege(",
            $owner,
            ", s.oid, 'USAGE')
               AND NOT EXISTS (SELECT FROM pg_depend u JOIN pg_type y ON u.refclassid = 'pg_type'::regclass AND y.oid = u.refobjid
                     JOIN pg_roles r ON r.oid = y.typowner AND NOT r.rolsuper
                     WHERE u.classid = ",
            $catalog,
            " AND u.objid IN ",
            $objects,
            ")), '[]'),"
        )
    };
}

const VIEWS: &str = concat!(
    "
SELECT json_build_object('oid', c.oid::int8, 'name', format('%I.%I', n.nspname, c.relname), 'owner', pg_get_userbyid(c.relowner),
         'schema', n.nspname, 'definition', pg_get_viewdef(c.oid), 'populated', c.relispopulated, 'temporary', c.relpersistence = 't',
         ",
    closed!("'pg_rewrite'::regclass", "(SELECT w.oid FROM pg_rewrite w WHERE w.ev_class = c.oid)", "c.relowner"),
    "
         'outputs', coalesce((SELECT json_agg(json_build_object('name', a.attname, 'type_oid', a.atttypid::int8, 'typmod', a.atttypmod,
                       'collation', a.attcollation::int8) ORDER BY a.attnum)
                     FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]'))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1)"
);

const RULES: &str = concat!(
    "
SELECT json_build_object('oid', w.oid::int8, 'name', format('%I on %I.%I', w.rulename, n.nspname, c.relname), 'owner', pg_get_userbyid(c.relowner),
         'schema', n.nspname, 'definition', pg_get_ruledef(w.oid), 'populated', true, 'outputs', '[]'::json, ",
    closed!("'pg_rewrite'::regclass", "(w.oid)", "c.relowner"),
    "
         'header', format('CREATE OR REPLACE RULE %I AS ON %s TO %I.%I DO %s NOTHING', w.rulename,
            CASE w.ev_type WHEN '2' THEN 'UPDATE' WHEN '3' THEN 'INSERT' ELSE 'DELETE' END, n.nspname, c.relname,
            CASE WHEN w.is_instead THEN 'INSTEAD' ELSE 'ALSO' END))::text
FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace WHERE w.oid = ANY ($1)"
);

const FUNCTIONS: &str = concat!(
    "
SELECT json_build_object('oid', p.oid::int8, 'name', p.oid::regprocedure::text, 'owner', pg_get_userbyid(p.proowner),
         'schema', n.nspname, 'definition', pg_get_functiondef(p.oid), 'populated', true, 'outputs', '[]'::json, ",
    closed!("'pg_proc'::regclass", "(p.oid)", "p.proowner"),
    "
         'header', (SELECT left(f.def, length(f.def) - strpos(reverse(f.def), reverse(f.body)) + 1 - length(f.body))
                    FROM (SELECT pg_get_functiondef(p.oid) AS def, pg_get_function_sqlbody(p.oid) AS body) f))::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE p.oid = ANY ($1)"
);

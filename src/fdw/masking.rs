//! Views in the place of masked tables.
//!
//! The foreign table of a masked table is in a schema that analysts cannot use, without the grants that it had; a view of
//! its name takes its place and has them. When the table changes, the view is hollowed, and made to show what it should
//! afterwards; where its columns go or change type it is made again, and what stands on it is carried like what stands on
//! a foreign table.

use std::collections::HashSet;

use super::apply::Done;
use super::behind::{close, raw_schema, refuse_others};
use super::change::Work;
use super::diff::TableDiff;
use super::mask::Mask;
use super::model::{Change, Existing};
use super::outputs::hollow;
use super::properties::{self, Properties, Property};
use super::shown::{self, Column, Shown, Step};
use super::{rebuild, refill};
use crate::error::{sqlstate, Error, Result};
use crate::pg::catalog::format_type;
use crate::pg::rewrite::{self, Output};
use crate::pg::{spi, sql};

/// What becomes of one table's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The table goes behind a view.
    Make,
    Change(Step),
    /// The table comes out again.
    Remove,
    /// It goes with the table.
    Drop,
}

struct Plan {
    existing: usize,
    how: How,
    columns: Vec<Column>,
    shown: Vec<Shown>,
    outputs: Vec<Output>,
    /// The table's name afterwards.
    name: String,
}

/// What is to be done about the views.
pub struct Masking {
    plans: Vec<Plan>,
    /// The tables that are replaced as a whole by something else, by number.
    replaced: Vec<u32>,
    views: Vec<u32>,
}

impl Work<'_> {
    pub fn has_masking(&self) -> bool {
        !self.masking(false).plans.is_empty()
    }

    /// Says what becomes of each view.
    pub fn masking(&self, rebuild: bool) -> Masking {
        let mut masking = Masking { plans: Vec::new(), replaced: Vec::new(), views: Vec::new() };
        let unchanged: Vec<TableDiff> = self
            .diff
            .same
            .iter()
            .map(|(e, w)| TableDiff { existing: *e, wanted: *w, ..TableDiff::default() })
            .collect();
        for t in unchanged.iter().chain(&self.diff.alter) {
            let (existing, wanted) = (&self.existing[t.existing], &self.wanted[t.wanted]);
            if existing.view.is_none() && !self.rules.any_of(&wanted.name) {
                continue;
            }
            let columns = shown::after(existing, wanted, t, self.rules);
            let nothing = Vec::new();
            let before = existing.view.as_ref().map_or(&nothing, |v| &v.shown);
            let (shown, outputs) = shown::shown(&columns, before);
            let how = match (&existing.view, self.rules.any_of(&wanted.name)) {
                (None, _) => How::Make,
                (Some(_), false) => How::Remove,
                (Some(view), true) => {
                    let step = shown::step(&shown::renamed(&view.outputs, &columns), &outputs);
                    let loses = t.columns.iter().any(|c| self.loses(t, c).is_some());
                    if step == Step::Fill && *before == shown && !loses && !rebuild {
                        continue;
                    }
                    How::Change(step)
                }
            };
            let name = self.final_name(t).to_owned();
            masking.add(existing, Plan { existing: t.existing, how, columns, shown, outputs, name });
        }
        for e in &self.diff.drop {
            let existing = &self.existing[*e];
            if existing.view.is_some() {
                let (columns, shown, outputs) = (Vec::new(), Vec::new(), Vec::new());
                let name = existing.name.clone();
                masking.add(existing, Plan { existing: *e, how: How::Drop, columns, shown, outputs, name });
            }
        }
        masking
    }
}

impl Masking {
    fn add(&mut self, existing: &Existing, plan: Plan) {
        let view = existing.view.as_ref().map(|v| v.oid);
        self.views.extend(view);
        match plan.how {
            How::Make => self.replaced.push(existing.oid),
            How::Remove | How::Drop | How::Change(Step::Remake) => self.replaced.extend(view),
            How::Change(_) => {}
        }
        self.plans.push(plan);
    }

    /// Relations in whose place another one comes, or none: all that stands on them is held meanwhile.
    pub fn replaced(&self) -> impl Iterator<Item = u32> + '_ {
        self.replaced.iter().copied()
    }

    pub fn views(&self) -> impl Iterator<Item = u32> + '_ {
        self.views.iter().copied()
    }

    /// Takes the queries out of the views, once names have changed and before anything else does.
    pub fn lift(self, work: &Work) -> Result<Lifted> {
        let mut saved = Vec::with_capacity(self.plans.len());
        for plan in &self.plans {
            let existing = &work.existing[plan.existing];
            let Some(view) = &existing.view else {
                refuse_others(existing)?;
                saved.push(properties::of(existing.oid)?);
                continue;
            };
            saved.push(properties::of(view.oid)?);
            let outputs: Vec<Output> = spi::rows(
                "SELECT json_build_object('name', a.attname, 'type_oid', a.atttypid::int8, 'typmod', a.atttypmod, 'collation', a.attcollation::int8)::text
                 FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
                &[spi::oid(view.oid)],
            )?;
            rewrite::store(view.oid, rewrite::analyze(&hollow(&outputs)?)?);
        }
        Ok(Lifted { plans: self.plans, saved })
    }
}

/// Views without their queries.
pub struct Lifted {
    plans: Vec<Plan>,
    /// The properties of the view, or of the table that goes behind one.
    saved: Vec<Properties>,
}

impl Lifted {
    /// Makes the views show what they should, once the tables are what they should be.
    pub fn put_on(&self, work: &Work, done: &mut Done) -> Result<Seen> {
        let mut seen = Seen::default();
        for (plan, saved) in self.plans.iter().zip(&self.saved) {
            let existing = &work.existing[plan.existing];
            let view = existing.view.as_ref();
            // The view has the table's name, unless somebody gave it another one.
            let name = match view {
                Some(v) if v.name != existing.name => sql::qualified(&v.schema, &v.name),
                Some(v) => sql::qualified(&v.schema, &plan.name),
                None => work.table(&plan.name),
            };
            let place = work.place(existing, &plan.name);
            match plan.how {
                How::Drop => {
                    rebuild::drop_relation(&format!("DROP VIEW {name}"), &name)?;
                    spi::run("DELETE FROM wh.masked_table WHERE relation::oid = $1", &[spi::oid(existing.oid)])?;
                    continue;
                }
                How::Remove => {
                    rebuild::drop_relation(&format!("DROP VIEW {name}"), &name)?;
                    let local = sql::ident(&work.app.local_schema);
                    spi::run(&format!("ALTER FOREIGN TABLE {place} SET SCHEMA {local}"), &[])?;
                    let table = work.table(&plan.name);
                    let grants = kept(saved, &name, &table, "VIEW", "FOREIGN TABLE", |_| true);
                    properties::restore(rebuild::oid_of(&table)?, &work.app.local_schema, &table, &grants, |_| true)?;
                    seen.moved.insert(existing.oid);
                    spi::run("DELETE FROM wh.masked_table WHERE relation = $1", &[spi::oid(rebuild::oid_of(&table)?)])?;
                }
                How::Make => {
                    let raw = raw_schema(work.app)?;
                    // Where it is still: who granted may not use the schema that it goes to.
                    close(&place)?;
                    if existing.schema != raw {
                        spi::run(&format!("ALTER FOREIGN TABLE {place} SET SCHEMA {}", sql::ident(raw)), &[])?;
                    }
                    let place = sql::qualified(raw, &plan.name);
                    let view = self.make(plan, &place, &name)?;
                    let shows = |column: &str| plan.shown.iter().any(|s| sql::ident(&s.column) == column);
                    let grants = kept(saved, &work.place(existing, &plan.name), &name, "FOREIGN TABLE", "VIEW", shows);
                    properties::restore(view, &work.app.local_schema, &name, &grants, |_| true)?;
                    seen.moved.insert(existing.oid);
                    seen.stricter.push(name.clone());
                    write(&work.app.name, &place, &name, &plan.shown)?;
                }
                How::Change(step) => {
                    let definition = definition(&place, &plan.columns, &plan.shown)?;
                    match step {
                        Step::Fill => fill(&name, &definition, &plan.outputs)?,
                        Step::Extend => {
                            // OR REPLACE without WITH would take the options away.
                            let options: Vec<String> = saved
                                .iter()
                                .filter_map(|p| Some((p.2.strip_prefix("option ")?, p.3.as_deref()?)))
                                .map(|(option, value)| format!("{} = {}", sql::ident(option), sql::literal(value)))
                                .collect();
                            let with =
                                if options.is_empty() { "security_barrier = true".into() } else { options.join(", ") };
                            spi::run(&format!("CREATE OR REPLACE VIEW {name} WITH ({with}) AS {definition}"), &[])?;
                        }
                        Step::Remake => {
                            let schema = view.map_or(work.app.local_schema.as_str(), |v| v.schema.as_str());
                            properties::refuse_to_make_again("VIEW", &name, saved)?;
                            rebuild::drop_relation(&format!("DROP VIEW {name}"), &name)?;
                            let made = self.make(plan, &place, &name)?;
                            let shows = |column: &str| plan.shown.iter().any(|s| sql::ident(&s.column) == column);
                            let again: Properties =
                                saved.iter().filter(|p| column_of(p).is_none_or(|c| shows(&c))).cloned().collect();
                            properties::restore(made, schema, &name, &again, |_| true)?;
                        }
                    }
                    let before = view.map_or(&[][..], |v| v.shown.as_slice());
                    if shown::is_stricter(before, &plan.shown, &plan.columns) {
                        seen.stricter.push(name.clone());
                    }
                    write(&work.app.name, &place, &name, &plan.shown)?;
                }
            }
            say(plan, existing, &work.table(&plan.name), done);
        }
        Ok(seen)
    }

    fn make(&self, plan: &Plan, place: &str, name: &str) -> Result<u32> {
        let definition = definition(place, &plan.columns, &plan.shown)?;
        spi::run(&format!("CREATE VIEW {name} WITH (security_barrier = true) AS {definition}"), &[])?;
        rebuild::oid_of(name)
    }
}

/// What has to be looked after once everything stands again.
#[derive(Default)]
pub struct Seen {
    moved: HashSet<u32>,
    /// Views that show less than before.
    stricter: Vec<String>,
}

impl Seen {
    /// Whether a table went behind a view, or came out.
    pub fn moved(&self, table: u32) -> bool {
        self.moved.contains(&table)
    }

    /// Materialized views hold what was seen before.
    pub fn refresh(&self, done: &mut Done) -> Result<()> {
        for view in &self.stricter {
            done.changes.extend(refill::refresh_above(rebuild::oid_of(view)?)?);
        }
        Ok(())
    }
}

/// A new table that is masked from the start.
pub fn made(work: &Work, wanted: usize, place: &str, done: &mut Done) -> Result<()> {
    let wanted = &work.wanted[wanted];
    close(place)?;
    let columns: Vec<Column> = wanted.columns.iter().map(|c| shown::new_column(&wanted.name, c, work.rules)).collect();
    let (shown, _) = shown::shown(&columns, &[]);
    let name = work.table(&wanted.name);
    spi::run(
        &format!("CREATE VIEW {name} WITH (security_barrier = true) AS {}", definition(place, &columns, &shown)?),
        &[],
    )?;
    write(&work.app.name, place, &name, &shown)?;
    for c in &columns {
        if let Some(mask) = c.mask {
            done.changes.push(
                Change::new(format!("{name}.{}", sql::ident(&c.name)), "column", "masked").detail(mask.describe()),
            );
        }
    }
    Ok(())
}

/// A row for each mask that came, went or changed.
fn say(plan: &Plan, existing: &Existing, table: &str, done: &mut Done) {
    let before = |c: &Column| {
        let was = c.was.as_ref()?;
        let view = existing.view.as_ref()?;
        match view.shown.iter().find(|s| s.column == *was) {
            Some(shown) => shown.mask,
            None => Some(Mask::Hidden),
        }
    };
    for c in &plan.columns {
        let after = c.mask.filter(|_| plan.how != How::Remove);
        let object = format!("{table}.{}", sql::ident(&c.name));
        match (before(c), after) {
            (was, Some(mask)) if was != Some(mask) => {
                done.changes.push(Change::new(object, "column", "masked").detail(mask.describe()));
            }
            (Some(_), None) => done.changes.push(Change::new(object, "column", "unmasked")),
            _ => {}
        }
    }
}

/// The view's query.
fn definition(place: &str, columns: &[Column], shown: &[Shown]) -> Result<String> {
    let mut list = Vec::with_capacity(shown.len());
    for s in shown {
        let Some(column) = columns.iter().find(|c| c.name == s.column) else { continue };
        let name = sql::ident(&s.column);
        let expression = match s.mask {
            None => format!("x.{name}"),
            Some(mask) => {
                let ty = column.r#type;
                mask.expression(&name, ty, &format_type(ty.oid, ty.typmod), &rebuild::collate(ty.collation)?)
            }
        };
        list.push(format!("{expression} AS {name}"));
    }
    Ok(format!("SELECT {} FROM {place} x", list.join(", ")))
}

fn fill(name: &str, definition: &str, outputs: &[Output]) -> Result<()> {
    let query = rewrite::analyze(definition)?;
    if query.outputs != outputs {
        return Err(Error::new(
            sqlstate::INTERNAL_ERROR,
            format!("{name} would have other columns than it was meant to have"),
        ));
    }
    rewrite::store(rebuild::oid_of(name)?, query);
    Ok(())
}

/// Writes down what a view shows.
fn write(fdw: &str, place: &str, name: &str, shown: &[Shown]) -> Result<()> {
    spi::run(
        "INSERT INTO wh.masked_table (fdw, relation, view, shown) VALUES ($1, $2::regclass, $3::regclass, $4::jsonb)
         ON CONFLICT (relation) DO UPDATE SET view = excluded.view, shown = excluded.shown",
        &[
            fdw.into(),
            spi::oid(rebuild::oid_of(place)?),
            spi::oid(rebuild::oid_of(name)?),
            serde_json::to_string(shown)?.into(),
        ],
    )?;
    Ok(())
}

/// The column (quoted) that a property is about.
fn column_of(p: &Property) -> Option<String> {
    if let Some(column) = p.2.strip_prefix("comment on ").or_else(|| p.2.strip_prefix("default of ")) {
        return Some(column.to_owned())
            .filter(|c| ![" trigger ", " rule "].iter().any(|w| format!(" {c}").starts_with(w)));
    }
    let privilege = p.2.strip_prefix("grant\u{1f}")?.split('\u{1f}').next()?;
    Some(privilege.split_once(" (")?.1.strip_suffix(')')?.to_owned())
}

/// Grants and comments, for the relation that takes another one's place.
fn kept(saved: &[Property], from: &str, to: &str, was: &str, is: &str, shows: impl Fn(&str) -> bool) -> Properties {
    let mut kept: Properties = saved
        .iter()
        .filter(|p| p.is_identity() && p.2 != "owner" && column_of(p).is_none_or(|c| shows(&c)))
        .cloned()
        .collect();
    for p in &mut kept {
        let statement = p.4.take().map(|s| s.replacen(&format!("COMMENT ON {was} "), &format!("COMMENT ON {is} "), 1));
        // The name stands in the first place where a name can stand.
        p.4 = statement.map(|s| s.replacen(from, to, 1));
    }
    kept
}

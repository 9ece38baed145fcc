//! Views that cannot stand: the stub in their place, what is kept of them, and the way back.

use serde::Deserialize;

use super::dependents::Kind;
use super::held::{what, Held};
use super::model::Change;
use super::outputs::nulls;
use super::properties::{self, Properties, Property};
use super::reads::{self, Present, Read};
use super::rebuild;
use super::standing::{Policy, Standing};
use super::text::{self, Literals};
use crate::error::{sqlstate, Error, Result};
use crate::pg::rewrite::Output;
use crate::pg::{catalog, lock, rewrite, spi, sql, subxact};

/// Puts a query in the view's place that raises the reason, and keeps its definition in `wh.broken`.
///
/// A view keeps its OID. A materialized view cannot raise an error of its own, so a view of its name takes its
/// place until it heals; what stands on it must be held by now.
pub fn put_stub(held: &Held, error: &Error, policy: &Policy) -> Result<()> {
    let reason =
        if held.missing.is_empty() { error.message.clone() } else { format!("{} is gone", held.missing.join(", ")) };
    let tail =
        // OFFSET 0 is a fence: without it the planner folds the NULLs into a query's conditions and never comes here.
        format!(" FROM wh.raise_broken({}, {}, {}) OFFSET 0", sql::literal(&held.name), policy.run, sql::literal(&reason));
    let stub = nulls(&held.outputs, &tail)?;
    let relation = if held.kind == Kind::MaterializedView {
        rebuild::view(held, rebuild::Text::Ours(&stub), &held.properties, Kind::View, false, false)?;
        spi::first::<u32>("SELECT to_json($1::regclass::oid::int8)::text", &[held.name.as_str().into()])?.unwrap_or(0)
    } else {
        reset_check_option(held)?;
        rewrite::store(held.oid, rewrite::analyze(&stub)?);
        held.oid
    };
    spi::run(
        "INSERT INTO wh.broken (relation, schema, name, kind, owner, reason, missing, definition, grants, fdw, run, outputs, populated, properties, reads, place)
         SELECT c.oid, n.nspname, c.relname, $2, pg_get_userbyid(c.relowner), $3, $4, $5, c.relacl::text, $6, nullif($7, 0),
                $8::jsonb, $9, $10::jsonb, $11::jsonb, $12
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1
         ON CONFLICT (place, relation) DO UPDATE SET schema = excluded.schema, name = excluded.name, kind = excluded.kind,
            owner = excluded.owner, reason = excluded.reason, missing = excluded.missing, fdw = excluded.fdw, run = excluded.run,
            definition = excluded.definition, grants = excluded.grants, outputs = excluded.outputs,
            populated = excluded.populated, properties = excluded.properties, reads = excluded.reads,
            broken_since = excluded.broken_since",
        &[
            spi::oid(relation),
            what(held.kind).into(),
            reason.into(),
            held.missing.clone().into(),
            held.definition.as_str().into(),
            policy.fdw.clone().into(),
            policy.run.into(),
            serde_json::to_string(&held.outputs)?.into(),
            held.populated.into(),
            serde_json::to_string(&held.properties)?.into(),
            serde_json::to_string(&reads::present(&held.reads, true)?.reads)?.into(),
            catalog::place().into(),
        ],
    )?;
    Ok(())
}

pub const CHECK_OPTION: &str = "option check_option";

/// Takes the option off a view that is not updatable any more, since its dump could not be restored with it
/// (DefineView, src/backend/commands/view.c). Says whether it was there.
pub fn reset_check_option(held: &Held) -> Result<bool> {
    let is_there = held.properties.iter().any(|p| p.2 == CHECK_OPTION);
    if is_there {
        spi::run(&format!("ALTER VIEW {} RESET (check_option)", held.name), &[])?;
    }
    Ok(is_there)
}

#[derive(Deserialize)]
struct Broken {
    oid: u32,
    kind: String,
    schema: String,
    name: String,
    /// Its name when it broke, if that was another.
    old_name: String,
    owner: String,
    definition: String,
    outputs: Vec<Output>,
    populated: bool,
    properties: Properties,
    missing: Vec<String>,
    reads: Vec<Read>,
}

/// Tries each broken view of `fdw` (all with `None`) again; what still fails stays as it is.
///
/// A view that cannot be locked ends the unit, so that it is tried again, until the policy's patience is over: then that
/// view stays broken, and nothing else waits for it.
pub fn heal(fdw: Option<&str>, policy: &Policy) -> Result<Vec<Change>> {
    if spi::prepared::<bool>("SELECT to_json(EXISTS (SELECT FROM wh.broken))::text", &[])? == [false] {
        return Ok(Vec::new());
    }
    // Views that are gone, or that their owners have written anew.
    spi::run(
        "DELETE FROM wh.broken b WHERE b.place = $1 AND NOT EXISTS (
           SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
           WHERE w.ev_class = b.relation AND d.refclassid = 'pg_proc'::regclass
             AND d.refobjid = 'wh.raise_broken(text, bigint, text)'::regprocedure)",
        &[catalog::place().into()],
    )?;
    take_in_restored()?;
    let broken: Vec<Broken> = spi::rows(
        "SELECT json_build_object('oid', b.relation::int8, 'kind', b.kind, 'schema', n.nspname,
                'name', format('%I.%I', n.nspname, c.relname), 'old_name', format('%I.%I', b.schema, b.name),
                'owner', pg_get_userbyid(c.relowner), 'definition', b.definition, 'outputs', b.outputs,
                'populated', b.populated, 'properties', b.properties, 'missing', b.missing,
                'reads', b.reads)::text
         FROM wh.broken b JOIN pg_class c ON c.oid = b.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE b.place = $2 AND ($1 IS NULL OR b.fdw = $1) ORDER BY b.run, b.relation",
        &[fdw.map(str::to_owned).into(), catalog::place().into()],
    )?;
    // One that waited for another may come first in the order: again, for as long as something heals.
    let mut changes = Vec::new();
    let mut left = broken;
    loop {
        let before = left.len();
        left = heal_some(left, policy, &mut changes)?;
        if left.is_empty() || left.len() == before {
            return Ok(changes);
        }
    }
}

/// Numbers of another database are nobody's here, or somebody else's: what was restored is found by its names, and its
/// numbers are learned anew. What its names do not lead to yet waits.
fn take_in_restored() -> Result<()> {
    let restored: Vec<(u32, String, u32, Vec<Read>)> = spi::rows(RESTORED, &[catalog::place().into()])?;
    for (relation, place, stub, then) in restored {
        spi::run(
            "UPDATE wh.broken SET relation = $3, place = $4, reads = $5::jsonb WHERE relation = $1 AND place = $2
               AND NOT EXISTS (SELECT FROM wh.broken o WHERE o.place = $4 AND o.relation = $3)",
            &[
                spi::oid(relation),
                place.into(),
                spi::oid(stub),
                catalog::place().into(),
                serde_json::to_string(&reads::present(&then, false)?.reads)?.into(),
            ],
        )?;
    }
    Ok(())
}

/// The stub of a row says the row's name and run. A name that leads to a stub will do; a stub that was renamed before the
/// dump is its owner's still, for nobody else's view is ever taken for it.
const RESTORED: &str = "
SELECT json_build_array(b.relation::int8, b.place, s.oid::int8, b.reads)::text
FROM wh.broken b CROSS JOIN LATERAL (
  SELECT c.oid FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
  JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
  CROSS JOIN LATERAL (SELECT n.nspname = b.schema AND c.relname = b.name AS named,
    strpos(pg_get_viewdef(c.oid), format('raise_broken(%s::text, (%s)::bigint,', quote_literal(format('%I.%I', b.schema, b.name)),
                                         coalesce(b.run, 0))) > 0 AS says) x
  WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = 'wh.raise_broken(text, bigint, text)'::regprocedure
    AND (x.named OR x.says AND pg_get_userbyid(c.relowner) = b.owner)
    AND NOT EXISTS (SELECT FROM wh.broken o WHERE o.place = $1 AND o.relation = c.oid)
  ORDER BY x.says DESC, x.named DESC LIMIT 1) s
WHERE b.place <> $1 ORDER BY b.run, b.relation";

/// Heals what can be healed, and returns the rest.
fn heal_some(broken: Vec<Broken>, policy: &Policy, changes: &mut Vec<Change>) -> Result<Vec<Broken>> {
    let mut left = Vec::new();
    for mut b in broken {
        let present = reads::present(&b.reads, true)?;
        if present.reads != b.reads {
            // A dump takes along the names that things have now.
            b.reads.clone_from(&present.reads);
            let reads = serde_json::to_string(&b.reads)?;
            spi::run(
                "UPDATE wh.broken SET reads = $3::jsonb WHERE place = $2 AND relation = $1",
                &[spi::oid(b.oid), catalog::place().into(), reads.into()],
            )?;
        }
        // The analysis alone, first: one that cannot heal costs its readers no lock.
        let attempt = subxact::run(|| present.analyse(&b.owner, &b.definition).map(|_| ()))
            .and_then(|()| subxact::run(|| heal_one(&b, &present, policy)));
        match attempt {
            Ok(mut more) => changes.append(&mut more),
            Err(e) if e.is_lock_conflict() && policy.is_out_of_patience() => left.push(b),
            // Its owner may not use what came back: that is a grant away, and nobody else's run should wait for it.
            Err(e) if e.is_the_owners() || e.sqlstate == sqlstate::DEPENDENT_OBJECTS_STILL_EXIST => {
                // What is missing is said in the words of the run that took it away, for as long as it is.
                let reason = match (present.gone.is_empty(), b.missing.is_empty()) {
                    (false, false) => format!("{} is gone", b.missing.join(", ")),
                    _ => e.message,
                };
                if present.gone.is_empty() {
                    b.missing.clear();
                }
                spi::run(
                    "UPDATE wh.broken SET reason = $3, missing = $4
                     WHERE place = $2 AND relation = $1 AND (reason <> $3 OR missing <> $4)",
                    &[spi::oid(b.oid), catalog::place().into(), reason.into(), b.missing.clone().into()],
                )?;
                left.push(b);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(left)
}

fn heal_one(b: &Broken, present: &Present, policy: &Policy) -> Result<Vec<Change>> {
    lock::access_exclusive([b.oid])?;
    let current = properties::of(b.oid)?;
    let materialized = b.kind == what(Kind::MaterializedView);
    let mut detail = None;
    let mut changes = Vec::new();
    let query = present.analyse(&b.owner, &b.definition)?;
    let saved = |p: &&Property| p.2 == CHECK_OPTION;
    let new_name = |sql: &str| text::renamed(sql, &b.old_name, &b.name, Literals::Keep);
    if !materialized && query.outputs == b.outputs {
        present.store(b.oid, query)?;
        for statement in b.properties.iter().filter(saved).filter_map(Property::statement) {
            spi::run(&new_name(statement), &[])?;
        }
    } else {
        // Owner and grants as they are today, all else as it was.
        let mut saved: Properties = current.iter().filter(|p| p.is_identity() || !materialized).cloned().collect();
        let lost = b.properties.iter().filter(|p| if materialized { !p.is_identity() } else { p.2 == CHECK_OPTION });
        saved.extend(lost.cloned().map(|mut p| {
            p.rewrite(|sql| new_name(&sql));
            p
        }));
        let held = Held::stub(b.oid, (&b.schema, &b.name), &b.owner, &b.definition, &b.outputs, b.populated, current);
        let mut above = Standing::new(policy);
        above.survey([b.oid])?;
        above.hold_above(&held)?;
        let kind = if materialized { Kind::MaterializedView } else { Kind::View };
        let failure =
            rebuild::view(&held, rebuild::Text::Analysed(query, present.clone()), &saved, kind, policy.refresh, true)?;
        detail = failure.map(|f| format!("not refreshed: {f}"));
        above.put_back()?;
        changes = above.changes;
    }
    spi::run("DELETE FROM wh.broken WHERE place = $2 AND relation = $1", &[spi::oid(b.oid), catalog::place().into()])?;
    let kind = what(if materialized { Kind::MaterializedView } else { Kind::View });
    let mut healed = Change::new(&b.name, kind, "healed").detail(format!("owner \"{}\"", b.owner));
    if let (Some(more), Some(text)) = (detail, healed.detail.as_mut()) {
        text.push_str("; ");
        text.push_str(&more);
    }
    changes.insert(0, healed);
    Ok(changes)
}

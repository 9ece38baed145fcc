//! One ALTER statement on a relation whose dependents block it; as the caller, who owns them all.

use std::collections::HashMap;
use std::time::Duration;

use super::dependents::{self, Kind};
use super::model::Change;
use super::run;
use super::standing::{OnBroken, Policy, Standing, TypePolicy};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, lock, rewrite, session, spi};

/// Runs `ddl`, which must be about `relation`, with what stands on the relation held meanwhile.
pub fn with_dependents(relation: u32, ddl: &str) -> Result<Vec<Change>> {
    let target = rewrite::alter_target(ddl)?;
    if target.relation != relation {
        return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "ddl is about another relation than the one given")
            .hint("Qualify the table's name in both arguments."));
    }
    let policy = Policy {
        types: TypePolicy::Follow,
        on_broken: OnBroken::Fail,
        refresh: true,
        fdw: None,
        run: 0,
        leave_broken: None,
    };
    let options = run::Options { max_wait: Duration::from_secs(60), ..run::Options::default() };
    let waits = Default::default();
    run::with_locks(&options, (&waits, &Default::default()), || {
        let mut standing = Standing::new(&policy);
        let touched = {
            let _surroundings = guc::Scope::new(guc::DEPARSE)?;
            // Columns are inherited: what stands on a child or partition is in the way too.
            let family: Vec<u32> = spi::rows(
                "WITH RECURSIVE family (oid) AS (SELECT $1 UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON f.oid = i.inhparent)
                 SELECT to_json(oid::int8)::text FROM family ORDER BY oid <> $1, oid",
                &[spi::oid(relation)],
            )?;
            standing.survey(family.iter().copied())?;
            refuse_strangers(relation, &standing.above().edges)?;
            let touched: Vec<dependents::Dependent> = standing
                .above()
                .edges
                .iter()
                .filter(|d| !target.renames && family.contains(&d.on) && d.kind != Kind::Other)
                .cloned()
                .collect();
            let locked = standing.above().with_views_above(touched.iter().collect());
            let locked = standing.above().highest_first(&locked);
            lock::access_exclusive(locked.into_iter().chain(family))?;
            standing.hold(&touched.iter().collect::<Vec<_>>(), &HashMap::new())?;
            touched
        };
        spi::run(ddl, &[])?;
        let _surroundings = guc::Scope::new(guc::DEPARSE)?;
        standing.put_back()?;
        if standing.broken > 0 {
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
            .hint("Nothing was changed. Drop or rewrite them first."));
        }
        let mut changes = std::mem::take(&mut standing.changes);
        for d in touched {
            if !changes.iter().any(|c| c.object == d.name) {
                changes.push(Change::new(d.name, super::held::what(d.kind), "kept"));
            }
        }
        Ok(changes)
    })
}

/// Before any lock: whoever may not change a dependent may not stop its readers either.
fn refuse_strangers(relation: u32, edges: &[dependents::Dependent]) -> Result<()> {
    if session::is_superuser() {
        return Ok(());
    }
    let oids = edges.iter().filter(|d| d.relation != 0).map(|d| d.relation).chain([relation]);
    let foreign: Vec<(String, String)> = spi::rows(
        "SELECT json_build_array(c.oid::regclass::text, pg_get_userbyid(c.relowner))::text FROM pg_class c
         WHERE c.oid = ANY ($1) AND NOT pg_has_role(c.relowner, 'USAGE')
         UNION ALL
         SELECT json_build_array(p.oid::regprocedure::text, pg_get_userbyid(p.proowner))::text FROM pg_proc p
         WHERE p.oid = ANY ($2) AND NOT pg_has_role(p.proowner, 'USAGE')",
        &[spi::oids(oids), spi::oids(edges.iter().filter(|d| d.kind == Kind::Function).map(|d| d.oid))],
    )?;
    if foreign.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = foreign.iter().map(|(name, owner)| format!("{name} belongs to \"{owner}\".")).collect();
    Err(Error::new(
        sqlstate::INSUFFICIENT_PRIVILEGE,
        "must be owner of the relation and of everything that stands on it",
    )
    .detail(lines.join("\n"))
    .hint("Ask their owners, or a superuser, to run it."))
}

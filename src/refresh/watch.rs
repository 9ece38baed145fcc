//! Whether a materialized view could have changed, were it refreshed: seen without reading a row and without a lock
//! on anything that it reads.
//!
//! What it reads, through views and materialized views down to the tables, is watched by the cumulative statistics
//! (rows inserted, updated and deleted since ever), by the files (TRUNCATE and rewrites give a table a new one), by the
//! set of partitions and inheriting tables, and by the definitions: stored queries, functions, labels of enums,
//! settings of roles and databases. All of it is digested into a [`mark`].
//!
//! **When to take it.** A session reports its counts after its transaction has ended, once a second at most and within
//! ten when it idles (`pgstat_report_stat`: PGSTAT_MIN_INTERVAL, PGSTAT_IDLE_INTERVAL; after 60 s at the latest). So
//! what a mark has was committed before it, and what was committed before it may show only in a later one. Taken
//! before the refresh begins, in a snapshot that is not younger than the refresh's own, it never makes anyone miss a
//! change; it may make them refresh once more than needed. A materialized view that is read counts with its contents,
//! so take the mark of a view when what is upstream of it has been refreshed.
//!
//! Counts lost in a crash, or reset by hand, show as a new time of reset: a refresh too many and none too few. Rows
//! that were rolled back count as well. Within a transaction statistics are cached (`stats_fetch_consistency`), so the
//! cache is dropped first.
//!
//! Not seen, since no catalog has it: a change of time zone or format in postgresql.conf, and sessions that write with
//! track_counts off.

use std::collections::HashSet;

use serde::Deserialize;

use super::catalog;
use crate::error::{sqlstate, Error, Result};
use crate::pg::{guc, spi, stored};

/// A relation that is read, or the view itself.
#[derive(Debug, Deserialize)]
struct Read {
    oid: u32,
    name: String,
    kind: String,
    persistence: String,
    file: i64,
    changes: i64,
    row_security: bool,
    /// The stored query of a view.
    action: Option<String>,
}

/// A function that is called.
#[derive(Debug, Deserialize)]
struct Function {
    oid: u32,
    name: String,
    /// It gives the same for the same arguments and settings, today and tomorrow.
    steady: bool,
    /// Changes with its definition; of Postgres's own empty.
    version: String,
}

#[derive(Debug, Deserialize)]
struct Surroundings {
    counting: bool,
    stamp: String,
}

/// What decides whether a materialized view could have changed.
struct Watch {
    target: u32,
    reads: Vec<Read>,
    /// Named in a query, and not among `reads`.
    catalogs: Vec<String>,
    calls: stored::Calls,
    functions: Vec<Function>,
    surroundings: Surroundings,
}

/// A text that stays the same until something that the materialized view reads has changed; None where that can't be
/// told, so that time alone decides.
pub fn mark(oid: u32) -> Result<Option<String>> {
    let watch = Watch::new(oid)?;
    match watch.why_not() {
        Some(_) => Ok(None),
        None => watch.digest().map(Some),
    }
}

/// Why a materialized view can't be watched, where it can't.
pub fn why_not(oid: u32) -> Result<Option<String>> {
    Ok(Watch::new(oid)?.why_not())
}

impl Watch {
    fn new(target: u32) -> Result<Self> {
        catalog::facts(target)?;
        let _surroundings = guc::Scope::new(guc::DEPARSE)?;
        spi::run("SELECT pg_stat_clear_snapshot()", &[])?;
        let surroundings = spi::prepared(SURROUNDINGS, &[])?.into_iter().next().ok_or_else(|| {
            Error::new(sqlstate::INTERNAL_ERROR, "the database that this session is in was not found")
        })?;
        let reads: Vec<Read> = spi::prepared(READS, &[spi::oid(target)])?;
        let mut calls = stored::Calls::default();
        for action in reads.iter().filter_map(|r| r.action.as_deref()) {
            stored::add(&mut calls, action)?;
        }
        let known: HashSet<u32> = reads.iter().map(|r| r.oid).collect();
        let catalogs = match calls.relations.iter().filter(|oid| !known.contains(oid)).copied().collect::<Vec<_>>() {
            unknown if unknown.is_empty() => Vec::new(),
            unknown => spi::prepared(CATALOGS, &[spi::oids(unknown)])?,
        };
        let steady: Vec<&str> = STEADY.split_ascii_whitespace().collect();
        let functions = spi::prepared(FUNCTIONS, &[spi::oids(calls.functions.iter().copied()), steady.into()])?;
        Ok(Watch { target, reads, catalogs, calls, functions, surroundings })
    }

    fn why_not(&self) -> Option<String> {
        if !self.surroundings.counting {
            return Some(String::from("track_counts is off"));
        }
        if let Some(reason) = self.reads.iter().find_map(unwatchable) {
            return Some(reason);
        }
        if let Some(name) = self.catalogs.first() {
            // Some of their rows are changed in place and counted nowhere (heap_inplace_update).
            return Some(format!("reads system catalog {name}"));
        }
        if self.calls.current_value {
            return Some(String::from("uses the current date, time or user"));
        }
        if self.calls.next_value {
            return Some(String::from("uses a sequence"));
        }
        self.functions.iter().find(|f| !f.steady).map(|f| format!("uses {}()", f.name))
    }

    fn digest(&self) -> Result<String> {
        let mut text = format!("{}\n", self.surroundings.stamp);
        for read in &self.reads {
            // Its own contents are what a refresh changes.
            let contents = if read.oid == self.target { (0, 0) } else { (read.file, read.changes) };
            let definition = read.action.as_deref().unwrap_or_default();
            text.push_str(&format!("{} {} {} {definition}\n", read.oid, contents.0, contents.1));
        }
        for function in self.functions.iter().filter(|f| !f.version.is_empty()) {
            text.push_str(&format!("{} {}\n", function.oid, function.version));
        }
        let digest: Vec<String> = spi::prepared(
            "SELECT pg_catalog.to_json(pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to($1, 'UTF8')), 'hex'))::pg_catalog.text",
            &[text.into()],
        )?;
        digest.into_iter().next().ok_or_else(|| Error::new(sqlstate::INTERNAL_ERROR, "a digest has no value"))
    }
}

/// Why changes of a relation can't be seen.
fn unwatchable(read: &Read) -> Option<String> {
    let name = &read.name;
    match read.kind.as_str() {
        "v" => return None,
        "r" | "p" | "m" => {}
        "f" => return Some(format!("reads foreign table {name}")),
        "S" => return Some(format!("reads sequence {name}")),
        _ => return Some(format!("reads {name}")),
    }
    if read.persistence == "t" {
        return Some(format!("reads temporary table {name}"));
    }
    read.row_security.then(|| format!("row security of {name} decides what it reads"))
}

/// Down through stored queries to the tables, and to what is attached below those.
const READS: &str = "
WITH RECURSIVE reads(oid) AS (
  SELECT $1
  UNION
  SELECT below.oid FROM reads CROSS JOIN LATERAL (
    SELECT d.refobjid FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
      AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'n'
    WHERE w.ev_class = reads.oid AND w.rulename = '_RETURN'
    UNION ALL
    SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = reads.oid) AS below(oid)
)
SELECT json_build_object('oid', c.oid::int8, 'name', format('%I.%I', n.nspname, c.relname), 'kind', c.relkind,
  'persistence', c.relpersistence, 'file', c.relfilenode::int8, 'row_security', c.relrowsecurity,
  'changes', pg_stat_get_tuples_inserted(c.oid) + pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid),
  'action', w.ev_action::text)::text
FROM reads JOIN pg_class c ON c.oid = reads.oid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_rewrite w ON w.ev_class = c.oid AND w.rulename = '_RETURN'
ORDER BY c.oid";

/// pg_depend leaves out what comes with Postgres itself.
const CATALOGS: &str = "
SELECT to_json(format('%I.%I', n.nspname, c.relname))::text
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY ($1) ORDER BY c.oid";

/// Of an aggregate that somebody made, the functions under it count too: the aggregate itself always says immutable.
const FUNCTIONS: &str = "
WITH called AS (
  SELECT unnest($1) AS oid
  UNION
  SELECT part FROM pg_aggregate a CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn, a.aggfinalfn, a.aggcombinefn,
    a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]::oid[]) AS part
  WHERE a.aggfnoid = ANY ($1) AND a.aggfnoid::oid >= 16384 AND part <> 0
)
SELECT json_build_object('oid', p.oid::int8,
  'name', CASE WHEN p.pronamespace = 'pg_catalog'::regnamespace THEN quote_ident(p.proname) ELSE format('%I.%I', n.nspname, p.proname) END,
  'steady', p.provolatile = 'i' OR p.provolatile = 's' AND p.oid < 16384 AND p.pronamespace = 'pg_catalog'::regnamespace
    AND (p.prosrc = ANY ($2) OR p.prokind = 'a'
         OR p.proname IN ('textanycat', 'anytextcat', 'quote_literal', 'quote_nullable')),
  'version', CASE WHEN p.oid >= 16384 THEN p.xmin::text ELSE '' END)::text
FROM called JOIN pg_proc p ON p.oid = called.oid JOIN pg_namespace n ON n.oid = p.pronamespace
ORDER BY p.oid";

/// Whether changes are counted; and since when, with the labels and settings that a stable function may depend on.
const SURROUNDINGS: &str = "
SELECT json_build_object('counting', current_setting('track_counts') = 'on', 'stamp', concat_ws(' ',
  pg_stat_get_db_stat_reset_time(d.oid), pg_stat_get_bgwriter_stat_reset_time(),
  (SELECT sum(hashtextextended(format('%s %s', e.enumsortorder, e.enumlabel), e.enumtypid::int8)::numeric) FROM pg_enum e),
  (SELECT sum(hashtextextended(s.setconfig::text, s.setrole::int8)::numeric) FROM pg_db_role_setting s
   WHERE s.setdatabase IN (0, d.oid))))::text
FROM pg_database d WHERE d.datname = current_database()";

/// Functions of Postgres that it calls stable only because of settings (TimeZone, DateStyle, lc_*) or of the output
/// functions of other types: by their C names, since names are shared (`age(timestamptz)` has the current date in it).
/// Input functions of dates and times are missing on purpose: they know 'today'.
const STEADY: &str = "
array_out array_to_json array_to_json_pretty array_to_text array_to_text_null cash_numeric cash_out
date_cmp_timestamptz date_eq_timestamptz date_ge_timestamptz date_gt_timestamptz date_le_timestamptz
date_lt_timestamptz date_ne_timestamptz date_out date_timestamptz enum_first enum_last enum_out enum_range_all
enum_range_bounds extract_timestamptz float4_to_char float8_to_char generate_series_timestamptz
in_range_timestamptz_interval int4_cash int4_to_char int8_cash int8_to_char interval_out interval_to_char
json_build_array json_build_array_noargs json_build_object json_build_object_noargs jsonb_build_array
jsonb_build_array_noargs jsonb_build_object jsonb_build_object_noargs make_timestamptz make_timestamptz_at_timezone
multirange_out numeric_cash numeric_to_char numeric_to_number range_out record_out row_to_json row_to_json_pretty
text_concat text_concat_ws text_format text_format_nv timestamp_cmp_timestamptz timestamp_eq_timestamptz
timestamp_ge_timestamptz timestamp_gt_timestamptz timestamp_le_timestamptz timestamp_lt_timestamptz
timestamp_ne_timestamptz timestamp_out timestamp_timestamptz timestamp_to_char timestamptz_cmp_date
timestamptz_cmp_timestamp timestamptz_date timestamptz_eq_date timestamptz_eq_timestamp timestamptz_ge_date
timestamptz_ge_timestamp timestamptz_gt_date timestamptz_gt_timestamp timestamptz_le_date timestamptz_le_timestamp
timestamptz_lt_date timestamptz_lt_timestamp timestamptz_mi_interval timestamptz_ne_date timestamptz_ne_timestamp
timestamptz_out timestamptz_part timestamptz_pl_interval timestamptz_time timestamptz_timestamp timestamptz_timetz
timestamptz_to_char timestamptz_trunc timestamptz_trunc_zone to_date to_json to_jsonb to_timestamp";

//! Sources, their streams' state and the ledger of a run, in their tables. All of it runs as the extension's owner.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::http::State;
use super::load::{Counts, Field, Rejected, Table, Withhold};
use super::names::identifier;
use crate::error::{Error, Result};
use crate::pg::spi;
use crate::policy::Patterns;

/// A source as it is kept.
#[derive(Deserialize)]
pub struct Source {
    pub name: String,
    pub owner: u32,
    pub spec: Value,
    pub schema: String,
    pub streams: Option<Vec<String>>,
}

pub fn source(name: &str) -> Result<Option<Source>> {
    spi::first(
        "SELECT pg_catalog.json_build_object('name', name, 'owner', owner::oid::int8, 'spec', spec, 'schema', schema, 'streams', streams)::text
         FROM wh.source WHERE name = $1",
        &[name.into()],
    )
}

/// Up to where the rows of another stream have been gone through: when a row was fetched (microseconds since 1970), and
/// what it fills in.
pub type After = (i64, String);

/// What is kept of a stream besides the listing's own state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The last parent whose records are all stored.
    pub parents: Option<After>,
    /// The last event that was followed.
    pub changes: Option<After>,
    /// When the listing that looks for deleted rows began, in microseconds since 1970.
    pub sweep: Option<i64>,
    /// How many rows of this stream were ever deleted: what those who follow them compare with what they have followed.
    pub gone: u64,
    /// That number of the parent, when its deleted rows were last followed.
    pub followed: u64,
    /// The listing's mark as the API writes it, for people.
    pub shown: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    state: State,
    #[serde(flatten)]
    progress: Progress,
}

/// How far a stream has come.
#[derive(Default)]
pub struct Known {
    pub relation: Option<u32>,
    /// There was a table, and it is no more: what was known of it, but for the names of its columns, is forgotten.
    pub lost: bool,
    pub state: State,
    pub progress: Progress,
    /// How often the stream was reset.
    pub epoch: i64,
    pub columns: Vec<Field>,
    /// Seconds since the last success, and since the last complete scan.
    pub success_age: Option<f64>,
    pub full_age: Option<f64>,
    /// Now, in microseconds since 1970.
    pub now: i64,
}

/// Reads a stream's state, and holds it: whoever resets it meanwhile waits for the end of the batch.
pub fn known(source: &str, stream: &str) -> Result<Known> {
    read(source, stream, "FOR NO KEY UPDATE")
}

/// Reads a stream's state.
pub fn seen(source: &str, stream: &str) -> Result<Known> {
    read(source, stream, "")
}

/// Whether `c` of pg_class is a table as we make them for a stream. A number alone may be another table's by now.
const IS_A_STREAMS: &str = "c.relkind = 'r' AND 4 =
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND NOT a.attisdropped
     AND (a.attname, a.atttypid::pg_catalog.regtype::text) IN (('_hash', 'uuid'), ('_version', 'text'),
          ('_fetched_at', 'timestamp with time zone'), ('_deleted_at', 'timestamp with time zone')))";

fn read(source: &str, stream: &str, lock: &str) -> Result<Known> {
    type Found = (Option<u32>, bool, Kept, i64, Vec<Field>, Option<f64>, Option<f64>);
    let query = format!(
        "SELECT pg_catalog.json_build_array(relation::oid::int8, EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation AND {IS_A_STREAMS}),
                state, epoch, columns, extract(epoch FROM pg_catalog.clock_timestamp() - last_success),
                extract(epoch FROM pg_catalog.clock_timestamp() - last_full))::text
         FROM wh.source_state WHERE source = $1 AND stream = $2 {lock}"
    );
    let found: Option<Found> = spi::first(&query, &[source.into(), stream.into()])?;
    let now: Option<i64> = spi::first(
        "SELECT pg_catalog.to_json((extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::int8)::text",
        &[],
    )?;
    let now = now.unwrap_or_default();
    let Some((relation, there, kept, epoch, columns, success_age, full_age)) = found else {
        return Ok(Known { now, ..Known::default() });
    };
    if relation.is_some() && !there {
        // What is new since the last run would not be all that a new table is to hold.
        let state = State { not_before: kept.state.not_before, ..State::default() };
        let progress = Progress { gone: kept.progress.gone, ..Progress::default() };
        return Ok(Known { lost: true, state, progress, epoch, columns, now, ..Known::default() });
    }
    let (state, progress) = (kept.state, kept.progress);
    Ok(Known { relation, lost: false, state, progress, epoch, columns, success_age, full_age, now })
}

/// Forgets how far streams have come, one or all of a source; returns how many that were. Deleted rows stay counted: those
/// that follow them compare the number with theirs.
pub fn reset(source: &str, stream: Option<&str>) -> Result<usize> {
    let reset: Vec<bool> = spi::rows(
        "UPDATE wh.source_state SET state = pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('gone', state->'gone')), epoch = epoch + 1
         WHERE source = $1 AND ($2 IS NULL OR stream = $2) RETURNING 'true'",
        &[source.into(), stream.map(str::to_owned).into()],
    )?;
    Ok(reset.len())
}

/// Writes down the columns of a stream's table.
pub fn remember_columns(source: &str, stream: &str, columns: &[Field]) -> Result<()> {
    spi::run(
        "UPDATE wh.source_state SET columns = $3::jsonb WHERE source = $1 AND stream = $2",
        &[source.into(), stream.into(), serde_json::to_string(columns)?.into()],
    )?;
    Ok(())
}

/// Has a stream read and written as a whole again, because the table of an array of its records is gone.
pub fn read_again(source: &str, stream: &str, table: Option<&Table>, array: &str) -> Result<()> {
    reset(source, Some(stream))?;
    spi::run(
        "UPDATE wh.source_state SET last_full = NULL WHERE source = $1 AND stream = $2",
        &[source.into(), stream.into()],
    )?;
    spi::run(
        "UPDATE wh.source_state SET relation = NULL WHERE source = $1 AND stream = $2",
        &[source.into(), array.into()],
    )?;
    if let Some(table) = table {
        // No record has this hash, so that each of them is written, and its elements with it.
        spi::run(&format!("UPDATE {} SET _hash = '00000000-0000-0000-0000-000000000000'", table.name), &[])?;
    }
    Ok(())
}

/// The tables of a source's streams, quoted, and whether they still are what we made: the owner's, and by their comment.
pub fn tables(source: &str) -> Result<Vec<(String, bool)>> {
    spi::rows(
        &format!(
            "SELECT pg_catalog.json_build_array(c.oid::pg_catalog.regclass::text, {IS_A_STREAMS}
               AND pg_catalog.pg_get_userbyid(c.relowner) = CURRENT_USER AND coalesce(pg_catalog.obj_description(c.oid, 'pg_class')
                   = pg_catalog.format('Stream %s of source %s, kept by startup_wh', s.stream, s.source), false))::text
             FROM wh.source_state s JOIN pg_catalog.pg_class c ON c.oid = s.relation WHERE s.source = $1"
        ),
        &[source.into()],
    )
}

/// Writes a stream's state, in the transaction of the rows that it stands for.
pub fn remember(
    source: &str,
    stream: &str,
    table: &Table,
    (state, progress): (&State, &Progress),
    columns: &[Field],
    rows: i64,
) -> Result<()> {
    let kept = Kept { state: state.clone(), progress: progress.clone() };
    spi::prepared::<bool>(
        "INSERT INTO wh.source_state AS s (source, stream, relation, state, columns, rows)
         VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, greatest($6, 0))
         ON CONFLICT (source, stream) DO UPDATE SET relation = excluded.relation, state = excluded.state, columns = excluded.columns,
           rows = greatest(CASE WHEN s.relation = excluded.relation THEN s.rows ELSE 0 END + $6, 0),
           last_success = CASE WHEN s.relation = excluded.relation THEN s.last_success END,
           last_full = CASE WHEN s.relation = excluded.relation THEN s.last_full END RETURNING 'true'",
        &[
            source.into(),
            stream.into(),
            spi::oid(table.oid),
            serde_json::to_string(&kept)?.into(),
            serde_json::to_string(columns)?.into(),
            rows.into(),
        ],
    )?;
    Ok(())
}

/// The policy as a stream's table sees it: by the name that the table has, and by the one that it would be given.
pub fn withhold(patterns: &Patterns, source: &Source, stream: &str, relation: Option<u32>) -> Result<Withhold> {
    let there: Option<(String, String)> = match relation {
        Some(oid) => spi::first(
            "SELECT pg_catalog.json_build_array(n.nspname, c.relname)::text FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1",
            &[spi::oid(oid)],
        )?,
        None => None,
    };
    let name = identifier(stream);
    let (schema, table) = there.unwrap_or_else(|| (source.schema.clone(), name.clone()));
    Ok(Withhold::new(patterns, &schema, &[&table, &name]))
}

/// Until when the API is not to be asked, whatever else is known.
pub fn wait_until(source: &str, stream: &str, not_before: i64) -> Result<()> {
    spi::run(
        "INSERT INTO wh.source_state AS s (source, stream, state) VALUES ($1, $2, pg_catalog.jsonb_build_object('not_before', $3::int8))
         ON CONFLICT (source, stream) DO UPDATE SET state = s.state || excluded.state",
        &[source.into(), stream.into(), not_before.into()],
    )?;
    Ok(())
}

/// What a stream's requests took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    pub requests: u64,
    pub bytes: u64,
    pub waited_ms: u64,
}

impl std::ops::Add for Spent {
    type Output = Spent;

    fn add(self, other: Spent) -> Spent {
        Spent {
            requests: self.requests + other.requests,
            bytes: self.bytes + other.bytes,
            waited_ms: self.waited_ms + other.waited_ms,
        }
    }
}

/// Opens the ledger of a run.
pub fn begin(run: i64, source: &str, full: bool, streams: &[String]) -> Result<()> {
    spi::run(
        "INSERT INTO wh.fetch_run (run, source, full_refresh) VALUES ($1, $2, $3)",
        &[run.into(), source.into(), full.into()],
    )?;
    spi::run(
        "INSERT INTO wh.fetch_stream (run, stream) SELECT $1, pg_catalog.unnest($2::text[])",
        &[run.into(), streams.to_vec().into()],
    )?;
    Ok(())
}

/// Writes down what became of a batch; the table's CHECK refuses one that does not add up.
pub fn account(
    run: i64,
    source: &str,
    stream: &str,
    counts: &Counts,
    spent: Spent,
    rejected: &[Rejected],
) -> Result<()> {
    let n = |value: u64| value as i64;
    spi::prepared::<bool>(
        "UPDATE wh.fetch_stream SET received = received + $3, inserted = inserted + $4 - $14, updated = updated + $5,
           unchanged = unchanged + $6 + $14, stale = stale + $7, duplicate = duplicate + $8, quarantined = quarantined + $9,
           deleted = deleted + $10, bytes = $11, requests = $12, waited = $13 * interval '1 millisecond' WHERE run = $1 AND stream = $2 RETURNING 'true'",
        &[
            run.into(),
            stream.into(),
            n(counts.received).into(),
            n(counts.inserted).into(),
            n(counts.updated).into(),
            n(counts.unchanged).into(),
            n(counts.stale).into(),
            n(counts.duplicate).into(),
            n(counts.quarantined).into(),
            n(counts.deleted).into(),
            n(spent.bytes).into(),
            n(spent.requests).into(),
            n(spent.waited_ms).into(),
            n(counts.again).into(),
        ],
    )?;
    keep_rejected(run, source, stream, rejected)
}

/// Puts records that can't be stored where they may be looked at.
pub fn keep_rejected(run: i64, source: &str, stream: &str, rejected: &[Rejected]) -> Result<()> {
    for r in rejected {
        // A text of Postgres holds no NUL either.
        let record = r.record.replace('\0', "\u{fffd}");
        spi::run(
            "INSERT INTO wh.fetch_error (run, source, stream, reason, record) VALUES ($1, $2, $3, $4, $5)",
            &[run.into(), source.into(), stream.into(), r.reason.as_str().into(), record.into()],
        )?;
    }
    Ok(())
}

/// Closes a stream's page of the ledger.
pub fn finish(run: i64, source: &str, stream: &str, spent: Spent, full: bool, error: Option<&Error>) -> Result<()> {
    let status = if error.is_some() { "failed" } else { "succeeded" };
    spi::run(
        "UPDATE wh.fetch_stream SET status = $3, finished = pg_catalog.clock_timestamp(), requests = $4, bytes = $5, sqlstate = $6, error = $7,
           detail = $8, hint = $9, waited = $10 * interval '1 millisecond'
         WHERE run = $1 AND stream = $2",
        &[
            run.into(),
            stream.into(),
            status.into(),
            (spent.requests as i64).into(),
            (spent.bytes as i64).into(),
            error.map(|e| e.sqlstate.clone()).into(),
            error.map(|e| e.message.clone()).into(),
            error.and_then(|e| e.detail.clone()).into(),
            error.and_then(|e| e.hint.clone()).into(),
            (spent.waited_ms as i64).into(),
        ],
    )?;
    if error.is_none() {
        spi::run(
            "UPDATE wh.source_state SET last_success = pg_catalog.clock_timestamp(),
               last_full = CASE WHEN $3 THEN pg_catalog.clock_timestamp() ELSE last_full END WHERE source = $1 AND stream = $2",
            &[source.into(), stream.into(), full.into()],
        )?;
    }
    Ok(())
}

/// Ends a run's pages that nobody will close: streams that did not get their turn.
pub fn skip_rest(run: i64) -> Result<()> {
    spi::run(
        "UPDATE wh.fetch_stream SET status = 'skipped', finished = pg_catalog.clock_timestamp() WHERE run = $1 AND status = 'running'",
        &[run.into()],
    )?;
    Ok(())
}

/// Tables that stand beside those of a source while a fetch is unfinished, quoted.
pub fn helpers(source: &str) -> Result<Vec<String>> {
    spi::rows(
        "SELECT pg_catalog.to_json(pg_catalog.format('%I.%I', n.nspname, h.relname))::text
         FROM wh.source_state s JOIN pg_catalog.pg_class c ON c.oid = s.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_class h ON h.relnamespace = n.oid AND h.relowner = c.relowner
          AND h.relname IN ('_aside_' || c.oid, '_seen_' || c.oid)
         WHERE s.source = $1",
        &[source.into()],
    )
}

//! Sources, their streams' state and the ledger of a run, in their tables. All of it runs as the extension's owner.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::http::State;
use super::load::{Counts, Field, Layout, Rejected, Table};
use super::spec::{Parent, Spec};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{spi, sql};

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

/// How far a stream has come.
#[derive(Default)]
pub struct Known {
    pub relation: Option<u32>,
    pub state: State,
    pub columns: Vec<Field>,
}

/// Reads a stream's state, and holds it: whoever resets it meanwhile waits for the end of the batch.
pub fn known(source: &str, stream: &str) -> Result<Known> {
    let found: Option<(Option<u32>, State, Vec<Field>)> = spi::first(
        "SELECT pg_catalog.json_build_array(relation::int8, state, columns)::text FROM wh.source_state
         WHERE source = $1 AND stream = $2 FOR NO KEY UPDATE",
        &[source.into(), stream.into()],
    )?;
    Ok(found.map(|(relation, state, columns)| Known { relation, state, columns }).unwrap_or_default())
}

/// Writes a stream's state, in the transaction of the rows that it stands for.
pub fn remember(source: &str, stream: &str, table: &Table, state: &State, columns: &[Field], rows: i64) -> Result<()> {
    spi::prepared::<bool>(
        "INSERT INTO wh.source_state AS s (source, stream, relation, state, columns, rows)
         VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, greatest($6, 0))
         ON CONFLICT (source, stream) DO UPDATE SET relation = excluded.relation, state = excluded.state,
           columns = excluded.columns, rows = greatest(s.rows + $6, 0) RETURNING 'true'",
        &[
            source.into(),
            stream.into(),
            spi::oid(table.oid),
            serde_json::to_string(state)?.into(),
            serde_json::to_string(columns)?.into(),
            rows.into(),
        ],
    )?;
    Ok(())
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
    bytes: u64,
    requests: u64,
    rejected: &[Rejected],
) -> Result<()> {
    let n = |value: u64| value as i64;
    spi::prepared::<bool>(
        "UPDATE wh.fetch_stream SET received = received + $3, inserted = inserted + $4, updated = updated + $5,
           unchanged = unchanged + $6, stale = stale + $7, duplicate = duplicate + $8, quarantined = quarantined + $9,
           deleted = deleted + $10, bytes = $11, requests = $12 WHERE run = $1 AND stream = $2 RETURNING 'true'",
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
            n(bytes).into(),
            n(requests).into(),
        ],
    )?;
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
pub fn finish(
    run: i64,
    source: &str,
    stream: &str,
    requests: u64,
    bytes: u64,
    full: bool,
    error: Option<&Error>,
) -> Result<()> {
    let status = if error.is_some() { "failed" } else { "succeeded" };
    spi::run(
        "UPDATE wh.fetch_stream SET status = $3, finished = pg_catalog.clock_timestamp(), requests = $4, bytes = $5, sqlstate = $6, error = $7
         WHERE run = $1 AND stream = $2",
        &[
            run.into(),
            stream.into(),
            status.into(),
            (requests as i64).into(),
            (bytes as i64).into(),
            error.map(|e| e.sqlstate.clone()).into(),
            error.map(|e| e.message.clone()).into(),
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

/// What a stream's parents fill in, one a row of the parent's table: those that the API still has, and with
/// `changed_only` those that changed since the child was fetched.
pub fn parents(source: &str, parent: &Parent, spec: &Spec, child: &str) -> Result<Vec<Map<String, Value>>> {
    let Some(stream) = spec.streams.iter().find(|s| s.name == parent.stream) else { return Ok(Vec::new()) };
    let known = known(source, &parent.stream)?;
    let Some(relation) = known.relation else { return Ok(Vec::new()) };
    let layout = Layout::new(stream, known.columns);
    let mut members = Vec::new();
    for (place, pointer) in &parent.bind {
        let value = match layout.column_of(pointer) {
            Some(column) => format!("pg_catalog.to_jsonb(t.{})", sql::ident(column)),
            None if stream.raw => {
                let path: Vec<String> = pointer.tokens().iter().map(|t| sql::literal(t)).collect();
                format!("t._raw #> ARRAY[{}]::text[]", path.join(", "))
            }
            None => {
                return Err(Error::new(
                    sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    format!("stream \"{child}\" needs {pointer} of stream \"{}\", which is not stored", stream.name),
                )
                .hint("Declare a column for it, or keep _raw."))
            }
        };
        members.push(format!("{}, {value}", sql::literal(place)));
    }
    let name: Option<String> =
        spi::first("SELECT pg_catalog.to_json($1::pg_catalog.regclass::text)::text", &[spi::oid(relation)])?;
    let changed = match parent.changed_only {
        true => "AND t._fetched_at > coalesce((SELECT s.last_success FROM wh.source_state s WHERE s.source = $1 AND s.stream = $2), '-infinity')",
        false => "AND $1 IS NOT NULL AND $2 IS NOT NULL",
    };
    spi::rows(
        &format!(
            "SELECT pg_catalog.jsonb_build_object({})::text FROM {} t WHERE t._deleted_at IS NULL {changed}",
            members.join(", "),
            name.unwrap_or_default()
        ),
        &[source.into(), child.into()],
    )
}

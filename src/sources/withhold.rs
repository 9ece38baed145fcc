//! The policy of sensitive data, over what sources have stored already: values are emptied, columns stay, so that views
//! keep standing.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::load::{Table, Withhold};
use super::{spec, store};
use crate::error::Result;
use crate::pg::{lock, spi, sql};
use crate::policy::Patterns;

#[derive(Deserialize)]
struct Stored {
    source: String,
    stream: String,
    /// The table or one that stands beside it while a fetch is unfinished.
    relation: u32,
    schema: String,
    table: String,
    main: bool,
    columns: Vec<(String, String)>,
}

/// Empties what the policy withholds of every source; the columns that had values, by their table.
pub fn empty_sensitive(patterns: &Patterns) -> Result<Vec<(String, String)>> {
    let sources: Vec<String> = spi::rows("SELECT to_json(name)::text FROM wh.source ORDER BY name", &[])?;
    for name in &sources {
        let Some(source) = store::source(name)? else { continue };
        // One that is not understood any more fetches nothing either.
        let Ok(spec) = spec::parse(&source.spec) else { continue };
        let chosen = |name: &String| source.streams.as_ref().is_none_or(|chosen| chosen.contains(name));
        for stream in spec.streams.iter().filter(|s| chosen(&s.name)) {
            let table = super::names::identifier(&stream.name);
            Withhold::new(patterns, &source.schema, &[&table]).refuse_used(&spec, stream)?;
        }
    }
    let stored: Vec<Stored> = spi::rows(
        "SELECT json_build_object('source', s.source, 'stream', s.stream, 'relation', h.oid::int8, 'schema', n.nspname, 'table', c.relname,
                'main', h.oid = c.oid,
                'columns', (SELECT coalesce(json_agg(json_build_array(a.attname, format_type(a.atttypid, NULL)) ORDER BY a.attnum), '[]')
                            FROM pg_attribute a WHERE a.attrelid = h.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                              AND a.attname NOT IN ('_hash', '_version', '_fetched_at', '_deleted_at')
                              AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p' AND a.attname IN (
                                SELECT b.attname FROM pg_attribute b WHERE b.attrelid = c.oid AND b.attnum = ANY (k.conkey)))))::text
         FROM wh.source_state s JOIN pg_class c ON c.oid = s.relation JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_class h ON h.oid = c.oid
           OR h.relnamespace = c.relnamespace AND h.relowner = c.relowner AND h.relname = '_aside_' || c.oid
         ORDER BY n.nspname, c.relname, h.relname",
        &[],
    )?;
    let mut emptied = Vec::new();
    for s in &stored {
        let found = empty(patterns, s)?;
        if s.main && !found.is_empty() {
            emptied.extend(found);
        }
        if s.main {
            empty_errors(patterns, s)?;
        }
    }
    Ok(emptied)
}

fn empty(patterns: &Patterns, s: &Stored) -> Result<Vec<(String, String)>> {
    let stream = super::names::identifier(&s.stream);
    let withhold = Withhold::new(patterns, &s.schema, &[&s.table, &stream]);
    let (mut set, mut differs, mut touched) = (Vec::new(), Vec::new(), Vec::new());
    for (column, ty) in &s.columns {
        let name = sql::ident(column);
        if withhold.column(column) {
            set.push(format!("{name} = NULL"));
            differs.push(format!("{name} IS NOT NULL"));
            touched.push(column.clone());
        } else if ty == "jsonb" {
            let stripped = format!("wh.strip_record({name}::text, $1, $2, $3)");
            set.push(format!("{name} = coalesce({stripped}::jsonb, {name})"));
            differs.push(format!("{stripped} IS NOT NULL"));
            touched.push(column.clone());
        }
    }
    if set.is_empty() {
        return Ok(Vec::new());
    }
    let Some(table) = Table::find(s.relation, false)? else { return Ok(Vec::new()) };
    table.refuse_others_code()?;
    let statement = format!("UPDATE {} SET {} WHERE {}", table.name, set.join(", "), differs.join(" OR "));
    let args = [s.schema.as_str().into(), vec![s.table.clone(), stream].into(), patterns.to_vec().into()];
    let rows = spi::run(&statement, &args)?;
    // Statistics hold values too. Those of what is there now come with the next ANALYZE.
    spi::run(
        "DELETE FROM pg_statistic x USING pg_attribute a WHERE a.attrelid = x.starelid AND a.attnum = x.staattnum
           AND x.starelid = $1 AND a.attname = ANY ($2)",
        &[spi::oid(s.relation), touched.clone().into()],
    )?;
    spi::run(
        "DELETE FROM pg_statistic_ext_data d USING pg_statistic_ext e WHERE e.oid = d.stxoid AND e.stxrelid = $1",
        &[spi::oid(s.relation)],
    )?;
    if rows == 0 {
        return Ok(Vec::new());
    }
    if s.main {
        let patience = lock::Patience {
            lock_timeout: Duration::from_millis(lock::QUEUE_MS.into()),
            max_wait: Duration::from_secs(300),
            attempts: &Cell::new(0),
            waited: &Cell::new(Duration::ZERO),
            otherwise: "and mark again",
        };
        lock::patiently(&patience, || crate::fdw::refresh_above(s.relation))?;
    }
    let plain = touched.into_iter().filter(|c| withhold.column(c) || c == "_raw");
    Ok(plain.map(|c| (table.name.clone(), sql::ident(&c))).collect())
}

/// Records that could not be stored are kept as they came, with the reason in words that can hold a value.
fn empty_errors(patterns: &Patterns, s: &Stored) -> Result<()> {
    let stream = super::names::identifier(&s.stream);
    spi::run(
        "UPDATE wh.fetch_error e SET record = n.record, reason = 'withheld by the policy of sensitive data'
         FROM (SELECT id, wh.strip_record(record, $3, $4, $5) AS record FROM wh.fetch_error WHERE source = $1 AND stream = $2) n
         WHERE n.id = e.id AND n.record IS NOT NULL",
        &[
            s.source.as_str().into(),
            s.stream.as_str().into(),
            s.schema.as_str().into(),
            vec![s.table.clone(), stream].into(),
            patterns.to_vec().into(),
        ],
    )?;
    Ok(())
}

/// A record without what the patterns name; none where nothing is to be left out. What is not JSON is left out whole.
pub fn strip_record(record: &str, schema: &str, tables: &[String], patterns: Vec<String>) -> Option<String> {
    thread_local! {
        // One table after another is gone through.
        static LAST: RefCell<Option<((String, Vec<String>, Patterns), Withhold)>> = const { RefCell::new(None) };
    }
    let key = (schema.to_owned(), tables.to_vec(), Patterns::from(patterns));
    let Ok(record) = serde_json::from_str::<&RawValue>(record) else {
        return Some(String::from("(withheld)")).filter(|w| w != record);
    };
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(k, _)| *k != key) {
            let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
            let withhold = Withhold::new(&key.2, schema, &tables);
            *last = Some((key, withhold));
        }
        last.as_mut().and_then(|(_, withhold)| withhold.strip(record))
    })
}

//! Reads an API again, end to end, and compares with the tables: by key and content hash. Of each row, eight bytes are
//! held meanwhile.

mod arrays;
mod values;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use pgrx::datum::Uuid;
use serde_json::Value;

use super::{from_network, thread_failed, Opened};
use crate::error::{Error, Result};
use crate::pg::{guc, spi, sql, worker};
use crate::policy;
use crate::sources::http::{self, Event, TryRecvError};
use crate::sources::load::{self, by_key, Array, Batch, Layout, Make, Record, Row, Table};
use crate::sources::spec::{Stream, Write};
use crate::sources::store::{self, After};
use crate::sources::tour;
use arrays::Elements;
use values::changed;

/// One that the API and the table do not agree about.
pub struct Difference {
    pub stream: String,
    pub key: String,
    pub difference: String,
}

/// More of them are counted only.
const MOST: usize = 10_000;
/// Records that are compared at a time.
const BATCH: usize = 1000;

/// Differences by key.
#[derive(Default)]
struct Findings {
    found: BTreeMap<String, String>,
    more: u64,
}

impl Findings {
    fn find(&mut self, key: String, difference: impl Into<String>) {
        if self.found.len() < MOST || self.found.contains_key(&key) {
            self.found.insert(key, difference.into());
        } else {
            self.more += 1;
        }
    }

    /// Another parent's record agrees with the row.
    fn settle(&mut self, key: &str) {
        if self.found.get(key).is_some_and(|difference| difference == "different") {
            self.found.remove(key);
        }
    }

    fn told(self, stream: &str) -> impl Iterator<Item = Difference> + use<'_> {
        let more = (self.more > 0).then(|| ("…".to_owned(), format!("and {} more", self.more)));
        let all = self.found.into_iter().chain(more);
        all.map(|(key, difference)| Difference { stream: stream.to_owned(), key, difference })
    }
}

struct Comparison<'a> {
    stream: &'a Stream,
    layout: Layout,
    /// As it was before this run's records taught anything: what the table has.
    stored: Layout,
    salt: u64,
    table: Option<Table>,
    /// By hash of the key as the table writes it.
    seen: HashSet<i64>,
    /// Where there is no key: how often the API lists a content, and which of that is certain.
    contents: HashMap<u64, i64>,
    /// By hash of the key, those that are as one of their parents lists them: a record of several is stored by one.
    matched: HashSet<i64>,
    uncertain: Vec<u64>,
    findings: Findings,
    arrays: Vec<Elements>,
    round: worker::Round,
}

/// Compares all streams of a source.
pub fn verify(caller: u32, name: &str) -> Result<Vec<Difference>> {
    let opened = Opened::new(caller, name)?;
    let _surroundings = guc::Scope::new(guc::DEPARSE)?;
    let mut all = Vec::new();
    for index in opened.chosen(None)? {
        let stream = &opened.spec.streams[index];
        let known = store::seen(&opened.source.name, &stream.name)?;
        let mut layout = Layout::new(stream, known.columns);
        let patterns = policy::read()?;
        layout.withhold(store::withhold(&patterns, &opened.source, &stream.name, known.relation)?);
        let keyed = !layout.key.is_empty() && stream.write != Write::Append;
        let source = &opened.source.name;
        let arrays = Array::all(stream, &layout, |name| {
            let known = store::seen(source, name)?;
            Ok((known.columns, store::withhold(&patterns, &opened.source, name, known.relation)?))
        })?;
        let mut comparison = Comparison {
            stream,
            salt: load::salt(stream),
            table: known.relation.map(|oid| Table::find(oid, keyed)).transpose()?.flatten(),
            stored: layout.clone(),
            layout,
            seen: HashSet::new(),
            contents: HashMap::new(),
            matched: HashSet::new(),
            uncertain: Vec::new(),
            findings: Findings::default(),
            arrays: arrays.into_iter().map(|array| Elements::new(array, source)).collect::<Result<_>>()?,
            round: worker::Round::new(c"startup_wh verification"),
        };
        opened.read(index, &mut comparison)?;
        comparison.rest()?;
        let Comparison { findings, arrays, .. } = comparison;
        all.extend(findings.told(&stream.name));
        for array in arrays {
            let name = array.stream().to_owned();
            all.extend(array.findings.told(&name));
        }
    }
    Ok(all)
}

impl Opened {
    fn read(&self, index: usize, comparison: &mut Comparison) -> Result<()> {
        let stream = &self.spec.streams[index];
        let Some(parent) = &stream.parent else { return self.listing(index, None, comparison) };
        let mut done: Option<After> = None;
        loop {
            let stops = tour::parents(&self.source.name, parent, &self.spec, &stream.name, done.as_ref(), tour::MOST)?;
            let Some(last) = stops.last() else { return Ok(()) };
            done.clone_from(&last.at);
            self.listing(index, Some(stops), comparison)?;
        }
    }

    fn listing(&self, index: usize, stops: Option<Vec<tour::Stop>>, comparison: &mut Comparison) -> Result<()> {
        let stream = &self.spec.streams[index];
        let bind: Vec<&str> = stream.parent.iter().flat_map(|p| &p.bind).map(|(place, _)| place.as_str()).collect();
        let text = |value: Option<&Value>| match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        let bound: Vec<Arc<[Option<String>]>> = stops
            .iter()
            .flatten()
            .map(|stop| bind.iter().map(|place| text(stop.places.get(*place))).collect())
            .collect();
        let parents = stops.map(|stops| stops.into_iter().map(|s| s.places).collect());
        let fetching = http::start(self.order(index, parents)).map_err(thread_failed)?;
        let mut stop = None;
        loop {
            match fetching.events.try_recv() {
                Err(TryRecvError::Empty) => self.wait(fetching.fd)?,
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::new(http::code::FDW_ERROR, "the thread that fetched ended without a word"))
                }
                Ok(Event::Parent { index }) => stop = Some(index),
                Ok(Event::Records(records)) => {
                    let bound = stop.and_then(|s| bound.get(s)).cloned();
                    let mut records = records.into_iter().map(|raw| Record { raw, bound: bound.clone() }).peekable();
                    while records.peek().is_some() {
                        comparison.compare(records.by_ref().take(BATCH).collect())?;
                    }
                }
                // Comparing by key again changes nothing.
                Ok(Event::Rewind) => comparison.uncertain.clear(),
                Ok(Event::Checkpoint(_) | Event::ParentDone { .. }) => comparison.is_certain(),
                Ok(Event::Scan { .. } | Event::Progress { .. }) => {}
                Ok(Event::Finished(_)) => {
                    comparison.is_certain();
                    return Ok(());
                }
                Ok(Event::Failed(failure)) => return Err(from_network(failure)),
            }
        }
    }
}

impl Comparison<'_> {
    fn find(&mut self, key: String, difference: impl Into<String>) {
        self.findings.find(key, difference);
    }

    fn is_certain(&mut self) {
        for content in self.uncertain.drain(..) {
            *self.contents.entry(content).or_default() += 1;
        }
    }

    fn compare(&mut self, records: Vec<Record>) -> Result<()> {
        let batch = load::prepare(&mut self.layout, records, self.salt, Make::All);
        for bad in &batch.rejected {
            let key = bad.key.as_ref().map_or_else(|| "unknown".into(), |key| key.join(", "));
            self.find(key, format!("cannot be stored: {}", bad.reason));
        }
        if self.layout.key.is_empty() || self.stream.write == Write::Append {
            self.uncertain.extend(batch.rows.iter().map(|row| (row.hash >> 64) as u64));
            return Ok(());
        }
        let there = look_up(self.table.as_ref(), &self.layout, &batch, &self.round)?;
        let both = |(n, row): (usize, &'_ Row)| !row.deleted && there.get(&n).is_some_and(|(_, deleted, _)| !deleted);
        let rows: Vec<&Row> =
            batch.rows.iter().enumerate().filter(|(n, row)| both((*n, row))).map(|(_, row)| row).collect();
        for (at, array) in self.arrays.iter_mut().enumerate() {
            array.compare(&self.layout, at, &rows, &self.round)?;
        }
        let same = |n: &usize| there.get(n).is_some_and(|(hash, deleted, _)| *hash == batch.rows[*n].hash && !deleted);
        let same: Vec<usize> = (0..batch.rows.len()).filter(same).collect();
        let rows: Vec<&Row> = same.iter().map(|n| &batch.rows[*n]).collect();
        for at in changed(self.table.as_ref(), &self.stored, &rows, &self.round)? {
            self.find(batch.rows[same[at]].key.join(", "), values::CHANGED);
        }
        let shared = self.stream.parent.as_ref().is_some_and(|p| !p.in_key);
        for (n, row) in batch.rows.iter().enumerate() {
            let key = row.key.join(", ");
            let difference = match there.get(&n) {
                Some((hash, false, at))
                    if shared && !row.deleted && (*hash == row.hash || self.matched.contains(at)) =>
                {
                    self.matched.insert(*at);
                    self.findings.settle(&key);
                    continue;
                }
                None if row.deleted => continue,
                None => "missing in the table",
                Some((_, true, _)) if !row.deleted => "deleted in the table, and not in the API",
                Some((_, false, _)) if row.deleted => "deleted in the API, and not in the table",
                Some((hash, ..)) if *hash != row.hash => "different",
                Some(_) => continue,
            };
            self.find(key, difference);
        }
        self.seen.extend(there.into_values().map(|(_, _, key)| key));
        Ok(())
    }

    /// What the table has besides.
    fn rest(&mut self) -> Result<()> {
        let keyed = !self.layout.key.is_empty() && self.stream.write != Write::Append;
        let Some(table) = self.table.clone() else { return self.contents_left() };
        let query = match keyed {
            true => format!(
                "SELECT pg_catalog.array_to_string({}, ', '), {} FROM {} t WHERE t._deleted_at IS NULL",
                key(&self.layout),
                key_hash(&self.layout),
                table.name
            ),
            false => format!("SELECT t._hash::text, 0::int8 FROM {} t", table.name),
        };
        let mut rest = |key: String, hash: i64| {
            if keyed {
                if !self.seen.contains(&hash) {
                    self.find(key, "not in the API");
                }
            } else if let Some(content) = short(&key.replace('-', "")) {
                let times = self.contents.entry(content).or_default();
                // What was appended stays.
                if *times > 0 || self.stream.write != Write::Append {
                    *times -= 1;
                }
            }
        };
        spi::each(&query, |row| {
            rest(row.get::<String>(1)?.unwrap_or_default(), row.get::<i64>(2)?.unwrap_or_default());
            Ok(())
        })?;
        for array in &mut self.arrays {
            array.rest(self.table.as_ref(), &self.layout)?;
        }
        self.contents_left()
    }

    fn contents_left(&mut self) -> Result<()> {
        for (content, times) in std::mem::take(&mut self.contents) {
            match times {
                0 => {}
                n if n > 0 => self.find(format!("{content:016x}"), format!("missing in the table, {n} times")),
                n => self.find(format!("{content:016x}"), format!("not in the API, {} times", -n)),
            }
        }
        Ok(())
    }
}

/// Hash, whether it is deleted, and hash of the key of the rows that are there, by place in the batch.
fn look_up(
    table: Option<&Table>,
    layout: &Layout,
    batch: &Batch,
    round: &worker::Round,
) -> Result<HashMap<usize, (u128, bool, i64)>> {
    let Some(table) = table.filter(|_| !batch.rows.is_empty()) else { return Ok(HashMap::new()) };
    round.run(|| {
        let keys: Vec<&[String]> = batch.rows.iter().map(|r| r.key.as_slice()).collect();
        let (given, join, args) = by_key(layout, &keys);
        let query = format!(
            "SELECT k.n, t._hash, t._deleted_at IS NOT NULL, {} FROM {given} JOIN {} t ON {join}",
            key_hash(layout),
            table.name
        );
        let found = spi::columns(&query, &args, |row| {
            let Some(n) = row.get::<i64>(1)? else { return Ok(None) };
            let hash = row.get::<Uuid>(2)?.map(|uuid| u128::from_be_bytes(*uuid.as_bytes())).unwrap_or_default();
            let there = (hash, row.get::<bool>(3)?.unwrap_or_default(), row.get::<i64>(4)?.unwrap_or_default());
            Ok(Some((n as usize - 1, there)))
        })?;
        Ok(found.into_iter().collect())
    })
}

/// The first half of a content's hash.
fn short(hash: &str) -> Option<u64> {
    u64::from_str_radix(hash.get(..16)?, 16).ok()
}

fn key(layout: &Layout) -> String {
    let columns: Vec<String> =
        layout.key.iter().map(|at| format!("t.{}::text", sql::ident(&layout.fields[*at].column))).collect();
    format!("ARRAY[{}]", columns.join(", "))
}

fn key_hash(layout: &Layout) -> String {
    format!("pg_catalog.hashtextextended({}::text, 0)", key(layout))
}

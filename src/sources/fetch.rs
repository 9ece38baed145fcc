//! A run of a source, in a runner: threads fetch, this side stores. No transaction is open while either waits.
//!
//! Rows and the state that produced them are committed together, a batch of pages at a time. A run that ends anywhere is
//! taken up from there by the next one, and merging the same records again changes nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::http::{self, Event, Failure, Fetching, Network, Order, Secret, State, TryRecvError};
use super::load::{self, Layout, Record, Table};
use super::spec::{self, Spec, Stream, Write};
use super::{secrets, store};
use crate::error::{sqlstate, Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{guc, identity};

/// What a run is asked to do, besides the source's name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wish {
    pub source: String,
    pub streams: Option<Vec<String>>,
    pub full_refresh: bool,
}

/// A stream on its way.
struct Loading {
    index: usize,
    fetching: Fetching,
    layout: Layout,
    salt: u64,
    /// The parents of the order, as the values of their children's columns.
    parents: Vec<Arc<[Option<String>]>>,
    parent: Option<usize>,
    records: Vec<Record>,
    /// How many of them lie before the last checkpoint or parent.
    certain: usize,
    bytes: usize,
    /// The last checkpoint, not stored yet.
    reached: Option<State>,
    requests: u64,
    received_bytes: u64,
    full: bool,
}

/// As the extension's owner, who owns the tables.
fn ours<T>(owner: u32, f: impl FnOnce() -> Result<T>) -> Result<T> {
    worker::transaction(Snapshot::Taken, || {
        let _owner = identity::As::extension_owner(owner);
        let _surroundings = guc::Scope::new(guc::DEPARSE)?;
        f()
    })
}

/// Runs a fetch; returns how many records came. `progress` is told requests and records as they come.
pub fn run(run: i64, wish: &Wish, owner: u32, progress: impl Fn(u64, u64)) -> Result<i64> {
    let (source, spec, secrets) = ours(owner, || {
        let source = store::source(&wish.source)?.ok_or_else(|| super::missing(&wish.source))?;
        let spec = spec::parse(&source.spec).map_err(|problems| super::define::refused(&problems))?;
        let names: Vec<String> = spec.auth.secrets().into_iter().map(String::from).collect();
        let secrets = secrets::of(source.owner, &names)?;
        Ok((source, Arc::new(spec), Arc::new(secrets)))
    })?;
    let chosen = choose(&spec, &source, wish)?;
    let names: Vec<String> = chosen.iter().map(|i| spec.streams[*i].name.clone()).collect();
    ours(owner, || store::begin(run, &source.name, wish.full_refresh, &names))?;
    let mut waiting: VecDeque<usize> = chosen.into();
    let mut going: Vec<Loading> = Vec::new();
    let mut first: Option<Error> = None;
    let (mut records, mut requests) = (0u64, 0u64);
    let network = Network { allowed: super::define::allowed_ranges()?, roots: super::define::extra_roots()? };
    loop {
        while going.len() < spec.limits.concurrency.max(1) {
            let Some(index) = next_ready(&spec, &mut waiting, &going) else { break };
            let stream = &spec.streams[index];
            match begin(&source, &spec, index, wish, owner, &secrets, &network) {
                Ok(loading) => going.push(loading),
                Err(e) => {
                    ours(owner, || store::finish(run, &source.name, &stream.name, 0, 0, false, Some(&e)))?;
                    first.get_or_insert(e);
                }
            }
        }
        if going.is_empty() {
            break;
        }
        let mut n = 0;
        while n < going.len() {
            let ended = match going[n].drain(run, &source, &spec, owner, &mut records) {
                Ok(ended) => ended.map(|end| end.map_err(failed)),
                // Its batch was rolled back; the other streams go on.
                Err(e) if is_a_stop(&e) => return Err(e),
                Err(e) => Some(Err(e)),
            };
            progress(requests + going.iter().map(|l| l.requests).sum::<u64>(), records);
            let Some(end) = ended else {
                n += 1;
                continue;
            };
            let mut loading = going.swap_remove(n);
            let stream = &spec.streams[loading.index];
            let (state, mut error) = match end {
                Ok(state) => (Some(state), None),
                // What came before the failure is stored as far as its checkpoint goes.
                Err(e) => {
                    loading.records.truncate(loading.certain);
                    (loading.reached.take(), Some(e))
                }
            };
            if error.is_none() || state.is_some() {
                match loading.store(run, &source, &spec, owner, state.as_ref()) {
                    Ok(more) => records += more,
                    Err(e) if is_a_stop(&e) => return Err(e),
                    Err(e) => {
                        error.get_or_insert(e);
                    }
                }
            }
            requests += loading.requests;
            ours(owner, || {
                let (requests, bytes) = (loading.requests, loading.received_bytes);
                store::finish(run, &source.name, &stream.name, requests, bytes, loading.full, error.as_ref())
            })?;
            if let Some(e) = error {
                first.get_or_insert(e);
            }
        }
        if !going.is_empty() {
            let fds: Vec<std::os::fd::RawFd> = going.iter().map(|l| l.fetching.fd).collect();
            worker::wait_for_any(&fds, Duration::from_secs(1))?;
        }
    }
    ours(owner, || store::skip_rest(run))?;
    match first {
        Some(e) => Err(e),
        None => Ok(records as i64),
    }
}

impl Loading {
    fn is_full(&self, limits: &spec::Limits) -> bool {
        self.records.len() >= limits.batch_rows || self.bytes >= limits.batch_bytes
    }

    /// Takes what is in the queue; says how the listing ended, where it has.
    fn drain(
        &mut self,
        run: i64,
        source: &store::Source,
        spec: &Spec,
        owner: u32,
        stored: &mut u64,
    ) -> Result<Option<std::result::Result<State, Failure>>> {
        let stream = &spec.streams[self.index];
        loop {
            match self.fetching.events.try_recv() {
                Err(TryRecvError::Empty) => return Ok(None),
                Err(TryRecvError::Disconnected) => {
                    let lost = Failure::new(http::code::FDW_ERROR, "the thread that fetched ended without a word");
                    return Ok(Some(Err(lost)));
                }
                Ok(Event::Parent { index }) => self.parent = Some(index),
                Ok(Event::Records(more)) => {
                    self.bytes += more.iter().map(|r| r.get().len()).sum::<usize>();
                    let bound = self.parent.and_then(|p| self.parents.get(p)).cloned();
                    self.records.extend(more.into_iter().map(|raw| Record { raw, bound: bound.clone() }));
                    if stream.write == Write::Merge && self.is_full(&stream.limits) {
                        // A page larger than a batch: merged again, should the page break.
                        *stored += self.store(run, source, spec, owner, None)?;
                    }
                }
                Ok(Event::Rewind) => self.records.truncate(self.certain),
                Ok(Event::ParentDone { .. }) => {
                    self.certain = self.records.len();
                    self.parent = None;
                }
                Ok(Event::Checkpoint(state)) => {
                    self.certain = self.records.len();
                    if self.is_full(&stream.limits) {
                        *stored += self.store(run, source, spec, owner, Some(&state))?;
                    } else {
                        self.reached = Some(state);
                    }
                }
                Ok(Event::Progress { requests, bytes, .. }) => {
                    (self.requests, self.received_bytes) = (requests, bytes);
                }
                Ok(Event::Finished(state)) => return Ok(Some(Ok(state))),
                Ok(Event::Failed(failure)) => return Ok(Some(Err(failure))),
            }
        }
    }

    /// Commits a batch with the state that it stands for. Returns how many records it was.
    fn store(
        &mut self,
        run: i64,
        source: &store::Source,
        spec: &Spec,
        owner: u32,
        state: Option<&State>,
    ) -> Result<u64> {
        let stream = &spec.streams[self.index];
        let records = std::mem::take(&mut self.records);
        (self.bytes, self.certain) = (0, 0);
        let reached = self.reached.take();
        let mut batch = load::prepare(&mut self.layout, &records, self.salt);
        let received = records.len() as u64;
        // The rows have what they need of them.
        drop(records);
        if !batch.rejected.is_empty() && stream.on_bad_row == spec::OnBadRow::Fail {
            let bad = &batch.rejected[0];
            return Err(Error::new(
                "22000",
                format!("a record of stream \"{}\" cannot be stored: {}", stream.name, bad.reason),
            ));
        }
        let (layout, requests, bytes) = (&mut self.layout, self.requests, self.received_bytes);
        ours(owner, || {
            let known = store::known(&source.name, &stream.name)?;
            let table = Table::open(&source.name, &source.schema, stream, known.relation, layout)?;
            if known.relation == Some(table.oid) {
                table.follow(&batch.changes)?;
            }
            let counts = load::merge(&table, layout, &mut batch)?;
            let state = state.or(reached.as_ref()).unwrap_or(&known.state);
            store::remember(&source.name, &stream.name, &table, state, &layout.fields, counts.inserted as i64)?;
            store::account(run, &source.name, &stream.name, &counts, bytes, requests, &batch.rejected)
        })?;
        Ok(received)
    }
}

/// Starts a stream.
fn begin(
    source: &store::Source,
    spec: &Arc<Spec>,
    index: usize,
    wish: &Wish,
    owner: u32,
    secrets: &Arc<HashMap<String, Secret>>,
    network: &Network,
) -> Result<Loading> {
    let stream = &spec.streams[index];
    let (known, parents) = ours(owner, || {
        let known = store::known(&source.name, &stream.name)?;
        let parents = match &stream.parent {
            None => None,
            Some(parent) => Some(store::parents(&source.name, parent, spec, &stream.name)?),
        };
        Ok((known, parents))
    })?;
    let bind: Vec<&str> = stream.parent.iter().flat_map(|p| &p.bind).map(|(place, _)| place.as_str()).collect();
    let values = |parent: &Map<String, Value>| -> Arc<[Option<String>]> {
        bind.iter()
            .map(|place| match parent.get(*place) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(other) => Some(other.to_string()),
            })
            .collect()
    };
    let full = wish.full_refresh || stream.write == Write::Replace;
    let layout = Layout::new(stream, known.columns);
    let order = Order {
        spec: Arc::clone(spec),
        stream: index,
        secrets: Arc::clone(secrets),
        state: known.state,
        full,
        parents: parents.clone(),
        network: network.clone(),
        user_agent: format!("startup_wh/{}", env!("CARGO_PKG_VERSION")),
    };
    let fetching = http::start(order)
        .map_err(|e| Error::new("53000", format!("could not start a thread for stream \"{}\": {e}", stream.name)))?;
    Ok(Loading {
        index,
        fetching,
        salt: load::salt(stream),
        layout,
        parents: parents.iter().flatten().map(values).collect(),
        parent: None,
        records: Vec::new(),
        certain: 0,
        bytes: 0,
        reached: None,
        requests: 0,
        received_bytes: 0,
        full,
    })
}

/// The streams that a run fetches: those that were asked for, or those of the source; parents come with their children.
fn choose(spec: &Spec, source: &store::Source, wish: &Wish) -> Result<Vec<usize>> {
    let wanted = wish.streams.as_ref().or(source.streams.as_ref());
    let place = |name: &str| spec.streams.iter().position(|s| s.name == name);
    let mut chosen: Vec<usize> = match wanted {
        None => (0..spec.streams.len()).collect(),
        Some(names) => names
            .iter()
            .map(|name| {
                place(name).ok_or_else(|| {
                    Error::new(
                        sqlstate::UNDEFINED_OBJECT,
                        format!("source \"{}\" has no stream \"{name}\"", source.name),
                    )
                    .hint("SELECT stream FROM wh.source_streams lists those that it has.")
                })
            })
            .collect::<Result<_>>()?,
    };
    let mut at = 0;
    while at < chosen.len() {
        let needed = spec.streams[chosen[at]].parent.as_ref().and_then(|p| place(&p.stream));
        if let Some(parent) = needed.filter(|p| !chosen.contains(p)) {
            chosen.push(parent);
        }
        at += 1;
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The next stream whose parent is neither waiting nor on its way.
fn next_ready(spec: &Spec, waiting: &mut VecDeque<usize>, going: &[Loading]) -> Option<usize> {
    let open = |name: &str, waiting: &VecDeque<usize>| {
        waiting.iter().copied().chain(going.iter().map(|l| l.index)).any(|i| spec.streams[i].name == name)
    };
    let at = (0..waiting.len()).find(|n| {
        let parent = spec.streams[waiting[*n]].parent.as_ref();
        parent.is_none_or(|p| !open(&p.stream, waiting))
    })?;
    waiting.remove(at)
}

/// Whether a run was told to end: by a cancel, a timeout or a shutdown.
fn is_a_stop(error: &Error) -> bool {
    error.sqlstate.starts_with("57")
}

fn failed(failure: Failure) -> Error {
    let mut error = Error::new(failure.sqlstate, failure.message);
    (error.detail, error.hint) = (failure.detail, failure.hint);
    error
}

//! A stream on its way: its listing, then, where that is asked for, the records that events tell of, or those that a
//! complete listing did not show.

mod storing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use super::begin::{self, Plan};
use super::ready::{self, Preparing, Ready};
use super::{from_network, ours, Context};
use crate::error::{Error, Result};
use crate::sources::http::{self, Event, Failure, Fetching, State, TryRecvError};
use crate::sources::load::{self, Batch, Bound, Keys, Seen, Table};
use crate::sources::spec::{Confirm, Format, Stream, Template, Write};
use crate::sources::store::{self, Spent};
use crate::sources::tour::{self, Stop};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Listing,
    Changes,
    Confirm,
}

pub struct Loading {
    pub index: usize,
    /// Records that are stored by now.
    pub stored: u64,
    /// Of them, those that went to wh.fetch_errors.
    refused: u64,
    phase: Phase,
    /// When the time of the run is used up, over all its phases.
    ends: Instant,
    preparing: Preparing,
    plan: Plan,
    salt: u64,
    /// The parents of the order.
    stops: Vec<Stop>,
    /// Those that are complete since the last batch, and whether they are gone.
    done: Vec<(usize, bool)>,
    /// Rows that are not stored yet, as they came.
    waiting: Vec<Batch>,
    /// Records that those are made of, and bytes of them.
    received: usize,
    held: usize,
    /// How many of the batches lie before the last checkpoint or parent.
    certain: usize,
    /// Which keys the table may have, where that is known: asked for with the first batch.
    keys: Option<Option<Keys>>,
    /// Of a stream of which several parents may list one record: the parent and the record that this run listed under a key.
    listed: HashMap<u64, (u64, u64)>,
    /// The last checkpoint, not stored yet.
    reached: Option<State>,
    /// The next batch is the first of its scan.
    fresh: bool,
    /// A part of the page that is on its way is stored aside.
    broken: bool,
    /// The greatest mark of the parents so far.
    mark: Option<i128>,
    /// Requests and bytes of the phases before, and of this one.
    before: Spent,
    now: Spent,
}

/// For ever, and fits.
const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How a batch ends.
struct End<'a> {
    state: &'a State,
}

impl Loading {
    pub fn begin(cx: &Context, index: usize) -> Result<Loading> {
        let stream = &cx.spec.streams[index];
        let mut plan = begin::plan(cx, stream)?;
        let stops = plan.stops.take();
        let now = Instant::now();
        let ends = now.checked_add(Duration::from_millis(stream.limits.run_ms)).unwrap_or(now + CENTURY);
        let fetching = begin::listing(cx, index, plan.state.clone(), plan.full, stops.as_deref(), ends)?;
        let (salt, stops) = (load::salt(stream), stops.unwrap_or_default());
        let preparing =
            ready::start(fetching, Arc::clone(&plan.layout), salt, bound(stream, &stops), plan.full && plan.there)?;
        let fresh = !(plan.goes_on && plan.progress.parents.is_some());
        Ok(Loading {
            index,
            stored: 0,
            refused: 0,
            phase: Phase::Listing,
            ends,
            preparing,
            salt,
            plan,
            stops,
            done: Vec::new(),
            waiting: Vec::new(),
            received: 0,
            held: 0,
            certain: 0,
            keys: None,
            listed: HashMap::new(),
            reached: None,
            fresh,
            broken: false,
            mark: None,
            before: Spent::default(),
            now: Spent::default(),
        })
    }

    pub fn spent(&self) -> Spent {
        self.before + self.now
    }

    pub fn fd(&self) -> std::os::fd::RawFd {
        self.preparing.fd
    }

    /// The error of a run that has read everything and could store no record at all: it is the key or a declaration that is
    /// wrong, and not the records. A run that reads what is new may meet nothing but a bad one.
    pub fn nothing_stored(&self, stream: &str) -> Option<Error> {
        if !self.plan.full || self.refused == 0 || self.refused < self.stored {
            return None;
        }
        // Reasons quote values, and more people see this than may see those.
        Some(
            Error::new("22000", format!("no record of stream \"{stream}\" can be stored"))
                .detail(format!("All {} that came are in wh.fetch_errors, each with its reason.", self.refused))
                .hint("Check primary_key and columns. Once they are right, the next fetch reads all of it again."),
        )
    }

    /// Whether everything was read.
    pub fn was_complete(&self) -> bool {
        self.plan.full
    }

    fn take(&mut self, batch: Batch) {
        self.received += batch.received();
        self.held += batch.text();
        self.waiting.push(batch);
    }

    fn is_full(&self, stream: &Stream, times: usize) -> bool {
        self.received >= times * stream.limits.batch_rows || self.held >= times * stream.limits.batch_bytes
    }

    /// Forgets what came after the last checkpoint or parent, but for what was learned of it.
    fn rewind(&mut self) {
        let mut forgotten = Batch::default();
        self.waiting.split_off(self.certain).into_iter().for_each(|batch| forgotten.append(batch.lessons()));
        self.waiting.push(forgotten);
        self.received = self.waiting.iter().map(Batch::received).sum();
        self.held = self.waiting.iter().map(Batch::text).sum();
        self.certain = self.waiting.len();
    }

    /// Takes what is in the queue; says whether the stream is complete.
    pub fn step(&mut self, cx: &Context) -> Result<bool> {
        let stream = &cx.spec.streams[self.index];
        loop {
            cx.do_errands();
            let told = match self.preparing.ready.try_recv() {
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::new(http::code::FDW_ERROR, "the thread that fetched ended without a word"));
                }
                Ok(Ready::Told(told)) => told,
                Ok(Ready::Rows { batch, layout }) => {
                    self.plan.layout = layout.unwrap_or_else(|| Arc::clone(&self.plan.layout));
                    self.take(batch);
                    if !self.plan.aside && self.is_full(stream, 1) {
                        // A page larger than a batch: merged again, should the page break.
                        self.store(cx, None, None)?;
                    } else if self.plan.aside && self.is_full(stream, 2) {
                        // Until the page is whole, there is nothing to go on from.
                        let nowhere = State { mark: self.plan.state.mark.clone(), ..State::default() };
                        self.store(cx, Some(&nowhere), None)?;
                        self.broken = true;
                    }
                    continue;
                }
            };
            match told {
                Event::Scan { resumed } if self.phase == Phase::Listing => {
                    self.fresh = !resumed || !(self.plan.aside || self.plan.goes_on);
                }
                // Records come as rows, and what a parent fills in with them.
                Event::Scan { .. } | Event::Records(_) | Event::Parent { .. } => {}
                Event::Rewind if self.broken => {
                    return Err(Error::new(http::code::CONNECTION_FAILURE, "a page broke that is larger than a batch")
                        .detail("A part of it waits aside already, so that the next run reads the list from its start.")
                        .hint("Smaller pages, or a greater batch_rows and batch_bytes, keep what came before it."));
                }
                Event::Rewind => self.rewind(),
                Event::ParentDone { index, gone } => {
                    (self.certain, self.broken) = (self.waiting.len(), false);
                    self.done.push((index, gone));
                    if self.is_full(stream, 1) {
                        self.store(cx, None, None)?;
                    }
                }
                // The listing's state is not theirs to change.
                Event::Checkpoint(_) if self.phase != Phase::Listing => self.certain = self.waiting.len(),
                Event::Checkpoint(state) => {
                    self.certain = self.waiting.len();
                    self.broken = false;
                    if self.is_full(stream, 1) {
                        self.store(cx, Some(&state), None)?;
                    } else {
                        self.reached = Some(state);
                    }
                }
                Event::Progress { requests, bytes, waiting_ms } => {
                    self.now = Spent { requests, bytes, waited_ms: waiting_ms };
                }
                Event::Finished(state) => {
                    if self.finished(cx, stream, state)? {
                        return Ok(true);
                    }
                }
                Event::Failed(failure) => return Err(self.failed(cx, stream, failure)?),
            }
        }
    }

    /// What came before the failure is stored as far as its checkpoint goes.
    fn failed(&mut self, cx: &Context, stream: &Stream, failure: Failure) -> Result<Error> {
        self.rewind();
        let reached = self.reached.take();
        if self.received > 0 || !self.done.is_empty() || reached.is_some() {
            self.store(cx, reached.as_ref(), None)?;
        }
        let until = failure.retry_at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        if let Some(until) = until {
            let until = until.as_secs() as i64 + 1;
            ours(cx.owner, || store::wait_until(&cx.source.name, &stream.name, until))?;
        }
        Ok(from_network(failure))
    }

    /// A listing has come to its end: what comes next, if something does.
    fn finished(&mut self, cx: &Context, stream: &Stream, mut state: State) -> Result<bool> {
        match self.phase {
            Phase::Listing => {
                if let Some(parent) = &stream.parent {
                    let mark = state.mark.as_deref().and_then(|m| m.parse::<i128>().ok());
                    self.mark = self.mark.max(mark);
                    self.store(cx, None, None)?;
                    let done = self.plan.progress.parents.clone();
                    let name = &cx.source.name;
                    let next = cx.over_rows(&stream.name, || {
                        tour::parents(name, parent, &cx.spec, &stream.name, done.as_ref(), tour::MOST)
                    })?;
                    if !next.is_empty() {
                        let from = self.plan.state.clone();
                        let fetching = begin::listing(cx, self.index, from, self.plan.full, Some(&next), self.ends)?;
                        self.go_on(fetching, bound(stream, &next), next)?;
                        return Ok(false);
                    }
                    state.mark = self.mark_of_all(stream).or(self.plan.state.mark.clone());
                    if !parent.changed_only {
                        self.plan.progress.parents = None;
                    }
                }
                self.store(cx, None, Some(&End { state: &state }))?;
                if self.plan.sweeping {
                    return self.next_missing(cx, stream);
                }
                match &stream.changes {
                    Some(_) if !self.plan.full => self.next_changes(cx, stream),
                    _ => Ok(true),
                }
            }
            Phase::Changes => {
                self.store(cx, None, None)?;
                self.next_changes(cx, stream)
            }
            Phase::Confirm => {
                self.store(cx, None, None)?;
                self.next_missing(cx, stream)
            }
        }
    }

    /// Parents are read one after another: what the first ones get while the last are read is read by the next run.
    fn mark_of_all(&self, stream: &Stream) -> Option<String> {
        let rule = stream.incremental.as_ref()?;
        let began = i128::from(self.plan.began) * 1000;
        let mark = self.mark.map(|mark| if rule.format == Format::Integer { mark } else { mark.min(began) })?;
        let old = self.plan.state.mark.as_deref().and_then(|m| m.parse().ok()).unwrap_or(mark);
        Some(mark.max(old).to_string())
    }

    fn go_on(&mut self, fetching: Fetching, bound: Vec<Bound>, stops: Vec<Stop>) -> Result<()> {
        self.before = self.spent();
        self.now = Spent::default();
        self.preparing = ready::start(fetching, Arc::clone(&self.plan.layout), self.salt, bound, false)?;
        self.stops = stops;
        Ok(())
    }

    fn next_changes(&mut self, cx: &Context, stream: &Stream) -> Result<bool> {
        let Some((changes, path)) = stream.changes.as_ref().and_then(|c| Some((c, c.refetch.as_ref()?))) else {
            return Ok(true);
        };
        let done = self.plan.progress.changes.clone();
        let stops = cx.over_rows(&stream.name, || {
            tour::changed(&cx.source.name, stream, changes, &cx.spec, done.as_ref(), tour::MOST)
        })?;
        self.ask_for(cx, Phase::Changes, path, stops)
    }

    /// Asks for rows that the listing did not show; at the end, forgets what it did show.
    fn next_missing(&mut self, cx: &Context, stream: &Stream) -> Result<bool> {
        let Some((path, began)) = confirming(stream).zip(self.plan.progress.sweep) else { return Ok(true) };
        let places: Vec<String> = path.places().map(str::to_owned).collect();
        let layout = &self.plan.layout;
        let stops = cx.over_rows(&stream.name, || {
            let known = store::known(&cx.source.name, &stream.name)?;
            let Some(table) = known.relation.map(|oid| Table::find(oid, true)).transpose()?.flatten() else {
                return Ok(Vec::new());
            };
            let Some(seen) = Seen::open(&table, false)? else { return Ok(Vec::new()) };
            let missing = seen.some(&table, layout, began, &places)?;
            if missing.is_empty() {
                seen.forget()?;
            }
            let stop = |m: load::Missing| Stop { places: m.places, key: m.key, deleted: false, at: None };
            Ok(missing.into_iter().map(stop).collect())
        })?;
        self.ask_for(cx, Phase::Confirm, path, stops)
    }

    fn ask_for(&mut self, cx: &Context, phase: Phase, path: &Template, stops: Vec<Stop>) -> Result<bool> {
        if stops.is_empty() {
            return Ok(true);
        }
        self.phase = phase;
        self.go_on(begin::one_by_one(cx, self.index, path, &stops, self.ends)?, Vec::new(), stops)?;
        Ok(false)
    }
}

/// What each of the parents fills in of its children's columns.
fn bound(stream: &Stream, stops: &[Stop]) -> Vec<Bound> {
    let bind: Vec<&str> = stream.parent.iter().flat_map(|p| &p.bind).map(|(place, _)| place.as_str()).collect();
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    stops.iter().map(|stop| bind.iter().map(|place| text(stop.places.get(*place))).collect()).collect()
}

fn is_hard(stream: &Stream) -> bool {
    stream.write == Write::Replace || stream.deletes.as_ref().is_some_and(|d| d.hard)
}

/// The path of one record, where missing ones are asked for.
fn confirming(stream: &Stream) -> Option<&Template> {
    let deletes = stream.deletes.as_ref().filter(|d| d.confirm == Confirm::Get)?;
    deletes.path.as_ref().or_else(|| stream.changes.as_ref()?.refetch.as_ref())
}

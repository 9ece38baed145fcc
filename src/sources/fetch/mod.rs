//! A run of a source, in a runner: threads fetch, this side stores. No transaction is open while either waits.
//!
//! Rows and the state that produced them are committed together, a batch of pages at a time. A run that ends anywhere is
//! taken up from there by the next one, and merging the same records again changes nothing.

mod begin;
mod loading;
mod ready;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::http::{self, Errand, Failure, Network, Receiver, Secret, Tokens};
use super::load::Rejected;
use super::spec::{self, Spec};
use super::{secrets, store};
use crate::error::{sqlstate, Error, Result};
use crate::pg::worker::{self, Snapshot};
use crate::pg::{guc, identity};
use loading::Loading;

/// What a run is asked to do, besides the source's name.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wish {
    pub source: String,
    pub streams: Option<Vec<String>>,
    pub full_refresh: bool,
}

/// What all streams of a run share.
struct Context {
    run: i64,
    source: store::Source,
    spec: Arc<Spec>,
    owner: u32,
    secrets: Arc<HashMap<String, Secret>>,
    tokens: Tokens,
    /// What the threads need of us.
    errands: Receiver<Errand>,
    network: Network,
    full: bool,
}

impl Context {
    /// Does what threads wait for: a secret is told, or kept anew, in a transaction of its own.
    fn do_errands(&self) {
        while let Ok(errand) = self.errands.try_recv() {
            let done = ours(self.owner, || secrets::errand(self.source.owner, &errand));
            let done = done.map_err(|e| secrets::told(&errand, e));
            errand.answer(done);
        }
    }

    /// The same as [`ours`], over the rows of a stream.
    fn over_rows<T>(&self, stream: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
        ours(self.owner, f).map_err(|e| self.without_rows(stream, e))
    }

    /// What an error says of rows is told where only those look who may see it: that of a run is read by all.
    fn without_rows(&self, stream: &str, e: Error) -> Error {
        if !e.may_quote_rows() {
            return e;
        }
        let reason: Vec<String> = [Some(e.message), e.detail, e.hint].into_iter().flatten().collect();
        let told = Rejected { record: String::new(), reason: reason.join("\n"), key: None };
        if let Err(e) = ours(self.owner, || store::keep_rejected(self.run, &self.source.name, stream, &[told])) {
            return e;
        }
        Error::new(&e.sqlstate, format!("stream \"{stream}\" cannot be stored as it came"))
            .detail("Why is in the last line of wh.fetch_errors for it, since that may quote rows.")
            .hint("Look at the constraints, indexes and triggers of its table.")
    }
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
        super::define::refuse_another_encoding()?;
        let source = store::source(&wish.source)?.ok_or_else(|| super::missing(&wish.source))?;
        let spec = spec::parse(&source.spec).map_err(|problems| super::define::refused(&problems))?;
        let names: Vec<String> = spec.auth.secrets().into_iter().map(String::from).collect();
        let secrets = secrets::of(source.owner, &names)?;
        Ok((source, Arc::new(spec), Arc::new(secrets)))
    })?;
    let chosen = choose(&spec, &source, wish)?;
    let names: Vec<String> = chosen.iter().map(|i| spec.streams[*i].name.clone()).collect();
    ours(owner, || store::begin(run, &source.name, wish.full_refresh, &names))?;
    let network = Network { allowed: super::define::allowed_ranges()?, roots: super::define::extra_roots()? };
    let (tokens, errands) = http::Tokens::new(&spec, &secrets).map_err(no_thread)?;
    let cx = Context { run, source, spec, owner, secrets, tokens, errands, network, full: wish.full_refresh };
    // Where somebody wants the run to stop, its pages of the ledger are closed with the record of its end.
    let end = all(&cx, chosen.into(), progress)?;
    ours(owner, || store::skip_rest(run))?;
    end
}

/// The streams' own failures are the inner result: one does not keep the others from going on.
fn all(cx: &Context, mut waiting: VecDeque<usize>, progress: impl Fn(u64, u64)) -> Result<Result<i64>> {
    let mut going: Vec<Loading> = Vec::new();
    let mut failures: Vec<(usize, Error)> = Vec::new();
    let (mut records, mut requests) = (0u64, 0u64);
    loop {
        while going.len() < cx.spec.limits.concurrency.max(1) {
            let Some(index) = next_ready(&cx.spec, &mut waiting, &going, &failures) else { break };
            match Loading::begin(cx, index) {
                Ok(loading) => going.push(loading),
                Err(e) if e.is_an_interrupt() => return Err(e),
                Err(e) => failures.push((index, failed(cx, index, store::Spent::default(), e)?)),
            }
        }
        if going.is_empty() {
            break;
        }
        let mut n = 0;
        while n < going.len() {
            cx.do_errands();
            let before = going[n].stored;
            let ended = going[n].step(cx);
            records += going[n].stored - before;
            progress(requests + going.iter().map(|l| l.spent().requests).sum::<u64>(), records);
            let end = match ended {
                Ok(false) => {
                    n += 1;
                    continue;
                }
                Ok(true) => going[n].nothing_stored(&cx.spec.streams[going[n].index].name),
                Err(e) if e.is_an_interrupt() => return Err(e),
                Err(e) => Some(e),
            };
            let loading = going.swap_remove(n);
            requests += loading.spent().requests;
            let (index, spent) = (loading.index, loading.spent());
            match end {
                Some(e) => failures.push((index, failed(cx, index, spent, e)?)),
                None => ours(cx.owner, || {
                    let name = &cx.spec.streams[index].name;
                    store::finish(cx.run, &cx.source.name, name, spent, loading.was_complete(), None)
                })?,
            }
        }
        if !going.is_empty() {
            let fds: Vec<std::os::fd::RawFd> = going.iter().map(Loading::fd).chain([cx.errands.fd()]).collect();
            worker::wait_for_any(&fds, Duration::from_secs(1))?;
        }
    }
    Ok(match together(&cx.spec, failures) {
        Some(e) => Err(e),
        None => Ok(records as i64),
    })
}

/// Records the failure of a stream, in words that name it.
fn failed(cx: &Context, index: usize, spent: store::Spent, e: Error) -> Result<Error> {
    let name = &cx.spec.streams[index].name;
    let e = named(name, e);
    ours(cx.owner, || store::finish(cx.run, &cx.source.name, name, spent, false, Some(&e)))?;
    Ok(e)
}

fn named(stream: &str, mut e: Error) -> Error {
    if !e.message.contains(&format!("\"{stream}\"")) {
        e.message = format!("stream \"{stream}\": {}", e.message);
    }
    e
}

/// One error for all streams that failed: the first, with the others in its detail.
fn together(spec: &Spec, failures: Vec<(usize, Error)>) -> Option<Error> {
    let mut failures = failures.into_iter();
    let (_, mut first) = failures.next()?;
    let others: Vec<String> = failures
        .map(|(index, e)| format!("Stream \"{}\" failed too: {}.", spec.streams[index].name, e.message))
        .collect();
    if !others.is_empty() {
        let detail: Vec<String> = first.detail.take().into_iter().chain(others).collect();
        first.detail = Some(detail.join("\n"));
    }
    Some(first)
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
        for needed in needs(&spec.streams[chosen[at]]).filter_map(place) {
            if !chosen.contains(&needed) {
                chosen.push(needed);
            }
        }
        at += 1;
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The streams that come before one: its parent, and the events that tell of its changes.
fn needs(stream: &spec::Stream) -> impl Iterator<Item = &str> {
    let parent = stream.parent.iter().map(|p| p.stream.as_str());
    parent.chain(stream.changes.iter().map(|c| c.stream.as_str()))
}

/// The next stream that waits for no other. One whose events could not be read has no turn in this run: it would pass
/// for one without changes.
fn next_ready(
    spec: &Spec,
    waiting: &mut VecDeque<usize>,
    going: &[Loading],
    failures: &[(usize, Error)],
) -> Option<usize> {
    let is = |index: usize, name: &str| spec.streams[index].name == name;
    waiting.retain(|n| {
        let events = spec.streams[*n].changes.as_ref();
        !events.is_some_and(|c| failures.iter().any(|(i, _)| is(*i, &c.stream)))
    });
    let is_open = |name: &str, waiting: &VecDeque<usize>| {
        waiting.iter().copied().chain(going.iter().map(|l| l.index)).any(|i| is(i, name))
    };
    let at = (0..waiting.len()).find(|n| !needs(&spec.streams[waiting[*n]]).any(|name| is_open(name, waiting)))?;
    waiting.remove(at)
}

fn no_thread(e: std::io::Error) -> Error {
    Error::new("53000", format!("could not start a thread: {e}"))
}

fn from_network(failure: Failure) -> Error {
    let mut error = Error::new(failure.sqlstate, failure.message);
    (error.detail, error.hint) = (failure.detail, failure.hint);
    error
}

//! Threads and network of a fetch. Nothing here calls Postgres.
//!
//! [`start`] runs a stream's requests in a thread and hands out [`Event`]s; the side that stores them waits for
//! [`Fetching::fd`] beside its latch, so that no transaction is open while the network is waited for.
//!
//! - [`run`](mod@run), [`parents`], [`page`]: the listing of a stream with its checkpoints; those of several parents side
//!   by side; one page with its retries
//! - [`paginate`], [`incremental`], [`retry`]: what to ask for next, from where, and when, as pure decisions
//! - [`body`]: records out of a body of any size
//! - [`client`], [`wire`], [`guard`], [`auth`], [`tokens`]: one request, and what all threads of a run share of its
//!   credentials
//! - [`queue`], [`control`]: between the threads

mod auth;
pub mod body;
mod client;
mod control;
mod failure;
pub mod guard;
pub mod incremental;
mod outcome;
mod pace;
mod page;
mod paginate;
mod parents;
mod queue;
mod request;
mod retry;
mod run;
mod secret;
mod tokens;
mod wire;

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use client::Network;
pub use control::SLICE;
pub use failure::{code, Failure};
pub use paginate::Place;
pub use queue::{queue, Receiver, RecvTimeoutError, Sender, TryRecvError, Weight};
pub use run::Page;
pub use secret::Secret;
pub use tokens::{Errand, Tokens};

use control::Control;

use crate::sources::spec::Spec;

/// One run of a stream.
pub struct Order {
    pub spec: Arc<Spec>,
    /// Which of its streams.
    pub stream: usize,
    /// By name; each that the spec's auth names.
    pub secrets: Arc<HashMap<String, Secret>>,
    /// Shared with the other streams of the run.
    pub tokens: Tokens,
    pub state: State,
    /// Read everything, whatever the mark says.
    pub full: bool,
    /// One listing for each of these: the values that the stream's places are filled with.
    pub parents: Option<Vec<Map<String, Value>>>,
    pub network: Network,
    pub user_agent: String,
    /// What is left of the run's time, where this is not the first part of it.
    pub left: Option<Duration>,
}

/// What a run tells, in order.
#[derive(Debug)]
pub enum Event {
    /// A listing begins, or goes on where an earlier run ended. Not told of those that a parent has.
    Scan {
        resumed: bool,
    },
    /// What follows belongs to this one of the order's parents.
    Parent {
        index: usize,
    },
    /// At most 1 MiB or 1000 records (or one that is larger).
    Records(Vec<Box<RawValue>>),
    /// Forget the records since the last checkpoint, or the last `Parent`: their page broke, and comes again.
    Rewind,
    /// This parent's listing is complete; `gone` where a rule took its absence for an empty list.
    ParentDone {
        index: usize,
        gone: bool,
    },
    /// All records before it belong to this state.
    Checkpoint(State),
    /// In all, so far.
    Progress {
        requests: u64,
        bytes: u64,
        waiting_ms: u64,
    },
    /// The listing is complete.
    Finished(State),
    Failed(Failure),
}

impl Weight for Event {
    fn bytes(&self) -> usize {
        match self {
            Event::Records(records) => records.iter().map(|r| r.get().len()).sum(),
            _ => 0,
        }
    }
}

/// What is stored between runs; written in one transaction with the records before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The high-water mark: nanoseconds since 1970, or a whole number; [`incremental::readable`] shows it.
    pub mark: Option<String>,
    /// A listing that has not come to its end.
    pub scan: Option<Scan>,
    /// Seconds since 1970 before which the API is not to be asked.
    pub not_before: Option<i64>,
}

/// Where an unfinished listing stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scan {
    /// The page to go on with.
    pub place: Place,
    /// Seconds since 1970, by our clock.
    pub started: i64,
    /// The greatest value of the cursor so far: the mark once the scan is complete.
    pub candidate: Option<String>,
    pub pages: u64,
    pub records: u64,
    /// The bounds that the scan began with, as moments and as they were sent.
    pub from: Option<String>,
    pub clock: Option<String>,
    pub start: Option<String>,
    pub end: Option<String>,
    pub full: bool,
}

/// A run under way. Dropping it cancels the run and waits for the thread, a moment at most.
pub struct Fetching {
    pub events: Receiver<Event>,
    /// Readable while something is in the queue, and once the thread has ended.
    pub fd: RawFd,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Fetching {
    /// Takes effect within a second, wherever the thread is.
    #[cfg(test)]
    pub fn cancel(&self) {
        self.control.cancel();
    }
}

/// Ends a run from another thread than the one that has it.
#[derive(Clone)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    pub fn stop(&self) {
        self.0.cancel();
    }

    pub fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }
}

impl Fetching {
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.control.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic was told as a failure already.
            let _ = thread.join();
        }
    }
}

/// Records that wait for whoever takes them. He who makes rows of them keeps step, so there is no need for more.
const WAITING_BYTES: usize = 1 << 20;

/// Where the thread puts what it has to tell.
pub(super) struct Outlet {
    sender: Sender<Event>,
    control: Arc<Control>,
}

impl Outlet {
    /// `false` once nobody wants to hear any more.
    pub(super) fn tell(&self, event: Event) -> bool {
        let may_wait = event.bytes() > 0;
        let control = &self.control;
        let send = || self.sender.send(event, SLICE, || !control.is_cancelled() && !control.left().is_zero());
        if may_wait {
            client::unhurried(control, send)
        } else {
            send()
        }
    }
}

/// Starts a run: one thread, with every signal blocked in it.
pub fn start(order: Order) -> std::io::Result<Fetching> {
    let control = Arc::new(Control::new(run_time(&order)));
    let (sender, events) = queue(WAITING_BYTES)?;
    let outlet = Outlet { sender, control: Arc::clone(&control) };
    let thread = spawn({
        let control = Arc::clone(&control);
        move || {
            let result = guarded(|| run::run(&order, &control, &outlet));
            outlet.tell(match result {
                Ok(state) => Event::Finished(state),
                Err(failure) => Event::Failed(failure),
            });
        }
    })?;
    Ok(Fetching { fd: events.fd(), events, control, thread: Some(thread) })
}

/// One page, read in a thread: for a look at a source before anything is stored.
pub struct Sampling {
    /// Readable once the page is there.
    pub fd: RawFd,
    result: Receiver<Result<Page, Failure>>,
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Weight for Result<Page, Failure> {
    fn bytes(&self) -> usize {
        0
    }
}

impl Sampling {
    /// `None` while it is under way.
    pub fn try_take(&self) -> Option<Result<Page, Failure>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(lost())),
        }
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.control.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks for the first page, and keeps some of its records.
pub fn start_one_page(order: Order) -> std::io::Result<Sampling> {
    let control = Arc::new(Control::new(run_time(&order)));
    let (sender, result) = queue(WAITING_BYTES)?;
    let thread = spawn({
        let control = Arc::clone(&control);
        move || {
            let page = guarded(|| run::one_page(&order, &control));
            sender.send(page, SLICE, || true);
        }
    })?;
    Ok(Sampling { fd: result.fd(), result, control, thread: Some(thread) })
}

/// The same, waited for.
#[cfg(test)]
pub fn one_page(order: Order) -> Result<Page, Failure> {
    let sampling = start_one_page(order)
        .map_err(|e| Failure::new(code::INSUFFICIENT_RESOURCES, format!("could not start a thread: {e}")))?;
    loop {
        match sampling.result.recv_timeout(Duration::from_secs(3600)) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(lost()),
        }
    }
}

fn lost() -> Failure {
    Failure::new(code::FDW_ERROR, "the fetch ended without a result")
}

fn run_time(order: &Order) -> Duration {
    let limits = order.spec.streams.get(order.stream).map(|stream| &stream.limits).unwrap_or(&order.spec.limits);
    order.left.unwrap_or(Duration::from_millis(limits.run_ms))
}

fn spawn(work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    crate::pg::signals::blocked(|| {
        std::thread::Builder::new().name("startup_wh fetch".into()).stack_size(1 << 20).spawn(work)
    })
}

/// A panic must not pass for an end.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Failure::new(code::FDW_ERROR, "the fetch thread panicked")))
}

#[cfg(test)]
#[path = "../../../pg_test/src/fake_api.rs"]
// The end-to-end tests use more of it.
#[allow(dead_code)]
mod fake_api;

#[cfg(test)]
mod tests;

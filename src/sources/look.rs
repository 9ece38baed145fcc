//! Looks at a source that write nothing: one page of a stream, and whether the tables hold what the API does.
//!
//! They run in the caller's session: a thread fetches, and the session waits as it does for a lock, so that a cancel is
//! obeyed within a second.

mod verify;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::http::{self, Errand, Failure, Network, Order, Page, Receiver, Secret, State, Tokens};
use super::load::{self, Layout, Make, Record};
use super::spec::{self, Spec, Stream};
use super::{columns, define, secrets, store};
use crate::error::{sqlstate, Error, Result};
use crate::pg::{session, worker};
use crate::policy;

pub use verify::verify;

/// A source, opened by somebody who may use its secrets.
struct Opened {
    source: store::Source,
    spec: Arc<Spec>,
    secrets: Arc<HashMap<String, Secret>>,
    tokens: Tokens,
    errands: Receiver<Errand>,
    network: Network,
}

impl Opened {
    fn new(caller: u32, name: &str) -> Result<Opened> {
        define::may_use(caller, name)?;
        let source = store::source(name)?.ok_or_else(|| super::missing(name))?;
        let spec = spec::parse(&source.spec).map_err(|problems| define::refused(&problems))?;
        let names: Vec<String> = spec.auth.secrets().into_iter().map(String::from).collect();
        let secrets = secrets::of(source.owner, &names)?;
        if spec.auth.refreshes() && !session::is_read_committed() {
            return Err(Error::new(
                sqlstate::ACTIVE_SQL_TRANSACTION,
                "a source with a refresh token is looked at in transaction isolation level READ COMMITTED",
            )
            .detail("A new refresh token may come in the place of the one that is kept.")
            .hint("Call it in a transaction of its own."));
        }
        let network = Network { allowed: define::allowed_ranges()?, roots: define::extra_roots()? };
        let secrets = Arc::new(secrets);
        let (tokens, errands) = Tokens::new(&spec, &secrets).map_err(thread_failed)?;
        Ok(Opened { source, spec: Arc::new(spec), secrets, tokens, errands, network })
    }

    /// Waits for a thread, and does what it needs meanwhile.
    fn wait(&self, fd: std::os::fd::RawFd) -> Result<()> {
        while let Ok(errand) = self.errands.try_recv() {
            let done = secrets::errand_apart(self.source.owner, &errand);
            let done = done.map_err(|e| secrets::told(&errand, e));
            errand.answer(done);
        }
        worker::wait_for_any(&[fd, self.errands.fd()], Duration::from_secs(1))
    }

    fn order(&self, stream: usize, parents: Option<Vec<Map<String, Value>>>) -> Order {
        Order {
            spec: Arc::clone(&self.spec),
            stream,
            secrets: Arc::clone(&self.secrets),
            tokens: self.tokens.clone(),
            state: State::default(),
            full: true,
            parents,
            network: self.network.clone(),
            user_agent: concat!("startup_wh/", env!("CARGO_PKG_VERSION")).to_owned(),
            left: None,
        }
    }

    /// The streams that are meant: one, or all that the source fetches.
    fn chosen(&self, stream: Option<&str>) -> Result<Vec<usize>> {
        let wanted = |s: &Stream| match (stream, &self.source.streams) {
            (Some(name), _) => s.name == name,
            (None, Some(names)) => names.contains(&s.name),
            (None, None) => true,
        };
        let chosen: Vec<usize> = (0..self.spec.streams.len()).filter(|i| wanted(&self.spec.streams[*i])).collect();
        match (chosen.is_empty(), stream) {
            (true, Some(name)) => Err(Error::new(
                sqlstate::UNDEFINED_OBJECT,
                format!("source \"{}\" has no stream \"{name}\"", self.source.name),
            )
            .hint("SELECT stream FROM wh.source_streams lists those that it has.")),
            _ => Ok(chosen),
        }
    }
}

fn thread_failed(e: std::io::Error) -> Error {
    Error::new("53000", format!("could not start a thread: {e}"))
}

fn from_network(failure: Failure) -> Error {
    let mut error = Error::new(failure.sqlstate, failure.message);
    (error.detail, error.hint) = (failure.detail, failure.hint);
    error
}

/// What a page of a stream looks like.
pub struct Sample {
    pub stream: String,
    pub page: core::result::Result<Page, Error>,
    /// Column, type and member, in order.
    pub columns: Value,
    /// A record as it would be stored.
    pub record: Option<String>,
}

/// Asks for one page of each stream that is meant.
pub fn test(caller: u32, name: &str, stream: Option<&str>) -> Result<Vec<Sample>> {
    let opened = Opened::new(caller, name)?;
    let mut samples = Vec::new();
    for index in opened.chosen(stream)? {
        let stream = &opened.spec.streams[index];
        let page = match opened.page(index) {
            Err(e) if e.is_an_interrupt() => return Err(e),
            page => page,
        };
        let mut layout = Layout::new(stream, Vec::new());
        layout.withhold(store::withhold(&policy::read()?, &opened.source, &stream.name, None)?);
        let mut record = None;
        if let Ok(page) = &page {
            let records: Vec<Record> =
                page.records.iter().map(|raw| Record { raw: raw.clone(), bound: None }).collect();
            load::prepare(&mut layout, records, 0, Make::All);
            record = page
                .records
                .first()
                .map(|r| load::visible(&mut layout, r).map_or_else(|| r.get().to_owned(), |v| v.get().to_owned()));
        }
        let columns = layout.fields.iter().map(|f| json!({"column": f.column, "type": f.ty, "member": f.member}));
        let columns = Value::Array(if page.is_ok() { columns.collect() } else { Vec::new() });
        samples.push(Sample { stream: stream.name.clone(), page, columns, record });
    }
    Ok(samples)
}

impl Opened {
    /// The first page of a stream; of one with a parent, for the first record of the parent's first page.
    fn page(&self, index: usize) -> Result<Page> {
        let stream = &self.spec.streams[index];
        let parents = match &stream.parent {
            None => None,
            Some(parent) => {
                let above = self.spec.streams.iter().position(|s| s.name == parent.stream);
                let page = above.map(|above| self.page(above)).transpose()?;
                let record = page.as_ref().and_then(|page| page.records.first()).ok_or_else(|| {
                    Error::new(
                        sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE,
                        format!("stream \"{}\" has no record to ask for \"{}\" with", parent.stream, stream.name),
                    )
                })?;
                let value =
                    |p: &spec::Pointer| columns::pointer(record, p).and_then(|v| serde_json::from_str::<Value>(v).ok());
                let places = parent.bind.iter().map(|(place, p)| (place.clone(), value(p).unwrap_or_default()));
                Some(vec![places.collect()])
            }
        };
        let sampling = http::start_one_page(self.order(index, parents)).map_err(thread_failed)?;
        loop {
            if let Some(result) = sampling.try_take() {
                return result.map_err(from_network);
            }
            self.wait(sampling.fd)?;
        }
    }
}

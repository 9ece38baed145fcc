//! What a stream's run is: from where it reads, whether it reads everything, what becomes of rows that it does not see.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::Context;
use crate::error::Result;
use crate::policy::{self, Patterns};
use crate::sources::http::{self, Fetching, Order, State};
use crate::sources::load::{aside, Array, Layout, Table};
use crate::sources::spec::{Action, ErrorRule, Parent, Pointer, Spec, Stream, Template, Write};
use crate::sources::store::{self, After, Known, Progress};
use crate::sources::tour::{self, Stop};

/// The plan of a stream's run.
pub struct Plan {
    pub layout: Arc<Layout>,
    pub arrays: Vec<Array>,
    /// The stream has a table.
    pub there: bool,
    /// How often the stream had been reset.
    pub epoch: i64,
    pub state: State,
    pub progress: Progress,
    /// Everything is read.
    pub full: bool,
    /// Rows wait aside until all of them are there.
    pub aside: bool,
    /// What is not seen is gone.
    pub sweeping: bool,
    /// An earlier run has begun with it.
    pub goes_on: bool,
    /// Where the events end that a complete scan makes up for.
    pub tip: Option<After>,
    pub stops: Option<Vec<Stop>>,
    /// By our clock, in microseconds since 1970.
    pub began: i64,
    /// The policy of sensitive data that the layouts keep.
    pub patterns: Patterns,
}

/// Plans a stream's run, in one transaction.
pub fn plan(cx: &Context, stream: &Stream) -> Result<Plan> {
    cx.over_rows(&stream.name, || {
        policy::hold()?;
        let mut known = store::known(&cx.source.name, &stream.name)?;
        let patterns = policy::read()?;
        let mut layout = Layout::new(stream, std::mem::take(&mut known.columns));
        let mut withhold = store::withhold(&patterns, &cx.source, &stream.name, known.relation)?;
        withhold.refuse_used(&cx.spec, stream)?;
        layout.withhold(withhold);
        let lost = RefCell::new(Vec::new());
        let arrays = Array::all(stream, &layout, |name| {
            let known = store::known(&cx.source.name, name)?;
            if known.lost {
                lost.borrow_mut().push(name.to_owned());
            }
            Ok((known.columns, store::withhold(&patterns, &cx.source, name, known.relation)?))
        })?;
        let keyed = !layout.key.is_empty() && stream.write != Write::Append;
        let there = match known.relation {
            Some(oid) => Table::find(oid, keyed)?,
            None => None,
        };
        for array in lost.take() {
            store::read_again(&cx.source.name, &stream.name, there.as_ref(), &array)?;
            let again = store::known(&cx.source.name, &stream.name)?;
            (known.state, known.progress, known.epoch) = (again.state, again.progress, again.epoch);
            known.full_age = None;
        }
        if cx.full {
            // What an unfinished scan has read already is not read again by what goes on with it.
            known.state.scan = None;
            known.progress.parents = None;
        }
        let sweep_s = stream.deletes.as_ref().and_then(|d| d.sweep_s);
        let replaces = stream.write == Write::Replace;
        let is_old = |age: Option<f64>, most: u64| age.is_none_or(|age| age >= most as f64);
        let unfinished = known.state.scan.is_some() || known.progress.parents.is_some();
        let goes_on = unfinished && known.progress.sweep.is_some();
        let due = replaces || sweep_s.is_some_and(|s| cx.full || is_old(known.full_age, s));
        // The first scan of all has nothing to find gone.
        let is_first = known.full_age.is_none() && unfinished && !goes_on;
        let sweeping = keyed && there.is_some() && due && !is_first;
        if sweeping && !goes_on {
            known.progress.parents = None;
            known.state.scan = None;
        }
        known.progress.sweep = match sweeping {
            true if goes_on => known.progress.sweep,
            true => Some(known.now),
            false => None,
        };
        if !keyed {
            known.progress.parents = None;
            if !waits_aside(there.as_ref())? {
                known.state.scan = None;
            }
        }
        // Where events tell of changes, the first scan and one after a pause that they don't cover read everything.
        let uncovered = stream
            .changes
            .as_ref()
            .is_some_and(|c| known.progress.changes.is_none() || is_old(known.success_age, c.retention_s));
        let tip = match &stream.changes {
            Some(changes) => Some(tour::tip(&cx.source.name, changes, &cx.spec)?),
            None => None,
        };
        let full = cx.full || replaces || sweeping || uncovered || known.full_age.is_none();
        let stops = match &stream.parent {
            Some(parent) => Some(parents(cx, stream, parent, &known)?),
            None => None,
        };
        let (state, progress, epoch, began) = (known.state, known.progress, known.epoch, known.now);
        let layout = Arc::new(layout);
        let there = there.is_some();
        Ok(Plan {
            layout,
            arrays,
            there,
            epoch,
            state,
            progress,
            full,
            aside: !keyed,
            sweeping,
            goes_on,
            tip,
            stops,
            began,
            patterns,
        })
    })
}

fn waits_aside(table: Option<&Table>) -> Result<bool> {
    match table {
        Some(table) => Ok(aside::find(&aside::name(table, "aside")?)?.is_some()),
        None => Ok(false),
    }
}

fn parents(cx: &Context, stream: &Stream, parent: &Parent, known: &Known) -> Result<Vec<Stop>> {
    let done = known.progress.parents.as_ref();
    tour::parents(&cx.source.name, parent, &cx.spec, &stream.name, done, tour::MOST)
}

/// Starts the listing of a stream.
pub fn listing(
    cx: &Context,
    index: usize,
    state: State,
    full: bool,
    stops: Option<&[Stop]>,
    ends: Instant,
) -> Result<Fetching> {
    start(cx, Arc::clone(&cx.spec), index, state, full, stops, ends)
}

/// Starts to ask for records one by one; what the API no longer has is told as gone.
pub fn one_by_one(cx: &Context, index: usize, path: &Template, stops: &[Stop], ends: Instant) -> Result<Fetching> {
    let mut spec = Spec::clone(&cx.spec);
    let stream = &cx.spec.streams[index];
    spec.errors.insert(0, ErrorRule { status: vec![404, 410], body: None, action: Action::Skip });
    spec.streams = vec![Stream {
        path: path.clone(),
        method: crate::sources::spec::Method::Get,
        params: Vec::new(),
        body: None,
        records: Pointer::default(),
        paginator: crate::sources::spec::Paginator::None,
        incremental: None,
        ..stream.clone()
    }];
    start(cx, Arc::new(spec), 0, State::default(), true, Some(stops), ends)
}

fn start(
    cx: &Context,
    spec: Arc<Spec>,
    stream: usize,
    state: State,
    full: bool,
    stops: Option<&[Stop]>,
    ends: Instant,
) -> Result<Fetching> {
    let parents = stops.map(|stops| stops.iter().map(|s| s.places.clone()).collect::<Vec<Map<String, Value>>>());
    let order = Order {
        spec,
        stream,
        secrets: Arc::clone(&cx.secrets),
        tokens: cx.tokens.clone(),
        state,
        full,
        parents,
        network: cx.network.clone(),
        user_agent: concat!("startup_wh/", env!("CARGO_PKG_VERSION")).to_owned(),
        left: Some(ends.saturating_duration_since(Instant::now())),
    };
    http::start(order).map_err(super::no_thread)
}

//! One run of a stream: page after page, each asked for until it is whole, and a checkpoint after each.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::client::{host_of, stop_trouble, Client, Request};
use super::control::{Control, Stop};
use super::failure::{code, Failure};
use super::incremental::{bound_format, Marking};
use super::pace::Pace;
use super::page::{page, Asking, Got, Whole};
use super::paginate::{Around, Page as Turned, PageError, Pages};
use super::request::{build, Bounds};
use super::secret::{shown, Scrubber};
use super::{parents, Event, Order, Outlet, Place, Scan, State};
use crate::sources::spec::{Auth, Limits, Paginator, Stream};

/// What a sample of a page keeps.
const SAMPLE_RECORDS: usize = 100;

/// What `one_page` found.
#[derive(Debug)]
pub struct Page {
    /// Without its secrets.
    pub url: String,
    pub status: u16,
    /// The first of them.
    pub records: Vec<Box<RawValue>>,
    /// How many the page has.
    pub read: usize,
    pub bytes: u64,
    pub milliseconds: u64,
    /// What would be asked for next, in words; `None` at the end of the listing.
    pub next: Option<String>,
}

pub(super) struct Run<'a> {
    pub order: &'a Order,
    pub stream: &'a Stream,
    client: Client,
    scrubber: Scrubber,
    pace: Arc<Pace>,
    pub control: Arc<Control>,
    requests: u64,
    bytes: u64,
    waiting: Duration,
}

pub(super) fn run(order: &Order, control: &Arc<Control>, out: &Outlet) -> Result<State, Failure> {
    let mut run = Run::new(order, control)?;
    let result = run.all(out);
    run.progress(out);
    result.map_err(|failure| run.scrubbed(failure))
}

pub(super) fn one_page(order: &Order, control: &Arc<Control>) -> Result<Page, Failure> {
    let mut run = Run::new(order, control)?;
    let result = run.sample();
    result.map_err(|failure| run.scrubbed(failure))
}

impl<'a> Run<'a> {
    pub fn new(order: &'a Order, control: &Arc<Control>) -> Result<Self, Failure> {
        let spec = &order.spec;
        let stream = spec
            .streams
            .get(order.stream)
            .ok_or_else(|| Failure::new(code::UNDEFINED_OBJECT, "the source has no such stream"))?;
        let client = Client::new(
            Arc::clone(control),
            spec.base_url.clone(),
            spec.allow_hosts.clone(),
            stream.limits.clone(),
            &order.network,
            &order.user_agent,
        )?;
        let mut scrubber = Scrubber::default();
        for secret in order.secrets.values() {
            scrubber.hide(secret.expose());
        }
        Ok(Run {
            order,
            stream,
            client,
            scrubber,
            pace: Pace::of(spec.base_url.as_str()),
            control: Arc::clone(control),
            requests: 0,
            bytes: 0,
            waiting: Duration::ZERO,
        })
    }

    fn limits(&self) -> &'a Limits {
        &self.stream.limits
    }

    pub fn progress(&self, out: &Outlet) {
        out.tell(Event::Progress {
            requests: self.requests,
            bytes: self.bytes,
            waiting_ms: u64::try_from(self.waiting.as_millis()).unwrap_or(u64::MAX),
        });
    }

    fn all(&mut self, out: &Outlet) -> Result<State, Failure> {
        let state = self.order.state.clone();
        if let Some(until) =
            state.not_before.and_then(|s| u64::try_from(s).ok()).map(|s| UNIX_EPOCH + Duration::from_secs(s))
        {
            if until > SystemTime::now() {
                let host = host_of(&self.order.spec.base_url);
                let message = format!("\"{host}\" asked not to be asked yet");
                return Err(Failure::new(code::INSUFFICIENT_RESOURCES, message).retry_at(until));
            }
        }
        let Some(parents) = &self.order.parents else {
            if let Some(parent) = &self.stream.parent {
                let message = format!("stream \"{}\" needs the rows of \"{}\"", self.stream.name, parent.stream);
                return Err(Failure::new(code::INVALID_VALUE, message));
            }
            return self.listing(out, &Map::new(), state, true).map(|(state, _)| state);
        };
        parents::all(self, out, parents, &state)
    }

    /// The listing of one parent, from the mark of them all: what it came to, and whether it is gone.
    pub fn parent(&mut self, out: &Outlet, index: usize, mark: Option<&str>) -> Result<(State, bool), Failure> {
        let Some(parent) = self.order.parents.as_ref().and_then(|parents| parents.get(index)) else {
            return Err(Failure::new(code::UNDEFINED_OBJECT, "there is no such parent"));
        };
        self.tell(out, Event::Parent { index })?;
        let begin = State { mark: mark.map(str::to_owned), ..State::default() };
        let (end, gone) = self.listing(out, parent, begin, false)?;
        self.tell(out, Event::ParentDone { index, gone })?;
        Ok((end, gone))
    }

    /// Counts what other threads spent for this run: requests, bytes, milliseconds of waiting.
    pub fn spent(&mut self, [requests, bytes, waiting_ms]: [u64; 3]) {
        self.requests += requests;
        self.bytes += bytes;
        self.waiting += Duration::from_millis(waiting_ms);
    }

    /// Without the secrets of the run: an API may put them into its answers.
    pub fn scrubbed(&self, failure: Failure) -> Failure {
        failure.map(|text| self.scrubber.scrub(text))
    }

    /// Reads a listing to its end: the state afterwards, and whether it is gone.
    fn listing(
        &mut self,
        out: &Outlet,
        parent: &Map<String, Value>,
        state: State,
        resumable: bool,
    ) -> Result<(State, bool), Failure> {
        let full = self.order.full;
        let scan = state.scan.clone().filter(|scan| resumable && scan.full == full);
        let resumed = scan.is_some();
        match self.scan(out, parent, &state, scan, resumable) {
            // The API no longer knows the page that an earlier run would have gone on with.
            Err((failure, true)) if resumed && is_about_the_place(&failure) => {
                self.tell(out, Event::Rewind)?;
                self.scan(out, parent, &state, None, resumable).map_err(|(failure, _)| failure)
            }
            other => other.map_err(|(failure, _)| failure),
        }
    }

    /// The error says whether it met the first page.
    fn scan(
        &mut self,
        out: &Outlet,
        parent: &Map<String, Value>,
        state: &State,
        scan: Option<Scan>,
        resumable: bool,
    ) -> Result<(State, bool), (Failure, bool)> {
        let stream = self.stream;
        let now = SystemTime::now();
        let full = self.order.full;
        let mut marking = stream.incremental.as_ref().map(|rule| Marking::new(rule, state.mark.as_deref(), full));
        let mut scan = match scan {
            Some(scan) => {
                if let Some(marking) = &mut marking {
                    marking.resume(scan.from.as_deref(), scan.candidate.as_deref(), scan.clock.as_deref());
                }
                scan
            }
            None => Scan {
                started: now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64),
                start: marking.as_ref().and_then(Marking::start),
                end: marking.as_ref().and_then(|marking| marking.end(now)),
                full,
                ..Scan::default()
            },
        };
        if resumable {
            self.tell(out, Event::Scan { resumed: scan.pages > 0 }).map_err(|failure| (failure, false))?;
        }
        let bounds = Bounds { start: scan.start.clone(), end: scan.end.clone() };
        let mut pages = Pages::new(&stream.paginator, scan.place.clone(), scan.records).with(around(stream, &bounds));
        let mut first = true;
        loop {
            if scan.pages >= self.limits().max_pages {
                let message = format!("stream \"{}\" has more than {} pages", stream.name, self.limits().max_pages);
                let failure = Failure::new(code::PROGRAM_LIMIT, message)
                    .detail(format!("The next one would be {}.", pages.place().shown()))
                    .hint("If that is as it should be, raise max_pages in the stream's limits.");
                return Err((failure, first));
            }
            let request = self.request(parent, &bounds, &pages).map_err(|failure| (failure, first))?;
            let control = Arc::clone(&self.control);
            let mut sink = |chunk| self_tell(&control, out, Event::Records(chunk), &stream.limits);
            let got = page(self.asking(), &request, &pages, marking.as_mut(), Some(out), &mut sink)
                .map_err(|failure| (failure, first))?;
            let Got::Page(mut whole) = got else {
                return Ok((State { mark: state.mark.clone(), ..State::default() }, true));
            };
            let more = turn(stream, &mut pages, &whole).map_err(|failure| (failure, first))?;
            if let Auth::Query { name, .. } = &self.order.spec.auth {
                pages.forget_parameter(name);
            }
            first = false;
            scan.pages += 1;
            if !whole.rest.is_empty() {
                self.tell(out, Event::Records(std::mem::take(&mut whole.rest))).map_err(|f| (f, false))?;
            }
            self.progress(out);
            let enough = marking.as_ref().is_some_and(Marking::has_read_enough);
            if !more || enough {
                let mark = match &marking {
                    Some(marking) => marking.mark_at_end(),
                    None => state.mark.clone(),
                };
                return Ok((State { mark, ..State::default() }, false));
            }
            scan.place = pages.place().clone();
            scan.records = pages.records();
            if resumable {
                let mark = match &marking {
                    Some(marking) => {
                        let [from, candidate, clock] = marking.parts();
                        scan.from = from;
                        scan.candidate = candidate;
                        scan.clock = clock;
                        marking.mark_so_far()
                    }
                    None => state.mark.clone(),
                };
                let kept = (pages.can_go_on_later() && !self.holds_a_secret(&scan.place)).then(|| scan.clone());
                // Without a place to go on from, the mark may not move either: the rest would never be read.
                let mark = if kept.is_some() { mark } else { state.mark.clone() };
                let checkpoint = State { mark, scan: kept, not_before: None };
                self.tell(out, Event::Checkpoint(checkpoint)).map_err(|f| (f, false))?;
            }
        }
    }

    fn request(&self, parent: &Map<String, Value>, bounds: &Bounds, pages: &Pages) -> Result<Request, Failure> {
        let ask = pages.ask().map_err(|e| page_failure(self.stream, &e))?;
        let request = build(&self.order.spec, self.stream, parent, bounds, &ask)?;
        self.client.may_go_to(&request.url).map_err(|why| {
            let message = format!("the next page of stream \"{}\" is not asked for: {why}", self.stream.name);
            Failure::new(code::INSUFFICIENT_PRIVILEGE, message)
                .detail(format!("The page before names {}.", shown(&request.url)))
                .hint("If the host belongs to the API, add it to allow_hosts.")
        })?;
        Ok(request)
    }

    /// What is stored is read by more people than a secret is for.
    fn holds_a_secret(&self, place: &Place) -> bool {
        let text = serde_json::to_string(place).unwrap_or_default();
        self.scrubber.scrub(&text) != text
    }

    /// What asking for a page uses of this.
    fn asking(&mut self) -> Asking<'_> {
        Asking {
            stream: self.stream,
            spec: &self.order.spec,
            client: &self.client,
            tokens: &self.order.tokens,
            scrubber: &mut self.scrubber,
            pace: &self.pace,
            control: &self.control,
            requests: &mut self.requests,
            bytes: &mut self.bytes,
            waiting: &mut self.waiting,
            token: 0,
        }
    }

    pub fn tell(&self, out: &Outlet, event: Event) -> Result<(), Failure> {
        self_tell(&self.control, out, event, &self.stream.limits)
    }

    fn sample(&mut self) -> Result<Page, Failure> {
        let began = Instant::now();
        let none = Map::new();
        let parent = self.order.parents.as_ref().and_then(|parents| parents.first()).unwrap_or(&none);
        let stream = self.stream;
        let marking = stream.incremental.as_ref().map(|rule| Marking::new(rule, None, true));
        let bounds = Bounds {
            start: marking.as_ref().and_then(Marking::start),
            end: marking.as_ref().and_then(|marking| marking.end(SystemTime::now())),
        };
        let mut pages = Pages::new(&stream.paginator, Place::Start, 0).with(around(stream, &bounds));
        let request = self.request(parent, &bounds, &pages)?;
        let mut kept: Vec<Box<RawValue>> = Vec::new();
        let mut sink = |chunk: Vec<Box<RawValue>>| {
            kept.extend(chunk.into_iter().take(SAMPLE_RECORDS - kept.len()));
            Ok(())
        };
        let got = page(self.asking(), &request, &pages, None, None, &mut sink)?;
        let url = shown(&request.url);
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Got::Page(mut whole) = got else {
            return Ok(Page { url, status: 404, records: kept, read: 0, bytes: 0, milliseconds, next: None });
        };
        kept.extend(std::mem::take(&mut whole.rest).into_iter().take(SAMPLE_RECORDS - kept.len()));
        let next = if turn(stream, &mut pages, &whole)? {
            // The page after this one may lie where it isn't asked for: better known now.
            self.request(parent, &bounds, &pages)?;
            Some(pages.place().shown())
        } else {
            None
        };
        let next = next.map(|next| self.scrubber.scrub(&next));
        Ok(Page {
            url,
            status: whole.status,
            records: kept,
            read: whole.records,
            bytes: whole.bytes,
            milliseconds,
            next,
        })
    }
}

pub(super) fn self_tell(control: &Control, out: &Outlet, event: Event, limits: &Limits) -> Result<(), Failure> {
    if out.tell(event) {
        return Ok(());
    }
    let stop = if control.left().is_zero() && !control.is_cancelled() { Stop::RunTime } else { Stop::Cancelled };
    Err(stop_trouble(&stop, "", limits).failure)
}

fn turn(stream: &Stream, pages: &mut Pages, whole: &Whole) -> Result<bool, Failure> {
    let page = Turned {
        url: &whole.url,
        records: whole.records,
        last: whole.last.as_deref(),
        found: &whole.found,
        links: whole.links.iter().map(String::as_str).collect(),
        fingerprint: whole.fingerprint,
    };
    pages.turn(&page).map_err(|e| page_failure(stream, &e))
}

fn page_failure(stream: &Stream, e: &PageError) -> Failure {
    let name = &stream.name;
    match e {
        PageError::Repeated(why) => {
            Failure::new(code::PROTOCOL_VIOLATION, format!("the pages of stream \"{name}\" go round in circles"))
                .detail(format!("The next page repeats an earlier one: {why}."))
        }
        PageError::NoWay(why) => {
            Failure::new(code::PROTOCOL_VIOLATION, format!("stream \"{name}\" has more pages, but no way to the next"))
                .detail(format!("On this page, {why}."))
        }
        PageError::BadAddress(why) => {
            Failure::new(code::PROTOCOL_VIOLATION, format!("the next page of stream \"{name}\" has no address"))
                .detail(format!("{why}."))
        }
        PageError::TooFew { got, of } => {
            Failure::new(code::PROTOCOL_VIOLATION, format!("stream \"{name}\" ended before all of it was read"))
                .detail(format!("{got} of {of} records came, and then an empty page."))
        }
        PageError::NoValue(place) => Failure::new(
            code::INVALID_VALUE,
            format!("no value for \"{{{place}}}\" in the paginator of stream \"{name}\""),
        ),
    }
}

/// By which an API says that it doesn't know a cursor: a status like 400, 404, 410 or 422.
fn is_about_the_place(failure: &Failure) -> bool {
    matches!(failure.sqlstate, code::UNDEFINED_OBJECT | code::FDW_ERROR)
}

pub(super) fn around(stream: &Stream, bounds: &Bounds) -> Around {
    let formats = match (&stream.paginator, &stream.incremental) {
        (Paginator::Keyset { pointer, .. }, Some(rule)) if *pointer == rule.cursor => {
            Some((rule.format, bound_format(rule)))
        }
        _ => None,
    };
    Around { start: bounds.start.clone(), end: bounds.end.clone(), formats }
}

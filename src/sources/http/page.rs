//! One page: asked for until it came whole, or until asking is of no use.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime};

use serde_json::value::RawValue;
use url::Url;

use super::auth::Authenticator;
use super::body::{BodyError, Records, Shape};
use super::client::{host_of, servers_now, stop_trouble, Answer, Client, Request};
use super::control::Control;
use super::failure::{code, Failure, Trouble};
use super::incremental::Marking;
use super::outcome;
use super::pace::Pace;
use super::paginate::Pages;
use super::retry::{decide, told, Decision, Told};
use super::run::self_tell;
use super::secret::{shown, Scrubber};
use super::tokens::Tokens;
use super::{Event, Outlet};
use crate::sources::spec::{Action, From as CursorFrom, Paginator, Pointer, Stream};

/// A chunk of records is handed over at either.
const CHUNK_RECORDS: usize = 1000;
const CHUNK_BYTES: usize = 1 << 20;
/// A longer wait ends the run; its end is stored, and no worker sleeps for it.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// A page that came whole.
pub struct Whole {
    pub url: Url,
    pub status: u16,
    pub records: usize,
    pub last: Option<Box<RawValue>>,
    pub found: Vec<Option<Box<RawValue>>>,
    pub links: Vec<String>,
    pub fingerprint: u64,
    /// Those that were not handed over yet.
    pub rest: Vec<Box<RawValue>>,
    pub bytes: u64,
}

pub enum Got {
    Page(Box<Whole>),
    /// A rule takes it for an empty list.
    Gone,
}

/// Why a try gave no page.
enum Miss {
    Trouble(Trouble, Told),
    /// The token may have ended.
    Renew(Failure),
}

impl From<Trouble> for Miss {
    fn from(trouble: Trouble) -> Miss {
        Miss::Trouble(trouble, Told::default())
    }
}

/// Who gets the records of a page as they come.
pub type Sink<'a> = dyn FnMut(Vec<Box<RawValue>>) -> Result<(), Failure> + 'a;

/// What asking for a page uses of a run.
pub struct Asking<'r> {
    pub stream: &'r Stream,
    pub spec: &'r crate::sources::spec::Spec,
    pub client: &'r Client,
    pub tokens: &'r Tokens,
    pub scrubber: &'r mut Scrubber,
    pub pace: &'r Pace,
    pub control: &'r Control,
    pub requests: &'r mut u64,
    pub bytes: &'r mut u64,
    pub waiting: &'r mut Duration,
    /// The number of the token that was sent last.
    pub token: u64,
}

/// Asks until the page is whole, or asking is of no use.
pub fn page(
    mut asking: Asking,
    request: &Request,
    pages: &Pages,
    mut marking: Option<&mut Marking>,
    out: Option<&Outlet>,
    sink: &mut Sink,
) -> Result<Got, Failure> {
    let limits = &asking.stream.limits;
    let mut tries = 0;
    let mut renewed = false;
    loop {
        tries += 1;
        let mut handed_over = false;
        let miss = match asking.once(request, pages, marking.as_deref_mut(), &mut handed_over, sink) {
            Ok(got) => return Ok(got),
            Err(miss) => miss,
        };
        if handed_over {
            if let Some(out) = out {
                self_tell(asking.control, out, Event::Rewind, limits)?;
            }
        }
        let (trouble, told) = match miss {
            Miss::Renew(failure) if renewed => return Err(failure),
            Miss::Renew(_) => {
                renewed = true;
                let token = asking.token;
                let forget = |authenticator: &mut Authenticator| {
                    authenticator.forget_token(token);
                    Ok(())
                };
                asking.tokens.with(asking.client, forget).map_err(|trouble| trouble.failure)?;
                tries -= 1;
                continue;
            }
            Miss::Trouble(trouble, told) => (trouble, told),
        };
        // "Ask again" from the API itself outweighs what the status looks like.
        if !trouble.passing && told.helps != Some(true) {
            return Err(trouble.failure);
        }
        let left = asking.control.left().min(LONGEST_SLEEP);
        match decide(&asking.spec.retry, tries, told, left, SystemTime::now(), dice()) {
            Decision::Wait(wait) => {
                asking.control.sleep(wait).map_err(|stop| stop_trouble(&stop, "", limits).failure)?;
                *asking.waiting += wait;
            }
            Decision::NotBefore(at) => return Err(trouble.failure.retry_at(at)),
            Decision::GiveUp => return Err(given_up(trouble.failure, tries)),
        }
    }
}

fn given_up(failure: Failure, tries: u32) -> Failure {
    let tried = format!("It was tried {tries} times.");
    let detail = match &failure.detail {
        Some(detail) => format!("{detail} {tried}"),
        None => tried,
    };
    if tries > 1 {
        failure.detail(detail)
    } else {
        failure
    }
}

/// What must be known of a record that is too long to be held: which one it is, and what is asked for after it.
fn kept(stream: &Stream) -> Vec<Pointer> {
    let mut kept = stream.primary_key.clone();
    kept.extend(stream.incremental.iter().map(|rule| rule.cursor.clone()));
    match &stream.paginator {
        Paginator::Cursor { from: CursorFrom::LastRecord(pointer), .. } => kept.push(pointer.clone()),
        Paginator::Keyset { pointer, key, .. } => kept.extend(key.iter().chain([pointer]).cloned()),
        _ => {}
    }
    kept
}

/// From 0 to 1. Not for secrets: the keys that std makes for its hash maps are random enough to part two clients.
fn dice() -> f64 {
    (RandomState::new().build_hasher().finish() >> 11) as f64 / (1u64 << 53) as f64
}

impl Asking<'_> {
    fn once(
        &mut self,
        request: &Request,
        pages: &Pages,
        marking: Option<&mut Marking>,
        handed_over: &mut bool,
        sink: &mut Sink,
    ) -> Result<Got, Miss> {
        let limits = &self.stream.limits;
        if let Some(rps) = limits.rps {
            let wait = self.pace.slot(rps, Instant::now());
            self.control.sleep(wait).map_err(|stop| stop_trouble(&stop, "", limits))?;
            *self.waiting += wait;
        }
        let (client, scrubber) = (self.client, &mut *self.scrubber);
        let credentials = self.tokens.with(client, |authenticator| authenticator.credentials(client, scrubber))?;
        self.token = credentials.token;
        *self.requests += 1;
        let answer = client.ask(request, &credentials)?;
        if (200..300).contains(&answer.status) {
            self.read(answer, pages, marking, handed_over, sink)
        } else {
            self.refused(answer)
        }
    }

    /// An answer that is no page.
    fn refused(&self, answer: Answer) -> Result<Got, Miss> {
        let status = answer.status;
        let url = answer.url.clone();
        let told = told(&self.spec.retry, |name| answer.header(name), SystemTime::now());
        let (value, words) = outcome::error_body(self.client, answer, self.scrubber)?;
        let at = |pointer: &Pointer| outcome::scalar_text(value.pointer(&pointer.to_string())?);
        let failure = outcome::failure(&self.stream.name, status, &url, &words);
        match outcome::rule(&self.spec.errors, status, at) {
            // A rule outweighs what the API says of itself.
            Some(action) => {
                self.act(action, failure, Told { helps: told.helps.filter(|_| action == Action::Retry), ..told })
            }
            None => self.act(outcome::by_status(status, self.can_renew()), failure, told),
        }
    }

    /// Whether a refused request may succeed with a new token.
    fn can_renew(&self) -> bool {
        self.token > 0
    }

    fn act(&self, action: Action, failure: Failure, told: Told) -> Result<Got, Miss> {
        match action {
            Action::Skip => Ok(Got::Gone),
            Action::RefreshAuth if self.can_renew() => Err(Miss::Renew(failure)),
            Action::Retry => Err(Miss::Trouble(Trouble::passing(failure), told)),
            Action::Fail | Action::RefreshAuth => Err(Miss::Trouble(Trouble::lasting(failure), told)),
        }
    }

    fn read(
        &mut self,
        answer: Answer,
        pages: &Pages,
        mut marking: Option<&mut Marking>,
        handed_over: &mut bool,
        sink: &mut Sink,
    ) -> Result<Got, Miss> {
        let status = answer.status;
        let url = answer.url.clone();
        let links = answer.headers.get_all("Link").iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
        let html = answer.header("Content-Type").is_some_and(|t| t.trim_start().starts_with("text/html"));
        let mut whole = Whole {
            url: url.clone(),
            status,
            records: 0,
            last: None,
            found: Vec::new(),
            links,
            fingerprint: 0,
            rest: Vec::new(),
            bytes: 0,
        };
        if let Some(marking) = marking.as_deref_mut() {
            marking.page(servers_now(&answer));
        }
        if status == 204 {
            return Ok(Got::Page(Box::new(whole)));
        }
        let wanted = pages.wanted();
        let paginators = wanted.len();
        let rules = self.spec.errors.iter().filter(|rule| rule.status.contains(&status));
        let all = wanted.into_iter().chain(rules.filter_map(|rule| rule.body.as_ref().map(|(p, _)| p.clone())));
        let all: Vec<Pointer> = all.collect();
        let shape = match self.stream.paginator {
            Paginator::None => Shape::ArrayOrOne,
            _ => Shape::Array,
        };
        let max = self.stream.limits.max_record_bytes;
        let mut records =
            Records::new(answer.body, shape, self.stream.records.clone(), all.clone(), max).keeping(kept(self.stream));
        let mut hasher = DefaultHasher::new();
        let mut held = 0;
        let broken = loop {
            match records.next() {
                Ok(Some(record)) => {
                    record.get().hash(&mut hasher);
                    if let Some(marking) = marking.as_deref_mut() {
                        marking.see(&record);
                    }
                    whole.records += 1;
                    if !whole.rest.is_empty()
                        && (whole.rest.len() >= CHUNK_RECORDS || held + record.get().len() > CHUNK_BYTES)
                    {
                        let last = whole.rest.last().cloned();
                        let chunk = std::mem::take(&mut whole.rest);
                        *handed_over = true;
                        held = 0;
                        sink(chunk).map_err(Trouble::lasting)?;
                        whole.last = last;
                    }
                    held += record.get().len();
                    whole.rest.push(record);
                }
                Ok(None) => break None,
                Err(e) => break Some(e),
            }
        };
        whole.last = whole.rest.last().cloned().or(whole.last);
        whole.fingerprint = hasher.finish();
        whole.bytes = records.position();
        *self.bytes += whole.bytes;
        let mut found = records.found().to_vec();
        // A page may be an error in the clothes of a good one.
        let at = |pointer: &Pointer| {
            let value = found.get(all.iter().position(|p| p == pointer)?)?.as_deref()?;
            outcome::scalar_text(&serde_json::from_str(value.get()).ok()?)
        };
        if matches!(broken, None | Some(BodyError::NoRecords { .. })) {
            if let Some(action) = outcome::rule(&self.spec.errors, status, at) {
                let words = "A rule of the source takes this answer for an error.";
                let failure = outcome::failure(&self.stream.name, status, &url, words);
                return self.act(action, failure, Told::default());
            }
        }
        found.truncate(paginators);
        whole.found = found;
        match broken {
            None => Ok(Got::Page(Box::new(whole))),
            Some(e) => Err(self.broken(&url, e, html).into()),
        }
    }

    fn broken(&self, url: &Url, e: BodyError, html: bool) -> Trouble {
        let host = host_of(url);
        let name = &self.stream.name;
        match e {
            BodyError::Read(e) => self.client.explain_read(url, &e),
            BodyError::Cut { .. } => Trouble::passing(
                Failure::new(code::CONNECTION_FAILURE, format!("a page of stream \"{name}\" was cut off"))
                    .detail(format!("From \"{host}\": {e}.")),
            ),
            BodyError::Malformed { .. } if html => Trouble::passing(
                Failure::new(code::INVALID_JSON, format!("\"{host}\" answered stream \"{name}\" with HTML, not JSON"))
                    .detail(format!("{} gave it.", shown(url))),
            ),
            BodyError::Malformed { .. } => Trouble::lasting(
                Failure::new(code::INVALID_JSON, format!("a page of stream \"{name}\" is not JSON"))
                    .detail(format!("{} gave it; {e}.", shown(url))),
            ),
            BodyError::NoRecords { .. } => Trouble::lasting(
                Failure::new(code::INVALID_JSON, format!("a page of stream \"{name}\" has no records"))
                    .detail(format!("{} gave it; {e}.", shown(url)))
                    .hint("The stream's member records has to point at the array."),
            ),
        }
    }
}

//! From a page to the next: what is put into a request, and what a page says about the one after it. It ends only where
//! the API says that a listing ends; whatever would loop or stop early is an error.

mod values;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use values::{address, at, is_a_count, join, json, link, scalar, url_parameter, whole};
pub use values::{text, truthy};

use super::body::is_too_long;
use super::incremental::{exactly, moment};
use crate::sources::spec::{Format, From as CursorFrom, Paginator, Pointer, Target};

/// Where a listing stands: the page to ask for. It is stored, so that a scan goes on after a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    #[default]
    Start,
    /// A value as the API wrote it, JSON.
    Cursor(String),
    /// A page's number, or how many records come before it.
    Number(u64),
    Url(String),
    Keyset {
        cursor: String,
        key: Option<String>,
    },
}

/// What a place adds to the stream's request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ask {
    /// Instead of the stream's own address and parameters.
    pub url: Option<Url>,
    pub query: Vec<(String, String)>,
    pub body: Vec<(Pointer, serde_json::Value)>,
    /// For the templates of the stream.
    pub places: Vec<(&'static str, String)>,
}

/// What came back.
pub struct Page<'a> {
    pub url: &'a Url,
    pub records: usize,
    pub last: Option<&'a RawValue>,
    /// At the pointers of [`Pages::wanted`].
    pub found: &'a [Option<Box<RawValue>>],
    pub links: Vec<&'a str>,
    /// Of all the records' texts.
    pub fingerprint: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageError {
    /// The listing goes round in circles.
    Repeated(String),
    /// The page says that another follows, but not where.
    NoWay(String),
    /// An address that leads elsewhere, or none at all.
    BadAddress(String),
    /// Fewer records than the page says there are.
    TooFew { got: u64, of: u64 },
    /// A template of the keyset names a value that isn't there.
    NoValue(String),
}

/// What the templates of a keyset may name besides the last record.
#[derive(Debug, Clone, Default)]
pub struct Around {
    pub start: Option<String>,
    pub end: Option<String>,
    /// Where the keyset's cursor is that of `incremental`: how it comes, and how it is written.
    pub formats: Option<(Format, Format)>,
}

pub struct Pages<'a> {
    paginator: &'a Paginator,
    around: Around,
    place: Place,
    /// Of this scan, before the page at `place`.
    records: u64,
    total: Option<u64>,
    seen: HashSet<u64>,
    last_fingerprint: Option<u64>,
}

impl<'a> Pages<'a> {
    /// Goes on at `place`, after so many records.
    pub fn new(paginator: &'a Paginator, place: Place, records: u64) -> Self {
        let mut pages = Pages {
            paginator,
            around: Around::default(),
            place,
            records,
            total: None,
            seen: HashSet::new(),
            last_fingerprint: None,
        };
        pages.seen.insert(hash(&pages.place));
        pages
    }

    pub fn with(mut self, around: Around) -> Self {
        self.around = around;
        self
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether the place still is where the listing stands when it is asked for later on. A scroll is gone after a
    /// minute; and a place that counts, pages or records, is another one once records before it went away: those that
    /// moved up to pages that were read already would never come.
    pub fn can_go_on_later(&self) -> bool {
        match (self.paginator, &self.place) {
            (Paginator::Scroll { .. } | Paginator::Page { .. } | Paginator::Offset { .. }, _) => false,
            (Paginator::Cursor { param: Target::Query(name), .. }, Place::Cursor(value)) => {
                !is_a_count(name, &text(&json(value)))
            }
            (Paginator::Cursor { param: Target::Body(pointer), .. }, Place::Cursor(value)) => {
                !pointer.tokens().last().is_some_and(|name| is_a_count(name, &text(&json(value))))
            }
            (_, Place::Url(address)) => {
                !Url::parse(address).is_ok_and(|url| url.query_pairs().any(|(name, value)| is_a_count(&name, &value)))
            }
            _ => true,
        }
    }

    /// Takes a parameter out of the next page's address: what proves who we are is added to each request anew, and is
    /// not to be stored with the place.
    pub fn forget_parameter(&mut self, name: &str) {
        let Place::Url(address) = &mut self.place else { return };
        let Ok(mut url) = Url::parse(address) else { return };
        if url.query_pairs().any(|(n, _)| n == name) {
            let rest: Vec<_> =
                url.query_pairs().filter(|(n, _)| n != name).map(|(n, v)| (n.into_owned(), v.into_owned())).collect();
            url.query_pairs_mut().clear().extend_pairs(rest);
            *address = url.into();
        }
    }

    /// The values of a page that decide about the next.
    pub fn wanted(&self) -> Vec<Pointer> {
        match self.paginator {
            Paginator::None | Paginator::LinkHeader { .. } => Vec::new(),
            Paginator::Cursor { from, more, .. } => {
                let body = match from {
                    CursorFrom::Body(pointer) => Some(pointer),
                    CursorFrom::LastRecord(_) => None,
                };
                body.into_iter().chain(more).cloned().collect()
            }
            Paginator::Page { total, pages, .. } => total.iter().chain(pages).cloned().collect(),
            Paginator::Offset { total, .. } => total.iter().cloned().collect(),
            Paginator::NextUrl { pointer } | Paginator::NextPath { pointer } | Paginator::Scroll { pointer, .. } => {
                vec![pointer.clone()]
            }
            Paginator::Keyset { more, .. } => more.iter().cloned().collect(),
        }
    }

    pub fn ask(&self) -> Result<Ask, PageError> {
        let mut ask = Ask::default();
        match self.paginator {
            Paginator::None => {}
            Paginator::Cursor { param, .. } | Paginator::Scroll { param, .. } => {
                if let Place::Cursor(value) = &self.place {
                    ask.put(param, json(value));
                }
            }
            Paginator::Page { param, start, size_param, size, .. } => {
                ask.put(param, self.number(*start).into());
                if let (Some(size_param), Some(size)) = (size_param, size) {
                    ask.put(size_param, (*size).into());
                }
            }
            Paginator::Offset { param, size_param, size, .. } => {
                ask.put(param, self.number(0).into());
                if let Some(size_param) = size_param {
                    ask.put(size_param, (*size).into());
                }
            }
            Paginator::LinkHeader { .. } | Paginator::NextUrl { .. } | Paginator::NextPath { .. } => {
                if let Place::Url(url) = &self.place {
                    ask.url = Some(Url::parse(url).map_err(|e| PageError::BadAddress(e.to_string()))?);
                }
            }
            Paginator::Keyset { param, first, next, initial, .. } => {
                self.ask_keyset(&mut ask, param, first, next, initial)?
            }
        }
        Ok(ask)
    }

    fn ask_keyset(
        &self,
        ask: &mut Ask,
        param: &Option<Target>,
        first: &Option<crate::sources::spec::Template>,
        next: &Option<crate::sources::spec::Template>,
        initial: &Option<String>,
    ) -> Result<(), PageError> {
        let (cursor, key) = match &self.place {
            Place::Keyset { cursor, key } => {
                (Some(self.rewritten(text(&json(cursor)))), key.as_ref().map(|key| text(&json(key))))
            }
            _ => (None, None),
        };
        let Some(param) = param else {
            if let Some(value) = cursor.clone().or_else(|| initial.clone()) {
                ask.places.push(("cursor", value));
            }
            if let Some(value) = key.or_else(|| initial.clone()) {
                ask.places.push(("key", value));
            }
            return Ok(());
        };
        let value = match (&cursor, first, next) {
            (None, Some(first), _) => {
                Some(first.fill(|name| self.bound(name).or_else(|| initial.clone())).map_err(PageError::NoValue)?)
            }
            (None, None, _) => initial.clone(),
            (Some(_), _, Some(next)) => Some(
                next.fill(|name| match name {
                    "cursor" => cursor.clone(),
                    "key" => key.clone(),
                    name => self.bound(name),
                })
                .map_err(PageError::NoValue)?,
            ),
            (Some(cursor), _, None) => Some(cursor.clone()),
        };
        if let Some(value) = value {
            ask.put(param, value.into());
        }
        Ok(())
    }

    fn bound(&self, name: &str) -> Option<String> {
        match name {
            "start" => self.around.start.clone(),
            "end" => self.around.end.clone(),
            _ => None,
        }
    }

    /// A value that isn't what its format says is sent as it came.
    fn rewritten(&self, cursor: String) -> String {
        let Some((comes, goes)) = self.around.formats else { return cursor };
        moment(&cursor, comes).and_then(|moment| exactly(moment, goes)).unwrap_or(cursor)
    }

    fn number(&self, start: u64) -> u64 {
        match self.place {
            Place::Number(n) => n,
            _ => start,
        }
    }

    /// Turns to the next page; `false` at the end of the listing.
    pub fn turn(&mut self, page: &Page) -> Result<bool, PageError> {
        let before = self.records;
        self.records += page.records as u64;
        let Some(next) = self.next(page, before)? else { return Ok(false) };
        if page.records > 0 && self.last_fingerprint == Some(page.fingerprint) && !matches!(next, (_, true)) {
            return Err(PageError::Repeated("two pages in a row hold the same records".into()));
        }
        self.last_fingerprint = Some(page.fingerprint);
        let (next, back) = next;
        // A scroll may keep its name while it moves on; after a step back, pages come again.
        let may_repeat = back || matches!(self.paginator, Paginator::Scroll { .. });
        if !self.seen.insert(hash(&next)) && !may_repeat {
            return Err(PageError::Repeated(format!("it was asked for before: {}", next.shown())));
        }
        self.place = next;
        Ok(true)
    }

    /// The next place, and whether it is a step back.
    fn next(&mut self, page: &Page, before: u64) -> Result<Option<(Place, bool)>, PageError> {
        let forward = |place| Ok(Some((place, false)));
        match self.paginator {
            Paginator::None => Ok(None),
            Paginator::Cursor { from, more, url_param, .. } => {
                let says_more = more.as_ref().map(|_| page.found.last().is_some_and(|f| truthy(f.as_deref())));
                if says_more == Some(false) || (says_more.is_none() && page.records == 0 && is_last_record(from)) {
                    return Ok(None);
                }
                let value = match from {
                    CursorFrom::LastRecord(pointer) => at(page.last, pointer),
                    CursorFrom::Body(_) => page.found.first().cloned().flatten(),
                };
                let value = match (value, url_param) {
                    (Some(value), Some(name)) => url_parameter(page.url, &value, name),
                    (value, _) => value,
                };
                match value.filter(|v| scalar(v)) {
                    Some(value) => forward(Place::Cursor(value.get().to_owned())),
                    None if says_more == Some(true) || is_last_record(from) => Err(PageError::NoWay(match from {
                        CursorFrom::LastRecord(p) => no_value(page, p),
                        CursorFrom::Body(p) => format!("there is no value at \"{p}\""),
                    })),
                    None => Ok(None),
                }
            }
            Paginator::Page { start, size, total, pages, .. } => {
                let number = self.number(*start);
                let of = self.of(total, page);
                let last = pages.as_ref().and_then(|_| whole(page.found.last()?.as_deref()?));
                let lost = self.shrunk(of);
                if lost > 0 && page.records > 0 {
                    let step = lost.div_ceil(size.unwrap_or(1).max(1));
                    self.records = before.saturating_sub(step * size.unwrap_or(page.records as u64));
                    return Ok(Some((Place::Number((number + 1).saturating_sub(step).max(*start)), true)));
                }
                let done = match (of, last) {
                    (_, Some(last)) => number - start + 1 >= last,
                    (Some(of), None) => self.complete(page, of)?,
                    (None, None) => page.records == 0 || size.is_some_and(|size| (page.records as u64) < size),
                };
                if done {
                    Ok(None)
                } else {
                    forward(Place::Number(number + 1))
                }
            }
            Paginator::Offset { size, total, .. } => {
                let offset = self.number(0);
                let of = self.of(total, page);
                let lost = self.shrunk(of);
                if lost > 0 && page.records > 0 {
                    self.records = before.saturating_sub(lost);
                    return Ok(Some((Place::Number(offset.saturating_sub(lost)), true)));
                }
                let done = match of {
                    Some(of) => self.complete(page, of)?,
                    None => (page.records as u64) < (*size).max(1),
                };
                if done {
                    Ok(None)
                } else {
                    forward(Place::Number(offset + page.records as u64))
                }
            }
            Paginator::LinkHeader { rel } => match page.links.iter().find_map(|header| link(header, rel)) {
                Some(target) => forward(Place::Url(join(page.url, &target)?.into())),
                None => Ok(None),
            },
            Paginator::NextUrl { pointer } => match address(page, pointer)? {
                Some(target) => forward(Place::Url(join(page.url, &target)?.into())),
                None => Ok(None),
            },
            Paginator::NextPath { pointer } => match address(page, pointer)? {
                Some(target) => {
                    let url = join(page.url, &format!("/{}", target.strip_prefix('/').unwrap_or(&target)))?;
                    if url.origin() != page.url.origin() {
                        return Err(PageError::BadAddress(format!("\"{pointer}\" holds no path")));
                    }
                    forward(Place::Url(url.into()))
                }
                None => Ok(None),
            },
            Paginator::Scroll { pointer, .. } => {
                if page.records == 0 {
                    return Ok(None);
                }
                match page.found.first().and_then(|f| f.as_deref()).filter(|v| scalar(v)) {
                    Some(value) => forward(Place::Cursor(value.get().to_owned())),
                    None => Err(PageError::NoWay(format!("there is no value at \"{pointer}\""))),
                }
            }
            Paginator::Keyset { pointer, key, more, .. } => {
                let says_more = more.as_ref().map(|_| page.found.last().is_some_and(|f| truthy(f.as_deref())));
                if says_more == Some(false) || (says_more.is_none() && page.records == 0) {
                    return Ok(None);
                }
                let need = |pointer: &Pointer| {
                    at(page.last, pointer)
                        .filter(|v| scalar(v))
                        .map(|v| v.get().to_owned())
                        .ok_or_else(|| PageError::NoWay(no_value(page, pointer)))
                };
                forward(Place::Keyset { cursor: need(pointer)?, key: key.as_ref().map(need).transpose()? })
            }
        }
    }

    /// How many records the listing has, by this page or else by the one before: one that does not say is not the end.
    fn of(&self, total: &Option<Pointer>, page: &Page) -> Option<u64> {
        let says = total.as_ref().and_then(|_| whole(page.found.first()?.as_deref()?));
        says.or(self.total)
    }

    /// By how many records the listing became shorter since the last page. Those after them moved up, and some of them
    /// to pages that were read already.
    fn shrunk(&mut self, of: Option<u64>) -> u64 {
        let before = std::mem::replace(&mut self.total, of);
        match (before, of) {
            (Some(before), Some(of)) => before.saturating_sub(of),
            _ => 0,
        }
    }

    fn complete(&self, page: &Page, of: u64) -> Result<bool, PageError> {
        if self.records >= of {
            Ok(true)
        } else if page.records == 0 {
            Err(PageError::TooFew { got: self.records, of })
        } else {
            Ok(false)
        }
    }
}

impl Place {
    /// For a message.
    pub fn shown(&self) -> String {
        match self {
            Place::Start => "the first page".into(),
            Place::Cursor(value) => text(&json(value)),
            Place::Number(n) => n.to_string(),
            Place::Url(url) => Url::parse(url).map_or_else(|_| "an address".into(), |url| super::secret::shown(&url)),
            Place::Keyset { cursor, key: None } => text(&json(cursor)),
            Place::Keyset { cursor, key: Some(key) } => format!("{}, {}", text(&json(cursor)), text(&json(key))),
        }
    }
}

impl Ask {
    fn put(&mut self, target: &Target, value: serde_json::Value) {
        match target {
            Target::Query(name) => self.query.push((name.clone(), text(&value))),
            Target::Body(pointer) => self.body.push((pointer.clone(), value)),
        }
    }
}

fn no_value(page: &Page, pointer: &Pointer) -> String {
    match page.last {
        Some(last) if is_too_long(last) => {
            format!("the last record, which is longer than max_record_bytes, has no short value at \"{pointer}\"")
        }
        _ => format!("the last record has no value at \"{pointer}\""),
    }
}

fn is_last_record(from: &CursorFrom) -> bool {
    matches!(from, CursorFrom::LastRecord(_))
}

fn hash(place: &Place) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;

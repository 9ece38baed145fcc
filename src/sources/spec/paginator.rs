//! How one gets from a page to the next.

use serde::{de::Error, Deserialize, Deserializer};

use super::{Pointer, Template};

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Paginator {
    /// One page is all.
    #[default]
    None,
    /// A value of this page asks for the next. It ends where that value is missing, null or empty, or where `more`
    /// says so, or (`from` last_record without `more`) with an empty page.
    Cursor {
        param: Target,
        from: From,
        /// Falsy (missing, null, false, 0, "") ends the list.
        #[serde(default)]
        more: Option<Pointer>,
        /// Where the value is a URL, this query parameter of it is the cursor; the URL is never asked itself.
        #[serde(default)]
        url_param: Option<String>,
    },
    /// Ends with an empty page, one shorter than `size`, or after `total` records.
    Page {
        param: Target,
        #[serde(default = "one")]
        start: u64,
        #[serde(default)]
        size_param: Option<Target>,
        #[serde(default)]
        size: Option<u64>,
        /// How many records there are in all.
        #[serde(default)]
        total: Option<Pointer>,
        /// How many pages there are in all.
        #[serde(default)]
        pages: Option<Pointer>,
    },
    Offset {
        param: Target,
        #[serde(default)]
        size_param: Option<Target>,
        size: u64,
        #[serde(default)]
        total: Option<Pointer>,
    },
    /// RFC 8288: `Link: <URL>; rel="next"`.
    LinkHeader {
        #[serde(default = "next")]
        rel: String,
    },
    /// An absolute URL in the body, of the same origin.
    NextUrl { pointer: Pointer },
    /// A path in the body, from the root of the same host.
    NextPath { pointer: Pointer },
    /// One scroll per account: the value of this page asks for the next, until a page is empty.
    Scroll { pointer: Pointer, param: Target },
    /// The last record's values ask for what comes after it; for APIs that end their lists early. `next` sees
    /// `{cursor}` (the value at `pointer`) and `{key}` (that at `key`). With `param`, `first` and `next` are its value;
    /// without, `{cursor}` and `{key}` stand in the stream's params and body, and `initial` fills them at first.
    /// It ends where `more` is falsy, else with an empty page.
    Keyset {
        pointer: Pointer,
        #[serde(default)]
        key: Option<Pointer>,
        #[serde(default)]
        param: Option<Target>,
        #[serde(default)]
        first: Option<Template>,
        #[serde(default)]
        next: Option<Template>,
        #[serde(default)]
        initial: Option<String>,
        #[serde(default)]
        more: Option<Pointer>,
    },
}

/// Where a value is put in a request: `name`, a query parameter, or `body:/pointer`, a place in the JSON body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Query(String),
    Body(Pointer),
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("body:") {
            Some(pointer) => Pointer::parse(pointer).map(Target::Body).map_err(D::Error::custom),
            None => Ok(Target::Query(text)),
        }
    }
}

/// Where the cursor of the next page is read: `last_record:/pointer` or `body:/pointer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    LastRecord(Pointer),
    Body(Pointer),
}

impl<'de> Deserialize<'de> for From {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<From, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (make, pointer): (fn(Pointer) -> From, &str) = if let Some(pointer) = text.strip_prefix("last_record:") {
            (From::LastRecord, pointer)
        } else if let Some(pointer) = text.strip_prefix("body:") {
            (From::Body, pointer)
        } else {
            return Err(D::Error::custom("neither last_record: nor body:"));
        };
        Pointer::parse(pointer).map(make).map_err(D::Error::custom)
    }
}

fn one() -> u64 {
    1
}

fn next() -> String {
    "next".into()
}

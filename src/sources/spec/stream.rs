//! One list of an API, and the table that it becomes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{Limits, Paginator, Pointer, Target, Template};

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Stream {
    pub name: String,
    /// Below `base_url`. Places are the parent's bound values.
    pub path: Template,
    #[serde(default)]
    pub method: Method,
    /// A list of values makes a parameter that stands several times. Places as in `body`.
    #[serde(default, deserialize_with = "super::read::params")]
    pub params: Vec<(String, Template)>,
    /// JSON. Its strings are templates: the parent's bound values, `{start}` and `{end}` of `incremental`, `{cursor}`
    /// and `{key}` of a keyset.
    #[serde(default)]
    pub body: Option<Value>,
    #[serde(default, deserialize_with = "super::read::pairs")]
    pub headers: Vec<(String, String)>,
    /// The array of records. A value that is an object is one record; a missing one fails the run.
    pub records: Pointer,
    /// None: the stream can only be appended or replaced.
    #[serde(default)]
    pub primary_key: Vec<Pointer>,
    /// The greater value wins.
    #[serde(default)]
    pub version: Option<Pointer>,
    #[serde(default)]
    pub paginator: Paginator,
    #[serde(default)]
    pub incremental: Option<Incremental>,
    #[serde(default)]
    pub write: Write,
    #[serde(default)]
    pub parent: Option<Parent>,
    #[serde(default)]
    pub children: Vec<Child>,
    /// Members that are never stored, in `_raw` neither.
    #[serde(default)]
    pub hide: Vec<Pointer>,
    /// By the column's name.
    #[serde(default)]
    pub columns: BTreeMap<String, Column>,
    /// Keep the record in `_raw jsonb`.
    #[serde(default = "yes")]
    pub raw: bool,
    #[serde(default)]
    pub changes: Option<Changes>,
    #[serde(default)]
    pub deletes: Option<Deletes>,
    #[serde(default)]
    pub on_bad_row: OnBadRow,
    #[serde(default)]
    pub drift: Drift,
    /// The source's, with the stream's own over them.
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Method {
    #[default]
    #[serde(rename = "GET")]
    Get,
    #[serde(rename = "POST")]
    Post,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Incremental {
    /// The value that grows, in a record.
    pub cursor: Pointer,
    pub format: Format,
    /// How the bounds are written, where the API reads another format than it writes.
    #[serde(default)]
    pub bound_format: Option<Format>,
    /// Where the lower bound (inclusive) is put; none where a template has `{start}`, or where the API can't filter
    /// and `order` desc lets the scan end early.
    #[serde(default)]
    pub start: Option<Target>,
    /// Where the upper bound is put.
    #[serde(default)]
    pub end: Option<Target>,
    /// How far before the mark the next run starts, because rows become visible late.
    #[serde(default)]
    pub lookback_s: u64,
    /// The order of the list by the cursor.
    #[serde(default)]
    pub order: Order,
    /// The lower bound of the first run, as the API writes it. Without it, the first run has none.
    #[serde(default, deserialize_with = "super::read::scalar")]
    pub initial: Option<String>,
}

/// How a time (or another growing value) is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Seconds since 1970, as a number or its text.
    EpochS,
    /// Milliseconds since 1970.
    EpochMs,
    /// ISO 8601 with a date, a time and a zone.
    Iso,
    /// `2026-01-31`
    Date,
    /// A whole number that grows, an id for example; no lookback.
    Integer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    Desc,
    #[default]
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// By primary key, newer over older.
    #[default]
    Merge,
    /// Every record is a new row.
    Append,
    /// Each run replaces all.
    Replace,
}

/// One listing for each row of another stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Parent {
    pub stream: String,
    /// A place of this stream's templates, and what fills it in the parent's record. Each is a column too.
    #[serde(deserialize_with = "super::read::bind")]
    pub bind: Vec<(String, Pointer)>,
    /// Only parents that are new or changed since their children were fetched.
    #[serde(default)]
    pub changed_only: bool,
    /// The bound values are part of the primary key: the API numbers children within their parent.
    #[serde(default)]
    pub in_key: bool,
}

/// An array inside a record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Child {
    pub pointer: Pointer,
    /// The table (or column) that it becomes.
    pub name: String,
    /// Within the parent's row; none: the position.
    #[serde(default)]
    pub primary_key: Vec<Pointer>,
    #[serde(default, rename = "as")]
    pub into: ChildAs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildAs {
    #[default]
    Table,
    Jsonb,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub path: Pointer,
    #[serde(rename = "type")]
    pub ty: crate::sources::columns::Type,
    #[serde(default)]
    pub format: Option<Format>,
}

/// Another stream tells which records changed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Changes {
    /// A stream of this spec, whose records are events.
    pub stream: String,
    /// Which events, by the value at `type_at`; a star stands for any text. Empty: all.
    #[serde(default)]
    pub types: Vec<String>,
    #[serde(default = "type_member")]
    pub type_at: Pointer,
    /// Of these, the ones that say that the record is gone.
    #[serde(default)]
    pub deleted_types: Vec<String>,
    /// For how long the API keeps events; a state older than that makes a full scan.
    pub retention_s: u64,
    /// The record (or a part of it that has its key) inside an event.
    pub object: Pointer,
    /// The path of the record; its places are members of the object.
    #[serde(default)]
    pub refetch: Option<Template>,
}

/// How rows that the API no longer has are found.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Deletes {
    /// A record whose value here is truthy (not missing, null, false, 0 or "") is deleted.
    #[serde(default)]
    pub flag: Option<Pointer>,
    /// After so many seconds, a full scan: what it does not see is gone.
    #[serde(default, rename = "sweep", deserialize_with = "super::read::duration")]
    pub sweep_s: Option<u64>,
    #[serde(default)]
    pub confirm: Confirm,
    /// The path of one record, for `confirm`; its places are members of the record.
    #[serde(default)]
    pub path: Option<Template>,
    /// A sweep that would delete more than this part of the table is refused.
    #[serde(default = "a_fifth")]
    pub max_fraction: f64,
    /// Remove the row, instead of setting `_deleted_at`.
    #[serde(default)]
    pub hard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confirm {
    #[default]
    None,
    /// Ask for each missing record: 404, 410 or its deleted flag confirm.
    Get,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRow {
    /// Into wh.fetch_errors, and the rest of the page goes on.
    #[default]
    Quarantine,
    Fail,
}

/// What a new member of the records does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drift {
    /// Becomes a column.
    #[default]
    Add,
    /// Stays in `_raw` only.
    Ignore,
    Fail,
}

fn yes() -> bool {
    true
}

fn a_fifth() -> f64 {
    0.2
}

fn type_member() -> Pointer {
    Pointer::parse("/type").unwrap_or_default()
}

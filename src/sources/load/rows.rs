//! Records as rows: what each column gets, the key, the version, the content's hash; or the reason why it can't be stored.
//! Pure.

use std::sync::Arc;

use serde_json::value::RawValue;
use siphasher::sip128::SipHasher13;

use super::layout::{self, Change, Layout};
use crate::sources::columns::{self, Member};
use crate::sources::spec::Stream;

/// A row on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The key's values, as text.
    pub key: Vec<String>,
    pub version: Option<String>,
    pub deleted: bool,
    /// Of everything that is stored, as a uuid.
    pub hash: String,
    /// By place in the layout's fields.
    pub cells: Vec<Option<String>>,
    pub raw: Option<String>,
}

/// A record as it came, and the values of the parent that it was asked for with.
#[derive(Debug)]
pub struct Record {
    pub raw: Box<RawValue>,
    pub bound: Option<Arc<[Option<String>]>>,
}

/// A record that can't be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub record: String,
    pub reason: String,
}

/// Records made ready.
#[derive(Debug, Default)]
pub struct Batch {
    pub rows: Vec<Row>,
    pub rejected: Vec<Rejected>,
    /// What the table needs first.
    pub changes: Vec<Change>,
}

/// A change of what is stored of each record makes every row differ from what is there.
pub fn salt(stream: &Stream) -> u64 {
    let stored = format!("{:?} {:?} {}", stream.columns, stream.hide, stream.raw);
    SipHasher13::new().hash(stored.as_bytes()).h1
}

/// Makes records ready; the layout learns from them.
pub fn prepare(layout: &mut Layout, records: &[Record], salt: u64) -> Batch {
    let mut batch = Batch::default();
    let mut changes = Vec::new();
    let shown: Vec<Option<Box<RawValue>>> =
        records.iter().map(|r| (!layout.hide.is_empty()).then(|| visible(layout, &r.raw))).collect();
    let mut parsed = Vec::with_capacity(records.len());
    for (r, shown) in records.iter().zip(&shown) {
        let record: &RawValue = shown.as_deref().unwrap_or(&r.raw);
        match columns::members(record) {
            Ok(members) => match layout.learn(record, &members, &mut changes) {
                Ok(()) => parsed.push((record, members, r.bound.as_deref())),
                Err(reason) => batch.rejected.push(Rejected { record: record.get().to_owned(), reason }),
            },
            Err(reason) => batch.rejected.push(Rejected { record: record.get().to_owned(), reason }),
        }
    }
    for (record, members, bound) in &parsed {
        match row(layout, record, members, *bound, salt) {
            Ok(row) => batch.rows.push(row),
            Err(reason) => batch.rejected.push(Rejected { record: record.get().to_owned(), reason }),
        }
    }
    batch.changes = layout::fold(changes);
    batch
}

/// A record without what must never be stored, also where it goes to wh.fetch_errors.
fn visible(layout: &Layout, record: &RawValue) -> Box<RawValue> {
    let text = columns::without(record, &layout.hide);
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn row(
    layout: &Layout,
    record: &RawValue,
    members: &[Member],
    bound: Option<&[Option<String>]>,
    salt: u64,
) -> Result<Row, String> {
    let mut cells = vec![None; layout.fields.len()];
    for (at, value) in layout.bound.iter().zip(bound.unwrap_or_default()) {
        cells[*at].clone_from(value);
    }
    for (at, value) in layout.values(record, members) {
        let field = &layout.fields[at];
        cells[at] = columns::render(value, &field.ty(), field.format).map_err(|e| format!("{}: {e}", field.member))?;
    }
    let mut key = Vec::with_capacity(layout.key.len());
    for at in &layout.key {
        let value = cells.get(*at).cloned().flatten();
        key.push(value.ok_or_else(|| format!("primary key {} is missing or null", layout.fields[*at].member))?);
    }
    let text = |value: &RawValue| columns::render(value, &columns::Type::Text, None);
    let at =
        |pointer: &Option<crate::sources::spec::Pointer>| pointer.as_ref().and_then(|p| columns::pointer(record, p));
    let version = at(&layout.version).map(text).transpose()?.flatten();
    let deleted = at(&layout.flag).is_some_and(|v| !["null", "false", "0", "\"\""].contains(&v.get()));
    let raw = match layout.raw {
        true => columns::render(record, &columns::Type::Jsonb, None)?,
        false => None,
    };
    let hash = format!("{:032x}", SipHasher13::new_with_keys(salt, 0).hash(record.get().as_bytes()).as_u128());
    Ok(Row { key, version, deleted, hash, cells, raw })
}

/// Whether version `a` is newer than `b`: numbers by value, everything else by its text (ISO times of one format sort so).
pub fn is_newer(a: &str, b: &str) -> bool {
    match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a > b,
        _ => a > b,
    }
}

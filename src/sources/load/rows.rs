//! Records as rows: what each column gets, the key, the version, the content's hash; or the reason why it can't be stored.
//! Pure.

use std::borrow::Cow;
use std::hash::Hash;
use std::sync::Arc;

use serde_json::value::RawValue;
use siphasher::sip128::{Hasher128, SipHasher13};

use super::cells::Cells;
use super::layout::{self, Change, Layout};
use crate::sources::columns::{self, Member};
use crate::sources::http::body;
use crate::sources::spec::{Drift, Pointer, Stream};

/// A row on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// The key's values, as text.
    pub key: Vec<String>,
    pub version: Option<String>,
    pub deleted: bool,
    /// Of everything that is stored.
    pub hash: u128,
    /// None where they are made only once it is known that the row is written.
    cells: Option<Cells>,
    /// What is stored of the record, as it came.
    pub record: Text,
    bound: Option<Bound>,
    /// Arrays that are tables of their own, as they came.
    pub arrays: Vec<Option<String>>,
}

impl Row {
    /// What a column gets, by its place in the layout's fields.
    pub fn cell(&self, at: usize) -> Option<&str> {
        self.cells.as_ref()?.get(self.record.get(), at)
    }

    /// Whether the columns are still to be made.
    pub fn is_light(&self) -> bool {
        self.cells.is_none()
    }

    /// Makes the columns where they are not made yet; an error says why the record can't be stored.
    pub fn complete(&mut self, layout: &Layout) -> Result<(), String> {
        if self.is_light() {
            let members = columns::members(&self.record.0)?;
            self.cells = Some(cells(layout, &self.record.0, &members, self.bound.as_deref())?);
        }
        Ok(())
    }

    /// Short forms of the key, of what the parent fills in, and of the record.
    pub fn traits(&self) -> [u64; 3] {
        fn short(value: &impl Hash) -> u64 {
            let mut hasher = SipHasher13::new();
            value.hash(&mut hasher);
            hasher.finish128().h1
        }
        [short(&self.key), short(&self.bound), short(&self.record.get())]
    }

    /// What each column gets under a layout that may be another than the one that the row was made with.
    pub fn values(&self, layout: &Layout) -> Result<Vec<Option<String>>, String> {
        let members = columns::members(&self.record.0)?;
        let cells = cells(layout, &self.record.0, &members, self.bound.as_deref())?;
        Ok((0..layout.fields.len()).map(|at| cells.get(self.record.get(), at).map(str::to_owned)).collect())
    }

    /// As a record that can't be stored.
    pub fn refused(&self, reason: String) -> Rejected {
        let key = Some(self.key.clone()).filter(|key| !key.is_empty());
        Rejected { record: self.record.get().to_owned(), reason, key }
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let cells = self.cells.as_ref().map_or(0, Cells::bytes);
        self.record.get().len() + cells + size_of::<Row>()
    }
}

/// What a parent fills in of its children's columns.
pub type Bound = Arc<[Option<String>]>;

/// A record's text.
#[derive(Debug, Clone)]
pub struct Text(Box<RawValue>);

impl Text {
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.get() == other.get()
    }
}

/// A row that was written, as far as its arrays need it.
#[derive(Debug)]
pub struct Written {
    pub key: Vec<String>,
    pub deleted: bool,
    pub arrays: Vec<Option<String>>,
}

/// A record as it came, and the values of the parent that it was asked for with.
#[derive(Debug)]
pub struct Record {
    pub raw: Box<RawValue>,
    pub bound: Option<Bound>,
}

/// A record that can't be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub record: String,
    pub reason: String,
    /// Where it could be read: the row that it would have been, which is not gone.
    pub key: Option<Vec<String>>,
}

/// Records made ready.
#[derive(Debug, Default)]
pub struct Batch {
    pub rows: Vec<Row>,
    pub rejected: Vec<Rejected>,
    /// What the table needs first.
    pub changes: Vec<Change>,
    /// Rows that the merge wrote, where they have arrays.
    pub written: Vec<Written>,
    /// Columns that the policy kept out for the first time.
    pub withheld: Vec<String>,
    /// Some rows were made before the types were those of the others.
    retyped: bool,
}

impl Batch {
    /// No rows, and what was learned of them all the same.
    pub fn lessons(self) -> Batch {
        Batch { changes: self.changes, withheld: self.withheld, ..Batch::default() }
    }

    /// How many records it is made of.
    pub fn received(&self) -> usize {
        self.rows.len() + self.rejected.len()
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.rows.iter().map(Row::bytes).sum::<usize>() + self.rejected.iter().map(|r| r.record.len()).sum::<usize>()
    }

    /// Bytes of the records' text.
    pub fn text(&self) -> usize {
        self.rows.iter().map(|r| r.record.get().len()).sum::<usize>()
            + self.rejected.iter().map(|r| r.record.len()).sum::<usize>()
    }

    /// Puts another one behind this one.
    pub fn append(&mut self, mut other: Batch) {
        // Where all was null there is nothing to make again.
        let is_of_values = |c: &Change| matches!(c, Change::Retype { empty: false, .. });
        self.retyped |= !self.rows.is_empty() && other.changes.iter().any(is_of_values);
        self.rows.append(&mut other.rows);
        self.rejected.append(&mut other.rejected);
        self.changes.append(&mut other.changes);
        self.withheld.append(&mut other.withheld);
    }

    /// Gives all rows the types that their columns have in the end.
    pub fn settle(&mut self, layout: &Layout, salt: u64) {
        self.changes = layout::fold(std::mem::take(&mut self.changes));
        if !std::mem::take(&mut self.retyped) {
            return;
        }
        for row in std::mem::take(&mut self.rows) {
            self.make(layout, row.record.0, row.bound, salt);
        }
    }

    fn make(&mut self, layout: &Layout, record: Box<RawValue>, bound: Option<Bound>, salt: u64) {
        match columns::members(&record)
            .and_then(|members| parts(layout, &record, &members, bound.as_deref(), salt, Make::All))
        {
            Ok(parts) => self.rows.push(parts.with(record, bound)),
            Err(reason) => {
                let key = key(layout, &record, bound.as_deref());
                self.rejected.push(Rejected { record: record.get().to_owned(), reason, key });
            }
        }
    }
}

/// A change of what is stored of each record makes every row differ from what is there.
pub fn salt(stream: &Stream) -> u64 {
    let known_only = stream.drift == Drift::Ignore;
    let stored = format!("{:?} {:?} {} {:?} {known_only}", stream.columns, stream.hide, stream.raw, stream.children);
    SipHasher13::new().hash(stored.as_bytes()).h1
}

/// What is made of a record at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    All,
    /// What tells whether the row is there already: key, version, hash. The columns are left to [`Row::complete`].
    Identity,
}

/// Makes records ready; the layout learns from them.
pub fn prepare(layout: &mut Layout, records: Vec<Record>, salt: u64, make: Make) -> Batch {
    let mut batch = Batch::default();
    let mut changes = Vec::new();
    // Before members are taken out, which could be what tells.
    let too_long: Vec<bool> = records.iter().map(|r| body::is_too_long(&r.raw)).collect();
    let records: Vec<Record> = records
        .into_iter()
        .map(|r| match visible(layout, &r.raw) {
            Some(raw) => Record { raw, ..r },
            None => r,
        })
        .collect();
    // All of them teach before the first is a row: it gets the types that they have in the end.
    let learned: Vec<Result<Vec<Member>, String>> = records
        .iter()
        .zip(too_long)
        .map(|(r, too_long)| {
            if too_long {
                return Err("longer than max_record_bytes, which stands in the stream's limits".into());
            }
            let members = columns::members(&r.raw)?;
            layout.learn(&r.raw, &members, &mut changes)?;
            Ok(members)
        })
        .collect();
    let made: Vec<Result<Parts, String>> = records
        .iter()
        .zip(learned)
        .map(|(r, members)| parts(layout, &r.raw, &members?, r.bound.as_deref(), salt, make))
        .collect();
    batch.rows.reserve(records.len());
    for (record, made) in records.into_iter().zip(made) {
        match made {
            Ok(parts) => batch.rows.push(parts.with(record.raw, record.bound)),
            Err(reason) => {
                let key = key(layout, &record.raw, record.bound.as_deref());
                batch.rejected.push(Rejected { record: record.raw.get().to_owned(), reason, key });
            }
        }
    }
    batch.changes = layout::fold(changes);
    batch
}

/// A record without what must never be stored, also where it goes to wh.fetch_errors; none where it is as it came.
pub fn visible(layout: &mut Layout, record: &RawValue) -> Option<Box<RawValue>> {
    let shown = |text| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let less = (!layout.hide.is_empty()).then(|| shown(columns::without(record, &layout.hide)));
    let lesser = layout.withhold.strip(less.as_deref().unwrap_or(record)).map(shown);
    lesser.or(less)
}

/// The key alone, of a record that is no row.
fn key(layout: &Layout, record: &RawValue, bound: Option<&[Option<String>]>) -> Option<Vec<String>> {
    let members = columns::members(record).ok()?;
    keys(layout, record, &members, bound).ok()
}

fn keys(
    layout: &Layout,
    record: &RawValue,
    members: &[Member],
    bound: Option<&[Option<String>]>,
) -> Result<Vec<String>, String> {
    let bound = |at: usize| bound?.get(layout.bound.iter().position(|b| *b == at)?)?.clone();
    let value = |at: usize| {
        let Some((_, value)) = layout.values(record, members).find(|(place, _)| *place == at) else { return Ok(None) };
        let field = &layout.fields[at];
        let value = columns::render(value, &field.ty(), field.format).map_err(|e| format!("{}: {e}", field.member))?;
        Ok::<_, String>(value.map(Cow::into_owned))
    };
    let given = |at: &usize| match bound(*at) {
        Some(bound) => Ok(bound),
        None => value(*at)?.ok_or_else(|| missing(layout, *at)),
    };
    layout.key.iter().map(given).collect()
}

fn missing(layout: &Layout, at: usize) -> String {
    format!("primary key {} is missing or null", layout.fields[at].member)
}

/// What the columns get, all of it known to be storable.
fn cells(
    layout: &Layout,
    record: &RawValue,
    members: &[Member],
    bound: Option<&[Option<String>]>,
) -> Result<Cells, String> {
    let text = record.get();
    let mut cells = Cells::new(layout.fields.len());
    for (at, value) in layout.bound.iter().zip(bound.unwrap_or_default()) {
        cells.set(*at, text, value.as_deref());
    }
    for (at, value) in layout.values(record, members) {
        let field = &layout.fields[at];
        let value = columns::render(value, &field.ty(), field.format).map_err(|e| format!("{}: {e}", field.member))?;
        cells.set(at, text, value.as_deref());
    }
    if layout.raw {
        columns::render(text, &columns::Type::Jsonb, None)?;
    }
    Ok(cells)
}

/// A row without the record that it is made of.
struct Parts {
    key: Vec<String>,
    version: Option<String>,
    deleted: bool,
    hash: u128,
    cells: Option<Cells>,
    arrays: Vec<Option<String>>,
}

impl Parts {
    fn with(self, record: Box<RawValue>, bound: Option<Bound>) -> Row {
        let Parts { key, version, deleted, hash, cells, arrays } = self;
        Row { key, version, deleted, hash, cells, record: Text(record), bound, arrays }
    }
}

/// The hash of what is stored: of the record, and of what its parent fills in.
fn content(text: &str, bound: Option<&[Option<String>]>, salt: u64) -> u128 {
    let Some(bound) = bound.filter(|bound| !bound.is_empty()) else {
        return SipHasher13::new_with_keys(salt, 0).hash(text.as_bytes()).as_u128();
    };
    let mut hasher = SipHasher13::new_with_keys(salt, bound.len() as u64);
    text.hash(&mut hasher);
    bound.hash(&mut hasher);
    hasher.finish128().as_u128()
}

/// The places of cells have 32 bits; Postgres takes no value of this size either.
const MOST_BYTES: usize = 1 << 30;

fn parts(
    layout: &Layout,
    record: &RawValue,
    members: &[Member],
    bound: Option<&[Option<String>]>,
    salt: u64,
    make: Make,
) -> Result<Parts, String> {
    let text = record.get();
    if text.len() > MOST_BYTES {
        return Err(format!("{} bytes are more than a row holds", text.len()));
    }
    let cells = match make {
        Make::All => Some(cells(layout, record, members, bound)?),
        Make::Identity => None,
    };
    let key = match &cells {
        Some(cells) => {
            let value = |at: &usize| cells.get(text, *at).map(str::to_owned).ok_or_else(|| missing(layout, *at));
            layout.key.iter().map(value).collect::<Result<Vec<String>, String>>()?
        }
        None => keys(layout, record, members, bound)?,
    };
    let at = |pointer: &Option<Pointer>| pointer.as_ref().and_then(|p| columns::pointer(record, p));
    let version = at(&layout.version).map(|v| columns::render(v, &columns::Type::Text, None)).transpose()?.flatten();
    let deleted = at(&layout.flag).is_some_and(|v| !["null", "false", "0", "\"\""].contains(&v));
    let hash = content(text, bound, salt);
    let arrays = layout.arrays.iter().map(|p| columns::pointer(record, p).map(str::to_owned)).collect();
    Ok(Parts { key, version: version.map(Cow::into_owned), deleted, hash, cells, arrays })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_records_become_the_rows_that_each_of_them_does() {
        let stream = crate::sources::spec::parse(&serde_json::json!({
            "base_url": "https://api.example.com/", "streams": [{"name": "s", "path": "s", "records": "", "primary_key": ["/id"]}],
        }))
        .unwrap()
        .streams
        .remove(0);
        let records: Vec<Record> = (0..1001)
            .map(|n| match n % 7 {
                3 => format!(r#"{{"id": null, "n": {n}}}"#),
                _ => format!(r#"{{"n": {n}, "id": "{n}", "at": "2026-01-31T12:00:00Z", "of": [{n}]}}"#),
            })
            .map(|text| Record { raw: RawValue::from_string(text).unwrap(), bound: None })
            .collect();
        let mut layout = Layout::new(&stream, Vec::new());
        let copies = records.iter().map(|r| Record { raw: r.raw.clone(), bound: None }).collect();
        let together = prepare(&mut layout, copies, 1, Make::All);
        let copies = records.iter().map(|r| Record { raw: r.raw.clone(), bound: None }).collect();
        let mut later = prepare(&mut layout, copies, 1, Make::Identity);
        assert!(later.rows.iter().all(Row::is_light));
        assert!(later.rows.iter_mut().all(|row| row.complete(&layout).is_ok()));
        assert_eq!((&later.rows, &later.rejected), (&together.rows, &together.rejected));
        assert_eq!(together.received(), records.len());
        assert_eq!(together.rejected.len(), records.len() / 7);
        let mut alone = Batch::default();
        for record in records {
            let one = prepare(&mut layout, vec![record], 1, Make::All);
            alone.rows.extend(one.rows);
            alone.rejected.extend(one.rejected);
        }
        assert_eq!(together.rows, alone.rows);
        assert_eq!(together.rejected, alone.rejected);
    }
}

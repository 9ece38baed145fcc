//! Records as rows: what each column gets, the key, the version, the content's hash; or the reason why it can't be stored.
//! Pure.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use serde_json::value::RawValue;
use siphasher::sip128::SipHasher13;

use super::layout::{self, Change, Layout};
use crate::pg::signals;
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
    /// Arrays that are tables of their own, as they came.
    pub arrays: Vec<Option<String>>,
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
    pub bound: Option<Arc<[Option<String>]>>,
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
}

/// A change of what is stored of each record makes every row differ from what is there.
pub fn salt(stream: &Stream) -> u64 {
    let stored = format!("{:?} {:?} {} {:?}", stream.columns, stream.hide, stream.raw, stream.children);
    SipHasher13::new().hash(stored.as_bytes()).h1
}

/// Makes records ready; the layout learns from them.
pub fn prepare(layout: &mut Layout, records: &[Record], salt: u64) -> Batch {
    let mut batch = Batch::default();
    let mut changes = Vec::new();
    let shown: Vec<Option<Box<RawValue>>> = records.iter().map(|r| visible(layout, &r.raw)).collect();
    let mut parsed = Vec::with_capacity(records.len());
    for (r, shown) in records.iter().zip(&shown) {
        let record: &RawValue = shown.as_deref().unwrap_or(&r.raw);
        match columns::members(record) {
            Ok(members) => match layout.learn(record, &members, &mut changes) {
                Ok(()) => parsed.push((record, members, r.bound.as_deref())),
                Err(reason) => {
                    let key = key(layout, record, &members, r.bound.as_deref());
                    batch.rejected.push(Rejected { record: record.get().to_owned(), reason, key });
                }
            },
            Err(reason) => batch.rejected.push(Rejected { record: record.get().to_owned(), reason, key: None }),
        }
    }
    for ((record, members, bound), made) in parsed.iter().zip(rows(layout, &parsed, salt)) {
        match made {
            Ok(row) => batch.rows.push(row),
            Err(reason) => {
                let key = key(layout, record, members, *bound);
                batch.rejected.push(Rejected { record: record.get().to_owned(), reason, key });
            }
        }
    }
    batch.changes = layout::fold(changes);
    batch
}

/// A record and its members, and the values that its parent fills.
type Parsed<'a> = (&'a RawValue, Vec<Member<'a>>, Option<&'a [Option<String>]>);

/// Fewer records are done before a thread has begun.
const WORTH_A_THREAD: usize = 500;

/// The rows of records, in their order: half of them in another thread, because this one is what a fetch waits for.
fn rows(layout: &Layout, parsed: &[Parsed], salt: u64) -> Vec<Result<Row, String>> {
    let all = |part: &[Parsed]| -> Vec<Result<Row, String>> {
        part.iter().map(|(record, members, bound)| row(layout, record, members, *bound, salt)).collect()
    };
    if parsed.len() < WORTH_A_THREAD {
        return all(parsed);
    }
    let (here, there) = parsed.split_at(parsed.len() / 2);
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("startup_wh rows".into());
        let helper = signals::blocked(|| builder.spawn_scoped(scope, || all(there)));
        let mut rows = all(here);
        rows.extend(match helper {
            Ok(helper) => helper.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // There is no thread to be had; it is only slower.
            Err(_) => all(there),
        });
        rows
    })
}

/// A record without what must never be stored, also where it goes to wh.fetch_errors; none where it is as it came.
pub fn visible(layout: &mut Layout, record: &RawValue) -> Option<Box<RawValue>> {
    let shown = |text| RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned());
    let less = (!layout.hide.is_empty()).then(|| shown(columns::without(record, &layout.hide)));
    let lesser = layout.withhold.strip(less.as_deref().unwrap_or(record)).map(shown);
    lesser.or(less)
}

/// The key alone, of a record that is no row.
fn key(
    layout: &Layout,
    record: &RawValue,
    members: &[Member],
    bound: Option<&[Option<String>]>,
) -> Option<Vec<String>> {
    let bound = |at: usize| layout.bound.iter().position(|b| *b == at).and_then(|n| bound?.get(n)?.clone());
    let value = |at: usize| {
        let (_, value) = layout.values(record, members).find(|(place, _)| *place == at)?;
        let field = &layout.fields[at];
        columns::render(value, &field.ty(), field.format).ok()?
    };
    layout.key.iter().map(|at| bound(*at).or_else(|| value(*at))).collect()
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
    let array = |pointer| columns::pointer(record, pointer).map(|value| value.get().to_owned());
    let arrays = layout.arrays.iter().map(array).collect();
    Ok(Row { key, version, deleted, hash, cells, raw, arrays })
}

/// Whether version `a` is newer than `b`: numbers by value, everything else by its text (ISO times of one format sort so).
pub fn is_newer(a: &str, b: &str) -> bool {
    match (a.parse::<i128>(), b.parse::<i128>()) {
        (Ok(a), Ok(b)) => a > b,
        _ => a > b,
    }
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
        let records: Vec<Record> = (0..WORTH_A_THREAD * 2 + 1)
            .map(|n| match n % 7 {
                3 => format!(r#"{{"id": null, "n": {n}}}"#),
                _ => format!(r#"{{"n": {n}, "id": "{n}", "at": "2026-01-31T12:00:00Z", "of": [{n}]}}"#),
            })
            .map(|text| Record { raw: RawValue::from_string(text).unwrap(), bound: None })
            .collect();
        let mut layout = Layout::new(&stream, Vec::new());
        let together = prepare(&mut layout, &records, 1);
        assert_eq!(together.rows.len() + together.rejected.len(), records.len());
        assert_eq!(together.rejected.len(), records.len() / 7);
        let mut alone = Batch::default();
        for record in records {
            let one = prepare(&mut layout, &[record], 1);
            alone.rows.extend(one.rows);
            alone.rejected.extend(one.rejected);
        }
        assert_eq!(together.rows, alone.rows);
        assert_eq!(together.rejected, alone.rejected);
    }
}

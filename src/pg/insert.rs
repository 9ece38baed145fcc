//! Rows into a table without the text of COPY: values of the common types are made here, those of all others by their
//! input functions, and the rest is what CopyFrom does for a plain table (src/backend/commands/copyfrom.c): the heap many
//! rows at a time, then constraints and indexes.

mod open;

use std::ffi::CString;

use pgrx::pg_sys;

use self::open::Open;
use super::jsonb::Encoder;
use super::{spi, sql};
use crate::error::{sqlstate, Error, Result};

/// Rows, and bytes of values, that go into the heap together.
const CHUNK_ROWS: usize = 250;
const CHUNK_BYTES: usize = 256 << 10;

/// How a column's values are made of their text.
enum Kind {
    Text,
    Bigint,
    Boolean,
    Timestamptz,
    Uuid,
    Jsonb,
    Other,
}

/// A value of a row.
#[derive(Debug, Clone, Copy)]
pub enum Cell<'a> {
    Null,
    Text(&'a str),
    Uuid([u8; 16]),
}

impl<'a> Cell<'a> {
    pub fn of(text: Option<&'a str>) -> Cell<'a> {
        text.map_or(Cell::Null, Cell::Text)
    }
}

/// A column that is given values.
struct Column {
    /// From 0.
    place: usize,
    kind: Kind,
    input: pg_sys::FmgrInfo,
    io_parameter: pg_sys::Oid,
    typmod: i32,
}

/// A value on its way: where it stands in the room, or itself.
#[derive(Clone, Copy)]
enum Made {
    Null,
    Itself(pg_sys::Datum),
    At(usize),
}

/// Where values are put together that a Datum points at; each begins at a multiple of eight.
#[derive(Default)]
struct Room {
    words: Vec<u64>,
}

impl Room {
    fn bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Puts a value of two parts there; says where.
    fn put(&mut self, head: &[u8], rest: &[u8]) -> usize {
        let (at, length) = (self.words.len(), head.len() + rest.len());
        self.words.resize(at + length.div_ceil(8), 0);
        let bytes = self.words[at..].as_mut_ptr().cast::<u8>();
        // SAFETY: there is room for both from `at` on, as was just made sure.
        unsafe {
            std::ptr::copy_nonoverlapping(head.as_ptr(), bytes, head.len());
            std::ptr::copy_nonoverlapping(rest.as_ptr(), bytes.add(head.len()), rest.len());
        }
        at
    }
}

/// The columns of a table that rows are written into.
pub struct Target {
    relation: u32,
    columns: Vec<Column>,
    width: usize,
    /// Of the column that has the time of the transaction as its default, from 0.
    stamped: Option<usize>,
}

impl Target {
    /// `None` where only COPY does all that is to be done: triggers, generated columns, partitions, defaults of other columns than
    /// `stamped`, which is filled with the time of the transaction.
    pub fn new(relation: u32, columns: &[String], stamped: &str) -> Result<Option<Target>> {
        // SAFETY: reads a backend global. What is made here is UTF-8.
        if unsafe { pg_sys::GetDatabaseEncoding() } != pg_sys::pg_enc::PG_UTF8 as i32 {
            return Ok(None);
        }
        type Attribute = (String, usize, u32, i32, bool, bool, usize);
        let attributes: Vec<Attribute> = spi::prepared(
            "SELECT pg_catalog.json_build_array(a.attname, a.attnum, a.atttypid::int8, a.atttypmod, a.atthasdef OR a.attidentity <> '',
                    a.attgenerated <> '' OR c.relkind <> 'r' OR c.relispartition, c.relnatts)::text
             FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
             WHERE c.oid = $1 AND a.attnum > 0 AND NOT a.attisdropped",
            &[spi::oid(relation)],
        )?;
        let width = attributes.first().map_or(0, |a| a.6);
        let mut found = Vec::with_capacity(columns.len());
        for name in columns {
            let Some((_, number, ty, typmod, ..)) = attributes.iter().find(|a| a.0 == *name) else { return Ok(None) };
            found.push(Column::new(number - 1, *ty, *typmod));
        }
        let mut place = None;
        for (name, number, ty, typmod, has_default, is_special, _) in &attributes {
            if *is_special {
                return Ok(None);
            }
            let is_stamp = name == stamped && *ty == pg_sys::TIMESTAMPTZOID.to_u32() && *typmod == -1;
            if is_stamp {
                place = Some(number - 1);
            } else if *has_default && !columns.contains(name) {
                return Ok(None);
            }
        }
        // SAFETY: the relation is there, as was just seen under the caller's lock; its description is valid while it is open.
        let triggered = unsafe {
            let open = pg_sys::table_open(relation.into(), pg_sys::RowExclusiveLock as i32);
            let triggered = (*open).trigdesc.as_ref().is_some_and(|t| {
                t.trig_insert_before_row
                    || t.trig_insert_after_row
                    || t.trig_insert_instead_row
                    || t.trig_insert_before_statement
                    || t.trig_insert_after_statement
                    || t.trig_insert_new_table
            });
            pg_sys::table_close(open, pg_sys::NoLock as i32);
            triggered
        };
        Ok((!triggered).then_some(Target { relation, columns: found, width, stamped: place }))
    }

    /// Writes rows of as many cells as there are columns, and returns how many there were. Privileges are the caller's to
    /// check.
    pub fn write<'a, R: Iterator<Item = Cell<'a>>>(&mut self, rows: impl Iterator<Item = R>) -> Result<u64> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(0);
        }
        let mut count = 0;
        let mut open = Open::new(self.relation);
        // SAFETY: reads a backend global.
        let now = self.stamped.map(|at| (at, unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }));
        let (mut room, mut made, mut encoder) = (Room::default(), Vec::new(), Encoder::default());
        while rows.peek().is_some() {
            room.words.clear();
            made.clear();
            let mut n = 0;
            while n < CHUNK_ROWS && room.bytes() < CHUNK_BYTES {
                let Some(row) = rows.next() else { break };
                for (column, cell) in self.columns.iter_mut().zip(row) {
                    made.push(column.make(cell, &mut room, &mut encoder, open.chunk)?);
                }
                n += 1;
                if made.len() != n * self.columns.len() {
                    return Err(Error::new(sqlstate::INTERNAL_ERROR, "a row has fewer cells than columns"));
                }
            }
            for (n, row) in made.chunks(self.columns.len()).enumerate() {
                let slot = open.slot(n);
                // SAFETY: the slot has room for as many values as the table has columns; what is made points into the room
                // or the chunk's memory, and both stay as they are until the slot is cleared.
                unsafe {
                    let values = std::slice::from_raw_parts_mut((*slot).tts_values, self.width);
                    let nulls = std::slice::from_raw_parts_mut((*slot).tts_isnull, self.width);
                    nulls.fill(true);
                    for (column, made) in self.columns.iter().zip(row) {
                        let value = match made {
                            Made::Null => continue,
                            Made::Itself(datum) => *datum,
                            Made::At(at) => pg_sys::Datum::from(room.words.as_ptr().add(*at)),
                        };
                        (values[column.place], nulls[column.place]) = (value, false);
                    }
                    if let Some((at, now)) = now {
                        (values[at], nulls[at]) = (pg_sys::Datum::from(now), false);
                    }
                    pg_sys::ExecStoreVirtualTuple(slot);
                }
            }
            open.flush(n);
            count += n as u64;
        }
        open.close();
        Ok(count)
    }
}

impl Column {
    fn new(place: usize, ty: u32, typmod: i32) -> Column {
        let kind = match pg_sys::Oid::from(ty) {
            _ if typmod != -1 => Kind::Other,
            pg_sys::TEXTOID => Kind::Text,
            pg_sys::INT8OID if cfg!(target_pointer_width = "64") => Kind::Bigint,
            pg_sys::BOOLOID => Kind::Boolean,
            pg_sys::TIMESTAMPTZOID if cfg!(target_pointer_width = "64") => Kind::Timestamptz,
            pg_sys::UUIDOID => Kind::Uuid,
            pg_sys::JSONBOID => Kind::Jsonb,
            _ => Kind::Other,
        };
        let (mut input, mut io_parameter) = (pg_sys::FmgrInfo::default(), pg_sys::InvalidOid);
        let mut function = pg_sys::InvalidOid;
        // SAFETY: the out-parameters are live; a type of a column exists.
        unsafe {
            pg_sys::getTypeInputInfo(ty.into(), &mut function, &mut io_parameter);
            // A subtransaction's memory goes with it, also where it fails.
            pg_sys::fmgr_info_cxt(function, &mut input, pg_sys::CurTransactionContext);
        }
        Column { place, kind, input, io_parameter, typmod }
    }

    fn make(
        &mut self,
        cell: Cell,
        room: &mut Room,
        encoder: &mut Encoder,
        memory: pg_sys::MemoryContext,
    ) -> Result<Made> {
        let text = match (cell, &self.kind) {
            // A domain may have something against it.
            (Cell::Null, Kind::Other) => return self.input(None, memory).map(|_| Made::Null),
            (Cell::Null, _) => return Ok(Made::Null),
            (Cell::Uuid(uuid), Kind::Uuid) => return Ok(Made::At(room.put(&uuid, &[]))),
            (Cell::Uuid(uuid), _) => {
                let text = format!("{:032x}", u128::from_be_bytes(uuid));
                return self.input(Some(&text), memory).map(Made::Itself);
            }
            (Cell::Text(text), _) => text,
        };
        let made = match self.kind {
            Kind::Text => Some(Made::At(room.put(&super::jsonb::varsize(4 + text.len()), text.as_bytes()))),
            Kind::Bigint => text.parse::<i64>().ok().map(|n| Made::Itself(pg_sys::Datum::from(n))),
            Kind::Boolean => match text {
                "true" => Some(Made::Itself(pg_sys::Datum::from(true))),
                "false" => Some(Made::Itself(pg_sys::Datum::from(false))),
                _ => None,
            },
            Kind::Timestamptz => utc(text.as_bytes()).map(|t| Made::Itself(pg_sys::Datum::from(t))),
            Kind::Jsonb => encoder.encode(text).map(|jsonb| Made::At(room.put(jsonb, &[]))),
            Kind::Uuid | Kind::Other => None,
        };
        match made {
            Some(made) => Ok(made),
            None => self.input(Some(text), memory).map(Made::Itself),
        }
    }

    /// By the type's own input function.
    fn input(&mut self, text: Option<&str>, memory: pg_sys::MemoryContext) -> Result<pg_sys::Datum> {
        let text: Option<CString> = text.map(sql::cstring).transpose()?;
        let pointer = text.as_ref().map_or(std::ptr::null_mut(), |t| t.as_ptr().cast_mut());
        // SAFETY: the function is that of the type, and does not keep the text; its result lives as long as the chunk.
        unsafe {
            let outer = pg_sys::MemoryContextSwitchTo(memory);
            let datum = pg_sys::InputFunctionCall(&mut self.input, pointer, self.io_parameter, self.typmod);
            pg_sys::MemoryContextSwitchTo(outer);
            Ok(datum)
        }
    }
}

/// A time as we write it, `2026-01-31T12:00:00.5Z`, in microseconds since 2000. Anything else is left to timestamptz_in.
fn utc(text: &[u8]) -> Option<i64> {
    let two = |at: usize| -> Option<i64> {
        match text.get(at..at + 2)? {
            [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(i64::from(a - b'0') * 10 + i64::from(b - b'0')),
            _ => None,
        }
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks.iter().all(|(at, mark)| text.get(*at) == Some(mark)) {
        return None;
    }
    let (year, month, day) = (two(0)? * 100 + two(2)?, two(5)?, two(8)?);
    let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
    let date = chrono::NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32)?;
    if year == 0 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match text.get(19..)? {
        b"Z" => 0,
        [b'.', digits @ .., b'Z'] if (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            let value = digits.iter().fold(0, |value, d| value * 10 + i64::from(d - b'0'));
            value * 10i64.pow(6 - digits.len() as u32)
        }
        _ => return None,
    };
    let days = date.signed_duration_since(chrono::NaiveDate::from_ymd_opt(2000, 1, 1)?).num_days();
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros)
}

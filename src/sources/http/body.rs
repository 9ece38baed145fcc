//! Records out of a JSON body, one by one, as it arrives. A page of any size takes no more memory than its largest
//! record: what stands beside the records is checked and skipped, and what the paginator asked for is kept.
//!
//! A cut body, a missing records array, two of them, or anything after the document is an error: a page that is not
//! whole must not pass for a short one.

mod scan;

use std::fmt::{self, Write};
use std::io::{self, Read};

use serde_json::value::RawValue;

use crate::sources::spec::Pointer;
use scan::Scanner;

/// A value that the paginator asked for: a cursor, a flag, an address.
const MAX_WANTED: usize = 1 << 20;

/// Begins what stands in the place of a record that is longer than one may be.
const TOO_LONG: &str = "{\"startup_wh: a record of ";

/// In the place of such a record: what was found at the pointers, which tells it from others and where it stands, and
/// nothing else of it, since what is hidden may be anywhere in it.
fn too_long(bytes: u64, kept: &[Pointer], found: &[Option<Box<RawValue>>]) -> Box<RawValue> {
    let mut text = format!("{TOO_LONG}{bytes} bytes, more than max_record_bytes\":null");
    let all: Vec<(&[String], &RawValue)> =
        kept.iter().zip(found).filter_map(|(p, value)| Some((p.tokens(), value.as_deref()?))).collect();
    put_in(&mut text, &all);
    text.push('}');
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Members for what stands at some paths, an object for each step: pointers into lists find their way there too.
fn put_in(text: &mut String, all: &[(&[String], &RawValue)]) {
    let mut names: Vec<&String> = Vec::new();
    for name in all.iter().filter_map(|(path, _)| path.first()) {
        if names.contains(&name) {
            continue;
        }
        names.push(name);
        if !text.ends_with('{') {
            text.push(',');
        }
        let _ = write!(text, "{}:", serde_json::Value::from(name.as_str()));
        let inside: Vec<(&[String], &RawValue)> = all
            .iter()
            .filter_map(|(path, value)| Some((path.strip_prefix(std::slice::from_ref(name))?, *value)))
            .collect();
        match inside.iter().find(|(path, _)| path.is_empty()) {
            Some((_, value)) => text.push_str(value.get()),
            None => {
                text.push('{');
                put_in(text, &inside);
                text.push('}');
            }
        }
    }
}

/// Whether a record is none, but stands in the place of one that was too long.
pub fn is_too_long(record: &RawValue) -> bool {
    record.get().starts_with(TOO_LONG)
}

#[derive(Debug)]
pub enum BodyError {
    /// The connection, a cap, or a cancel: what the reader said.
    Read(io::Error),
    /// The body ended inside the document.
    Cut { at: u64 },
    /// Not JSON, or JSON that isn't a page.
    Malformed { at: u64, why: String },
    /// No array where the records should be.
    NoRecords { pointer: String, found: &'static str },
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BodyError::Read(e) => write!(f, "{e}"),
            BodyError::Cut { at } => write!(f, "the body ends after {at} bytes, inside the document"),
            BodyError::Malformed { at, why } => write!(f, "at byte {at}: {why}"),
            BodyError::NoRecords { pointer, found } => {
                write!(f, "\"{pointer}\" holds {found}, not an array of records")
            }
        }
    }
}

type Result<T> = std::result::Result<T, BodyError>;

/// How the records stand in the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An array at the pointer, and nothing else: where pages follow each other, an object is not a page.
    Array,
    /// An array, or an object that is the one record.
    ArrayOrOne,
    /// The value at the pointer is the one record: an object fetched by its id.
    One,
}

enum Frame {
    Object { first: bool },
    Array { next: usize },
    Records { next: usize },
}

/// The reader of one body.
pub struct Records<R> {
    scan: Scanner<R>,
    shape: Shape,
    records: Pointer,
    wanted: Vec<Pointer>,
    max_record: usize,
    /// What is kept of a record that is longer.
    kept: Vec<Pointer>,
    found: Vec<Option<Box<RawValue>>>,
    path: Vec<String>,
    stack: Vec<Frame>,
    begun: bool,
    seen: bool,
    done: bool,
}

impl<R: Read> Records<R> {
    /// `max_record` bounds one record, since a few of them are held in memory.
    pub fn new(reader: R, shape: Shape, records: Pointer, wanted: Vec<Pointer>, max_record: usize) -> Self {
        Records {
            scan: Scanner::new(reader, 64 << 10),
            shape,
            records,
            max_record,
            kept: Vec::new(),
            found: wanted.iter().map(|_| None).collect(),
            wanted,
            path: Vec::new(),
            stack: Vec::new(),
            begun: false,
            seen: false,
            done: false,
        }
    }

    /// Of a record that is longer than one may be, what stands at these pointers into it is kept.
    pub fn keeping(mut self, kept: Vec<Pointer>) -> Self {
        self.kept = kept;
        self
    }

    /// What stood at the wanted pointers, in their order; complete once [`Self::next`] gave `None`.
    pub fn found(&self) -> &[Option<Box<RawValue>>] {
        &self.found
    }

    /// Bytes of the document so far.
    pub fn position(&self) -> u64 {
        self.scan.position()
    }

    /// The next record; `None` when the document is complete and nothing follows it.
    pub fn next(&mut self) -> Result<Option<Box<RawValue>>> {
        if self.done {
            return Ok(None);
        }
        if !self.begun {
            self.begun = true;
            self.scan.skip_space()?;
            if let Some(record) = self.value()? {
                return Ok(Some(record));
            }
        }
        while let Some(frame) = self.stack.last_mut() {
            let record = match frame {
                Frame::Object { first } => {
                    let is_first = std::mem::replace(first, false);
                    match self.scan.member(is_first)? {
                        Some(key) => {
                            self.path.push(key);
                            let record = self.value()?;
                            if record.is_some() {
                                return Ok(record);
                            }
                            continue;
                        }
                        None => None,
                    }
                }
                Frame::Array { next } => {
                    let index = *next;
                    *next += 1;
                    if self.scan.element(index == 0)? {
                        self.path.push(index.to_string());
                        let record = self.value()?;
                        if record.is_some() {
                            return Ok(record);
                        }
                        continue;
                    }
                    None
                }
                Frame::Records { next } => {
                    let index = *next;
                    *next += 1;
                    if self.scan.element(index == 0)? {
                        let record = self.scan.record(self.max_record, self.stack.len(), &self.kept)?;
                        self.look_into(&record, index)?;
                        Some(record)
                    } else {
                        None
                    }
                }
            };
            if record.is_some() {
                return Ok(record);
            }
            self.stack.pop();
            self.path.pop();
        }
        self.done = true;
        self.scan.end()?;
        if self.seen {
            Ok(None)
        } else {
            Err(BodyError::NoRecords { pointer: self.records.to_string(), found: "nothing" })
        }
    }

    /// Takes the value that begins here, at `self.path`: goes into it, keeps it, hands it out or skips it. Unless it
    /// went in, the path is one shorter afterwards.
    fn value(&mut self) -> Result<Option<Box<RawValue>>> {
        let byte = self.scan.need()?;
        let depth = self.stack.len();
        if self.path == self.records.tokens() {
            if std::mem::replace(&mut self.seen, true) {
                let why = format!("a second value for \"{}\"", self.records);
                return Err(self.scan.malformed(why));
            }
            if self.shape == Shape::One || (self.shape == Shape::ArrayOrOne && byte == b'{') {
                let record = self.scan.record(self.max_record, depth, &self.kept)?;
                self.path.pop();
                return Ok(Some(record));
            }
            if byte != b'[' {
                return Err(BodyError::NoRecords { pointer: self.records.to_string(), found: kind(byte) });
            }
            self.scan.bump();
            self.stack.push(Frame::Records { next: 0 });
            return Ok(None);
        }
        let leads_to_records = self.records.tokens().starts_with(&self.path);
        if self.wanted.iter().any(|w| w.tokens() == self.path) {
            if leads_to_records {
                return Err(self.scan.malformed("a value that is asked for holds the records themselves"));
            }
            let value = self.scan.capture(MAX_WANTED, depth)?;
            self.keep(&value)?;
            self.path.pop();
            return Ok(None);
        }
        let leads_on = leads_to_records || self.wanted.iter().any(|w| w.tokens().starts_with(&self.path));
        match byte {
            b'{' if leads_on => {
                self.scan.bump();
                self.stack.push(Frame::Object { first: true });
            }
            b'[' if leads_on => {
                self.scan.bump();
                self.stack.push(Frame::Array { next: 0 });
            }
            _ => {
                self.scan.skip(&mut None)?;
                self.path.pop();
            }
        }
        Ok(None)
    }

    /// Keeps `value`, which stands at `self.path`, for the pointers to it and into it.
    fn keep(&mut self, value: &RawValue) -> Result<()> {
        for i in 0..self.wanted.len() {
            if let Some(rest) = self.wanted[i].tokens().strip_prefix(self.path.as_slice()) {
                self.found[i] = lookup(value, rest)?;
            }
        }
        Ok(())
    }

    /// A wanted pointer may lead into the records themselves: `/data/0/id`.
    fn look_into(&mut self, record: &RawValue, index: usize) -> Result<()> {
        for i in 0..self.wanted.len() {
            if let Some([at, rest @ ..]) = self.wanted[i].tokens().strip_prefix(self.records.tokens()) {
                if at.parse() == Ok(index) {
                    self.found[i] = lookup(record, rest)?;
                    // What ends a listing elsewhere must not end it for this.
                    if self.found[i].is_none() && is_too_long(record) {
                        let why = format!("\"{}\" is in a record that is longer than max_record_bytes", self.wanted[i]);
                        return Err(self.scan.malformed(why));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The value at a path inside a value, by its text.
pub fn lookup(value: &RawValue, path: &[String]) -> Result<Option<Box<RawValue>>> {
    if path.is_empty() {
        return Ok(Some(value.to_owned()));
    }
    let mut scan = Scanner::new(value.get().as_bytes(), value.get().len().clamp(1, 64 << 10));
    'deeper: for token in path {
        scan.skip_space()?;
        match scan.peek()? {
            Some(b'{') => {
                scan.bump();
                let mut first = true;
                while let Some(key) = scan.member(std::mem::replace(&mut first, false))? {
                    if key == *token {
                        continue 'deeper;
                    }
                    scan.skip(&mut None)?;
                }
            }
            Some(b'[') => {
                scan.bump();
                let mut index = 0;
                while scan.element(index == 0)? {
                    if token.parse() == Ok(index) {
                        continue 'deeper;
                    }
                    scan.skip(&mut None)?;
                    index += 1;
                }
            }
            _ => {}
        }
        return Ok(None);
    }
    scan.capture(usize::MAX, 0).map(Some)
}

fn kind(first: u8) -> &'static str {
    match first {
        b'{' => "an object",
        b'[' => "an array",
        b'"' => "a string",
        b't' | b'f' => "a boolean",
        b'n' => "null",
        b'-' | b'0'..=b'9' => "a number",
        _ => "no JSON",
    }
}

#[cfg(test)]
mod tests;

//! JSON text from a reader, byte by byte over a buffer: strictly, since what a page skips must be right too.

use std::io::{self, Read};

use serde_json::value::RawValue;

use super::{BodyError, Result, MAX_WANTED};
use crate::json;
use crate::sources::spec::Pointer;

/// Up to here a value is taken in one go; deeper ones are walked through. What stores them says what is too deep.
const FAST_DEPTH: usize = 512;

/// What is kept of a record that is too long: keys and cursors. No index holds a longer key.
const MAX_KEPT: usize = 4096;

/// Where the text of what is passed over goes, and how much of it there may be.
pub type Tape<'a> = Option<(&'a mut Vec<u8>, usize)>;

/// What is left of a pointer, and its place among those that were asked for.
type Sought<'a> = (usize, &'a [String]);

/// What was found at pointers into a record of at most `max` bytes.
struct Looked {
    max: usize,
    found: Vec<Option<Box<RawValue>>>,
}

fn value_of(text: Vec<u8>, at: u64) -> Result<Box<RawValue>> {
    let malformed = |why: String| BodyError::Malformed { at, why };
    let text = String::from_utf8(text).map_err(|_| malformed("a value that is not UTF-8".into()))?;
    RawValue::from_string(text).map_err(|e| malformed(e.to_string()))
}

/// A strict reader of JSON text, byte by byte over a buffer.
pub struct Scanner<R> {
    reader: R,
    pub buffer: Box<[u8]>,
    start: usize,
    pub end: usize,
    /// Bytes of earlier buffers.
    pub before: u64,
    /// A value that is too long is passed over, and its text forgotten; else it is an error.
    passing: bool,
    passed: bool,
}

impl<R: Read> Scanner<R> {
    pub fn new(reader: R, size: usize) -> Self {
        Scanner {
            reader,
            buffer: vec![0; size].into_boxed_slice(),
            start: 0,
            end: 0,
            before: 0,
            passing: false,
            passed: false,
        }
    }

    pub fn position(&self) -> u64 {
        self.before + self.start as u64
    }

    pub fn malformed(&self, why: impl Into<String>) -> BodyError {
        BodyError::Malformed { at: self.position(), why: why.into() }
    }

    /// Whether there is a byte to read.
    fn fill(&mut self) -> Result<bool> {
        while self.start == self.end {
            self.before += self.end as u64;
            self.start = 0;
            self.end = 0;
            match self.reader.read(&mut self.buffer) {
                Ok(0) => return Ok(false),
                Ok(n) => self.end = n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(BodyError::Read(e)),
            }
        }
        Ok(true)
    }

    pub fn peek(&mut self) -> Result<Option<u8>> {
        Ok(if self.fill()? { Some(self.buffer[self.start]) } else { None })
    }

    pub fn need(&mut self) -> Result<u8> {
        self.peek()?.ok_or(BodyError::Cut { at: self.position() })
    }

    pub fn bump(&mut self) {
        self.start += 1;
    }

    pub fn skip_space(&mut self) -> Result<()> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek()? {
            self.bump();
        }
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<()> {
        let found = self.need()?;
        if found != byte {
            return Err(self.malformed(format!("expected \"{}\"", char::from(byte))));
        }
        self.bump();
        Ok(())
    }

    /// Nothing but white space until the body ends.
    pub fn end(&mut self) -> Result<()> {
        self.skip_space()?;
        match self.peek()? {
            None => Ok(()),
            Some(_) => Err(self.malformed("text after the end of the document")),
        }
    }

    /// In an object, after `{` or a member: the next member's name, with the value next. `None` after `}`.
    pub fn member(&mut self, first: bool) -> Result<Option<String>> {
        self.skip_space()?;
        if self.need()? == b'}' {
            self.bump();
            return Ok(None);
        }
        if !first {
            self.expect(b',')?;
            self.skip_space()?;
        }
        if self.need()? != b'"' {
            return Err(self.malformed("expected a member's name"));
        }
        let mut text = Vec::new();
        self.string(&mut Some((&mut text, MAX_WANTED)))?;
        // A lone surrogate in a name fits no pointer; a name that can't be read must not match one either.
        let name = match serde_json::from_slice(&text) {
            Ok(name) => name,
            Err(_) => String::from_utf8_lossy(&text).into_owned(),
        };
        self.skip_space()?;
        self.expect(b':')?;
        self.skip_space()?;
        Ok(Some(name))
    }

    /// In an array, after `[` or an element: whether another follows. `false` after `]`.
    pub fn element(&mut self, first: bool) -> Result<bool> {
        self.skip_space()?;
        if self.need()? == b']' {
            self.bump();
            return Ok(false);
        }
        if !first {
            self.expect(b',')?;
            self.skip_space()?;
        }
        Ok(true)
    }

    /// The same of a record: one that is longer than `max` is passed over, and what stands in its place says so, with
    /// what it has at the pointers `kept`.
    pub fn record(&mut self, max: usize, depth: usize, kept: &[Pointer]) -> Result<Box<RawValue>> {
        self.skip_space()?;
        if let Some(text) = self.at_once(max, depth) {
            return Ok(text);
        }
        let (at, mut text) = (self.position(), Vec::new());
        let mut looked = Looked { max, found: kept.iter().map(|_| None).collect() };
        let pointers: Vec<Sought> = kept.iter().map(Pointer::tokens).enumerate().collect();
        (self.passing, self.passed) = (true, false);
        let read = self.look(&mut Some((&mut text, max)), &pointers, &mut looked);
        self.passing = false;
        read?;
        if std::mem::take(&mut self.passed) {
            return Ok(super::too_long(self.position() - at, kept, &looked.found));
        }
        value_of(text, at)
    }

    pub fn capture(&mut self, max: usize, depth: usize) -> Result<Box<RawValue>> {
        self.skip_space()?;
        if let Some(text) = self.at_once(max, depth) {
            return Ok(text);
        }
        let (at, mut text) = (self.position(), Vec::new());
        self.skip(&mut Some((&mut text, max)))?;
        value_of(text, at)
    }

    /// A value of which all is here already, and right, as mostly.
    fn at_once(&mut self, max: usize, depth: usize) -> Option<Box<RawValue>> {
        let rest = &self.buffer[self.start..self.end];
        let (text, end) = json::well_formed(rest, FAST_DEPTH.saturating_sub(depth))?;
        let text = String::from_utf8(text).ok().filter(|text| text.len() <= max)?;
        self.start += end;
        Some(crate::pg::json::well_formed(text))
    }

    /// Passes over a value as [`Self::skip`] does, and keeps the short texts and numbers at the pointers: what is left
    /// of each from here.
    fn look(&mut self, into: &mut Tape, pointers: &[Sought], looked: &mut Looked) -> Result<()> {
        self.skip_space()?;
        let byte = self.need()?;
        let leads_on = pointers.iter().any(|(_, rest)| !rest.is_empty());
        match byte {
            b'{' | b'[' if leads_on => {
                self.take(into)?;
                for index in 0_u64.. {
                    self.skip_space()?;
                    match self.need()? {
                        b'}' if byte == b'{' => return self.take(into),
                        b']' if byte == b'[' => return self.take(into),
                        b',' if index > 0 => self.take(into)?,
                        _ if index > 0 => return Err(self.malformed("expected \",\" or the end")),
                        _ => {}
                    }
                    let name = match byte {
                        b'{' => self.name_kept(into, looked.max)?,
                        _ => index.to_string(),
                    };
                    let mut inside: Vec<Sought> = Vec::new();
                    for (n, rest) in pointers {
                        inside.extend(rest.strip_prefix(std::slice::from_ref(&name)).map(|rest| (*n, rest)));
                    }
                    self.look(into, &inside, looked)?;
                }
                Ok(())
            }
            b'"' | b'-' | b'0'..=b'9' if !pointers.is_empty() => {
                let text = self.aside(into, looked.max, Self::skip)?;
                for (n, _) in pointers.iter().filter(|(_, rest)| rest.is_empty()) {
                    let short = text.as_deref().filter(|text| text.len() <= MAX_KEPT);
                    let value = short.and_then(|text| RawValue::from_string(text.to_owned()).ok());
                    // Of two members with one name, the first is what a pointer leads to elsewhere.
                    if looked.found[*n].is_none() {
                        looked.found[*n] = value;
                    }
                }
                Ok(())
            }
            _ => self.skip(into),
        }
    }

    /// A member's name with its colon: moved over, and read.
    fn name_kept(&mut self, into: &mut Tape, max: usize) -> Result<String> {
        self.skip_space()?;
        let name = self.aside(into, max, Self::name)?;
        let name = name.and_then(|text| serde_json::from_str(text.strip_suffix(':')?).ok());
        // One that can't be read matches no pointer.
        Ok(name.unwrap_or_default())
    }

    /// Moves over what `read` does, and gives its text as well; none where it is longer than a record may be.
    fn aside(
        &mut self,
        into: &mut Tape,
        max: usize,
        read: impl Fn(&mut Self, &mut Tape) -> Result<()>,
    ) -> Result<Option<String>> {
        let mut text = Vec::new();
        let mut own: Tape = Some((&mut text, max));
        read(self, &mut own)?;
        let whole = own.is_some();
        self.fits(if whole { text.len() } else { usize::MAX }, into)?;
        if let Some((into, _)) = into {
            into.extend_from_slice(&text);
        }
        Ok(String::from_utf8(text).ok().filter(|_| whole))
    }

    /// Passes over one value, however deep it is, and keeps its text where asked.
    pub fn skip(&mut self, into: &mut Tape) -> Result<()> {
        // What is open around here; `false` an array, `true` an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            self.skip_space()?;
            match self.need()? {
                byte @ (b'{' | b'[') => {
                    self.take(into)?;
                    open.push(byte == b'{');
                    self.skip_space()?;
                    if self.need()? == if byte == b'{' { b'}' } else { b']' } {
                        self.take(into)?;
                        open.pop();
                    } else {
                        if byte == b'{' {
                            self.name(into)?;
                        }
                        continue;
                    }
                }
                b'"' => self.string(into)?,
                b'-' | b'0'..=b'9' => self.word(into, json::is_number)?,
                b't' | b'f' | b'n' => self.word(into, |w| matches!(w, b"true" | b"false" | b"null"))?,
                _ => return Err(self.malformed("expected a value")),
            }
            loop {
                let Some(&object) = open.last() else { return Ok(()) };
                self.skip_space()?;
                match self.need()? {
                    b',' => {
                        self.take(into)?;
                        if object {
                            self.skip_space()?;
                            self.name(into)?;
                        }
                        break;
                    }
                    b'}' if object => self.take(into)?,
                    b']' if !object => self.take(into)?,
                    _ => return Err(self.malformed("expected \",\" or the end")),
                }
                open.pop();
            }
        }
    }

    fn name(&mut self, into: &mut Tape) -> Result<()> {
        if self.need()? != b'"' {
            return Err(self.malformed("expected a member's name"));
        }
        self.string(into)?;
        self.skip_space()?;
        if self.need()? != b':' {
            return Err(self.malformed("expected \":\""));
        }
        self.take(into)
    }

    /// Moves the next byte over.
    fn take(&mut self, into: &mut Tape) -> Result<()> {
        self.keep(1, into)?;
        Ok(())
    }

    /// Moves `n` bytes of the buffer over.
    fn keep(&mut self, n: usize, into: &mut Tape) -> Result<()> {
        self.fits(n, into)?;
        if let Some((text, _)) = into {
            text.extend_from_slice(&self.buffer[self.start..self.start + n]);
        }
        self.start += n;
        Ok(())
    }

    /// Whether `n` bytes more may be kept: where not, a record's text is forgotten, and any other value is an error.
    fn fits(&mut self, n: usize, into: &mut Tape) -> Result<()> {
        if let Some((text, max)) = into {
            if text.len().saturating_add(n) > *max && self.passing {
                self.passed = true;
                **text = Vec::new();
                *into = None;
            } else if text.len() + n > *max {
                let why = format!("a value of more than {max} bytes");
                return Err(self.malformed(why));
            }
        }
        Ok(())
    }

    fn string(&mut self, into: &mut Tape) -> Result<()> {
        self.take(into)?;
        loop {
            self.need()?;
            let plain = json::plain(&self.buffer[self.start..self.end]);
            self.keep(plain, into)?;
            if self.start == self.end {
                continue;
            }
            match self.buffer[self.start] {
                b'"' => return self.take(into),
                b'\\' => {
                    self.take(into)?;
                    match self.need()? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.take(into)?,
                        b'u' => {
                            self.take(into)?;
                            for _ in 0..4 {
                                if !self.need()?.is_ascii_hexdigit() {
                                    return Err(self.malformed("expected four hexadecimal digits"));
                                }
                                self.take(into)?;
                            }
                        }
                        _ => return Err(self.malformed("no such escape")),
                    }
                }
                _ => return Err(self.malformed("a control character in a string")),
            }
        }
    }

    /// A number or a literal.
    fn word(&mut self, into: &mut Tape, fits: impl Fn(&[u8]) -> bool) -> Result<()> {
        let mut word = Vec::new();
        while let Some(byte) = self.peek()? {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
                break;
            }
            if word.len() == json::MOST_WORD {
                return Err(self.malformed(format!("a number of more than {} digits", json::MOST_WORD)));
            }
            word.push(byte);
            self.take(into)?;
        }
        if fits(&word) {
            Ok(())
        } else if self.peek()?.is_none() {
            Err(BodyError::Cut { at: self.position() })
        } else {
            Err(self.malformed("neither a number nor a literal"))
        }
    }
}

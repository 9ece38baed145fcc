//! JSON text from a reader, byte by byte over a buffer: strictly, since what a page skips must be right too.

use std::io::{self, Read};

use serde_json::value::RawValue;

use super::{BodyError, Result, MAX_WANTED};
use crate::json;

/// Up to here a value is taken in one go; deeper ones are walked through. What stores them says what is too deep.
const FAST_DEPTH: usize = 512;

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

    /// The same of a record: one that is longer than `max` is passed over, and what stands in its place says so.
    pub fn record(&mut self, max: usize, depth: usize) -> Result<Box<RawValue>> {
        let at = self.position();
        (self.passing, self.passed) = (true, false);
        let captured = self.capture(max, depth);
        self.passing = false;
        match captured {
            Err(BodyError::Malformed { .. }) if std::mem::take(&mut self.passed) => {
                Ok(super::too_long(self.position() - at))
            }
            captured => captured,
        }
    }

    pub fn capture(&mut self, max: usize, depth: usize) -> Result<Box<RawValue>> {
        self.skip_space()?;
        let rest = &self.buffer[self.start..self.end];
        // Mostly all of it is here already, and right.
        let found = json::well_formed(rest, FAST_DEPTH.saturating_sub(depth)).filter(|(text, _)| text.len() <= max);
        if let Some((Ok(text), end)) = found.map(|(text, end)| (String::from_utf8(text), end)) {
            self.start += end;
            return Ok(crate::pg::json::well_formed(text));
        }
        let mut text = Vec::new();
        let at = self.position();
        self.skip(Some((&mut text, max)))?;
        if self.passed {
            return Err(self.malformed("a value that is too long"));
        }
        let text = String::from_utf8(text)
            .map_err(|_| BodyError::Malformed { at, why: "a value that is not UTF-8".to_owned() })?;
        RawValue::from_string(text).map_err(|e| BodyError::Malformed { at, why: e.to_string() })
    }

    /// Passes over one value, however deep it is, and keeps its text where asked.
    pub fn skip(&mut self, mut into: Option<(&mut Vec<u8>, usize)>) -> Result<()> {
        // What is open around here; `false` an array, `true` an object.
        let mut open: Vec<bool> = Vec::new();
        loop {
            self.skip_space()?;
            match self.need()? {
                byte @ (b'{' | b'[') => {
                    self.take(&mut into)?;
                    open.push(byte == b'{');
                    self.skip_space()?;
                    if self.need()? == if byte == b'{' { b'}' } else { b']' } {
                        self.take(&mut into)?;
                        open.pop();
                    } else {
                        if byte == b'{' {
                            self.name(&mut into)?;
                        }
                        continue;
                    }
                }
                b'"' => self.string(&mut into)?,
                b'-' | b'0'..=b'9' => self.word(&mut into, json::is_number)?,
                b't' | b'f' | b'n' => self.word(&mut into, |w| matches!(w, b"true" | b"false" | b"null"))?,
                _ => return Err(self.malformed("expected a value")),
            }
            loop {
                let Some(&object) = open.last() else { return Ok(()) };
                self.skip_space()?;
                match self.need()? {
                    b',' => {
                        self.take(&mut into)?;
                        if object {
                            self.skip_space()?;
                            self.name(&mut into)?;
                        }
                        break;
                    }
                    b'}' if object => self.take(&mut into)?,
                    b']' if !object => self.take(&mut into)?,
                    _ => return Err(self.malformed("expected \",\" or the end")),
                }
                open.pop();
            }
        }
    }

    fn name(&mut self, into: &mut Option<(&mut Vec<u8>, usize)>) -> Result<()> {
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
    fn take(&mut self, into: &mut Option<(&mut Vec<u8>, usize)>) -> Result<()> {
        self.keep(1, into)?;
        Ok(())
    }

    /// Moves `n` bytes of the buffer over.
    fn keep(&mut self, n: usize, into: &mut Option<(&mut Vec<u8>, usize)>) -> Result<()> {
        if let Some((text, max)) = into {
            if text.len() + n > *max && self.passing {
                self.passed = true;
                **text = Vec::new();
                *into = None;
            } else if text.len() + n > *max {
                let why = format!("a value of more than {max} bytes");
                return Err(self.malformed(why));
            }
        }
        if let Some((text, _)) = into {
            text.extend_from_slice(&self.buffer[self.start..self.start + n]);
        }
        self.start += n;
        Ok(())
    }

    fn string(&mut self, into: &mut Option<(&mut Vec<u8>, usize)>) -> Result<()> {
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
    fn word(&mut self, into: &mut Option<(&mut Vec<u8>, usize)>, fits: impl Fn(&[u8]) -> bool) -> Result<()> {
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

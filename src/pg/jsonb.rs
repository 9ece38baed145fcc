//! JSON's text as Postgres stores it in a jsonb (src/include/utils/jsonb.h, src/backend/utils/adt/jsonb_util.c), in a
//! fifth of the time that jsonb_in takes: it allocates nothing for each value.
//!
//! What is unusual (exponents, numbers of many digits, deep nesting, many members) is left to jsonb_in, and so is
//! everything that jsonb_in would refuse, for its error. What is made here is byte for byte what jsonb_in makes; a test in
//! the server compares them.

use crate::json::{blanks, plain};

/// Levels of nesting; each takes a little of the stack.
const MOST_DEPTH: usize = 32;
/// Of one value; the format counts to 2^28.
const MOST_BYTES: usize = 1 << 24;
/// Digits of a number before, and after the point: numeric's short header has room for these.
const MOST_DIGITS: usize = 60;

const HAS_OFFSET: u32 = 0x8000_0000;
const IS_NUMERIC: u32 = 0x1000_0000;
const IS_FALSE: u32 = 0x2000_0000;
const IS_TRUE: u32 = 0x3000_0000;
const IS_NULL: u32 = 0x4000_0000;
const IS_CONTAINER: u32 = 0x5000_0000;
const LENGTH: u32 = 0x0FFF_FFFF;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;
/// Every so many children an offset stands in the place of a length.
const STRIDE: usize = 32;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Null,
    True,
    False,
    Number,
    /// Without its quotes, and whether it has escapes.
    String {
        escaped: bool,
    },
    Object,
    Array,
}

/// A value of the text.
#[derive(Debug, Clone, Copy)]
struct Token {
    kind: Kind,
    start: u32,
    end: u32,
    /// Of a container: where the token after its last one stands, and how many children it has (a pair is one).
    next: u32,
    count: u32,
}

/// Makes jsonb of text; keeps its room from one value to the next.
#[derive(Debug, Default)]
pub struct Encoder {
    tokens: Vec<Token>,
    /// Members of the objects that are open, by the place of their names.
    members: Vec<u32>,
    /// How the members of the last large object were sorted, and room for it: the next one is mostly like it.
    order: Vec<u16>,
    room: Vec<u32>,
    out: Vec<u8>,
}

impl Encoder {
    /// The value as a varlena with a header of four bytes; `None` for what is jsonb_in's to judge.
    pub fn encode(&mut self, text: &str) -> Option<&[u8]> {
        if text.len() > MOST_BYTES {
            return None;
        }
        self.tokens.clear();
        self.members.clear();
        let end = self.read(text.as_bytes(), blanks(text.as_bytes(), 0), 0)?;
        if blanks(text.as_bytes(), end) != text.len() {
            return None;
        }
        self.out.clear();
        self.out.extend_from_slice(&[0; 4]);
        match self.tokens.first()?.kind {
            Kind::Object | Kind::Array => {
                self.write(text, 0)?;
            }
            // A scalar is an array of one that says so.
            _ => {
                self.word(ARRAY | SCALAR | 1);
                let at = self.reserve(1);
                let entry = self.write(text, 0)?;
                self.entry(at, 0, entry, &mut 0)?;
            }
        }
        let size = varsize(self.out.len());
        self.out[..4].copy_from_slice(&size);
        Some(&self.out)
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) -> usize {
        self.tokens.push(Token { kind, start: start as u32, end: end as u32, next: 0, count: 0 });
        end
    }

    /// Reads the value at `at`; says where it ends.
    fn read(&mut self, text: &[u8], at: usize, depth: usize) -> Option<usize> {
        match text.get(at)? {
            b'"' => self.string(text, at),
            b'{' => self.container(text, at, depth, true),
            b'[' => self.container(text, at, depth, false),
            b't' if text[at..].starts_with(b"true") => Some(self.push(Kind::True, at, at + 4)),
            b'f' if text[at..].starts_with(b"false") => Some(self.push(Kind::False, at, at + 5)),
            b'n' if text[at..].starts_with(b"null") => Some(self.push(Kind::Null, at, at + 4)),
            b'-' | b'0'..=b'9' => {
                let is_of_one = |b: &&u8| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = at + text[at..].iter().take_while(is_of_one).count();
                Some(self.push(Kind::Number, at, end))
            }
            _ => None,
        }
    }

    fn string(&mut self, text: &[u8], at: usize) -> Option<usize> {
        let start = at + 1;
        let mut end = start;
        let mut escaped = false;
        loop {
            end += plain(text.get(end..)?);
            match text.get(end)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    end += 2;
                }
                // A control character: not JSON.
                _ => return None,
            }
        }
        self.push(Kind::String { escaped }, start, end);
        Some(end + 1)
    }

    fn container(&mut self, text: &[u8], start: usize, depth: usize, is_object: bool) -> Option<usize> {
        if depth == MOST_DEPTH {
            return None;
        }
        let place = self.tokens.len();
        self.push(if is_object { Kind::Object } else { Kind::Array }, start, start);
        let close = if is_object { b'}' } else { b']' };
        let mut count = 0;
        let mut at = blanks(text, start + 1);
        if *text.get(at)? != close {
            loop {
                if is_object {
                    if *text.get(at)? != b'"' {
                        return None;
                    }
                    at = blanks(text, self.string(text, at)?);
                    if *text.get(at)? != b':' {
                        return None;
                    }
                    at = blanks(text, at + 1);
                }
                at = blanks(text, self.read(text, at, depth + 1)?);
                count += 1;
                match *text.get(at)? {
                    b',' => at = blanks(text, at + 1),
                    b if b == close => break,
                    _ => return None,
                }
            }
        }
        let next = self.tokens.len() as u32;
        let token = &mut self.tokens[place];
        (token.next, token.count) = (next, count);
        Some(at + 1)
    }

    /// Writes the value of a token; gives its type and length.
    fn write(&mut self, text: &str, place: usize) -> Option<u32> {
        let token = self.tokens[place];
        let raw = text.get(token.start as usize..token.end as usize)?;
        Some(match token.kind {
            Kind::Null => IS_NULL,
            Kind::True => IS_TRUE,
            Kind::False => IS_FALSE,
            Kind::String { escaped: false } => {
                self.out.extend_from_slice(raw.as_bytes());
                token.end - token.start
            }
            Kind::String { escaped: true } => {
                let value = unescaped(text, token)?;
                self.out.extend_from_slice(value.as_bytes());
                value.len() as u32
            }
            Kind::Number => {
                let before = self.out.len();
                self.pad();
                number(raw.as_bytes(), &mut self.out)?;
                IS_NUMERIC | (self.out.len() - before) as u32
            }
            Kind::Array => {
                let before = self.out.len();
                self.pad();
                let count = token.count as usize;
                self.word(ARRAY | token.count);
                let at = self.reserve(count);
                let (mut total, mut child) = (0, place + 1);
                for n in 0..count {
                    let entry = self.write(text, child)?;
                    self.entry(at, n, entry, &mut total)?;
                    child = self.after(child);
                }
                IS_CONTAINER | (self.out.len() - before) as u32
            }
            Kind::Object => self.object(text, place)?,
        })
    }

    fn object(&mut self, text: &str, place: usize) -> Option<u32> {
        let before = self.out.len();
        self.pad();
        let mine = self.members.len();
        let mut name = place + 1;
        let mut has_escapes = false;
        for _ in 0..self.tokens[place].count {
            has_escapes |= matches!(self.tokens[name].kind, Kind::String { escaped: true });
            self.members.push(name as u32);
            name = self.after(name + 1);
        }
        // Names with escapes are rare, and would have to be decoded for each comparison.
        if has_escapes || !self.sort(text, mine) {
            return None;
        }
        let count = self.members.len() - mine;
        self.word(OBJECT | count as u32);
        let at = self.reserve(2 * count);
        let mut total = 0;
        for n in 0..count {
            let name = self.members[mine + n] as usize;
            let entry = self.write(text, name)?;
            self.entry(at, n, entry, &mut total)?;
        }
        for n in 0..count {
            let value = self.members[mine + n] as usize + 1;
            let entry = self.write(text, value)?;
            self.entry(at, count + n, entry, &mut total)?;
        }
        self.members.truncate(mine);
        Some(IS_CONTAINER | (self.out.len() - before) as u32)
    }

    /// Sorts the members from `mine` on as jsonb has them: shorter names first. Says whether each name is there once.
    fn sort(&mut self, text: &str, mine: usize) -> bool {
        const LARGE: usize = 8;
        let tokens = &self.tokens;
        let bytes = text.as_bytes();
        let name = |at: &u32| {
            let token = &tokens[*at as usize];
            (token.end - token.start, bytes.get(token.start as usize..token.end as usize).unwrap_or_default())
        };
        let members = &mut self.members[mine..];
        let is_large = (LARGE..u16::MAX as usize).contains(&members.len());
        if is_large {
            self.room.clear();
            if self.order.len() == members.len() {
                self.room.extend(self.order.iter().filter_map(|n| members.get(usize::from(*n))));
                if self.room.windows(2).all(|pair| name(&pair[0]) < name(&pair[1])) {
                    members.copy_from_slice(&self.room);
                    return true;
                }
            }
            // Places in the text ascend, so each is found again by halving.
            self.room.clear();
            self.room.extend_from_slice(members);
        }
        members.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        if is_large {
            self.order.clear();
            self.order.extend(members.iter().map(|at| self.room.partition_point(|other| other < at) as u16));
        }
        members.windows(2).all(|pair| name(&pair[0]) != name(&pair[1]))
    }

    /// The token after a value's last one.
    fn after(&self, place: usize) -> usize {
        match self.tokens[place].kind {
            Kind::Object | Kind::Array => self.tokens[place].next as usize,
            _ => place + 1,
        }
    }

    fn word(&mut self, word: u32) {
        self.out.extend_from_slice(&word.to_ne_bytes());
    }

    /// To a multiple of four.
    fn pad(&mut self) {
        let length = self.out.len().next_multiple_of(4);
        self.out.resize(length, 0);
    }

    /// Room for the entries of a container's children.
    fn reserve(&mut self, count: usize) -> usize {
        let at = self.out.len();
        self.out.resize(at + 4 * count, 0);
        at
    }

    fn entry(&mut self, at: usize, n: usize, entry: u32, total: &mut u32) -> Option<()> {
        *total += entry & LENGTH;
        let entry = match n % STRIDE {
            0 => (entry & !LENGTH) | *total | HAS_OFFSET,
            _ => entry,
        };
        let place = at + 4 * n;
        self.out.get_mut(place..place + 4)?.copy_from_slice(&entry.to_ne_bytes());
        Some(())
    }
}

/// What a string with escapes says; `None` where Postgres can't store it.
fn unescaped(text: &str, token: Token) -> Option<String> {
    let value: String = serde_json::from_str(text.get(token.start as usize - 1..token.end as usize + 1)?).ok()?;
    (!value.contains('\0')).then_some(value)
}

/// A varlena's header of four bytes (SET_VARSIZE_4B, src/include/varatt.h).
pub fn varsize(size: usize) -> [u8; 4] {
    let size = size as u32;
    if cfg!(target_endian = "big") { size & 0x3FFF_FFFF } else { size << 2 }.to_ne_bytes()
}

/// A number as a numeric with a short header (make_result, src/backend/utils/adt/numeric.c).
fn number(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let whole = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    let (whole, fraction) = match digits.split_at(whole) {
        (whole, []) => (whole, &[][..]),
        (whole, [b'.', fraction @ ..]) if !fraction.is_empty() => (whole, fraction),
        _ => return None,
    };
    let is_right = !whole.is_empty() && (whole == b"0" || whole[0] != b'0') && fraction.iter().all(u8::is_ascii_digit);
    if !is_right || whole.len() > MOST_DIGITS || fraction.len() > MOST_DIGITS {
        return None;
    }
    // Groups of four digits, counted from the point.
    let value = |group: &[u8]| group.iter().fold(0u16, |value, b| value * 10 + u16::from(b - b'0'));
    let mut groups = [0u16; MOST_DIGITS.div_ceil(4) * 2];
    let mut count = 0;
    let first = whole.len() % 4;
    let heads = (first > 0).then(|| &whole[..first]);
    for group in heads.into_iter().chain(whole[first..].chunks(4)) {
        groups[count] = value(group);
        count += 1;
    }
    let mut weight = count as i32 - 1;
    for group in fraction.chunks(4) {
        groups[count] = value(group) * 10u16.pow(4 - group.len() as u32);
        count += 1;
    }
    let leading = groups[..count].iter().take_while(|group| **group == 0).count();
    let groups = &groups[leading..count];
    let groups = &groups[..groups.len() - groups.iter().rev().take_while(|group| **group == 0).count()];
    weight = if groups.is_empty() { 0 } else { weight - leading as i32 };
    let sign = if negative && !groups.is_empty() { 0x2000 } else { 0 };
    let header = 0x8000 | sign | (fraction.len() as u16) << 7 | (weight as u16 & 0x7F);
    out.extend_from_slice(&varsize(4 + 2 + 2 * groups.len()));
    out.extend_from_slice(&header.to_ne_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_ne_bytes()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> Option<Vec<u32>> {
        let mut encoder = Encoder::default();
        let jsonb = encoder.encode(text)?;
        Some(
            jsonb
                .chunks(4)
                .map(|w| u32::from_ne_bytes(std::array::from_fn(|n| w.get(n).copied().unwrap_or(0))))
                .collect(),
        )
    }

    /// What the server has for these, by pageinspect.
    #[test]
    #[cfg(target_endian = "little")]
    fn values_are_as_the_server_has_them() {
        // A header, the container's, an offset for the first child.
        assert_eq!(encoded("null"), Some(vec![12 << 2, 0x5000_0001, 0xC000_0000]));
        assert_eq!(encoded("[]"), Some(vec![8 << 2, 0x4000_0000]));
        // 9 is a numeric of eight bytes: its length, a short header, one digit.
        assert_eq!(encoded("[9]"), Some(vec![20 << 2, 0x4000_0001, 0x9000_0008, 8 << 2, 0x0009_8000]));
        // The shorter name first, whatever order they come in.
        let object = encoded(r#"{"bb":true,"a":null}"#);
        let expected = [0x2000_0002, 0x8000_0001, 0x0000_0002, 0x4000_0000, 0x3000_0000, u32::from_le_bytes(*b"abb\0")];
        assert_eq!(object.map(|o| o[1..].to_vec()), Some(expected.to_vec()));
    }

    #[test]
    fn what_is_unusual_or_wrong_is_left_to_the_server() {
        let deep = format!("{}{}", "[".repeat(MOST_DEPTH + 1), "]".repeat(MOST_DEPTH + 1));
        let long = format!("0.{}", "1".repeat(MOST_DIGITS + 1));
        for text in [
            "",
            " ",
            "{",
            "[1",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "[1 2]",
            "nul",
            "tru",
            "01",
            "1.",
            ".5",
            "-",
            "1-2",
            "\"a",
            "\"\u{1}\"",
            "\"\\u0000\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "1 2",
            "{\"a\":1,\"a\":2}",
            "{\"\\u0061\":1}",
            "1e3",
            &deep,
            &long,
        ] {
            assert_eq!(encoded(text), None, "{text}");
        }
    }

    #[test]
    fn the_order_of_one_object_does_not_leak_into_the_next() {
        let object = |names: &[&str]| {
            format!("{{{}}}", names.iter().map(|n| format!("\"{n}\":null")).collect::<Vec<_>>().join(","))
        };
        let mut encoder = Encoder::default();
        let some = object(&["h", "g", "f", "e", "d", "c", "b", "a", "aa"]);
        let others = object(&["a", "b", "c", "d", "e", "f", "g", "h", "bbb"]);
        for text in [&some, &others, &some, &some, &others] {
            let expected = Encoder::default().encode(text).map(<[u8]>::to_vec);
            assert!(expected.is_some());
            assert_eq!(encoder.encode(text).map(<[u8]>::to_vec), expected);
        }
        // Names that come twice are found in the order of the one before as well.
        assert_eq!(encoder.encode(&others.replace("\"b\"", "\"a\"")), None);
    }
}

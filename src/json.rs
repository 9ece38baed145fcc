//! Walking over JSON's text, many bytes at a time.

/// How many bytes there are before one that means something in a string: its end, an escape, or a control character.
pub fn plain(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The high bits of bytes that are less than `n`. A borrow can only make bytes above a right one wrong.
    let below = |word: u64, n: u64| word.wrapping_sub(ONES * n) & !word & HIGHS;
    let mut at = 0;
    for block in text.chunks_exact(8) {
        let word = u64::from_le_bytes(block.try_into().unwrap_or_default());
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let escape = below(word ^ (ONES * u64::from(b'\\')), 1);
        let found = quote | escape | below(word, 0x20);
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let is_plain = |b: &&u8| !matches!(b, b'"' | b'\\' | 0..=0x1F);
    at + text[at..].iter().take_while(is_plain).count()
}

/// The first byte from `at` on that is no white space.
pub fn blanks(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// Bytes of a number.
pub const MOST_WORD: usize = 4096;

/// A value that begins with the text, without the white space in it, and where it ends in the text: by the whole grammar
/// of RFC 8259, in no more than `depth` levels. `None` where it is not right, or goes on after the text; of a number or a
/// literal at the text's end nobody knows.
pub fn well_formed(text: &[u8], depth: usize) -> Option<(Vec<u8>, usize)> {
    let mut walk = Walk { text, kept: Vec::new(), from: 0 };
    let end = walk.value(0, depth)?;
    let rest = &text[walk.from..end];
    walk.kept.reserve_exact(rest.len());
    walk.kept.extend_from_slice(rest);
    Some((walk.kept, end))
}

struct Walk<'a> {
    text: &'a [u8],
    kept: Vec<u8>,
    /// From where on nothing is kept yet.
    from: usize,
}

impl Walk<'_> {
    /// Past white space, which is not kept.
    fn blanks(&mut self, at: usize) -> usize {
        let next = blanks(self.text, at);
        if next > at {
            self.kept.extend_from_slice(&self.text[self.from..at]);
            self.from = next;
        }
        next
    }

    fn value(&mut self, at: usize, depth: usize) -> Option<usize> {
        let text = self.text;
        match text.get(at)? {
            b'"' => well_formed_string(text, at),
            b'{' => self.container(at, depth, b'}'),
            b'[' => self.container(at, depth, b']'),
            _ => {
                let word =
                    text[at..].iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
                let end = at + word.count();
                let word = &text[at..end];
                let is_right = matches!(word, b"true" | b"false" | b"null") || is_number(word);
                (is_right && word.len() <= MOST_WORD && end < text.len()).then_some(end)
            }
        }
    }

    fn container(&mut self, at: usize, depth: usize, close: u8) -> Option<usize> {
        let (text, depth) = (self.text, depth.checked_sub(1)?);
        let mut at = self.blanks(at + 1);
        if *text.get(at)? == close {
            return Some(at + 1);
        }
        loop {
            if close == b'}' {
                if *text.get(at)? != b'"' {
                    return None;
                }
                let end = well_formed_string(text, at)?;
                at = self.blanks(end);
                if *text.get(at)? != b':' {
                    return None;
                }
                at = self.blanks(at + 1);
            }
            let end = self.value(at, depth)?;
            at = self.blanks(end);
            match *text.get(at)? {
                b',' => at = self.blanks(at + 1),
                byte if byte == close => return Some(at + 1),
                _ => return None,
            }
        }
    }
}

fn well_formed_string(text: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += plain(text.get(at..)?);
        match (text.get(at)?, text.get(at + 1)) {
            (b'"', _) => return Some(at + 1),
            (b'\\', Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => at += 2,
            (b'\\', Some(b'u')) => {
                if !text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                at += 6;
            }
            _ => return None,
        }
    }
}

/// The grammar of RFC 8259, section 6.
pub fn is_number(word: &[u8]) -> bool {
    let digits = |s: &[u8]| s.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut rest = word.strip_prefix(b"-").unwrap_or(word);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let n = digits(fraction);
        if n == 0 {
            return false;
        }
        rest = &fraction[n..];
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent = exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let n = digits(exponent);
        return n > 0 && n == exponent.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_something_in_a_string_is_found_wherever_it_stands() {
        for special in [b'"', b'\\', 0, 1, 0x1F] {
            for before in 0..40 {
                // Neighbours that differ from it by a bit, and bytes of other characters.
                for filler in [special ^ 1 | 0x20, b'!', 0x20, 0x7F, 0x80, 0xA2, 0xDC, 0xFF] {
                    if filler == b'"' || filler == b'\\' {
                        continue;
                    }
                    let mut text = vec![filler; 60];
                    text[before] = special;
                    assert_eq!(plain(&text), before, "{special} among {filler}");
                    text.truncate(before);
                    assert_eq!(plain(&text), before);
                }
            }
        }
    }

    #[test]
    fn only_what_serde_takes_is_well_formed() {
        let pieces = [
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\n",
            "\\u00e9",
            "\\u12",
            "\\x",
            " ",
            "\n",
            "\u{1}",
            "1",
            "-",
            "0",
            "01",
            "1.",
            "1.5",
            "1e5",
            "1e",
            "true",
            "nul",
            "null",
            "a",
            "é",
            "\"a\":",
            "{\"a\":1}",
            "[1,2]",
        ];
        let mut state = 11u64;
        let mut below = |n: usize| {
            // Knuth's MMIX.
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % n
        };
        let (mut right, mut wrong) = (0, 0);
        for _ in 0..200_000 {
            let text: String = (0..1 + below(7)).map(|_| pieces[below(pieces.len())]).collect();
            // In an array, so that a number's end is known.
            let text = format!("[{text}]");
            let expected = serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok();
            let found = well_formed(text.as_bytes(), 100).filter(|(_, end)| *end == text.len());
            assert_eq!(found.is_some(), expected, "{text}");
            if let Some((kept, _)) = found {
                // Only what stands in strings may be white space.
                let blanks_outside = |t: &[u8]| t.split(|b| *b == b'"').step_by(2).any(|part| blanks(part, 0) > 0);
                assert!(text.contains('\\') || !blanks_outside(&kept), "{text}");
                let [before, after]: [serde_json::Value; 2] =
                    [text.as_bytes(), &kept].map(|t| serde_json::from_slice(t).unwrap_or_default());
                assert_eq!(before, after, "{text}");
            }
            *if expected { &mut right } else { &mut wrong } += 1;
        }
        assert!(right > 1000 && wrong > 1000, "{right} {wrong}");
    }

    #[test]
    fn a_value_that_may_go_on_is_not_taken() {
        for text in
            ["1", "tru", "true", "\"a", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,", "[", "[1", "[1,", "\"\\u00"]
        {
            assert_eq!(well_formed(text.as_bytes(), 10), None, "{text}");
        }
        assert_eq!(well_formed(b"[[[]]]", 2), None);
        assert_eq!(well_formed(b"[ [[] ]] ,", 3), Some((b"[[[]]]".to_vec(), 8)));
    }
}

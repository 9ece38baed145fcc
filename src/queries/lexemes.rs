//! Where names, comments and strings end in a query's text, in bytes (src/backend/parser/scan.l).

pub fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

pub fn continues_name(byte: u8) -> bool {
    begins_name(byte) || byte.is_ascii_digit()
}

pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c | 0x0b)
}

/// The name at the beginning of a text.
pub fn name(text: &str) -> &str {
    if !text.bytes().next().is_some_and(begins_name) {
        return "";
    }
    let end = text.bytes().position(|b| !continues_name(b)).unwrap_or(text.len());
    &text[..end]
}

/// The length of what is left of a line.
pub fn line(text: &str) -> usize {
    text.bytes().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(text.len())
}

/// The length of a comment, which may have others in it.
pub fn comment(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (0, 0_usize);
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The length of what stands between two quotes, with the quotes; a doubled one is none.
pub fn quoted(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

/// The same for a string in which a backslash hides the next character.
pub fn escaped(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b'\'' if bytes.get(at + 1) == Some(&b'\'') => at += 1,
            b'\'' => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// How far it is to a quote on a later line, with nothing but space and comments before it: such a string goes on.
pub fn continuation(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut lines) = (0, false);
    loop {
        match bytes.get(at)? {
            b'\n' | b'\r' => {
                lines = true;
                at += 1;
            }
            byte if is_space(*byte) => at += 1,
            b'-' if bytes.get(at + 1) == Some(&b'-') => at += line(&text[at..]),
            b'\'' if lines => return Some(at),
            _ => return None,
        }
    }
}

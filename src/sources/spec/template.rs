//! Texts with places to fill: `conversations/{id}/parts`. A brace that is meant stands twice.

use serde::{de::Error, Deserialize, Deserializer};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    Place(String),
}

impl Template {
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '{' | '}' if chars.next_if_eq(&c).is_some() => plain.push(c),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some('}') => break,
                            Some(c) if c == '_' || c.is_ascii_alphanumeric() => name.push(c),
                            Some(c) => return Err(format!("\"{c}\" can't stand in the name of a place")),
                            None => return Err("a brace is open at the end".into()),
                        }
                    }
                    if name.is_empty() {
                        return Err("a place without a name: {}".into());
                    }
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Place(name));
                }
                '}' => return Err("a brace closes that was not open".into()),
                c => plain.push(c),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Template { pieces })
    }

    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The names of its places, in order, each as often as it stands there.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Place(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with its places filled; the first name that has no value is the error.
    pub fn fill(&self, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Place(name) => out.push_str(&value(name).ok_or_else(|| name.clone())?),
            }
        }
        Ok(out)
    }

    /// The same for a path: a value is percent-encoded, so that it stays within its segment. An error says why a value
    /// can't stand there: it is missing or empty, or it would make a segment that goes up.
    pub fn fill_path(&self, value: impl Fn(&str) -> Option<String>) -> Result<String, String> {
        let path = self
            .fill(|name| value(name).filter(|value| !value.is_empty()).map(|value| encoded(&value)))
            .map_err(|name| format!("there is no value for {{{name}}}"))?;
        // URLs take %2e for a dot; what is encoded here never has it.
        if path.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(format!("the path \"{path}\" goes up"));
        }
        Ok(path)
    }
}

fn encoded(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Template, D::Error> {
        Template::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

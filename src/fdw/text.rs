//! Another name in a SQL text, as a token and nowhere else. Pure.
//!
//! Names are their owners' to choose, so a plain replacement would be theirs to use: in the middle of a quoted
//! identifier or a literal, a quoted name ends it, and what follows is read as SQL.

/// What becomes of string literals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Literals {
    /// They are somebody's words.
    Keep,
    /// They may be names (`'app.users'::regclass`), and the old name is one that nobody says by chance.
    Read,
}

/// Puts `new` where `old` stands in `text`. Both are names as SQL writes them, quoted where needed.
pub fn renamed(text: &str, old: &str, new: &str, literals: Literals) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before: Option<char> = None;
    while let Some(c) = rest.chars().next() {
        let at_start = before.is_none_or(|b| !is_word(b) && b != '"' && (b != '.' || !old.contains('.')));
        if at_start && stands_here(rest, old) {
            out.push_str(new);
            rest = &rest[old.len()..];
            before = old.chars().last();
            continue;
        }
        let length = match c {
            '\'' => {
                let escapes = before.is_some_and(|b| b == 'E' || b == 'e') && is_prefix(&out);
                let length = quoted(rest, c, escapes);
                if literals == Literals::Read {
                    let mut name = new.replace('\'', "''");
                    if escapes {
                        name = name.replace('\\', "\\\\");
                    }
                    out.push_str(&inside(&rest[..length], old, &name));
                } else {
                    out.push_str(&rest[..length]);
                }
                rest = &rest[length..];
                before = Some('\'');
                continue;
            }
            '"' => quoted(rest, c, false),
            '$' if before.is_none_or(|b| !is_word(b)) => dollar_quoted(rest),
            _ => c.len_utf8(),
        };
        out.push_str(&rest[..length]);
        before = rest[..length].chars().last();
        rest = &rest[length..];
    }
    out
}

/// What a literal says may itself be quoted: its name is looked for as a word.
fn inside(literal: &str, old: &str, new: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut before: Option<char> = None;
    let mut rest = literal;
    while let Some(c) = rest.chars().next() {
        if before.is_none_or(|b| !is_word(b)) && stands_here(rest, old) {
            out.push_str(new);
            rest = &rest[old.len()..];
            before = old.chars().last();
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            before = Some(c);
        }
    }
    out
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$' || !c.is_ascii()
}

/// Whether the E before a literal is its prefix and not the end of a word.
fn is_prefix(out: &str) -> bool {
    out.chars().rev().nth(1).is_none_or(|b| !is_word(b) && b != '"')
}

fn stands_here(rest: &str, old: &str) -> bool {
    rest.strip_prefix(old).is_some_and(|after| {
        let next = after.chars().next();
        next.is_none_or(|n| n != '"' && (old.ends_with('"') || !is_word(n)))
    })
}

/// Length of what the quote at the beginning opens. A doubled quote begins the next piece at once.
fn quoted(rest: &str, quote: char, escapes: bool) -> usize {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote {
            match chars.peek() {
                Some((_, next)) if *next == quote => {
                    chars.next();
                }
                _ => return at + c.len_utf8(),
            }
        }
    }
    rest.len()
}

/// Length of a dollar-quoted literal, or of the dollar alone where it begins none.
fn dollar_quoted(rest: &str) -> usize {
    let tag = rest[1..].find('$').map(|end| &rest[..end + 2]).filter(|t| t[1..t.len() - 1].chars().all(is_word));
    match tag {
        Some(tag) => rest[tag.len()..].find(tag).map_or(rest.len(), |end| end + 2 * tag.len()),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(text: &str, old: &str, new: &str) -> String {
        renamed(text, old, new, Literals::Keep)
    }

    #[test]
    fn a_name_is_replaced_where_it_stands_alone() {
        let new = r#"ana."N 1""#;
        for (text, expected) in [
            ("CREATE INDEX i ON ana.v USING btree (id)", r#"CREATE INDEX i ON ana."N 1" USING btree (id)"#),
            ("COMMENT ON COLUMN ana.v.id IS 'x'", r#"COMMENT ON COLUMN ana."N 1".id IS 'x'"#),
            ("ana.v", new),
            ("(ana.v)", r#"(ana."N 1")"#),
        ] {
            assert_eq!(keep(text, "ana.v", new), expected);
        }
        for same in ["ALTER INDEX ana.v_key CLUSTER", "ana.vé", "x.ana.v", "banana.v", "ana.v\"x\"", "é_ana.v"] {
            assert_eq!(keep(same, "ana.v", new), same);
        }
    }

    #[test]
    fn nothing_inside_quotes_is_a_name() {
        for same in [
            "'see ana.v'",
            "'it''s ana.v'",
            r"E'a\'ana.v' ",
            r"E'\\', 'ana.v'",
            r#""x ana.v y""#,
            r#""x"" ana.v y""#,
            "$$ ana.v $$",
            "$a$ $$ ana.v $a$",
            "'open ana.v",
        ] {
            assert_eq!(keep(same, "ana.v", "\"'\""), same);
        }
        // A backslash is a character like others where no E says so.
        assert_eq!(keep(r"'\' ana.v", "ana.v", "b"), r"'\' b");
        assert_eq!(keep(r"TYPE'\' ana.v", "ana.v", "b"), r"TYPE'\' b");
    }

    #[test]
    fn a_quoted_name_is_replaced_as_a_whole() {
        let old = r#"ana."a b""#;
        assert_eq!(keep(r#"x ana."a b" y"#, old, "n"), "x n y");
        for same in [r#"ana."a b""c""#, r#""ana."a b""#] {
            assert_eq!(keep(same, old, "n"), same);
        }
    }

    #[test]
    fn a_name_in_a_literal_cannot_end_it() {
        let read = |text: &str, new: &str| renamed(text, "wh_x_1", new, Literals::Read);
        assert_eq!(read("'app.wh_x_1'::regclass", r#""it's""#), r#"'app."it''s"'::regclass"#);
        assert_eq!(read(r"E'\\wh_x_1'", r#""a\b'""#), r#"E'\\"a\\b''"'"#);
        assert_eq!(read("u.wh_x_1 = 'wh_x_12'", "id"), "u.id = 'wh_x_12'");
        assert_eq!(read(r#""wh_x_1""#, "id"), r#""wh_x_1""#);
    }
}

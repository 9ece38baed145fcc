//! Finds the parameters `:name` in the text of a query, and puts `$1`, `$2` … in their place.
//!
//! What is a string, a quoted name or a comment follows the server's lexer (src/backend/parser/scan.l) with
//! standard_conforming_strings on, under which queries are parsed as well. A colon can stand elsewhere too: in `::`, in
//! `:=`, and between the bounds of an array slice (`a[1:n]`), where it follows an operand, as no parameter ever does.

use super::lexemes::{begins_name, comment, continuation, continues_name, escaped, is_space, line, name, quoted};
use crate::error::{sqlstate, Error, Result};

/// A query as the server is to parse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// With `$n` for the parameters.
    pub sql: String,
    /// Their names, in order of their numbers, each once.
    pub names: Vec<String>,
}

/// What the token before was, as far as it matters for a colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Nothing, an operator, a comma, an opening parenthesis, a keyword.
    Open,
    /// An opening bracket that subscripts what stands before it.
    Subscript,
    /// Something that has a value: a name, a number, a string, a closing parenthesis or bracket.
    Operand,
    /// The word ARRAY: a bracket after it makes an array.
    Array,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    out: String,
    names: Vec<String>,
    before: Before,
    /// Parentheses and brackets that are open; true for a bracket that subscripts.
    open: Vec<Option<bool>>,
}

/// Rewrites a query. `declared` says which names are parameters where it could be a slice from the first element
/// (`a[:n]`).
pub fn rewrite(text: &str, declared: impl Fn(&str) -> bool) -> Result<Rewritten> {
    let mut scanner = Scanner {
        text,
        at: 0,
        out: String::with_capacity(text.len()),
        names: Vec::new(),
        before: Before::Open,
        open: Vec::new(),
    };
    scanner.run(declared)?;
    Ok(Rewritten { sql: scanner.out, names: scanner.names })
}

impl Scanner<'_> {
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Takes over `n` bytes as they are.
    fn take(&mut self, n: usize) {
        let end = (self.at + n).min(self.text.len());
        self.out.push_str(&self.text[self.at..end]);
        self.at = end;
    }

    fn run(&mut self, declared: impl Fn(&str) -> bool) -> Result<()> {
        while self.at < self.text.len() {
            let (here, next) = (self.byte(0), self.byte(1));
            match here {
                _ if is_space(here) => self.take(1),
                b'-' if next == b'-' => self.take(line(self.rest())),
                b'/' if next == b'*' => self.take(comment(self.rest())),
                b'\'' => self.string(false),
                b'"' => {
                    self.take(quoted(self.rest(), b'"'));
                    self.before = Before::Operand;
                }
                b'$' if next.is_ascii_digit() => return Err(numbered(self.rest())),
                b'$' => self.dollar(),
                b':' if next == b':' => {
                    self.take(2);
                    self.before = Before::Open;
                }
                b':' if begins_name(next) && self.is_parameter(&declared) => self.parameter(),
                b':' => {
                    self.take(1);
                    self.before = Before::Open;
                }
                b'.' | b'0'..=b'9' if here != b'.' || next.is_ascii_digit() => self.number(),
                _ if begins_name(here) => self.word(),
                _ => self.punctuation(here),
            }
        }
        Ok(())
    }

    /// Whether the colon here is followed by a parameter, and does not divide the bounds of a slice.
    fn is_parameter(&self, declared: &impl Fn(&str) -> bool) -> bool {
        match self.before {
            Before::Operand => self.open.last() != Some(&Some(true)),
            Before::Subscript => declared(name(&self.text[self.at + 1..])),
            Before::Open | Before::Array => true,
        }
    }

    fn parameter(&mut self) {
        let name = name(&self.text[self.at + 1..]).to_owned();
        self.at += 1 + name.len();
        let number = match self.names.iter().position(|n| *n == name) {
            Some(known) => known + 1,
            None => {
                self.names.push(name);
                self.names.len()
            }
        };
        // A name may contain `$`: `LIMIT:n` must not become `LIMIT$1`.
        if self.out.bytes().next_back().is_some_and(continues_name) {
            self.out.push(' ');
        }
        self.out.push_str(&format!("${number}"));
        // Nor may what follows make another number of it.
        if continues_name(self.byte(0)) || self.byte(0) == b'$' {
            self.out.push(' ');
        }
        self.before = Before::Operand;
    }

    /// A string, and what continues it on the next line.
    fn string(&mut self, escapes: bool) {
        loop {
            let length = if escapes { escaped(self.rest()) } else { quoted(self.rest(), b'\'') };
            self.take(length);
            match continuation(self.rest()) {
                Some(gap) => self.take(gap),
                None => break,
            }
        }
        self.before = Before::Operand;
    }

    fn dollar(&mut self) {
        let tag = {
            let rest = self.rest();
            let inner = name(&rest[1..]).len();
            (rest.as_bytes().get(1 + inner) == Some(&b'$')).then(|| rest[..inner + 2].to_owned())
        };
        let Some(tag) = tag else { return self.punctuation(b'$') };
        let length = self.rest()[tag.len()..].find(&tag).map_or(self.rest().len(), |end| end + 2 * tag.len());
        self.take(length);
        self.before = Before::Operand;
    }

    fn number(&mut self) {
        let mut n = 0;
        loop {
            let (byte, after) = (self.byte(n), self.byte(n + 1));
            let exponent = matches!(byte, b'e' | b'E') && n > 0;
            if exponent && matches!(after, b'+' | b'-') && self.byte(n + 2).is_ascii_digit() {
                n += 3;
            } else if continues_name(byte) || byte == b'.' {
                n += 1;
            } else {
                break;
            }
        }
        self.take(n.max(1));
        self.before = Before::Operand;
    }

    fn word(&mut self) {
        let word = {
            let rest = self.rest();
            let end = rest.bytes().position(|b| !continues_name(b) && b != b'$').unwrap_or(rest.len());
            rest[..end].to_owned()
        };
        self.take(word.len());
        if self.byte(0) == b'\'' && word.eq_ignore_ascii_case("e") {
            return self.string(true);
        }
        self.before = if word.eq_ignore_ascii_case("array") {
            Before::Array
        } else if KEYWORDS.iter().any(|k| word.eq_ignore_ascii_case(k)) {
            Before::Open
        } else {
            Before::Operand
        };
    }

    fn punctuation(&mut self, here: u8) {
        self.take(1);
        self.before = match here {
            b'[' => {
                // What follows ARRAY, or stands in such a bracket, makes an array.
                let in_array = self.open.last() == Some(&Some(false));
                let makes = self.before == Before::Array || (in_array && self.before != Before::Operand);
                self.open.push(Some(!makes));
                if makes {
                    Before::Open
                } else {
                    Before::Subscript
                }
            }
            b'(' => {
                self.open.push(None);
                Before::Open
            }
            b')' | b']' => {
                self.open.pop();
                Before::Operand
            }
            _ => Before::Open,
        };
    }
}

/// Words after which an operand begins, where a bracket could otherwise seem to have a bound before the colon.
const KEYWORDS: &[&str] = &[
    "and", "or", "not", "case", "when", "then", "else", "in", "is", "between", "like", "ilike", "similar", "select",
    "distinct", "all", "any", "some", "from", "where", "by", "limit", "offset", "on", "using", "as", "from",
];

fn numbered(rest: &str) -> Error {
    let end = rest[1..].bytes().position(|b| !b.is_ascii_digit()).map_or(rest.len(), |n| n + 1);
    Error::new(
        sqlstate::SYNTAX_ERROR,
        format!("parameters of a saved query have names, not numbers such as {}", &rest[..end]),
    )
    .hint("Write :name, and declare it: params => '{\"name\": {\"type\": \"int\", \"default\": 1}}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (String, Vec<String>) {
        let r = match rewrite(text, |n| n == "declared") {
            Ok(r) => r,
            Err(e) => panic!("{text}: {}", e.message),
        };
        (r.sql, r.names)
    }

    /// Nothing in it is a parameter.
    fn none(text: &str) {
        assert_eq!(of(text), (text.to_owned(), vec![]), "{text}");
    }

    #[test]
    fn parameters_get_numbers_in_their_order_and_one_each() {
        let (sql, names) = of("SELECT :b, :a + :b FROM t WHERE x=:_c1 AND y = :größe");
        assert_eq!(sql, "SELECT $1, $2 + $1 FROM t WHERE x=$3 AND y = $4");
        assert_eq!(names, ["b", "a", "_c1", "größe"]);
        assert_eq!(of("VALUES (:a),(:b);").0, "VALUES ($1),($2);");
        assert_eq!(of("SELECT :A, :a").1, ["A", "a"]);
    }

    #[test]
    fn a_number_never_runs_into_its_neighbours() {
        assert_eq!(of("SELECT 1 LIMIT:n").0, "SELECT 1 LIMIT $1");
        assert_eq!(of("SELECT :a$x").0, "SELECT $1 $x");
        assert_eq!(of("SELECT x AS ü FROM t OFFSET:n").0, "SELECT x AS ü FROM t OFFSET $1");
    }

    #[test]
    fn casts_and_named_arguments_are_no_parameters() {
        none("SELECT a::int, b :: text, '1'::date, f(x := 1), f(x => 2)");
        assert_eq!(of("SELECT :a::int, f(x=>:b), (:c)::text").0, "SELECT $1::int, f(x=>$2), ($3)::text");
        assert_eq!(of("SELECT f(x := :a)").0, "SELECT f(x := $1)");
        none("SELECT a :::b".trim_end_matches(":b"));
    }

    #[test]
    fn strings_and_quoted_names_are_left_alone() {
        none("SELECT ':a', 'it''s :a', \"x:y\", \"a\"\":b\", U&':a', B'01', x':a', N':a'");
        // A backslash hides nothing in a plain string.
        assert_eq!(of(r"SELECT 'a\', :b").0, r"SELECT 'a\', $1");
        none(r"SELECT E'a\' :b', e'\\'':b'");
        assert_eq!(of(r"SELECT E'\\', :b").0, r"SELECT E'\\', $1");
        // The letter is a word of its own, or it is none.
        assert_eq!(of(r"SELECT date'\', :b").0, r"SELECT date'\', $1");
        assert_eq!(of(r"SELECT _e'\', :b").0, r"SELECT _e'\', $1");
    }

    #[test]
    fn a_string_goes_on_after_a_line_break() {
        none("SELECT 'a' -- it's\n  ':b'");
        none("SELECT E'a'\n'\\' :b'");
        // On the same line it is another token, which the server refuses.
        assert_eq!(of("SELECT E'a' '\\' :b").0, "SELECT E'a' '\\' $1");
        assert_eq!(of("SELECT 'a'\n, :b").0, "SELECT 'a'\n, $1");
    }

    #[test]
    fn dollar_quotes_end_with_their_own_tag() {
        none("SELECT $$ :a $x$ :b $$, $tag$ :a $$ :b $tag$, $ü$:a$ü$");
        assert_eq!(of("SELECT $a$ x $a$, :b").0, "SELECT $a$ x $a$, $1");
        // Within a name a dollar begins nothing.
        assert_eq!(of("SELECT a$b$ , :c, x$b$").0, "SELECT a$b$ , $1, x$b$");
        none("SELECT $open$ :a");
    }

    #[test]
    fn comments_are_left_alone_and_nest() {
        none("SELECT 1 -- :a\n/* :b /* :c */ :d */ -- :e");
        assert_eq!(of("/* /* */ */ SELECT :a").0, "/* /* */ */ SELECT $1");
        assert_eq!(of("SELECT 1 --x\r:a").0, "SELECT 1 --x\r$1");
        assert_eq!(of("SELECT 2 - -:a, 4 / :b, 3*:c").0, "SELECT 2 - -$1, 4 / $2, 3*$3");
        none("SELECT /* :a");
    }

    #[test]
    fn the_colon_of_a_slice_is_none_of_a_parameter() {
        none("SELECT a[1:n], a[x:y], (a)[f(1):n], a[b[1]:n], a[:n], a[1:], a[:], '{}'::int[]");
        assert_eq!(of("SELECT a[:declared], a[:x]").0, "SELECT a[$1], a[:x]");
        assert_eq!(of("SELECT a[1: :n], a[:declared: :n]").0, "SELECT a[1: $1], a[$2: $1]");
        assert_eq!(of("SELECT a[1 + :n : 2 + :m]").0, "SELECT a[1 + $1 : 2 + $2]");
        assert_eq!(of("SELECT a[f(:n)], a[(:m)]").0, "SELECT a[f($1)], a[($2)]");
        assert_eq!(of("SELECT ARRAY[:a, :b], array [[:c]]").0, "SELECT ARRAY[$1, $2], array [[$3]]");
        assert_eq!(of("SELECT ARRAY[a[1:n], :b]").0, "SELECT ARRAY[a[1:n], $1]");
        assert_eq!(of("SELECT a[CASE WHEN true THEN :n END]").0, "SELECT a[CASE WHEN true THEN $1 END]");
    }

    #[test]
    fn numbers_are_one_token() {
        none("SELECT 1e5, 1.5e-3, .5, 0x1F, 1_000");
        assert_eq!(of("SELECT 1e-:a").0, "SELECT 1e-$1");
        assert_eq!(of("SELECT 1.:a").0, "SELECT 1. $1".replace(". $", ".$"));
    }

    #[test]
    fn numbered_parameters_are_refused() {
        for text in ["SELECT $1", "SELECT :a, $12"] {
            assert_eq!(rewrite(text, |_| true).map_err(|e| e.sqlstate), Err("42601".into()), "{text}");
        }
        none("SELECT '$1', \"$1\", a$1 -- $1");
    }

    #[test]
    fn whatever_the_text_it_ends_and_nothing_else_is_changed() {
        let pieces = [
            "'", "\"", ":a", "::", "[", "]", "$$", "$t$", "/*", "*/", "--", "\n", "e'", "\\", " ", "ü", "1", "x", "(",
            ")", ":", "$",
        ];
        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            let Ok(r) = rewrite(&text, |_| true) else { continue };
            // Put back, it is the text but for spaces; a dollar and a digit in a string is put in on both sides.
            let put_back = |sql: &str| {
                let named = r.names.iter().enumerate().rev();
                let text =
                    named.fold(sql.to_owned(), |t, (n, name)| t.replace(&format!("${}", n + 1), &format!(":{name}")));
                text.replace(' ', "")
            };
            let (back, plain) = (put_back(&r.sql), put_back(&text));
            assert_eq!(back, plain, "{text}");
        }
    }
}

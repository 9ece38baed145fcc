//! From a name in an API to an identifier in SQL.
//!
//! The rule: snake case (`createdAt`, `HTTPServer` become `created_at`, `http_server`), everything that is neither a
//! letter nor a digit becomes one underscore, none at either end (names that begin with one are ours: `_raw`), `n_`
//! before a leading digit, an underscore after a word that SQL reserves (`order_`, `user_`) and after a system column's
//! name, 63 bytes at most, `unnamed` where nothing is left. Applying it twice changes nothing.

use std::collections::HashSet;

/// What Postgres stores of a name (NAMEDATALEN - 1).
const MOST_BYTES: usize = 63;

/// Words that can't name a column without quotes, as pg_get_keywords() has them under R and T in Postgres 15 to 18,
/// and the system columns. Sorted.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "binary",
    "both",
    "case",
    "cast",
    "check",
    "cmax",
    "cmin",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "ctid",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "group",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "intersect",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "natural",
    "not",
    "notnull",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "outer",
    "overlaps",
    "placing",
    "primary",
    "references",
    "returning",
    "right",
    "select",
    "session_user",
    "similar",
    "some",
    "symmetric",
    "system_user",
    "table",
    "tableoid",
    "tablesample",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
    "xmax",
    "xmin",
];

pub fn identifier(api_name: &str) -> String {
    let mut words = String::with_capacity(api_name.len());
    let chars: Vec<char> = api_name.chars().collect();
    for (at, &c) in chars.iter().enumerate() {
        if starts_word(&chars, at) && !words.ends_with('_') {
            words.push('_');
        }
        for c in c.to_lowercase() {
            if c.is_alphanumeric() {
                words.push(c);
            } else if !words.ends_with('_') {
                words.push('_');
            }
        }
    }
    let mut name = words.trim_matches('_').to_owned();
    if name.is_empty() {
        return "unnamed".into();
    }
    if name.starts_with(|c: char| c.is_numeric()) {
        name.insert_str(0, "n_");
    }
    cut(&mut name, MOST_BYTES);
    name.truncate(name.trim_end_matches('_').len());
    if RESERVED.binary_search(&name.as_str()).is_ok() {
        name.push('_');
    }
    name
}

/// An upper-case letter after a lower-case one or a digit, or the last of a run of them, when a word goes on with it.
fn starts_word(chars: &[char], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).and_then(|before| chars.get(before)) else { return false };
    if !is_capital(chars[at]) || !before.is_alphanumeric() {
        return false;
    }
    !is_capital(*before) || chars.get(at + 1).is_some_and(|next| next.is_lowercase())
}

/// Not is_uppercase: there are upper-case letters (in mathematics) that have no lower-case ones, and stay as they are.
fn is_capital(c: char) -> bool {
    !c.to_lowercase().eq([c])
}

/// Different identifiers, in the order of the names: where one is taken, `_2`, `_3`, … is put after it. A name keeps
/// its identifier when others are added behind it, so put known names first.
pub fn identifiers<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut taken = HashSet::new();
    names
        .map(|name| {
            let plain = identifier(name);
            let mut candidate = plain.clone();
            let mut number = 2u64;
            while !taken.insert(candidate.clone()) {
                let suffix = format!("_{number}");
                candidate.clone_from(&plain);
                cut(&mut candidate, MOST_BYTES - suffix.len());
                candidate.push_str(&suffix);
                number += 1;
            }
            candidate
        })
        .collect()
}

/// Shortens to so many bytes, between characters.
fn cut(name: &mut String, bytes: usize) {
    if name.len() > bytes {
        let end = (0..=bytes).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        name.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::generator::Generator;

    #[test]
    fn names_become_snake_case() {
        for (name, expected) in [
            ("id", "id"),
            ("created_at", "created_at"),
            ("createdAt", "created_at"),
            ("HTTPServer", "http_server"),
            ("SystemModstamp", "system_modstamp"),
            ("IsPersonAccount", "is_person_account"),
            ("Custom_Field__c", "custom_field_c"),
            ("hs_object_id", "hs_object_id"),
            ("Line 1 (billing)", "line_1_billing"),
            ("address2Line", "address2_line"),
            ("ID", "id"),
            ("teamID", "team_id"),
            ("user-agent", "user_agent"),
            ("a.b/c", "a_b_c"),
            ("_links", "links"),
            ("__typename", "typename"),
            ("2fa", "n_2fa"),
            ("Größe", "größe"),
            ("名前", "名前"),
            ("ÉtatCivil", "état_civil"),
        ] {
            assert_eq!(identifier(name), expected, "{name}");
        }
    }

    #[test]
    fn a_name_without_letters_is_not_empty() {
        for name in ["", "_", "$$$", "---", "\u{0}", "\u{301}"] {
            assert_eq!(identifier(name), "unnamed", "{name:?}");
        }
    }

    #[test]
    fn reserved_words_and_system_columns_get_an_underscore() {
        assert!(RESERVED.is_sorted());
        for (name, expected) in [("order", "order_"), ("User", "user_"), ("ctid", "ctid_"), ("orders", "orders")] {
            assert_eq!(identifier(name), expected);
        }
    }

    #[test]
    fn long_names_end_between_characters() {
        assert_eq!(identifier(&"a".repeat(64)), "a".repeat(63));
        assert_eq!(identifier(&"é".repeat(40)), "é".repeat(31));
        assert_eq!(identifier(&format!("{} b", "a".repeat(62))), "a".repeat(62));
    }

    #[test]
    fn collisions_are_numbered_in_order() {
        let names = ["a", "A", "_a", "a_2", "b"];
        assert_eq!(identifiers(names.into_iter()), ["a", "a_2", "a_3", "a_2_2", "b"]);
        let long = "x".repeat(70);
        assert_eq!(identifiers([long.as_str(), &long].into_iter()), ["x".repeat(63), format!("{}_2", "x".repeat(61))]);
    }

    #[test]
    fn any_name_gives_an_identifier_that_the_rule_leaves_alone() {
        let mut generator = Generator::new(1);
        let mut names = Vec::new();
        for _ in 0..20_000 {
            let name = generator.text(80);
            let once = identifier(&name);
            assert!(!once.is_empty() && once.len() <= 63, "{name:?} gave {once:?}");
            assert!(once.chars().all(|c| c == '_' || c.is_alphanumeric()), "{name:?} gave {once:?}");
            assert!(
                !once.starts_with('_') && !once.starts_with(|c: char| c.is_ascii_digit()),
                "{name:?} gave {once:?}"
            );
            assert!(RESERVED.binary_search(&once.as_str()).is_err(), "{name:?} gave {once:?}");
            assert_eq!(identifier(&once), once, "from {name:?}");
            names.push(name);
        }
        let all = identifiers(names.iter().map(String::as_str));
        let different: HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), names.len());
        assert!(all.iter().all(|name| name.len() <= 63));
        assert_eq!(identifiers(names[..500].iter().map(String::as_str)), all[..500], "later names move earlier ones");
    }
}

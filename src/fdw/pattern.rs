//! LIKE patterns over names, as `wh.hide` takes them. Pure.

/// What is hidden of one foreign application.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Hidden {
    pub table_pattern: String,
    pub column_pattern: Option<String>,
}

/// Whether a whole table is hidden.
pub fn hides_table(hidden: &[Hidden], table: &str) -> bool {
    hidden.iter().any(|h| h.column_pattern.is_none() && like(table, &h.table_pattern))
}

/// Whether a column of a visible table is hidden.
pub fn hides_column(hidden: &[Hidden], table: &str, column: &str) -> bool {
    hidden.iter().any(|h| h.column_pattern.as_deref().is_some_and(|c| like(column, c)) && like(table, &h.table_pattern))
}

/// `text LIKE pattern` with the default escape, as src/backend/utils/adt/like_match.c matches it.
pub fn like(text: &str, pattern: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let pattern: Vec<char> = pattern.chars().collect();
    // Greedy with one point to return to, the last %: linear in memory, no recursion.
    let (mut t, mut p, mut retry) = (0, 0, None);
    loop {
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some('_') if t < text.len() => {
                (t, p) = (t + 1, p + 1);
                continue;
            }
            Some('\\') if t < text.len() && pattern.get(p + 1) == text.get(t) => {
                (t, p) = (t + 1, p + 2);
                continue;
            }
            Some(c) if *c != '\\' && *c != '_' && text.get(t) == Some(c) => {
                (t, p) = (t + 1, p + 1);
                continue;
            }
            None if t == text.len() => return true,
            _ => {}
        }
        match retry {
            Some((after, at)) if at < text.len() => {
                retry = Some((after, at + 1));
                (t, p) = (at + 1, after);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_matches_as_postgres_does() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "_", false),
            ("password_hash", "%password%", true),
            ("PASSWORD", "%password%", false),
            ("a_b", "a\\_b", true),
            ("axb", "a\\_b", false),
            ("a%", "a\\%", true),
            ("größe", "gr__e", true),
            ("aaab", "%ab", true),
            ("abcabc", "a%c", true),
            ("abcabd", "a%c", false),
            ("x", "%%%x%%", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} LIKE {pattern}");
        }
    }

    #[test]
    fn a_pattern_over_columns_leaves_the_table() {
        let hidden = [Hidden { table_pattern: "%".into(), column_pattern: Some("%token%".into()) }];
        assert!(!hides_table(&hidden, "api_tokens"));
        assert!(hides_column(&hidden, "users", "api_token"));
    }
}

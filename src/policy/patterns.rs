//! LIKE patterns over `schema.table.column`. Pure.

use serde::Deserialize;

use crate::error::{sqlstate, Error, Result};
use crate::fdw::like;

/// The patterns of the policy, in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Vec<String>")]
pub struct Patterns(Vec<String>);

impl From<Vec<String>> for Patterns {
    fn from(mut patterns: Vec<String>) -> Self {
        // In one order, so that two readings can be compared.
        patterns.sort_unstable();
        Patterns(patterns.into_iter().map(|p| p.to_ascii_lowercase()).collect())
    }
}

impl Patterns {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As they are compared.
    pub fn to_vec(&self) -> Vec<String> {
        self.0.clone()
    }

    /// Upper and lower case are the same here: `apiToken` is as sensitive as `api_token`. Beyond ASCII they are not, so
    /// that wh.sensitive_columns can say the same with `lower(… COLLATE "C")`.
    pub fn matches(&self, schema: &str, table: &str, column: &str) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let name = format!("{schema}.{table}.{column}").to_ascii_lowercase();
        self.0.iter().any(|pattern| like(&name, pattern))
    }
}

/// Refuses what LIKE refuses, and what could match no column at all.
pub fn check(pattern: &str) -> Result<()> {
    let (mut dots, mut any) = (0, false);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                let Some(plain) = chars.next() else {
                    return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, "pattern must not end with an escape")
                        .hint("A backslash takes the character behind it as it is: double it, or leave it out."));
                };
                dots += usize::from(plain == '.');
            }
            '.' | '_' => dots += 1,
            '%' => any = true,
            _ => {}
        }
    }
    if any || dots >= 2 {
        return Ok(());
    }
    Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, format!("pattern \"{pattern}\" matches no column"))
        .detail("It is compared with schema.table.column.")
        .hint("For instance: app.users.birthday, or %.%.%password% for any column of such a name."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Patterns {
        Patterns::from(list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_pattern_is_about_schema_table_and_column_at_once() {
        let p = patterns(&["%.%.%password%", "app.users.api\\_token", "crm.%"]);
        assert!(p.matches("app", "users", "password_hash"));
        assert!(p.matches("App", "Users", "oldPassword"));
        // The dots are in the pattern: a table of that name is another matter.
        assert!(!p.matches("app", "password_resets", "id"));
        assert!(p.matches("app", "users", "api_token"));
        assert!(!p.matches("app", "users", "api-token"));
        assert!(!p.matches("app2", "users", "api_token"));
        assert!(p.matches("crm", "people", "anything"));
        assert!(!patterns(&[]).matches("", "", ""));
    }

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        for good in ["a.b.c", "%", "%token%", "a.%", "a\\.b.c", "%\\_x", "a_b_c"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "token", "users.token", "a.b.c\\", "%\\", "a\\_b.c"] {
            assert_eq!(check(bad).map_err(|e| e.sqlstate), Err("22023".into()), "{bad}");
        }
    }
}

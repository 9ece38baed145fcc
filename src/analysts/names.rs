//! Names that a role and its schema may have, and passwords that are made. Pure.

use crate::error::{sqlstate, Error, Result};

/// Words that stand for something else where a role or a schema is named.
const WORDS: &[&str] =
    &["public", "none", "wh", "information_schema", "current_user", "current_role", "session_user", "user"];

/// Refuses what cannot be the name of a role and a schema both, and what would be taken for ours or the server's.
pub fn check(argument: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 63 || name.chars().any(char::is_control) {
        return Err(Error::new(
            sqlstate::INVALID_PARAMETER_VALUE,
            format!("{argument} must be a name of 1 to 63 bytes without control characters"),
        ));
    }
    if WORDS.contains(&name) || name.starts_with("pg_") || name.starts_with("wh_") {
        return Err(Error::new(sqlstate::RESERVED_NAME, format!("name \"{name}\" is reserved"))
            .hint("Choose another one: it becomes a role and a schema."));
    }
    Ok(())
}

/// The name of the group of a database's readers, which is not among those taken.
pub fn group(database: &str, taken: impl Fn(&str) -> bool) -> String {
    (1..)
        .map(|n| {
            let end = if n == 1 { String::new() } else { format!("_{n}") };
            let mut stem = format!("wh_readers_{database}");
            while stem.len() + end.len() > 63 {
                stem.pop();
            }
            stem + &end
        })
        .find(|name| !taken(name))
        .unwrap_or_default()
}

/// A password of 32 random bytes: five groups of five letters and digits that nobody confuses, 125 bits.
pub fn password(random: &[u8; 32]) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let letters: Vec<char> = random.iter().take(25).map(|b| char::from(LETTERS[usize::from(b % 32)])).collect();
    letters.chunks(5).map(String::from_iter).collect::<Vec<_>>().join("-")
}

/// Milliseconds of a limit from an interval's microseconds; 0 is none.
pub fn limit(micros: i128) -> Result<i32> {
    let bad = |message: &str| {
        Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message)
            .hint("For instance: max_query_time => '10 minutes'; '0' for none"))
    };
    match micros {
        m if m < 0 => bad("max_query_time must not be negative"),
        0 => Ok(0),
        m if m < 1000 => Ok(1),
        m => i32::try_from(m / 1000).or_else(|_| bad("max_query_time must be 24 days at most")),
    }
}

/// Milliseconds as a setting, in the unit that reads best.
pub fn span(ms: i32) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.into_iter().find(|(size, _)| ms >= *size && ms % size == 0) {
        Some((size, unit)) => format!("{}{unit}", ms / size),
        None if ms == 0 => String::from("0"),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_server_and_ours_are_reserved() {
        for name in ["public", "none", "wh", "wh_admin", "pg_monitor", "pg_toast", "current_user", "information_schema"]
        {
            assert_eq!(check("name", name).expect_err(name).sqlstate, sqlstate::RESERVED_NAME, "{name}");
        }
        for name in
            ["alice", "Alice B.", "o'brien", "whitney", "größe", "user2", "\"", "Public", "x".repeat(63).as_str()]
        {
            check("name", name).unwrap_or_else(|e| panic!("{name}: {}", e.message));
        }
        for name in ["", "a\nb", "\u{0}", "\u{7f}", "ü".repeat(32).as_str()] {
            assert_eq!(check("name", name).expect_err(name).sqlstate, sqlstate::INVALID_PARAMETER_VALUE, "{name:?}");
        }
    }

    #[test]
    fn a_group_takes_a_name_that_is_free_and_fits() {
        assert_eq!(group("shop", |_| false), "wh_readers_shop");
        assert_eq!(group("shop", |n| n == "wh_readers_shop"), "wh_readers_shop_2");
        let long = "ü".repeat(31);
        let first = group(&long, |_| false);
        assert!(first.len() <= 63 && first.starts_with("wh_readers_ü"), "{first}");
        let second = group(&long, |n| n == first);
        assert!(second.len() <= 63 && second.ends_with("_2"), "{second}");
    }

    #[test]
    fn a_password_is_long_and_clear() {
        let all: [u8; 32] = std::array::from_fn(|n| n as u8 * 8 + 7);
        let made = password(&all);
        assert_eq!(made.len(), 29);
        assert!(made.chars().all(|c| c == '-' || c.is_ascii_alphanumeric()) && !made.contains(['l', 'o', '0', '1']));
        assert_ne!(password(&[0; 32]), password(&[1; 32]));
    }

    #[test]
    fn limits_are_milliseconds_with_a_most() {
        assert_eq!((limit(0), limit(1), limit(600_000_000)), (Ok(0), Ok(1), Ok(600_000)));
        assert!(limit(-1).is_err() && limit(i128::from(i32::MAX) * 1000 + 1000).is_err());
        assert_eq!(
            [span(0), span(1), span(1500), span(90_000), span(600_000), span(86_400_000)],
            ["0", "1ms", "1500ms", "90s", "10min", "1d"]
        );
    }
}

//! `postgresql://` URIs into the options of a server and a user mapping. Pure.
//!
//! The form is libpq's: <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>. No
//! message says more of the URI than the name of the part that is wrong: it carries a password.

use url::Url;

use crate::error::{sqlstate, Error, Result};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// host, port, dbname and the parameters of the query part.
    pub server: Vec<(String, String)>,
    /// user and password.
    pub mapping: Vec<(String, String)>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(sqlstate::INVALID_PARAMETER_VALUE, what)
        .hint("A uri looks like postgresql://user:password@host:5432/dbname?sslmode=require. Characters such as @ : / # in a password are written as %40 %3A %2F %23.")
}

/// Reads a URI.
pub fn parse(uri: &str) -> Result<Connection> {
    let url = Url::parse(uri).map_err(|e| bad(format!("uri cannot be read: {e}")))?;
    if !["postgresql", "postgres"].contains(&url.scheme()) {
        return Err(bad("uri must begin with postgresql://"));
    }
    let decode = |part: &str, text: &str| {
        percent_decode(text).ok_or_else(|| bad(format!("the {part} in uri is not percent-encoded UTF-8")))
    };
    let mut connection = Connection::default();
    if let Some(host) = url.host_str().filter(|h| !h.is_empty()) {
        let host = decode("host", host)?;
        connection.server.push(("host".into(), host.trim_start_matches('[').trim_end_matches(']').into()));
    }
    if let Some(port) = url.port() {
        connection.server.push(("port".into(), port.to_string()));
    }
    let database = decode("database", url.path().trim_start_matches('/'))?;
    if !database.is_empty() {
        connection.server.push(("dbname".into(), database));
    }
    if !url.username().is_empty() {
        connection.mapping.push(("user".into(), decode("user", url.username())?));
    }
    if let Some(password) = url.password() {
        connection.mapping.push(("password".into(), decode("password", password)?));
    }
    for pair in url.query().unwrap_or("").split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode("parameter", key)?, decode("parameter", value)?);
        let side = match key.as_str() {
            "user" | "password" | "sslcert" | "sslkey" | "sslpassword" => &mut connection.mapping,
            _ => &mut connection.server,
        };
        side.retain(|(k, _)| *k != key);
        side.push((key, value));
    }
    if !connection.mapping.iter().any(|(k, _)| k == "user") {
        return Err(bad("uri names no user"));
    }
    Ok(connection)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let hex = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|s| !s.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()
    }

    #[test]
    fn all_parts_are_taken() {
        let c = parse("postgresql://wh%40reader:p%3Aw%20d@db.example:6432/app%2Fx?sslmode=require&application_name=wh")
            .unwrap();
        assert_eq!(
            c.server,
            pairs(&[
                ("host", "db.example"),
                ("port", "6432"),
                ("dbname", "app/x"),
                ("sslmode", "require"),
                ("application_name", "wh")
            ])
        );
        assert_eq!(c.mapping, pairs(&[("user", "wh@reader"), ("password", "p:w d")]));
    }

    #[test]
    fn sockets_and_addresses() {
        let c = parse("postgres:///app?host=/run/postgresql&user=me").unwrap();
        assert_eq!(c.server, pairs(&[("dbname", "app"), ("host", "/run/postgresql")]));
        assert_eq!(parse("postgresql://u@%2Ftmp/app").unwrap().server[0].1, "/tmp");
        assert_eq!(parse("postgresql://u@[::1]:5/app").unwrap().server[0].1, "::1");
    }

    #[test]
    fn no_message_shows_the_password() {
        for uri in [
            "mysql://u:sesame@h/d",
            "postgresql://u:sesame@h:99999/d",
            "postgresql://u:sesame%zz@h/d",
            "u:sesame@h",
            "postgresql://h/d?password=sesame",
        ] {
            let e = parse(uri).unwrap_err();
            assert!(!format!("{e:?}").contains("sesame"), "{e:?}");
        }
    }
}

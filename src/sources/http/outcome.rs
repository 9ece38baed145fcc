//! What an answer that is no page means: the spec's rules first, then what HTTP says.

use std::io::Read;

use serde_json::Value;

use super::client::{host_of, Answer, Client};
use super::failure::{code, Failure, Trouble};
use super::secret::{shown, Scrubber};
use crate::sources::spec::{Action, ErrorRule, Pointer};

/// How much of an error's body is looked at, and how much of it is shown.
const MAX_ERROR_BODY: u64 = 64 << 10;
const MAX_EXCERPT: usize = 400;

/// The first rule that fits; `at` gives the text at a pointer of the body.
pub fn rule(rules: &[ErrorRule], status: u16, at: impl Fn(&Pointer) -> Option<String>) -> Option<Action> {
    rules
        .iter()
        .find(|rule| {
            rule.status.contains(&status)
                && rule.body.as_ref().is_none_or(|(pointer, value)| at(pointer).as_ref() == Some(value))
        })
        .map(|rule| rule.action)
}

/// What is done about a status without a rule. 401 is worth a new token where tokens end.
pub fn by_status(status: u16, can_renew: bool) -> Action {
    match status {
        401 if can_renew => Action::RefreshAuth,
        429 | 500..=599 => Action::Retry,
        _ => Action::Fail,
    }
}

/// Reads the body of an answer that is an error: what it is, and in words what it says.
pub fn error_body(client: &Client, mut answer: Answer, scrubber: &Scrubber) -> Result<(Value, String), Trouble> {
    let mut bytes = Vec::new();
    (&mut answer.body)
        .take(MAX_ERROR_BODY)
        .read_to_end(&mut bytes)
        .map_err(|e| client.explain_read(&answer.url, &e))?;
    let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    let words = if text.is_empty() {
        "It says nothing more.".to_owned()
    } else if value.is_null() && text.starts_with('<') {
        "It answered with a page of HTML.".to_owned()
    } else {
        let text = scrubber.scrub(text);
        let mut excerpt: String = text.chars().filter(|c| !c.is_control()).take(MAX_EXCERPT).collect();
        if excerpt.len() < text.len() {
            excerpt.push('…');
        }
        format!("It says: {excerpt}")
    };
    Ok((value, words))
}

/// The text of a scalar, as a rule compares it.
pub fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) | Value::Null => Some(value.to_string()),
        _ => None,
    }
}

/// A status that ends a request, as a failure.
pub fn failure(stream: &str, status: u16, url: &url::Url, words: &str) -> Failure {
    let host = host_of(url);
    let (sqlstate, message, hint) = match status {
        401 => (
            code::INVALID_AUTHORIZATION,
            format!("\"{host}\" refuses the credentials of stream \"{stream}\""),
            Some("Check the secret that the source's auth names; wh.set_secret sets it."),
        ),
        403 => (
            code::INSUFFICIENT_PRIVILEGE,
            format!("\"{host}\" denies stream \"{stream}\""),
            Some("The credentials are good, but lack a permission."),
        ),
        404 | 410 => (
            code::UNDEFINED_OBJECT,
            format!("\"{host}\" has nothing at the path of stream \"{stream}\""),
            Some("Check base_url and the stream's path: the address is both, one after the other."),
        ),
        429 => (code::INSUFFICIENT_RESOURCES, format!("\"{host}\" limits the rate of stream \"{stream}\""), None),
        500..=599 => (code::CONNECTION_FAILURE, format!("\"{host}\" failed on stream \"{stream}\""), None),
        _ => (code::FDW_ERROR, format!("\"{host}\" answered stream \"{stream}\" with status {status}"), None),
    };
    let failure = Failure::new(sqlstate, message).detail(format!("{} gave status {status}. {words}", shown(url)));
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules: Vec<ErrorRule> = serde_json::from_value(serde_json::json!([
            {"status": [403], "body": {"pointer": "/code", "equals": 7}, "action": "retry"},
            {"status": [403, 404], "action": "skip"},
            {"status": [404], "action": "fail"}
        ]))
        .unwrap();
        let with = |status, code: &str| rule(&rules, status, |_| Some(code.to_owned()));
        assert_eq!(with(403, "7"), Some(Action::Retry));
        assert_eq!(with(403, "8"), Some(Action::Skip));
        assert_eq!(rule(&rules, 403, |_| None), Some(Action::Skip));
        assert_eq!(with(404, "7"), Some(Action::Skip));
        assert_eq!(with(500, "7"), None);
    }

    #[test]
    fn without_a_rule_only_passing_states_are_tried_again() {
        for status in [429, 500, 502, 503, 504, 599] {
            assert_eq!(by_status(status, true), Action::Retry);
        }
        for status in [304, 400, 402, 403, 404, 409, 410, 422] {
            assert_eq!(by_status(status, true), Action::Fail, "{status}");
        }
        assert_eq!(by_status(401, true), Action::RefreshAuth);
        assert_eq!(by_status(401, false), Action::Fail);
    }
}

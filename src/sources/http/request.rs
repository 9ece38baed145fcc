//! A stream's request: its templates filled, its page asked for, its bounds put in.

use serde_json::{Map, Value};
use url::Url;

use super::client::Request;
use super::failure::{code, Failure};
use super::paginate::{text, Ask};
use crate::sources::spec::{Method, Pointer, Spec, Stream, Target, Template};

/// The bounds of a scan, as they are sent.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    pub start: Option<String>,
    pub end: Option<String>,
}

pub fn build(
    spec: &Spec,
    stream: &Stream,
    parent: &Map<String, Value>,
    bounds: &Bounds,
    ask: &Ask,
) -> Result<Request, Failure> {
    let place = |name: &str| match name {
        "start" => bounds.start.clone(),
        "end" => bounds.end.clone(),
        _ => ask
            .places
            .iter()
            .find(|(n, _)| *n == name)
            .map(|(_, value)| value.clone())
            .or_else(|| parent.get(name).filter(|v| !v.is_null()).map(text)),
    };
    let no_value = |name: String| {
        Failure::new(code::INVALID_VALUE, format!("no value for \"{{{name}}}\" in stream \"{}\"", stream.name))
    };
    let post = stream.method == Method::Post;
    let url = match &ask.url {
        Some(url) => url.clone(),
        None => {
            let mut url = address(spec, &stream.path, |name| place(name))?;
            let mut pairs: Vec<(String, String)> = Vec::new();
            for (name, template) in &stream.params {
                match template.fill(place) {
                    Ok(value) => pairs.push((name.clone(), value)),
                    // The first run has no bound, the first page no cursor.
                    Err(missing) if ["start", "end", "cursor", "key"].contains(&missing.as_str()) => {}
                    Err(missing) => return Err(no_value(missing)),
                }
            }
            for (target, value) in bound_targets(stream, bounds) {
                if let Target::Query(name) = target {
                    put(&mut pairs, name, value);
                }
            }
            for (name, value) in &ask.query {
                put(&mut pairs, name, value);
            }
            if !pairs.is_empty() {
                url.query_pairs_mut().extend_pairs(pairs);
            }
            url
        }
    };
    let mut body = match &stream.body {
        Some(body) => Some(filled(body, &place).map_err(no_value)?),
        None => None,
    };
    for (target, value) in bound_targets(stream, bounds) {
        if let Target::Body(pointer) = target {
            set(body.get_or_insert_with(|| Value::Object(Map::new())), pointer, value.clone().into())?;
        }
    }
    for (pointer, value) in &ask.body {
        set(body.get_or_insert_with(|| Value::Object(Map::new())), pointer, value.clone())?;
    }
    let mut headers = spec.headers.clone();
    for (name, value) in &stream.headers {
        headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        headers.push((name.clone(), value.clone()));
    }
    let body = body.filter(|_| post).map(|body| ("application/json", body.to_string().into_bytes()));
    Ok(Request { post, url, headers, body })
}

fn bound_targets<'a>(stream: &'a Stream, bounds: &'a Bounds) -> impl Iterator<Item = (&'a Target, &'a String)> {
    let rule = stream.incremental.as_ref();
    let start = rule.and_then(|rule| rule.start.as_ref()).zip(bounds.start.as_ref());
    let end = rule.and_then(|rule| rule.end.as_ref()).zip(bounds.end.as_ref());
    start.into_iter().chain(end)
}

/// A parameter that the stream gives as well is replaced.
fn put(pairs: &mut Vec<(String, String)>, name: &str, value: &str) {
    pairs.retain(|(n, _)| n != name);
    pairs.push((name.to_owned(), value.to_owned()));
}

/// The path below the base. What fills it is data of the API: it stays inside its segment.
fn address(spec: &Spec, path: &Template, place: impl Fn(&str) -> Option<String>) -> Result<Url, Failure> {
    let bad = |why: String| Failure::new(code::INVALID_VALUE, "the path of a stream makes no address").detail(why);
    let filled = path.fill_path(place).map_err(|why| bad(format!("{why}.")))?;
    spec.base_url.join(&filled).map_err(|e| bad(format!("{e}.")))
}

/// The body with its strings filled.
fn filled(body: &Value, place: &impl Fn(&str) -> Option<String>) -> Result<Value, String> {
    Ok(match body {
        Value::String(string) => match Template::parse(string) {
            Ok(template) => Value::String(template.fill(place)?),
            // The check of the spec refuses braces that don't match.
            Err(_) => body.clone(),
        },
        Value::Array(items) => Value::Array(items.iter().map(|item| filled(item, place)).collect::<Result<_, _>>()?),
        Value::Object(members) => Value::Object(
            members
                .iter()
                .map(|(name, value)| Ok((name.clone(), filled(value, place)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => other.clone(),
    })
}

/// Puts a value at a pointer, with objects on the way where nothing is.
fn set(body: &mut Value, pointer: &Pointer, value: Value) -> Result<(), Failure> {
    let mut at = body;
    for token in pointer.tokens() {
        if at.is_null() {
            *at = Value::Object(Map::new());
        }
        at = match at {
            Value::Object(members) => members.entry(token.clone()).or_insert(Value::Null),
            Value::Array(items) => {
                let length = items.len();
                token.parse::<usize>().ok().and_then(|i| items.get_mut(i)).ok_or_else(|| {
                    Failure::new(code::INVALID_VALUE, format!("the request's body has no place \"{pointer}\""))
                        .detail(format!("An array of {length} items stands on the way."))
                })?
            }
            _ => {
                return Err(Failure::new(code::INVALID_VALUE, format!("the request's body has no place \"{pointer}\"")))
            }
        };
    }
    *at = value;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(stream: Value) -> Spec {
        serde_json::from_value(json!({"base_url": "https://api.example/v1/", "headers": {"X-Version": "1", "A": "b"},
            "streams": [stream]}))
        .unwrap()
    }

    fn request(stream: Value, parent: Value, bounds: Bounds, ask: Ask) -> Result<Request, Failure> {
        let spec = spec(stream);
        build(&spec, &spec.streams[0], parent.as_object().unwrap(), &bounds, &ask)
    }

    #[test]
    fn values_of_a_parent_stay_inside_their_segment() {
        let stream = json!({"name": "parts", "path": "conversations/{id}/parts", "records": ""});
        let path = |id: Value| {
            request(stream.clone(), json!({"id": id}), Bounds::default(), Ask::default()).map(|r| r.url.to_string())
        };
        assert_eq!(
            path(json!("a b/../c?d#e")).unwrap(),
            "https://api.example/v1/conversations/a%20b%2F..%2Fc%3Fd%23e/parts"
        );
        assert_eq!(
            path(json!(12345678901234567890u64)).unwrap(),
            "https://api.example/v1/conversations/12345678901234567890/parts"
        );
        for bad in [json!(".."), json!("."), json!(""), Value::Null] {
            assert!(path(bad.clone()).is_err(), "{bad}");
        }
        let whole = json!({"name": "x", "path": "{id}", "records": ""});
        let url = request(whole, json!({"id": "//evil.example/"}), Bounds::default(), Ask::default()).unwrap().url;
        assert_eq!(url.host_str(), Some("api.example"));
    }

    #[test]
    fn bounds_and_pages_go_where_the_spec_says() {
        let stream = json!({"name": "x", "path": "x", "records": "", "method": "POST",
            "params": {"limit": 100, "type": ["a", "b"], "since": "{start}"},
            "body": {"query": {"value": "{start}"}, "page": 1},
            "headers": {"x-version": "2"},
            "incremental": {"cursor": "/u", "format": "epoch_s", "start": "from", "end": "body:/query/until"}});
        let bounds = Bounds { start: Some("5".into()), end: Some("9".into()) };
        let pointer = |p: &str| Pointer::parse(p).unwrap();
        let ask = Ask {
            query: vec![("limit".into(), "7".into())],
            body: vec![(pointer("/page"), json!(2)), (pointer("/new/deep"), json!("c"))],
            ..Ask::default()
        };
        let made = request(stream.clone(), json!({}), bounds, ask).unwrap();
        assert_eq!(made.url.query(), Some("since=5&type=a&type=b&from=5&limit=7"));
        let body: Value = serde_json::from_slice(&made.body.unwrap().1).unwrap();
        assert_eq!(body, json!({"query": {"value": "5", "until": "9"}, "page": 2, "new": {"deep": "c"}}));
        assert_eq!(made.headers, [("A".into(), "b".into()), ("x-version".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn a_first_run_leaves_out_the_parameters_of_its_missing_bound() {
        let stream = json!({"name": "x", "path": "x", "records": "", "params": {"q": "after:{start}", "n": 1}});
        let made = request(stream, json!({}), Bounds::default(), Ask::default()).unwrap();
        assert_eq!(made.url.query(), Some("n=1"));
        let stream = json!({"name": "x", "path": "x", "records": "", "params": {"q": "{unknown}"}});
        assert!(request(stream, json!({}), Bounds::default(), Ask::default()).is_err());
    }
}

//! What is answered to a request, by its path.

use std::sync::Mutex;

use serde_json::{json, Value};

use super::{lock, pairs, Asked, Fault, Reply, State};

/// Logs the request, lets what was planned happen, and answers.
pub(super) fn decide(state: &Mutex<State>, asked: &Asked, base: &str) -> (Reply, Option<Fault>) {
    let mut state = lock(state);
    state.log.push(asked.clone());
    let planned = std::mem::take(&mut state.changes);
    for (path, answered, change) in planned {
        match (asked.path.starts_with(&path), answered) {
            (true, 0) => change(&mut state.store),
            (true, n) => state.changes.push((path, n - 1, change)),
            (false, n) => state.changes.push((path, n, change)),
        }
    }
    let mut fault = None;
    for (path, skip, times, what) in &mut state.faults {
        if fault.is_none() && asked.path.starts_with(path.as_str()) && *times > 0 {
            if *skip > 0 {
                *skip -= 1;
            } else {
                *times -= 1;
                fault = Some(what.clone());
            }
        }
    }
    // What a fault stands in for is still computed: a cut or slow answer is a good one.
    (answer(&mut state, asked, base), fault)
}

fn answer(state: &mut State, asked: &Asked, base: &str) -> Reply {
    if asked.path == "/token" {
        if let Some(good) = &mut state.refresh {
            let form = pairs(&asked.body);
            let sent = form.iter().find(|(n, _)| n == "refresh_token").map_or("", |(_, v)| v.as_str());
            if sent != good {
                let error = json!({"error": "invalid_grant", "error_description": format!("{sent} is spent")});
                return Reply::text(400, "application/json", &error.to_string());
            }
            *good = format!("refresh-{}", state.tokens + 1);
        }
        state.tokens += 1;
        state.token_uses = 0;
        return Reply::json(&json!({"access_token": format!("token-{}", state.tokens), "expires_in": 3600,
            "token_type": "Bearer", "refresh_token": format!("refresh-{}", state.tokens)}));
    }
    let mut welcome = true;
    if let Some((name, value)) = &state.wanted {
        welcome = asked.header(name) == Some(value);
    }
    if let Some(lasts) = state.token_lasts {
        let good = format!("Bearer token-{}", state.tokens);
        welcome = asked.header("authorization") == Some(good.as_str()) && state.token_uses < lasts;
        state.token_uses += 1;
    }
    if !welcome {
        let seen = asked.header("authorization").unwrap_or("nothing");
        return Reply::text(401, "application/json", &json!({"error": format!("not with {seen}")}).to_string());
    }
    if let Some((_, route)) = state.routes.iter().find(|(path, _)| asked.path.starts_with(path.as_str())) {
        return route(asked);
    }
    let mut parts = asked.path.trim_start_matches('/').splitn(3, '/');
    let (style, name, id) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    let none = Vec::new();
    let objects = state.store.get(name).unwrap_or(&none);
    if let (true, Some(id)) = (style == "one", id) {
        return match objects.iter().find(|o| text(&o["id"]) == id) {
            Some(object) => Reply::json(object),
            None => Reply::text(404, "application/json", "{\"error\":\"no such object\"}"),
        };
    }
    listing(style, asked, base, &sorted(objects, asked))
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn sorted(objects: &[Value], asked: &Asked) -> Vec<Value> {
    let bound = |value: &Value, name: &str, ordering: std::cmp::Ordering| {
        let Some(limit) = asked.param(name).and_then(|v| v.parse::<i64>().ok()) else { return true };
        value.as_i64().is_none_or(|value| value.cmp(&limit) != ordering)
    };
    let mut all: Vec<Value> = objects
        .iter()
        .filter(|o| {
            ["created", "updated"].iter().all(|field| {
                bound(&o[*field], &format!("{field}[gte]"), std::cmp::Ordering::Less)
                    && bound(&o[*field], &format!("{field}[lte]"), std::cmp::Ordering::Greater)
            })
        })
        .cloned()
        .collect();
    let by = asked.param("by").unwrap_or("created").to_owned();
    all.sort_by_key(|o| (o[&by].as_i64(), text(&o["id"])));
    if asked.param("order") != Some("asc") {
        all.reverse();
    }
    all
}

fn listing(style: &str, asked: &Asked, base: &str, all: &[Value]) -> Reply {
    let number = |name: &str| asked.param(name).and_then(|v| v.parse::<usize>().ok());
    let limit = number("limit").or_else(|| number("per_page")).unwrap_or(10).max(1);
    let window = |at: usize| &all[at.min(all.len())..(at + limit).min(all.len())];
    let rest = |at: usize| {
        // The other parameters go on to the next page.
        let mut query = format!("at={}", at + limit);
        for (name, value) in asked.query.iter().filter(|(n, _)| n != "at" && n != "page") {
            query.push_str(&format!("&{}={}", encode(name), encode(value)));
        }
        format!("{}?{query}", asked.path)
    };
    let at = number("at").unwrap_or(0);
    let pages = all.len().div_ceil(limit);
    match style {
        "cursor" => {
            let after = asked.param("starting_after").unwrap_or("");
            let begin = all.iter().position(|o| text(&o["id"]) == after).map_or(0, |i| i + 1);
            if !after.is_empty() && begin == 0 {
                return Reply::text(400, "application/json", "{\"error\":\"no such object\"}");
            }
            Reply::json(&json!({"object": "list", "data": window(begin), "has_more": begin + limit < all.len()}))
        }
        "offset" => Reply::json(&json!({"items": window(number("offset").unwrap_or(0)), "total": all.len()})),
        "page" => {
            let page = number("page").unwrap_or(1).max(1);
            Reply::json(&json!({"items": window((page - 1) * limit), "pages": pages, "total": all.len()}))
        }
        "link" => {
            let page = number("page").unwrap_or(1).max(1);
            let reply = Reply::json(&json!(window((page - 1) * limit)));
            if page < pages {
                let next = format!("{base}{}", rest(0).replace(&format!("at={limit}"), &format!("page={}", page + 1)));
                reply.with("Link", &format!("<{base}{}?page=1>; rel=\"first\", <{next}>; rel=\"next\"", asked.path))
            } else {
                reply
            }
        }
        "next_url" => {
            let next = (at + limit < all.len()).then(|| format!("{base}{}", rest(at)));
            Reply::json(&json!({"results": window(at), "paging": {"next": next}}))
        }
        "next_path" => {
            let mut page = json!({"records": window(at), "done": at + limit >= all.len()});
            if at + limit < all.len() {
                page["nextRecordsUrl"] = json!(rest(at));
            }
            Reply::json(&page)
        }
        "scroll" => {
            let at: usize =
                asked.param("scroll_param").and_then(|p| p.strip_prefix("scroll-")?.parse().ok()).unwrap_or(0);
            Reply::json(&json!({"data": window(at), "scroll_param": format!("scroll-{}", at + limit)}))
        }
        "search" => {
            let Ok(body) = serde_json::from_str::<Value>(&asked.body) else {
                return Reply::text(400, "text/plain", "no JSON");
            };
            let limit = body["limit"].as_u64().unwrap_or(10) as usize;
            let since = text(&body["since"]).parse::<i64>().unwrap_or(i64::MIN);
            let at = text(&body["after"]).parse::<usize>().unwrap_or(0);
            let all: Vec<&Value> = all.iter().filter(|o| o["created"].as_i64() >= Some(since)).collect();
            let page = &all[at.min(all.len())..(at + limit).min(all.len())];
            let mut reply = json!({"results": page});
            if at + limit < all.len() {
                reply["paging"] = json!({"next": {"after": (at + limit).to_string()}});
            }
            Reply::json(&reply)
        }
        _ => Reply::text(404, "application/json", "{\"error\":\"no such path\"}"),
    }
}

fn encode(text: &str) -> String {
    text.bytes()
        .map(|b| if b.is_ascii_alphanumeric() || b == b'_' { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

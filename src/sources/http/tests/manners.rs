//! Waiting, cancelling, credentials and tokens.

use super::*;

fn things(n: u64) -> FakeApi {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", n, 10);
    api
}

fn limited(name: &str, value: &str) -> Fault {
    Fault::Reply(Reply::text(429, "application/json", "{}").with(name, value))
}

/// Between the refused request and the one after it.
fn gap(api: &FakeApi, refused: usize) -> f64 {
    let log = api.log();
    (log[refused + 1].at - log[refused].at).as_secs_f64()
}

#[test]
fn a_rate_limit_is_obeyed_in_seconds_as_a_date_and_by_a_reset() {
    for (fault, at_least) in [
        (limited("Retry-After", "1"), 1.0),
        // By the server's clock, which need not be ours.
        (
            Fault::Reply(
                Reply::text(429, "application/json", "{}")
                    .with("Date", "Mon, 20 Jul 2026 10:00:00 GMT")
                    .with("Retry-After", "Mon, 20 Jul 2026 10:00:01 GMT"),
            ),
            1.0,
        ),
        (limited("X-Reset", "1"), 1.0),
        (limited("X-Nothing", "1"), 0.0),
    ] {
        let api = things(25);
        api.fault("/cursor", 1, 1, fault.clone());
        let retry = json!({"retry": {"max": 2, "base_ms": 5, "reset": {"header": "X-Reset", "unit": "seconds"}}});
        let ran = run(order(&api, cursor(), retry));
        assert_whole(&ran, &api);
        assert!((at_least..at_least + 1.5).contains(&gap(&api, 1)), "{fault:?}: {}", gap(&api, 1));
        assert_eq!(ran.waiting_ms >= 1000, at_least > 0.5);
    }
}

#[test]
fn a_long_wait_ends_the_run_and_says_until_when() {
    let api = things(25);
    api.fault("/cursor", 1, 1, limited("Retry-After", "3600"));
    let ran = run(order(&api, cursor(), json!({})));
    let wait = ran.failure().retry_at.unwrap().duration_since(SystemTime::now()).unwrap().as_secs();
    assert!((3500..3700).contains(&wait), "{wait}");
    assert_eq!(ran.checkpoints.len(), 1);
    // And the next run keeps to it, without a request.
    api.forget();
    let mut early = order(&api, cursor(), json!({}));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    early.state.not_before = Some(now + 3000);
    assert!(run(early).failure().retry_at.is_some());
    assert_eq!(api.asked("/"), 0);
}

#[test]
fn the_api_may_forbid_and_advise_another_try() {
    let retry = json!({"retry": {"max": 2, "base_ms": 5, "should_retry": "X-Retry"}});
    let api = things(5);
    api.fault("/cursor", 0, 1, Fault::Reply(Reply::text(500, "text/plain", "").with("X-Retry", "false")));
    assert_eq!(run(order(&api, cursor(), retry.clone())).failure().sqlstate, "08006");
    assert_eq!(api.asked("/"), 1);
    let api = things(5);
    api.fault("/cursor", 0, 1, Fault::Reply(Reply::text(409, "text/plain", "").with("X-Retry", "true")));
    assert_whole(&run(order(&api, cursor(), retry)), &api);
}

#[test]
fn requests_keep_their_distance() {
    let api = things(57);
    let stream = with(cursor(), json!({"limits": {"rps": 20.0}}));
    let began = Instant::now();
    assert_whole(&run(order(&api, stream, json!({}))), &api);
    assert!(began.elapsed() >= Duration::from_millis(250), "six requests took {:?}", began.elapsed());
}

#[test]
fn one_connection_serves_a_listing_and_names_us() {
    let api = things(57);
    assert_whole(&run(order(&api, cursor(), json!({"headers": {"X-Version": "7"}}))), &api);
    assert_eq!(api.connections(), 1);
    for asked in api.log() {
        assert_eq!(asked.header("user-agent"), Some("startup_wh test"));
        assert_eq!(asked.header("x-version"), Some("7"));
        assert_eq!(asked.header("accept-encoding"), Some("gzip"));
    }
}

#[test]
fn a_cancel_takes_effect_within_a_second_wherever_the_thread_is() {
    for (what, fault) in [
        ("waiting for an answer", Some(Fault::Hang)),
        ("in the middle of a body", Some(Fault::Stall(50))),
        ("in a slow body", Some(Fault::Drip(Duration::from_millis(30)))),
        ("between two tries", Some(limited("Retry-After", "30"))),
        ("with nobody taking records", None),
    ] {
        let api = FakeApi::http();
        fake_api::fill(&api, "things", 20_000, 1);
        let stream = with(cursor(), json!({"params": {"limit": 2000}}));
        if let Some(fault) = fault {
            api.fault("/cursor", 0, 99, fault);
        }
        let fetching = start(order(&api, stream, json!({}))).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while api.asked("/cursor") == 0 {
            assert!(Instant::now() < until, "{what}: no request");
            std::thread::yield_now();
        }
        let began = Instant::now();
        fetching.cancel();
        let failure = loop {
            match fetching.events.recv_timeout(Duration::from_secs(5)) {
                Ok(Event::Failed(failure)) => break failure,
                Ok(_) => {}
                Err(e) => panic!("{what}: {e}"),
            }
        };
        assert_eq!(failure.sqlstate, "57014", "{what}: {failure:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{what}: {:?}", began.elapsed());
        let again = start(order(&api, cursor(), json!({}))).unwrap();
        let began = Instant::now();
        drop(again);
        assert!(began.elapsed() < Duration::from_secs(8), "{what}: dropping took {:?}", began.elapsed());
    }
}

#[test]
fn each_kind_of_credential_arrives_and_none_is_ever_shown() {
    for (auth, name, value) in [
        (json!({"type": "bearer", "secret": "key"}), "authorization", "Bearer sesame-open"),
        (json!({"type": "basic", "user": "me", "secret": "key"}), "authorization", "Basic bWU6c2VzYW1lLW9wZW4="),
        (json!({"type": "basic", "secret": "key", "secret_is_user": true}), "authorization", "Basic c2VzYW1lLW9wZW46"),
        (json!({"type": "header", "name": "X-Key", "secret": "key", "prefix": "Key "}), "x-key", "Key sesame-open"),
    ] {
        let api = things(25);
        api.want_header(name, value);
        assert_whole(&run(order(&api, cursor(), json!({"auth": auth}))), &api);
        // An API that sends back what it got.
        let echo = value.to_owned();
        api.route("/", move |_| Reply::text(400, "application/json", &json!({"error": echo}).to_string()));
        let failure = format!("{:?}", run(order(&api, cursor(), json!({"auth": auth}))).failure());
        let secret = value.split(' ').next_back().unwrap();
        assert!(failure.contains("***") && !failure.contains(secret), "{failure}");
    }
    let api = things(25);
    let auth = json!({"auth": {"type": "query", "name": "api_key", "secret": "key"}});
    let urls = json!({"path": "next_url/things", "records": "/results", "params": {"limit": 10},
        "paginator": {"type": "next_url", "pointer": "/paging/next"}});
    let ran = run(order(&api, urls, auth.clone()));
    assert_whole(&ran, &api);
    for asked in api.log() {
        let keys: Vec<_> = asked.query.iter().filter(|(n, _)| n == "api_key").collect();
        assert_eq!(keys, [&("api_key".to_owned(), "sesame-open".to_owned())]);
    }
    let states = serde_json::to_string(&ran.checkpoints.iter().map(|(_, s)| s).collect::<Vec<_>>()).unwrap();
    assert!(!states.contains("sesame"), "{states}");
    api.fault("/", 0, 9, Fault::Reply(Reply::text(400, "text/plain", "bad ?api_key=sesame-open")));
    let failure = format!("{:?}", run(order(&api, cursor(), auth)).failure());
    assert!(!failure.contains("sesame"), "{failure}");
}

#[test]
fn a_missing_secret_is_named() {
    let api = things(5);
    let ran = run(order(&api, cursor(), json!({"auth": {"type": "bearer", "secret": "other"}})));
    assert_eq!(ran.failure().message, "secret \"other\" does not exist");
    assert_eq!(api.asked("/"), 0);
}

fn oauth(api: &FakeApi, more: Value) -> Value {
    let auth = json!({"type": "oauth2", "token_url": api.url("/token"), "client_id": "me", "client_secret": "key"});
    json!({"auth": with(auth, more)})
}

#[test]
fn a_token_is_kept_while_it_lasts_and_renewed_once_when_refused() {
    let api = things(57);
    api.want_token(4);
    let ran = run(order(&api, cursor(), oauth(&api, json!({"scopes": ["read", "list"]}))));
    assert_whole(&ran, &api);
    assert_eq!(api.asked("/token"), 2);
    let form = fake_api::pairs(&api.log()[0].body);
    let get = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(get("grant_type"), Some("client_credentials"));
    assert_eq!((get("client_secret"), get("scope")), (Some("sesame-open"), Some("read list")));
    // Refused again right away: no use in asking for ever.
    let api = things(5);
    api.want_token(0);
    let ran = run(order(&api, cursor(), oauth(&api, json!({}))));
    assert_eq!(ran.failure().sqlstate, "28000");
    assert_eq!(api.asked("/token"), 2);
    assert!(!format!("{:?}", ran.failure()).contains("token-"), "{:?}", ran.failure());
}

#[test]
fn a_refresh_token_that_the_server_rotates_is_followed() {
    let api = things(57);
    api.want_token(2);
    let more = json!({"grant": "refresh_token", "refresh_secret": "key", "client_auth": "basic"});
    assert_whole(&run(order(&api, cursor(), oauth(&api, more))), &api);
    let sent: Vec<_> = api
        .log()
        .iter()
        .filter(|a| a.path == "/token")
        .map(|a| fake_api::pairs(&a.body).into_iter().find(|(n, _)| n == "refresh_token").unwrap().1)
        .collect();
    assert_eq!(sent, ["sesame-open", "refresh-1", "refresh-2"]);
    assert_eq!(api.log()[0].header("authorization"), Some("Basic bWU6c2VzYW1lLW9wZW4="));
}

#[test]
fn a_signed_token_is_exchanged_where_the_spec_says_so() {
    let api = things(5);
    api.want_token(99);
    let auth = json!({"auth": {"type": "jwt", "secret": "key", "algorithm": "HS256", "token_url": api.url("/token"),
        "claims": {"iss": "me"}}});
    assert_whole(&run(order(&api, cursor(), auth)), &api);
    let form = fake_api::pairs(&api.log()[0].body);
    assert!(form.contains(&("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into())));
}

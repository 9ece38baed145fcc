//! Where a fetch may go, and whom it believes.

use super::*;

fn things(n: u64) -> FakeApi {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", n, 10);
    api
}

#[test]
fn private_addresses_are_not_connected_to_under_any_name() {
    for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let api = things(5);
        let mut order = order(&api, cursor(), json!({"base_url": format!("http://{host}:{}/", api.port())}));
        order.network.allowed.clear();
        let ran = run(order);
        assert_eq!(ran.failure().sqlstate, "42501", "{host}: {:?}", ran.failure());
        assert_eq!(api.connections(), 0, "{host}");
    }
}

#[test]
fn a_listed_range_opens_no_other() {
    let api = things(5);
    let mut other = order(&api, cursor(), json!({}));
    other.network.allowed = vec![Cidr::parse("10.0.0.0/8").unwrap()];
    assert_eq!(run(other).failure().sqlstate, "42501");
    assert_eq!(api.connections(), 0);
}

#[test]
fn redirects_are_followed_at_home_only() {
    let api = things(25);
    let moved = |status, to: &str| Fault::Reply(Reply::text(status, "text/html", "moved").with("Location", to));
    api.fault("/old", 0, 99, moved(301, "/cursor/things?limit=10"));
    let old = json!({"path": "old", "paginator": {"type": "none"}});
    assert_eq!(run(order(&api, old.clone(), json!({}))).records.len(), 10);
    for to in [
        "http://169.254.169.254/latest/meta-data/",
        "https://evil.example/",
        "//evil.example/",
        "http://127.0.0.1:1/",
        "file:///etc/passwd",
        "",
    ] {
        let api = things(25);
        api.fault("/old", 0, 99, moved(302, to));
        let ran = run(order(&api, old.clone(), json!({})));
        assert!(matches!(ran.failure().sqlstate, "42501" | "54000"), "{to}: {:?}", ran.failure());
    }
    let api = things(25);
    api.fault("/old", 0, 99, moved(307, "/old"));
    let ran = run(order(&api, old, json!({})));
    assert_eq!((ran.failure().sqlstate, api.asked("/old")), ("54000", 6));
}

#[test]
fn a_redirect_to_another_host_of_the_source_carries_no_credentials() {
    let api = things(5);
    let elsewhere = format!("http://localhost:{}/cursor/things?limit=10", api.port());
    api.fault("/old", 0, 9, Fault::Reply(Reply::text(302, "text/html", "").with("Location", &elsewhere)));
    let old = json!({"path": "old", "paginator": {"type": "none"}});
    for auth in [json!({"type": "bearer", "secret": "key"}), json!({"type": "query", "name": "k", "secret": "key"})] {
        api.forget();
        let ran = run(order(&api, old.clone(), json!({"auth": auth, "allow_hosts": ["localhost"]})));
        assert_eq!(ran.records.len(), 5, "{:?}", ran.end);
        let [first, second] = &api.log()[..] else { panic!("{:?}", api.log()) };
        assert!(first.header("authorization").is_some() || first.param("k").is_some());
        assert!(second.header("authorization").is_none() && second.param("k").is_none(), "{second:?}");
    }
    let ran = run(order(&api, old, json!({})));
    assert_eq!(ran.failure().sqlstate, "42501");
}

#[test]
fn a_next_link_to_another_host_of_the_source_carries_no_credentials() {
    let urls = json!({"path": "next_url/things", "records": "/results", "paginator": {"type": "next_url", "pointer": "/paging/next"}});
    for auth in [json!({"type": "bearer", "secret": "key"}), json!({"type": "query", "name": "k", "secret": "key"})] {
        let api = things(5);
        let next = format!("http://localhost:{}/next_url/things?limit=10", api.port());
        let first = json!({"results": [{"id": "a"}], "paging": {"next": next}});
        api.fault("/next_url", 0, 1, Fault::Reply(Reply::json(&first)));
        let ran = run(order(&api, urls.clone(), json!({"auth": auth, "allow_hosts": ["localhost"]})));
        assert_eq!(ran.records.len(), 6, "{:?}", ran.end);
        let [first, second] = &api.log()[..] else { panic!("{:?}", api.log()) };
        assert!(first.header("authorization").is_some() || first.param("k").is_some());
        assert!(second.header("authorization").is_none() && second.param("k").is_none(), "{second:?}");
    }
}

#[test]
fn next_links_to_elsewhere_are_refused_with_the_reason() {
    let urls = json!({"path": "list", "records": "/results", "paginator": {"type": "next_url", "pointer": "/next"}});
    for next in [
        "https://evil.example/list?page=2",
        "http://169.254.169.254/latest",
        "http://127.0.0.1:1/list",
        "//evil.example/list",
        "ftp://evil.example/",
    ] {
        let api = FakeApi::http();
        api.route("/list", move |_| Reply::json(&json!({"results": [{"id": "a"}], "next": next})));
        let ran = run(order(&api, urls.clone(), json!({"auth": {"type": "bearer", "secret": "key"}})));
        let failure = ran.failure();
        assert_eq!(failure.sqlstate, "42501", "{next}: {failure:?}");
        assert!(failure.message.contains("is not asked for"), "{failure:?}");
        assert_eq!(api.asked("/"), 1);
        assert!(one_page(order(&api, urls.clone(), json!({}))).is_err(), "a sample says so too");
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let api = FakeApi::https();
    fake_api::fill(&api, "things", 25, 1);
    let ran = run(order(&api, cursor(), json!({})));
    assert_eq!(ran.failure().sqlstate, "08001", "{:?}", ran.failure());
    assert!(ran.failure().message.contains("identity"));
    assert_eq!(api.asked("/"), 0);
    let other = FakeApi::https();
    let mut wrong = order(&api, cursor(), json!({}));
    wrong.network.roots = Some(other.certificate().to_owned());
    assert_eq!(run(wrong).failure().sqlstate, "08001");
    let mut trusted = order(&api, cursor(), json!({}));
    trusted.network.roots = Some(api.certificate().to_owned());
    assert_whole(&run(trusted), &api);
    let mut broken = order(&api, cursor(), json!({}));
    broken.network.roots = Some("no certificate".into());
    assert_eq!(run(broken).failure().sqlstate, "22023");
}

#[test]
fn an_encrypted_source_is_not_led_to_plain_text() {
    let api = FakeApi::https();
    let plain = FakeApi::http();
    let to = plain.url("/cursor/things");
    api.fault("/cursor", 0, 9, Fault::Reply(Reply::text(302, "text/html", "").with("Location", &to)));
    let mut down = order(&api, cursor(), json!({"allow_hosts": ["127.0.0.1"]}));
    down.network.roots = Some(api.certificate().to_owned());
    let ran = run(down);
    assert!(ran.failure().message.contains("is not encrypted"), "{:?}", ran.failure());
    assert_eq!(plain.connections(), 0);
}

#[test]
fn a_listed_host_is_a_host_and_not_a_suffix() {
    let base = url::Url::parse("https://api.example/v1/").unwrap();
    let listed = ["files.example".to_owned(), "*.api.example".to_owned()];
    let may = |url: &str| client::may_go_to(&base, &listed, &url::Url::parse(url).unwrap()).is_ok();
    for good in
        ["https://api.example/x", "https://files.example/", "https://acme.api.example/x", "https://api.example:443/"]
    {
        assert!(may(good), "{good}");
    }
    for bad in [
        "http://api.example/",
        "https://api.example:8443/",
        "https://files.example:8443/",
        "https://evilfiles.example/",
        "https://files.example.evil.example/",
        "https://evilapi.example/",
        "https://.api.example/",
        "https://api.example@evil.example/",
    ] {
        assert!(url::Url::parse(bad).is_err() || !may(bad), "{bad}");
    }
}

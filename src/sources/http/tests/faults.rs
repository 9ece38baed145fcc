//! What breaks on the way: a page is whole, or the run says that it is not.

use super::*;

fn things(n: u64) -> FakeApi {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", n, 10);
    api
}

#[test]
fn passing_faults_in_the_middle_of_a_listing_cost_a_try_and_no_record() {
    for fault in [
        Fault::Reply(Reply::text(500, "text/plain", "boom")),
        Fault::Reply(Reply::text(503, "text/html", "<html>busy</html>")),
        Fault::Reply(Reply::text(200, "text/html; charset=utf-8", "<html>maintenance</html>")),
        Fault::Reply(Reply::text(200, "application/json", "{\"data\":[{\"id\":\"id_000001\"},")),
        Fault::Reply(Reply::text(200, "application/json", "")),
        Fault::Cut(0),
        Fault::Cut(1),
        Fault::Cut(300),
    ] {
        let api = things(57);
        api.fault("/cursor", 2, 1, fault.clone());
        let ran = run(order(&api, cursor(), json!({})));
        assert_whole(&ran, &api);
        assert_eq!(ran.requests, 7, "{fault:?}");
    }
}

#[test]
fn a_large_page_that_is_cut_is_taken_back() {
    let api = FakeApi::http();
    fake_api::fill(&api, "things", 5000, 1);
    let stream = with(cursor(), json!({"params": {"limit": 4000}}));
    api.fault("/cursor", 0, 1, Fault::Cut(150_000));
    let ran = run(order(&api, stream, json!({})));
    assert_eq!(ran.rewinds, 1);
    assert_whole(&ran, &api);
}

#[test]
fn lasting_faults_fail_the_run_and_leave_the_state_as_it_was() {
    for (fault, sqlstate, tries) in [
        (Fault::Reply(Reply::text(200, "application/json", "{\"data\":[{]}")), "22032", 1),
        (Fault::Reply(Reply::text(200, "application/json", "{\"error\":\"none\"}")), "22032", 1),
        (Fault::Reply(Reply::text(200, "text/html", "<html></html>")), "22032", 3),
        (Fault::Reply(Reply::text(401, "application/json", "{}")), "28000", 1),
        (Fault::Reply(Reply::text(403, "application/json", "{}")), "42501", 1),
        (Fault::Reply(Reply::text(404, "application/json", "{}")), "42704", 1),
        (Fault::Reply(Reply::text(418, "application/json", "{}")), "HV000", 1),
        (Fault::Reply(Reply::text(500, "application/json", "{}")), "08006", 3),
        (Fault::Cut(100), "08006", 3),
        (Fault::Reply(Reply::text(200, "application/json", "x").with("Content-Encoding", "br")), "08P01", 1),
    ] {
        let api = things(57);
        api.fault("/cursor", 2, 99, fault.clone());
        let ran = run(order(&api, with(cursor(), by_created("desc")), json!({})));
        assert_eq!(ran.failure().sqlstate, sqlstate, "{fault:?}: {:?}", ran.failure());
        assert_eq!(api.asked("/cursor"), 2 + tries, "{fault:?}");
        assert_eq!(ran.records.len(), 20);
        assert!(ran.checkpoints.iter().all(|(_, state)| state.mark.is_none()));
    }
}

#[test]
fn an_error_in_the_clothes_of_a_good_answer_is_one_where_a_rule_says_so() {
    let api = things(7);
    api.fault("/cursor", 0, 1, Fault::Reply(Reply::json(&json!({"ok": false, "error": "ratelimited"}))));
    let rules = json!({"errors": [{"status": [200], "body": {"pointer": "/error", "equals": "ratelimited"}, "action": "retry"}]});
    let ran = run(order(&api, cursor(), rules));
    assert_whole(&ran, &api);
    assert_eq!(ran.requests, 2);
}

#[test]
fn listings_without_an_end_are_refused() {
    let api = FakeApi::http();
    api.route("/same", |_| Reply::json(&json!({"data": [{"id": "a"}], "has_more": true})));
    let e = run(order(&api, with(cursor(), json!({"path": "same"})), json!({})));
    assert!(e.failure().message.contains("round in circles"), "{:?}", e.failure());
    assert_eq!(api.asked("/same"), 2);
    let n = std::sync::atomic::AtomicU64::new(0);
    api.route("/ever", move |_| {
        let n = n.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Reply::json(&json!({"data": [{"id": format!("id_{n}")}], "has_more": true}))
    });
    let stream = with(cursor(), json!({"path": "ever", "limits": {"max_pages": 20}}));
    let e = run(order(&api, stream, json!({})));
    assert_eq!(e.failure().sqlstate, "54000");
    assert_eq!(api.asked("/ever"), 20);
}

#[test]
fn compressed_pages_are_read_and_bombs_are_not() {
    let api = things(57);
    api.fault("/cursor", 0, 99, Fault::Gzip);
    assert_whole(&run(order(&api, cursor(), json!({}))), &api);
    let limited = with(cursor(), json!({"limits": {"max_body_bytes": 1 << 20}}));
    let api = things(57);
    api.fault("/cursor", 0, 99, Fault::Bomb(200));
    let ran = run(order(&api, limited, json!({})));
    assert_eq!(ran.failure().sqlstate, "54000", "{:?}", ran.failure());
    assert!(ran.failure().detail.as_deref().unwrap().contains("1048576"));
    assert_eq!(api.asked("/cursor"), 1);
}

#[test]
fn a_header_without_bounds_is_refused() {
    let api = things(3);
    api.fault("/cursor", 0, 1, Fault::HugeHeader(200_000));
    api.fault("/cursor", 0, 99, Fault::HugeHeader(20_000));
    let ran = run(order(&api, cursor(), json!({})));
    assert_eq!(ran.failure().sqlstate, "54000", "{:?}", ran.failure());
    assert_whole(&run(order(&api, cursor(), json!({}))), &api);
    let narrow = with(cursor(), json!({"limits": {"max_header_bytes": 4096}}));
    assert_eq!(run(order(&api, narrow, json!({}))).failure().sqlstate, "54000");
}

#[test]
fn a_slow_body_and_a_silent_server_end_with_their_time() {
    for fault in [Fault::Drip(Duration::from_millis(20)), Fault::Hang, Fault::Stall(100)] {
        let api = things(57);
        api.fault("/cursor", 0, 99, fault.clone());
        let stream = with(cursor(), json!({"limits": {"request_ms": 400}}));
        let began = Instant::now();
        let ran = run(order(&api, stream, json!({"retry": {"max": 0}})));
        assert!(ran.failure().message.ends_with("is too slow"), "{fault:?}: {:?}", ran.failure());
        assert!((400..8000).contains(&began.elapsed().as_millis()), "{fault:?}: {:?}", began.elapsed());
    }
}

#[test]
fn the_time_of_a_run_bounds_all_of_it() {
    let api = things(57);
    api.fault("/cursor", 2, 99, Fault::Hang);
    let stream = with(cursor(), json!({"limits": {"run_ms": 600}}));
    let began = Instant::now();
    let ran = run(order(&api, stream, json!({})));
    assert_eq!(ran.failure().message, "the run's time is used up");
    assert!(began.elapsed() < Duration::from_secs(8));
    assert_eq!(ran.checkpoints.last().unwrap().0, 20);
}

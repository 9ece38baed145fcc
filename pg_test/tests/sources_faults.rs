//! Sources whose API is in trouble: what is tried again, what ends the run and what its error says to do.

use std::time::{Duration, Instant};

use pg_test::fake_api::{fill, FakeApi, Fault, Reply};
use pg_test::jobs::{self, RUNNER};
use pg_test::sources::{assert_equal, assert_ledger, failure, listing, Sources, REACHES_LOOPBACK};
use pg_test::{Client, ClientExt};
use serde_json::{json, Value};

fn status(code: u16) -> Fault {
    Fault::Reply(Reply::text(code, "application/json", "{\"error\":\"a made-up reason\"}"))
}

/// A source of 300 people in three pages.
fn people(name: &str, more: &Value) -> Sources {
    let mut s = Sources::new(name);
    fill(&s.api, "people", 300, 60);
    s.create(&[listing("people", more)]);
    s
}

/// As if nothing had been fetched yet.
fn forget(s: &mut Sources) {
    s.client.exec("DROP TABLE IF EXISTS api.people; DELETE FROM wh.source_state; DELETE FROM wh.fetch_stream");
}

/// Everything that the last run's error says.
fn said(client: &mut Client) -> String {
    client.value("SELECT concat_ws(' ', error, detail, hint) FROM wh.job_runs ORDER BY run DESC LIMIT 1")
}

/// What passes by itself: the run succeeds, with everything.
#[test]
fn passing_troubles_in_the_middle_of_a_listing_are_overcome() {
    let mut s = people("passing", &json!({}));
    for fault in [
        status(500),
        status(503),
        Fault::Cut(900),
        Fault::Gzip,
        Fault::Reply(Reply::text(200, "text/html", "<html>busy</html>")),
    ] {
        s.api.fault("/cursor/people", 1, 2, fault);
        forget(&mut s);
        assert_eq!(s.fetch(), "people|succeeded|300|300|0|0|0|0|0");
        assert_equal(&mut s.client, "api.people", &s.api, "people");
    }
    assert_ledger(&mut s.client, "api");
}

#[test]
fn retry_after_is_waited_for() {
    let mut s = people("retry_after", &json!({}));
    let slow_down = Reply::text(429, "text/plain", "slow down").with("Retry-After", "1");
    s.api.fault("/cursor/people", 1, 1, Fault::Reply(slow_down));
    assert_eq!(s.fetch(), "people|succeeded|300|300|0|0|0|0|0");
    let log = s.api.log();
    assert_eq!(log.len(), 4, "three pages, one of them twice");
    assert!(log[2].at - log[1].at >= Duration::from_secs(1), "{:?}", log[2].at - log[1].at);
    assert_eq!(log[2].query, log[1].query, "the same page again");
}

/// Faults that stay, after the first page.
#[test]
fn lasting_troubles_end_the_run_with_an_error_that_says_what_to_do() {
    let mut s = people(
        "lasting",
        &json!({"limits": {"batch_rows": 100, "max_body_bytes": 1 << 20, "max_record_bytes": 1 << 20}}),
    );
    let cases: [(Fault, &str, &str, &str); 6] = [
        (status(500), "08006", "status 500", ""),
        (status(401), "28000", "401", "secret"),
        (Fault::Cut(900), "08006", "broke", ""),
        (Fault::Reply(Reply::text(200, "text/html", "<html>Sign in</html>")), "22032", "HTML, not JSON", ""),
        (Fault::Bomb(64), "54000", "too large", "raise max_body_bytes"),
        (Fault::HugeHeader(200_000), "54000", "header", "raise max_header_bytes"),
    ];
    for (fault, code, words, hint) in cases {
        let shown = format!("{fault:?}").chars().take(60).collect::<String>();
        forget(&mut s);
        s.api.fault("/cursor/people", 1, 4, fault);
        let failed = failure(&mut s.client, "api");
        let said = said(&mut s.client);
        assert!(failed.starts_with(&format!("{code}|")), "{shown}: {failed}");
        assert!(said.contains(words) && said.contains(hint), "{shown}: {said}");
        assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "100", "{shown}: what came before is kept");
        s.api.clear_faults();
        assert_eq!(s.fetch(), "people|succeeded|200|200|0|0|0|0|0", "{shown}: the next run goes on");
    }
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_listing_that_goes_in_circles_or_never_ends_is_no_success() {
    let mut s = people("circles", &json!({"limits": {"max_pages": 50}}));
    let page = |id: &str| Reply::json(&json!({"data": [{"id": id}], "has_more": true}));
    let same = page("a");
    s.api.route("/cursor/people", move |_| same.clone());
    let failed = failure(&mut s.client, "api");
    assert!(failed.contains("round in circles"), "{failed}");
    assert!(s.api.asked("/cursor/people") < 5, "{} requests", s.api.asked("/cursor/people"));
    s.api.route("/cursor/people", move |asked| page(&format!("{}x", asked.param("starting_after").unwrap_or(""))));
    s.client.exec("SELECT wh.reset_source('api')");
    let failed = failure(&mut s.client, "api");
    assert!(failed.starts_with("54000|") && failed.contains("more than 50 pages"), "{failed}");
    assert!(said(&mut s.client).contains("max_pages"));
    assert_ledger(&mut s.client, "api");
}

#[test]
fn next_links_to_foreign_and_private_hosts_are_not_followed() {
    let mut s = Sources::new("foreign_hosts");
    let other = FakeApi::http();
    let at = |url: String| Reply::json(&json!({"results": [{"id": "a"}], "paging": {"next": url}}));
    let stream = listing(
        "people",
        &json!({"path": "next_url/people", "records": "/results", "paginator": {"type": "next_url", "pointer": "/paging/next"}}),
    );
    s.create(&[stream]);
    for url in [
        other.url("/next_url/people"),
        "http://169.254.169.254/latest/meta-data".into(),
        "http://10.0.0.1/".into(),
        "file:///etc/passwd".into(),
    ] {
        let reply = at(url.clone());
        s.api.route("/next_url/people", move |_| reply.clone());
        let failed = failure(&mut s.client, "api");
        assert!(failed.starts_with("42501|") && failed.contains("next page"), "{url}: {failed}");
        s.client.exec("SELECT wh.reset_source('api')");
    }
    let redirect = Reply::text(302, "text/plain", "").with("Location", &other.url("/next_url/people"));
    s.api.route("/next_url/people", move |_| redirect.clone());
    let failed = failure(&mut s.client, "api");
    assert!(failed.starts_with("42501|"), "{failed}");
    assert_eq!(other.connections(), 0, "the other host was asked");
}

/// Fetches in the background from an API that does not answer, until the run waits for the network.
fn waiting(s: &mut Sources) -> u32 {
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    pg_test::wait_until("the second page is asked for", || s.api.asked("/cursor/people") >= 2);
    jobs::wait_for_true(&mut s.client, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'startup_wh runner' AND wait_event_type = 'Extension' AND datname = current_database()");
    jobs::wait_for(&mut s.client, RUNNER)
}

#[track_caller]
fn ended_in_a_second(client: &mut Client, begun: Instant, expected: &str) {
    jobs::wait_for_true(client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    // A second on an idle machine; without it, the half minute that a request may take.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(client.table("SELECT status, sqlstate FROM wh.job_runs ORDER BY run DESC LIMIT 1"), expected);
    assert_eq!(client.value("SELECT status FROM wh.fetch_runs ORDER BY run DESC LIMIT 1"), "failed");
}

#[test]
fn a_wait_for_the_network_holds_no_transaction_and_ends_within_a_second() {
    for (name, fault) in [("hang", Fault::Hang), ("stall", Fault::Stall(500))] {
        let mut s = people(&format!("waiting_{name}"), &json!({}));
        for (how, expected) in [
            ("SELECT wh.cancel_job('fetch api')", "cancelled|57014"),
            ("SELECT pg_cancel_backend(PID)", "cancelled|57014"),
            ("SELECT pg_terminate_backend(PID)", "crashed|57P01"),
        ] {
            s.api.forget();
            s.api.clear_faults();
            s.api.fault("/cursor/people", 1, 100, fault.clone());
            forget(&mut s);
            let pid = waiting(&mut s);
            assert_eq!(
                s.client.table(&format!(
                    "SELECT xact_start, backend_xmin, backend_xid FROM pg_stat_activity WHERE pid = {pid}"
                )),
                "||",
                "a transaction is open"
            );
            assert_eq!(s.client.value(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND locktype <> 'virtualxid' AND locktype <> 'advisory'")), "0");
            let begun = Instant::now();
            s.client.exec(&how.replace("PID", &pid.to_string()));
            ended_in_a_second(&mut s.client, begun, expected);
        }
        s.api.clear_faults();
        s.fetch();
        assert_equal(&mut s.client, "api.people", &s.api, "people");
        assert_ledger(&mut s.client, "api");
    }
}

#[test]
fn a_session_that_is_cancelled_while_it_waits_for_its_fetch_ends_the_run_too() {
    const OVER: &str = "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)";
    const LAST: &str = "SELECT r.status, r.error, s.error FROM wh.job_runs r JOIN wh.fetch_runs s USING (run) ORDER BY run DESC LIMIT 1";
    let mut s = people("session", &json!({"limits": {"batch_rows": 100}}));
    s.api.fault("/cursor/people", 1, 100, Fault::Hang);
    let begun = Instant::now();
    let error = s.client.error("SET statement_timeout = '700ms'; SELECT * FROM wh.fetch('api')");
    assert_eq!(error.code().code(), "57014", "{}", error.message());
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    s.client.exec("RESET statement_timeout");
    jobs::wait_for_true(&mut s.client, OVER);
    let said = "canceled with the session that waited for it";
    assert_eq!(s.client.table(LAST), format!("cancelled|{said}|{said}"));
    // Ctrl-C, and once more while the first is under way.
    for _ in 0..2 {
        let mut other = s.session();
        let pid = other.pid();
        s.api.forget();
        let waiting = std::thread::spawn(move || other.simple_query("SELECT * FROM wh.fetch('api')").is_err());
        pg_test::wait_until("a page is asked for", || s.api.asked("/cursor/people") >= 1);
        s.client.exec(&format!("SELECT pg_cancel_backend({pid}), pg_cancel_backend({pid})"));
        assert!(waiting.join().expect("a thread"), "the fetch was not canceled");
        jobs::wait_for_true(&mut s.client, OVER);
        assert_eq!(s.client.table(LAST), format!("cancelled|{said}|{said}"));
    }
    // A run of the schedule's, or one that nobody waits for, is nobody's to take along.
    s.api.forget();
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    pg_test::wait_until("a page is asked for", || s.api.asked("/cursor/people") >= 1);
    assert_eq!(s.client.error("SELECT * FROM wh.fetch('api')").code().code(), "55006");
    assert_eq!(s.client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "running");
    s.client.exec("SELECT wh.cancel_job('fetch api')");
    jobs::wait_for_true(&mut s.client, OVER);
    s.api.clear_faults();
    let rest = s.fetch();
    assert!(rest.contains("|200|0|"), "what came before is kept: {rest}");
    // Whoever waits for the job by its name leaves it running.
    s.api.fault("/cursor/people", 1, 100, Fault::Hang);
    s.api.forget();
    let error = s.client.error("SET statement_timeout = '700ms'; SELECT * FROM wh.run_job('fetch api')");
    assert_eq!(error.code().code(), "57014", "{}", error.message());
    s.client.exec("RESET statement_timeout");
    pg_test::wait_until("the second page is asked for", || s.api.asked("/cursor/people") >= 2);
    assert_eq!(s.client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "running");
    s.client.exec("SELECT wh.cancel_job('fetch api')");
    jobs::wait_for_true(&mut s.client, OVER);
}

#[test]
fn a_failed_fetch_shows_message_detail_and_hint() {
    let mut s = people("whole_error", &json!({}));
    s.api.fault("/cursor/people", 0, 9, status(401));
    let shown = s.client.value("SELECT error FROM wh.fetch('api')");
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[0].contains("refuses the credentials") && lines[1].contains("status 401"), "{shown}");
    assert!(lines[2].contains("wh.set_secret"), "{shown}");
    let kept = s.client.value("SELECT concat_ws(E'\n', error, detail, hint) FROM wh.fetch_runs");
    assert_eq!(kept, shown);
    // Before any stream has begun: an error, with all that is known.
    s.client.exec(
        "UPDATE wh.source SET spec = jsonb_set(spec, '{auth}', '{\"type\": \"bearer\", \"secret\": \"nobodys\"}')",
    );
    let error = s.client.error("SELECT * FROM wh.fetch('api')");
    assert_eq!(error.message(), "secret \"nobodys\" does not exist");
    assert!(error.hint().is_some_and(|hint| hint.contains("wh.set_secret")), "{:?}", error.hint());
}

#[test]
fn time_that_a_run_waited_is_written_down_with_its_batches() {
    let mut s = people("waited", &json!({"params": {"limit": 50}, "limits": {"batch_rows": 50, "rps": 20}}));
    let slow_down = Reply::text(429, "text/plain", "slow down").with("Retry-After", "1");
    s.api.fault("/cursor/people", 1, 1, Fault::Reply(slow_down));
    s.api.fault("/cursor/people", 3, 100, Fault::Hang);
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    jobs::wait_for_true(
        &mut s.client,
        "SELECT EXISTS (SELECT FROM wh.fetch_runs WHERE status = 'running' AND received = 150 AND waited >= interval '1 second')",
    );
    s.client.exec("SELECT wh.cancel_job('fetch api')");
    jobs::wait_for_true(&mut s.client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    assert_eq!(s.client.value("SELECT waited >= interval '1 second' FROM wh.fetch_runs"), "t");
}

#[test]
fn a_server_stops_at_once_while_a_fetch_waits_for_the_network() {
    let (mut cluster, mut client) =
        jobs::start(jobs::server("sources_stop").set(REACHES_LOOPBACK.0, REACHES_LOOPBACK.1));
    let api = FakeApi::http();
    fill(&api, "people", 300, 60);
    api.fault("/cursor/people", 1, 1, Fault::Hang);
    pg_test::sources::create(&mut client, &api, "api", &json!({"streams": [listing("people", &json!({}))]}));
    client.exec("SELECT wh.run_job('fetch api', wait => false)");
    pg_test::wait_until("the second page is asked for", || api.asked("/cursor/people") >= 2);
    drop(client);
    let begun = Instant::now();
    cluster.stop("fast").expect("a stop");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    cluster.restart().expect("a start");
    let mut client = jobs::connect(&cluster, "postgres");
    jobs::wait_for_true(&mut client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    jobs::wait_for(&mut client, jobs::SCHEDULER);
    pg_test::sources::fetch(&mut client, "api");
    assert_equal(&mut client, "api.people", &api, "people");
    assert_ledger(&mut client, "api");
}

//! Refresh tokens that their server rotates: each is good once, and the next one is kept before anything else happens.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::jobs::{self, RUNNER};
use pg_test::sources::{assert_equal, create, fetch, listing, places_of, Sources, REACHES_LOOPBACK};
use pg_test::{wait_until, Client, ClientExt};
use serde_json::{json, Value};

/// How the API of a test wants to be asked, and the streams that are.
fn rotating(s: &Sources, secret: &str, names: &[&str]) -> Value {
    s.api.want_token(1000);
    let streams: Vec<Value> = names.iter().map(|name| listing(name, &json!({}))).collect();
    json!({"streams": streams, "auth": {"type": "oauth2", "token_url": s.api.url("/token"), "client_id": "me",
        "client_secret": "client", "grant": "refresh_token", "refresh_secret": secret}})
}

/// A source `api` of 300 people whose tokens rotate, beginning with `first`.
fn people(name: &str, first: &str) -> Sources {
    let mut s = Sources::new(name);
    fill(&s.api, "people", 300, 60);
    fill(&s.api, "places", 3, 60);
    s.api.rotate_refresh_tokens(first);
    s.client.exec(&format!("SELECT wh.set_secret('client', 'of the client'), wh.set_secret('refresh', '{first}')"));
    let more = rotating(&s, "refresh", &["people", "places"]);
    create(&mut s.client, &s.api, "api", &more);
    s
}

fn kept(s: &mut Sources) -> String {
    s.client.value("SELECT value FROM wh.secret WHERE name = 'refresh'")
}

#[test]
fn a_refresh_token_that_is_good_once_serves_run_after_run() {
    let mut s = people("rotated", "rotated-at-first");
    assert_eq!(s.fetch(), "people|succeeded|300|300|0|0|0|0|0\nplaces|succeeded|3|3|0|0|0|0|0");
    assert_eq!(s.api.asked("/token"), 1, "all streams of a run share a token");
    for run in 2..5 {
        assert_eq!(s.fetch(), "people|succeeded|300|0|0|300|0|0|0\nplaces|succeeded|3|0|0|3|0|0|0");
        assert_eq!(s.api.asked("/token"), run);
        assert_eq!(kept(&mut s), s.api.refresh_token());
    }
    // A token that ends in the middle of a run.
    s.api.want_token(2);
    assert_eq!(fetch(&mut s.client, "api").lines().next(), Some("people|succeeded|300|0|0|300|0|0|0"));
    assert_eq!(kept(&mut s), s.api.refresh_token());
    let token = s.api.refresh_token();
    assert_eq!(places_of(&mut s.client, &token), ["wh.secret"]);
    assert!(!s.cluster.log().contains(&token) && !s.cluster.log().contains("rotated-at-first"), "the server's log");
    let dump = s.cluster.dump("rotated", &[]).expect("a dump");
    assert!(dump.contains("id_000001") && !dump.contains(&token), "a dump");
    assert_equal(&mut s.client, "api.people", &s.api, "people");
}

#[test]
fn a_crash_right_after_the_new_token_came_does_not_lose_it() {
    let (mut cluster, mut client) =
        jobs::start(jobs::server("sources_tokens_crash").set(REACHES_LOOPBACK.0, REACHES_LOOPBACK.1));
    let api = pg_test::fake_api::FakeApi::http();
    fill(&api, "people", 300, 60);
    api.rotate_refresh_tokens("before the crash");
    api.want_token(1000);
    client.exec("SELECT wh.set_secret('client', 'x'), wh.set_secret('refresh', 'before the crash')");
    let auth = json!({"type": "oauth2", "token_url": api.url("/token"), "client_id": "me", "client_secret": "client",
        "grant": "refresh_token", "refresh_secret": "refresh"});
    create(&mut client, &api, "api", &json!({"auth": auth, "streams": [listing("people", &json!({}))]}));
    // Where commits are not waited for, this one is.
    client.exec("ALTER SYSTEM SET synchronous_commit = off");
    client.exec("SELECT pg_reload_conf()");
    for _ in 0..3 {
        api.clear_faults();
        api.forget();
        api.fault("/cursor/people", 0, 99, Fault::Hang);
        client.exec("SELECT wh.run_job('fetch api', wait => false)");
        wait_until("the token is used", || api.asked("/cursor/people") == 1);
        drop(client);
        cluster.crash().expect("a crash");
        cluster.restart().expect("a start");
        client = jobs::connect(&cluster, "postgres");
        jobs::wait_for(&mut client, jobs::SCHEDULER);
        jobs::wait_for_true(&mut client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
        assert_eq!(client.value("SELECT value FROM wh.secret WHERE name = 'refresh'"), api.refresh_token());
    }
    api.clear_faults();
    assert_eq!(fetch(&mut client, "api"), "people|succeeded|300|300|0|0|0|0|0");
}

#[test]
fn a_runner_that_is_killed_right_after_the_new_token_came_does_not_lose_it() {
    let mut s = people("rotated_killed", "before the kill");
    s.api.fault("/cursor/people", 0, 99, Fault::Hang);
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    wait_until("the token is used", || s.api.asked("/cursor/people") == 1);
    let pid = jobs::wait_for(&mut s.client, RUNNER);
    s.client.exec(&format!("SELECT pg_terminate_backend({pid})"));
    jobs::wait_for_true(&mut s.client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    s.api.clear_faults();
    assert!(s.fetch().starts_with("people|succeeded|300|"));
}

#[test]
fn a_look_keeps_the_new_token_whatever_becomes_of_its_transaction() {
    let mut s = people("rotated_looked", "before the look");
    let sees = "SELECT stream, records FROM wh.test_source('api', 'people')";
    s.client.exec("BEGIN");
    assert_eq!(s.client.table(sees), "people|100");
    s.client.exec("ROLLBACK");
    assert_eq!(kept(&mut s), s.api.refresh_token());
    s.fetch();
    s.api.fault("/cursor/places", 0, 99, Fault::Reply(Reply::text(400, "text/plain", "no")));
    assert_eq!(s.client.error("SELECT * FROM wh.verify_source('api')").code().code(), "HV000");
    s.api.clear_faults();
    assert_eq!(kept(&mut s), s.api.refresh_token());
    assert_eq!(s.client.table("SELECT * FROM wh.verify_source('api')"), "");
    assert!(s.fetch().starts_with("people|succeeded|300|"));
    let error = s.client.error("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM wh.test_source('api')");
    assert_eq!(error.code().code(), "25001", "{}", error.message());
    s.client.exec("ROLLBACK");
    // A secret that the session has set itself, and not committed.
    let token = s.api.refresh_token();
    s.client.exec(&format!("BEGIN; SELECT wh.set_secret('refresh', '{token}')"));
    let said = s.client.value("SELECT error FROM wh.test_source('api', 'people')");
    assert!(said.contains("\"refresh\" cannot be kept") && said.contains("commit it first"), "{said}");
    s.client.exec("ROLLBACK");
}

#[test]
fn a_token_that_is_no_longer_good_says_what_to_do_and_a_new_one_is_used_at_once() {
    let mut s = people("spent", "the first");
    s.client.exec("SELECT wh.set_secret('refresh', 'a stolen one')");
    assert_eq!(s.client.table("SELECT DISTINCT status FROM wh.fetch('api')"), "failed");
    let said = s.client.table("SELECT sqlstate, error, hint FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert!(said.starts_with("28000|") && said.contains("wh.set_secret('refresh'"), "{said}");
    assert!(!said.contains("stolen"), "{said}");
    s.client.exec("SELECT wh.set_secret('refresh', 'the first')");
    assert!(s.fetch().starts_with("people|succeeded|300|"));
    // One that is set while a run is given another: it stays.
    s.api.forget();
    s.api.fault("/token", 0, 1, Fault::Drip(Duration::from_millis(20)));
    s.client.exec("SELECT wh.run_job('fetch api', wait => false)");
    wait_until("the token is asked for", || s.api.asked("/token") == 1);
    s.client.exec("SELECT wh.set_secret('refresh', 'set meanwhile')");
    jobs::wait_for_true(&mut s.client, "SELECT NOT EXISTS (SELECT FROM wh.job_runs WHERE finished IS NULL)");
    assert_eq!(s.client.value("SELECT status FROM wh.job_runs ORDER BY run DESC LIMIT 1"), "succeeded");
    assert_eq!(kept(&mut s), "set meanwhile");
}

/// A directory of secrets for the cluster of this file's tests.
fn directory(client: &mut Client, s: &Sources) -> PathBuf {
    let dir = s.cluster.data().join("secrets");
    pg_test::place::own_directory(&dir).expect("a directory");
    client.exec(&format!("ALTER SYSTEM SET startup_wh.secret_dir = '{}'", dir.display()));
    client.exec("SELECT pg_reload_conf()");
    jobs::wait_for_true(client, "SELECT current_setting('startup_wh.secret_dir') <> ''");
    dir
}

#[test]
fn a_secret_that_is_a_file_is_written_where_it_may_be_and_else_the_error_says_so() {
    let mut s = Sources::new("rotated_file");
    fill(&s.api, "people", 300, 60);
    s.api.rotate_refresh_tokens("in a file");
    let mut client = s.session();
    let dir = directory(&mut client, &s);
    let file = dir.join("filed");
    pg_test::place::private_file(&file, "in a file\n").expect("a file");
    s.client.exec("SELECT wh.set_secret('client', 'of the client')");
    let more = rotating(&s, "filed", &["people"]);
    create(&mut s.client, &s.api, "api", &more);
    for _ in 0..2 {
        assert!(s.fetch().starts_with("people|succeeded|300|"));
        assert_eq!(std::fs::read_to_string(&file).expect("a file"), format!("{}\n", s.api.refresh_token()));
    }
    assert_eq!(s.client.value("SELECT count(*) FROM wh.secrets WHERE name = 'filed'"), "0");
    let token = s.api.refresh_token();
    assert_eq!(places_of(&mut s.client, &token), [""; 0], "it is in no table");
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("a mode");
    mode(0o400);
    assert_eq!(s.client.table("SELECT status FROM wh.fetch('api')"), "failed");
    let said = s.client.table("SELECT error, detail, hint FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert!(said.contains("cannot be kept") && said.contains("permission denied"), "{said}");
    assert!(said.contains("Let the server's user write the file") && said.contains("wh.set_secret('filed'"), "{said}");
    assert!(!said.contains(&s.api.refresh_token()), "{said}");
}

#[test]
fn a_private_key_of_several_lines_is_a_secret_and_an_empty_text_is_none() {
    let mut s = Sources::new("private_key");
    fill(&s.api, "people", 3, 60);
    s.api.want_token(1000);
    let pem = include_str!("../../src/sources/http/auth/rsa_pkcs8.pem");
    s.client.exec(&format!("SELECT wh.set_secret('pem', '{pem}')"));
    let auth = json!({"type": "jwt", "secret": "pem", "algorithm": "RS256", "token_url": s.api.url("/token")});
    create(&mut s.client, &s.api, "api", &json!({"auth": auth, "streams": [listing("people", &json!({}))]}));
    assert_eq!(s.fetch(), "people|succeeded|3|3|0|0|0|0|0");
    let line = pem.lines().nth(1).unwrap_or_default();
    assert_eq!(places_of(&mut s.client, line), ["wh.secret"]);
    for empty in ["", "\n"] {
        let error = s.client.error(&format!("SELECT wh.set_secret('pem', '{empty}')"));
        assert_eq!((error.code().code(), error.message()), ("22023", "a secret must not be empty"));
    }
    assert_eq!(s.client.error("SELECT wh.set_secret('pem', E'a\\x07')").code().code(), "22023");
}

#[test]
fn a_secret_may_be_a_variable_of_the_servers_environment() {
    let mut s = Sources::new("environment");
    fill(&s.api, "people", 3, 60);
    s.api.want_header("authorization", "Bearer from the environment");
    let with =
        |name: &str| json!({"auth": {"type": "bearer", "secret": name}, "streams": [listing("people", &json!({}))]});
    create(&mut s.client, &s.api, "api", &with("of-tests"));
    assert_eq!(s.fetch(), "people|succeeded|3|3|0|0|0|0|0");
    assert_eq!(places_of(&mut s.client, "from the environment"), [""; 0], "it is in no table");
    // No other variable is a secret.
    let spec = pg_test::sources::literal(&pg_test::sources::spec(&s.api, &with("PATH")).to_string());
    let error = s.client.error(&format!("SELECT wh.create_source('other', {spec})"));
    assert_eq!((error.code().code(), error.message()), ("42704", "secret \"PATH\" does not exist"));
    // What is set here comes first.
    s.client.exec("SELECT wh.set_secret('of-tests', 'another one')");
    assert!(pg_test::sources::failure(&mut s.client, "api").starts_with("28000|"));
}

#[test]
fn a_refresh_token_of_the_environment_that_is_replaced_is_not_lost_without_a_word() {
    let mut s = Sources::new("environment_rotated");
    fill(&s.api, "people", 3, 60);
    s.api.rotate_refresh_tokens("from the environment");
    s.client.exec("SELECT wh.set_secret('client', 'of the client')");
    let more = rotating(&s, "of-tests", &["people"]);
    create(&mut s.client, &s.api, "api", &more);
    assert_eq!(s.client.table("SELECT status FROM wh.fetch('api')"), "failed");
    let said = s.client.table("SELECT error, hint FROM wh.job_runs ORDER BY run DESC LIMIT 1");
    assert!(said.contains("cannot be kept") && said.contains("wh.set_secret"), "{said}");
}

#[test]
fn a_secret_that_is_set_as_the_docs_say_is_in_no_log() {
    let mut s = Sources::new("logged");
    s.client.exec(
        "ALTER DATABASE logged SET log_min_duration_statement = 0; ALTER DATABASE logged SET log_statement = 'all'",
    );
    let docs = include_str!("../../docs/sources.md");
    let script = docs.split("```sql\n").find(|part| part.contains("wh.set_secret('stripe_key'")).expect("the example");
    let script = script.split("```").next().unwrap_or_default();
    // The secret is told in two parts, so that the test's own text is not found.
    let script = script.replace("`cat stripe_key`", "`printf '%s%s' told- only-here`");
    let out = s.cluster.psql("logged", &script).expect("psql");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(places_of(&mut s.client, "told-only-here"), ["wh.secret"]);
    assert!(!s.cluster.log().contains("told-only-here"), "{}", s.cluster.log_tail());
    // The settings did log.
    let mut other = s.session();
    other.exec("SELECT wh.set_secret('stripe_key', 'shown-there')");
    pg_test::wait_until("the log has it", || s.cluster.log().contains("shown-there"));
}

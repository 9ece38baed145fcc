//! Who may make, fetch and see what of sources, as real roles; where secrets are, and where they are not.

use pg_test::fake_api::{fill, Fault, Reply};
use pg_test::sources::{create, fetch, listing, literal, places_of, spec, Sources};
use pg_test::{warehouse, Client, ClientExt};
use serde_json::json;

/// A text that stands nowhere else.
const SECRET: &str = "sk_live_Zq9xNeverToBeSeen7";

fn as_role(s: &Sources, role: &str) -> Client {
    match s.cluster.connect_as(&s.database, role, &pg_test::pair::password(role)) {
        Ok(client) => client,
        Err(e) => panic!("no connection as {role}: {e}"),
    }
}

/// A role of this test's own that may make sources.
fn admin(s: &mut Sources, name: &str) -> Client {
    let role = format!("{name}_{}", s.database);
    s.client.exec(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD '{}' IN ROLE wh_admin; GRANT CREATE ON DATABASE {} TO {role}",
        pg_test::pair::password(&role),
        s.database
    ));
    as_role(s, &role)
}

#[test]
fn analysts_read_what_runs_say_and_nothing_else() {
    let mut s = Sources::new("analysts");
    fill(&s.api, "people", 3, 60);
    s.client.exec(&format!("SELECT wh.set_secret('key', '{SECRET}')"));
    s.create(&[listing("people", &json!({}))]);
    s.fetch();
    let made = literal(&spec(&s.api, &json!({"streams": [listing("people", &json!({}))]})).to_string());
    let mut ana = as_role(&s, "ana");
    for statement in [
        &format!("SELECT wh.create_source('mine', {made})"),
        "SELECT wh.alter_source('api', schedule => '1 hour')",
        "SELECT * FROM wh.fetch('api')",
        "SELECT wh.reset_source('api')",
        "SELECT wh.drop_source('api')",
        "SELECT wh.set_secret('mine', 'x')",
        "SELECT wh.drop_secret('key')",
        "SELECT * FROM wh.fetch_errors",
        "SELECT * FROM wh.secrets",
        "SELECT * FROM wh.secret",
        "SELECT * FROM wh.source",
        "SELECT * FROM wh.source_state",
        "SELECT * FROM wh.fetch_error",
        "COPY wh.secret TO STDOUT",
        "SELECT * FROM api.people",
    ] {
        assert_eq!(ana.error(statement).code().code(), "42501", "{statement}");
    }
    // Its job is another's.
    assert_eq!(ana.error("SELECT * FROM wh.run_job('fetch api')").code().code(), "42704");
    assert_eq!(ana.table("SELECT name, last_status FROM wh.sources"), "api|succeeded");
    assert_eq!(ana.table("SELECT source, stream, received FROM wh.fetch_runs"), "api|people|3");
    assert_eq!(ana.table("SELECT stream, rows FROM wh.source_streams"), "people|3");
    // Nor what the API says of its people.
    let said = Reply::text(400, "text/plain", "no cursor behind eve@example.org");
    s.api.fault("/cursor/people", 0, 1, Fault::Reply(said));
    s.fetch();
    const SAID: &str = "SELECT error IS NOT NULL, detail FROM wh.fetch_runs WHERE status = 'failed'";
    assert_eq!(ana.table(SAID), "t|");
    assert!(s.client.table(SAID).contains("eve@example.org"), "{}", s.client.table(SAID));
    s.client.exec("GRANT USAGE ON SCHEMA api TO ana; GRANT SELECT ON api.people TO ana");
    assert_eq!(ana.value("SELECT count(*) FROM api.people"), "3");
    for statement in
        ["DELETE FROM api.people", "UPDATE api.people SET n = 1", "DROP TABLE api.people", "TRUNCATE api.people"]
    {
        assert_eq!(ana.error(statement).code().code(), "42501", "{statement}");
    }
}

/// Functions and tables of sources, whatever is added to them.
#[test]
fn nothing_of_sources_is_open_to_public() {
    let mut s = Sources::new("public");
    let open = s.client.table(
        "SELECT p.oid::regprocedure FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
         WHERE p.pronamespace = 'wh'::regnamespace AND a.grantee = 0 AND p.proname ~ 'source|secret|fetch|preset'",
    );
    assert_eq!(open, "");
    let read = s.client.table(
        "SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a WHERE c.relnamespace = 'wh'::regnamespace
         AND c.relname ~ 'source|secret|fetch' AND c.relkind = 'r' AND a.grantee <> c.relowner",
    );
    assert_eq!(read, "", "tables are read through views");
}

#[test]
fn a_source_of_one_owner_cannot_use_anothers_secret() {
    let mut s = Sources::new("owners");
    fill(&s.api, "people", 3, 60);
    s.api.want_header("Authorization", &format!("Bearer {SECRET}"));
    let (mut ida, mut eve) = (admin(&mut s, "ida"), admin(&mut s, "eve"));
    ida.exec(&format!("SELECT wh.set_secret('key', '{SECRET}')"));
    let uses =
        |name: &str| json!({"auth": {"type": "bearer", "secret": name}, "streams": [listing("people", &json!({}))]});
    create(&mut ida, &s.api, "idas", &uses("key"));
    assert_eq!(fetch(&mut ida, "idas"), "people|succeeded|3|3|0|0|0|0|0");

    let hers = literal(&spec(&s.api, &uses("key")).to_string());
    let error = eve.error(&format!("SELECT wh.create_source('eves', {hers})"));
    assert_eq!((error.code().code(), error.message()), ("42501", "permission denied for secret \"key\""));
    for statement in ["SELECT wh.set_secret('key', 'mine now')", "SELECT wh.drop_secret('key')"] {
        assert_eq!(eve.error(statement).code().code(), "42501", "{statement}");
    }
    // Not through a source of hers that changes, nor by sending Ida's secret to a host of hers.
    create(&mut eve, &s.api, "eves", &json!({"streams": [listing("people", &json!({}))]}));
    assert_eq!(eve.error(&format!("SELECT wh.alter_source('eves', {hers})")).code().code(), "42501");
    for statement in [
        format!("SELECT wh.alter_source('idas', {hers})"),
        "SELECT wh.alter_source('idas', settings => '{}')".into(),
        "SELECT wh.drop_source('idas')".into(),
        "SELECT wh.reset_source('idas')".into(),
    ] {
        assert_eq!(eve.error(&statement).code().code(), "42501", "{statement}");
    }
    // Members of wh_admin may start everybody's jobs; the secret goes where Ida said, and nowhere else.
    assert_eq!(fetch(&mut eve, "idas"), "people|succeeded|3|0|0|3|0|0|0");
    // Taken back between two runs.
    s.client.exec(&format!("UPDATE wh.secret SET owner = 'eve_{}'", s.database));
    let error = ida.error("SELECT * FROM wh.fetch('idas')");
    assert!(error.message().contains("permission denied for secret"), "{}", error.message());
    s.client.exec("DROP OWNED BY ida_owners, eve_owners; DROP ROLE ida_owners, eve_owners");
}

#[test]
fn secrets_stand_in_their_table_and_nowhere_else() {
    let mut s = Sources::new("secrets");
    fill(&s.api, "people", 300, 60);
    let mut ida = admin(&mut s, "ida");
    ida.exec(&format!("SELECT wh.set_secret('key', '{SECRET}')"));
    let activity = format!("SELECT query FROM pg_stat_activity WHERE pid = {}", ida.pid());
    ida.exec(&format!("SELECT wh.set_secret('key', '{SECRET}')"));
    let shown = s.client.value(&activity);
    assert!(shown.contains("a statement with a secret") && !shown.contains(SECRET), "{shown}");
    // A statement that fails is logged.
    let bad = ida.error(&format!("SELECT wh.set_secret('no/name', '{SECRET}')"));
    assert!(!format!("{bad:?}").contains(SECRET), "{bad:?}");
    for (name, auth) in [
        ("bearer", json!({"type": "bearer", "secret": "key"})),
        ("query", json!({"type": "query", "name": "api_key", "secret": "key"})),
        ("header", json!({"type": "header", "name": "X-Key", "secret": "key"})),
        ("basic", json!({"type": "basic", "user": "u", "secret": "key"})),
    ] {
        // An API that says the secret back: in a failure, in a record, in a link.
        let said = format!("{{\"error\": \"bad key {SECRET} at https://h/?api_key={SECRET}\"}}");
        s.api.fault("/cursor/people", 1, 4, Fault::Reply(Reply::text(500, "application/json", &said)));
        create(&mut ida, &s.api, name, &json!({"auth": auth, "streams": [listing("people", &json!({}))]}));
        let failed = ida.table(&format!("SELECT status, error FROM wh.fetch('{name}')"));
        assert!(failed.starts_with("failed|") && !failed.contains(SECRET), "{failed}");
        assert_eq!(ida.value(&format!("SELECT status FROM wh.fetch('{name}')")), "succeeded", "{name}");
    }
    // A link to the next page that holds the secret, where a run broke off: the place is not stored.
    let links = json!({"type": "next_url", "pointer": "/paging/next"});
    let stream =
        json!({"path": "next_url/people", "records": "/results", "paginator": links, "limits": {"batch_rows": 100}});
    let query = json!({"type": "query", "name": "api_key", "secret": "key"});
    create(&mut ida, &s.api, "links", &json!({"auth": query, "streams": [listing("people", &stream)]}));
    s.api.fault("/next_url/people", 2, 4, Fault::Reply(Reply::text(500, "text/plain", SECRET)));
    assert_eq!(ida.value("SELECT status FROM wh.fetch('links')"), "failed");
    let named = s.api.log().iter().filter(|a| a.path.starts_with("/next_url") && a.param("at").is_some()).count();
    assert!(named > 1, "the next page was asked for");
    assert_eq!(places_of(&mut s.client, SECRET), ["wh.secret"]);
    assert_eq!(ida.value("SELECT status FROM wh.fetch('links')"), "succeeded");
    let sent = s.api.log().iter().any(|a| a.param("api_key") == Some(SECRET) || a.header("x-key") == Some(SECRET));
    assert!(sent, "the secret was used");
    assert_eq!(places_of(&mut s.client, SECRET), ["wh.secret"]);
    assert!(!s.cluster.log().contains(SECRET), "the server's log");
    let dump = s.cluster.dump(&s.database, &[]).expect("a dump");
    assert!(dump.contains("id_000001") && !dump.contains(SECRET), "a dump");
    assert_eq!(ida.table("SELECT name, owner FROM wh.secrets"), format!("key|ida_{}", s.database));
    assert_eq!(ida.error("SELECT value FROM wh.secrets").code().code(), "42703");
    s.client.exec("DROP OWNED BY ida_secrets; DROP ROLE ida_secrets");
}

#[test]
fn private_addresses_are_refused_where_the_setting_does_not_list_them() {
    let cluster = warehouse::cluster("sources_private", &[]);
    let mut client = warehouse::create(&cluster, "ssrf");
    let api = pg_test::fake_api::FakeApi::http();
    fill(&api, "people", 3, 60);
    create(&mut client, &api, "api", &json!({"streams": [listing("people", &json!({}))]}));
    let refused = pg_test::sources::failure(&mut client, "api");
    assert!(refused.starts_with("42501|") && refused.contains("its address is not public"), "{refused}");
    assert!(client.value("SELECT hint FROM wh.job_runs").contains("startup_wh.allow_private_network"));
    // By a name too, which is checked once it is an address.
    let named =
        json!({"base_url": format!("http://localhost:{}/", api.port()), "streams": [listing("people", &json!({}))]});
    create(&mut client, &api, "named", &named);
    let refused = pg_test::sources::failure(&mut client, "named");
    assert!(refused.starts_with("42501|"), "{refused}");
    assert_eq!(api.connections(), 0, "somebody connected");
    // Nobody but the administrator of the server lifts that.
    let mut deploy = cluster.connect_as("ssrf", "deploy", &pg_test::pair::password("deploy")).expect("a connection");
    for statement in [
        "SET startup_wh.allow_private_network = '127.0.0.0/8'",
        "ALTER ROLE deploy SET startup_wh.allow_private_network = '127.0.0.0/8'",
        "SET startup_wh.ca_file = '/tmp/x'",
        "SET startup_wh.secret_dir = '/tmp'",
    ] {
        assert!(["55P02", "42501"].contains(&deploy.error(statement).code().code()), "{statement}");
    }
}

/// A fetch writes with the rights of the extension's owner: nothing that others wrote may run in it.
#[test]
fn no_function_of_others_runs_in_a_fetch() {
    let mut s = Sources::new("others_code");
    fill(&s.api, "people", 3, 60);
    let ana = "CREATE SCHEMA anas AUTHORIZATION ana; CREATE SCHEMA shared; GRANT ALL ON SCHEMA shared TO ana;
        CREATE FUNCTION anas.take() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN ALTER ROLE ana SUPERUSER; RETURN NEW; END$$;
        ALTER FUNCTION anas.take() OWNER TO ana";
    s.client.exec(ana);
    let stream = listing("people", &json!({"primary_key": ["/id"], "deletes": {"sweep": "1d"}}));
    let made = literal(&spec(&s.api, &json!({"streams": [stream]})).to_string());
    let error = s.client.error(&format!("SELECT wh.create_source('api', {made}, schema => 'anas')"));
    assert_eq!(error.code().code(), "42501");
    s.client.exec(&format!("SELECT wh.create_source('api', {made}, schema => 'shared')"));
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api')"), "succeeded");
    let again = "SELECT status || ' ' || error FROM wh.fetch('api', full_refresh => true)";

    s.client.exec("GRANT ALL ON shared.people TO ana");
    let mut ana = as_role(&s, "ana");
    ana.exec("CREATE TRIGGER take BEFORE INSERT OR UPDATE ON shared.people FOR EACH ROW EXECUTE FUNCTION anas.take()");
    fill(&s.api, "people", 5, 60);
    let said = s.client.value(again);
    assert!(said.contains("trigger take on shared.people would run with the rights of a fetch"), "{said}");
    // A key that cascades deletes from their table, and its triggers run as whoever fetches.
    s.client.exec("DROP TRIGGER take ON shared.people");
    ana.exec(
        "CREATE TABLE anas.notes (id text REFERENCES shared.people ON DELETE CASCADE);
         INSERT INTO anas.notes SELECT id FROM shared.people;
         CREATE TRIGGER take AFTER DELETE ON anas.notes FOR EACH ROW EXECUTE FUNCTION anas.take()",
    );
    fill(&s.api, "people", 2, 60);
    let said = s.client.value(again);
    assert!(said.contains("foreign key notes_id_fkey of anas.notes would have its table changed"), "{said}");
    ana.exec("ALTER TABLE anas.notes DROP CONSTRAINT notes_id_fkey");
    s.client.exec("ALTER TABLE shared.people OWNER TO ana");
    let said = s.client.value(again);
    assert!(said.contains("shared.people is ana's"), "{said}");
    s.client.exec("ALTER TABLE shared.people OWNER TO CURRENT_USER");

    // The table that a scan writes what it saw to.
    let seen = format!("shared._seen_{}", s.client.value("SELECT 'shared.people'::regclass::oid"));
    ana.exec(&format!(
        "CREATE TABLE {seen} (k text[]);
         CREATE TRIGGER take BEFORE INSERT ON {seen} FOR EACH ROW EXECUTE FUNCTION anas.take()"
    ));
    let said = s.client.value(again);
    assert!(said.contains("exists, and is not of startup_wh"), "{said}");
    ana.exec(&format!("DROP TABLE {seen}"));
    assert_eq!(s.client.value("SELECT status FROM wh.fetch('api', full_refresh => true)"), "succeeded");
    assert_eq!(s.client.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'ana'"), "f");
}

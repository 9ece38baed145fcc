//! What tests of sources share: a warehouse that may reach this machine, an API on it, and sources between the two.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use postgres::Client;
use serde_json::{json, Value};

use crate::client::{exec, rows, table, value};
use crate::cluster::Cluster;
use crate::fake_api::FakeApi;
use crate::warehouse;

/// The warehouse may reach APIs on this machine.
pub const REACHES_LOOPBACK: (&str, &str) = ("startup_wh.allow_private_network", "127.0.0.0/8, ::1/128");

/// A database of a test's own in a cluster that the tests of a file share, and an API of its own.
pub struct Sources {
    pub api: FakeApi,
    pub client: Client,
    pub cluster: &'static Cluster,
    pub database: String,
}

impl Sources {
    /// The name must be one that no other test of this process uses.
    #[track_caller]
    pub fn new(name: &str) -> Sources {
        static CLUSTER: OnceLock<Cluster> = OnceLock::new();
        let cluster = CLUSTER.get_or_init(|| warehouse::cluster("sources", &[REACHES_LOOPBACK]));
        let client = warehouse::create(cluster, name);
        Sources { api: FakeApi::http(), client, cluster, database: name.into() }
    }

    /// Another session of the superuser.
    #[track_caller]
    pub fn session(&self) -> Client {
        match self.cluster.connect(&self.database) {
            Ok(client) => client,
            Err(e) => panic!("{e}\n{}", self.cluster.log_tail()),
        }
    }

    /// Makes source `api` of these streams.
    #[track_caller]
    pub fn create(&mut self, streams: &[Value]) {
        create(&mut self.client, &self.api, "api", &json!({ "streams": streams }));
    }

    /// Fetches source `api`: a line a stream, [`fetch`].
    #[track_caller]
    pub fn fetch(&mut self) -> String {
        fetch(&mut self.client, "api")
    }
}

impl Drop for Sources {
    /// Best effort: the cluster goes anyway when the process ends.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        if let Ok(mut client) = self.cluster.connect("postgres") {
            let _ = client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database));
        }
    }
}

/// A text as SQL writes it.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A spec with `more` in it, of an API that is reached at once and tried again soon.
pub fn spec(api: &FakeApi, more: &Value) -> Value {
    let mut spec = json!({"base_url": api.url("/"), "retry": {"max": 3, "base_ms": 10, "max_ms": 20}});
    lay_over(&mut spec, more);
    spec
}

/// Makes a source.
#[track_caller]
pub fn create(client: &mut Client, api: &FakeApi, name: &str, more: &Value) {
    let spec = literal(&spec(api, more).to_string());
    exec(client, &format!("SELECT wh.create_source('{name}', {spec})"));
}

/// A stream of the listing `cursor/NAME`, in pages of 100, with `more` laid over.
pub fn listing(name: &str, more: &Value) -> Value {
    let mut stream = json!({
        "name": name, "path": format!("cursor/{name}"), "params": {"limit": 100}, "records": "/data",
        "primary_key": ["/id"], "version": "/updated",
        "paginator": {"type": "cursor", "param": "starting_after", "from": "last_record:/id", "more": "/has_more"}
    });
    lay_over(&mut stream, more);
    stream
}

fn lay_over(under: &mut Value, over: &Value) {
    for (name, value) in over.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(under.as_object_mut().map(|o| o.remove(name))),
            _ => under[name] = value.clone(),
        }
    }
}

/// Fetches a source: for each stream `name|status|received|inserted|updated|unchanged|stale|duplicate|quarantined`.
#[track_caller]
pub fn fetch(client: &mut Client, name: &str) -> String {
    table(
        client,
        &format!(
            "SELECT stream, status, received, inserted, updated, unchanged, stale, duplicate, quarantined
             FROM wh.fetch('{name}') ORDER BY stream"
        ),
    )
}

/// How the one stream of a source's fetch failed: `sqlstate|error`.
#[track_caller]
pub fn failure(client: &mut Client, name: &str) -> String {
    let status = table(client, &format!("SELECT DISTINCT status FROM wh.fetch('{name}')"));
    assert_eq!(status, "failed", "a failure was expected");
    table(
        client,
        &format!("SELECT sqlstate, error FROM wh.fetch_runs WHERE source = '{name}' ORDER BY run DESC LIMIT 1"),
    )
}

/// The documents of a table by their id.
#[track_caller]
pub fn stored(client: &mut Client, relation: &str) -> BTreeMap<String, Value> {
    let found = rows(client, &format!("SELECT id, _raw FROM {relation} WHERE _deleted_at IS NULL"));
    let count = found.len();
    let stored: BTreeMap<String, Value> = found
        .into_iter()
        .map(|row| match row.as_slice() {
            [Some(id), Some(raw)] => match serde_json::from_str(raw) {
                Ok(raw) => (id.clone(), raw),
                Err(e) => panic!("{relation} holds {raw}: {e}"),
            },
            other => panic!("{relation} holds {other:?}"),
        })
        .collect();
    assert_eq!(stored.len(), count, "a row twice in {relation}");
    stored
}

/// The objects of an API by their id.
pub fn truth(api: &FakeApi, collection: &str) -> BTreeMap<String, Value> {
    let id = |o: &Value| o["id"].as_str().map_or_else(|| o["id"].to_string(), str::to_owned);
    api.objects(collection).into_iter().map(|o| (id(&o), o)).collect()
}

/// The table holds what the API does, no more and no less.
#[track_caller]
pub fn assert_equal(client: &mut Client, relation: &str, api: &FakeApi, collection: &str) {
    let (stored, truth) = (stored(client, relation), truth(api, collection));
    let missing: Vec<&String> = truth.keys().filter(|id| !stored.contains_key(*id)).take(5).collect();
    let extra: Vec<&String> = stored.keys().filter(|id| !truth.contains_key(*id)).take(5).collect();
    let differs: Vec<&String> =
        truth.iter().filter(|(id, o)| stored.get(*id).is_some_and(|s| s != *o)).map(|(id, _)| id).take(5).collect();
    assert!(
        missing.is_empty() && extra.is_empty() && differs.is_empty(),
        "{relation}, {} rows, against {} objects: missing {missing:?}, extra {extra:?}, stale {differs:?}",
        stored.len(),
        truth.len()
    );
}

/// What records of runs say fits what the tables hold: every row was inserted once, and no run is left without an end.
#[track_caller]
pub fn assert_ledger(client: &mut Client, source: &str) {
    assert_eq!(
        table(
            client,
            &format!(
                "SELECT r.run, s.stream, r.status, s.status FROM wh.job_runs r JOIN wh.fetch_runs s USING (run) WHERE s.source = '{source}'
                 AND (s.status = 'running' AND r.status NOT IN ('running', 'queued') OR r.status = 'succeeded' AND s.status <> 'succeeded'
                      OR s.received <> s.inserted + s.updated + s.unchanged + s.stale + s.duplicate + s.quarantined)"
            )
        ),
        "",
        "runs whose records do not agree"
    );
    for row in rows(
        client,
        &format!(
            "SELECT stream, \"table\", rows FROM wh.source_streams WHERE source = '{source}' AND \"table\" IS NOT NULL AND pointer IS NULL"
        ),
    ) {
        let [Some(stream), Some(relation), Some(said)] = row.as_slice() else { panic!("{row:?}") };
        let count = value(client, &format!("SELECT count(*) FROM {relation}"));
        assert_eq!(&count, said, "rows of {stream}");
        let inserted =
            format!("SELECT sum(inserted) FROM wh.fetch_runs WHERE source = '{source}' AND stream = '{stream}'");
        assert_eq!(value(client, &inserted), count, "rows of {stream} that were inserted, over all runs");
    }
}

/// Everything that can be read or dumped, and where a text is found in it.
#[track_caller]
pub fn places_of(client: &mut Client, text: &str) -> Vec<String> {
    let relations = rows(
        client,
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm', 'v') AND n.nspname <> 'information_schema' AND c.relname NOT LIKE 'pg_stat%' ORDER BY 1",
    );
    let mut found = Vec::new();
    for relation in relations.into_iter().flatten().flatten() {
        let half = text.len() / 2;
        // In two parts, so that the question is not its own answer.
        let pattern = format!("'%{}' || '{}%'", &text[..half], &text[half..]);
        if value(client, &format!("SELECT count(*) FROM {relation} t WHERE t::text LIKE {pattern}")) != "0" {
            found.push(relation);
        }
    }
    found
}

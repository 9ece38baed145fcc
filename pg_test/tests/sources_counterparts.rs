//! The presets against emulators that others wrote. Skipped, with a message, only where a registry can't be reached.

use pg_test::counterparts::Counterpart;
use pg_test::sources::{assert_ledger, literal, Sources};
use pg_test::{Client, ClientExt};
use serde_json::{json, Value};

#[track_caller]
fn create(client: &mut Client, name: &str, preset: &str, settings: &Value, streams: &str) {
    client.exec(&format!(
        "SELECT wh.create_source('{name}', preset => '{preset}', settings => {}, streams => '{streams}')",
        literal(&settings.to_string())
    ));
}

#[track_caller]
fn counts(client: &mut Client, source: &str) -> String {
    client.table(&format!(
        "SELECT stream, status, received, inserted, updated, unchanged + duplicate, error FROM wh.fetch('{source}')
         WHERE stream <> 'events' ORDER BY stream"
    ))
}

/// What both emulators know of an object, without what each makes up.
const CUSTOMERS: &str = "SELECT email, name, description, metadata, livemode, object FROM SOURCE.customers WHERE email LIKE 'made-%' ORDER BY email";
const PRODUCTS: &str =
    "SELECT name, description, active, metadata FROM SOURCE.products WHERE name LIKE 'made %' ORDER BY name";
const INTENTS: &str = "SELECT amount, currency, status, customer, metadata FROM SOURCE.payment_intents ORDER BY amount";

#[test]
fn stripe_in_two_emulators_that_list_in_opposite_orders_gives_the_same_tables() {
    let (Some(oldest_first), Some(newest_first)) =
        (Counterpart::localstripe(), Counterpart::emulate("stripe", "Bearer sk_test_made_up"))
    else {
        return;
    };
    let mut s = Sources::new("stripes");
    s.client.exec("SELECT wh.set_secret('stripe_key', 'sk_test_made_up')");
    let servers = [("localstripe", &oldest_first), ("emulate", &newest_first)];
    for (name, server) in servers {
        for n in 0..230 {
            server.post_form(
                "/v1/customers",
                &format!("email=made-{n:03}@example.org&name=Customer+{n}&metadata[n]={n}"),
            );
        }
        for n in 0..3 {
            server.post_form("/v1/products", &format!("name=made+{n}"));
            server.post_form("/v1/payment_intents", &format!("amount={}&currency=eur", 1000 + n));
        }
        // emulate has no events, and localstripe takes created[gte] for those only.
        let mut without = json!({"changes": null, "deletes": null});
        if name == "localstripe" {
            without["incremental"] = Value::Null;
        }
        let plain = ["customers", "products", "payment_intents"].map(|stream| {
            let mut member = without.clone();
            member["name"] = json!(stream);
            member
        });
        let settings = json!({"base_url": server.url("/v1/"), "streams": plain});
        create(&mut s.client, name, "stripe", &settings, "{customers,products,payment_intents}");
    }
    let first = |server: &Counterpart| server.get("/v1/customers?limit=1")["data"][0]["email"].clone();
    assert_ne!(first(&oldest_first), first(&newest_first), "the orders");
    assert_eq!(
        counts(&mut s.client, "localstripe"),
        "customers|succeeded|230|230|0|0|\npayment_intents|succeeded|3|3|0|0|\nproducts|succeeded|3|3|0|0|"
    );
    for server in ["localstripe", "emulate"] {
        counts(&mut s.client, server);
        assert_ledger(&mut s.client, server);
    }
    let same = |client: &mut Client| {
        for (query, rows) in [(CUSTOMERS, 230), (PRODUCTS, 3), (INTENTS, 3)] {
            let [a, b] = ["localstripe", "emulate"].map(|name| client.table(&query.replace("SOURCE", name)));
            assert_eq!(a.lines().count(), rows, "{query}");
            assert_eq!(a, b, "{query}");
        }
    };
    same(&mut s.client);
    // One in the middle, the oldest and the newest change; the runs see it, and only that.
    for (name, server) in servers {
        for n in [0, 117, 229] {
            let email = format!("made-{n:03}@example.org");
            let id = s.client.value(&format!("SELECT id FROM {name}.customers WHERE email = '{email}'"));
            server.post_form(&format!("/v1/customers/{id}"), &format!("description=changed+{n}"));
        }
        let line = counts(&mut s.client, name);
        let updated: Vec<&str> = line.lines().next().unwrap_or_default().split('|').collect();
        assert_eq!((updated[1], updated[3], updated[4]), ("succeeded", "0", "3"), "{name}: {line}");
        assert_ledger(&mut s.client, name);
    }
    assert_eq!(s.client.value("SELECT count(*) FROM emulate.customers WHERE description LIKE 'changed%'"), "3");
    same(&mut s.client);
    // The columns that the preset declares have their types on both.
    for name in ["localstripe", "emulate"] {
        assert_eq!(
            s.client.value(&format!("SELECT string_agg(DISTINCT pg_typeof(created)::text || (created > now() - interval '1 hour'), ' ') FROM {name}.customers")),
            "timestamp with time zonetrue"
        );
    }
}

#[test]
fn github_in_an_emulator_is_fetched_over_links_and_by_change() {
    let Some(github) = Counterpart::emulate("github", "Bearer test_token_admin") else { return };
    let mut s = Sources::new("github");
    s.client.exec("SELECT wh.set_secret('github_token', 'test_token_admin')");
    github.send_json("POST", "/user/repos", &json!({"name": "product"}));
    for n in 1..=120 {
        github.send_json("POST", "/repos/admin/product/issues", &json!({"title": format!("made {n}"), "body": "text"}));
    }
    let settings = json!({"base_url": github.url("/"), "owner": "admin", "repo": "product"});
    create(&mut s.client, "github", "github", &settings, "{repos,issues,pulls}");
    assert_eq!(
        counts(&mut s.client, "github"),
        "issues|succeeded|120|120|0|0|\npulls|succeeded|0|0|0|0|\nrepos|succeeded|1|1|0|0|"
    );
    let compare = |client: &mut Client| {
        // The truth is asked for one by one, not from the listing.
        for n in [1, 2, 7, 60, 119, 120] {
            let issue = github.get(&format!("/repos/admin/product/issues/{n}"));
            let stored = client.value(&format!("SELECT _raw FROM github.issues WHERE number = {n}"));
            let stored: Value = serde_json::from_str(&stored).expect("a document");
            for member in ["id", "title", "state", "body", "created_at", "updated_at", "comments"] {
                assert_eq!(stored[member], issue[member], "{member} of issue {n}");
            }
        }
    };
    compare(&mut s.client);
    assert_eq!(
        s.client.table(
            "SELECT min(number), max(number), count(DISTINCT id), pg_typeof(min(updated_at)) FROM github.issues"
        ),
        "1|120|120|timestamp with time zone"
    );
    github.send_json("PATCH", "/repos/admin/product/issues/60", &json!({"state": "closed"}));
    github.send_json("POST", "/repos/admin/product/issues", &json!({"title": "made 121"}));
    let line = counts(&mut s.client, "github");
    let issues: Vec<&str> = line.lines().next().unwrap_or_default().split('|').collect();
    assert_eq!((issues[1], issues[3], issues[4]), ("succeeded", "1", "1"), "{line}");
    compare(&mut s.client);
    assert_eq!(s.client.value("SELECT state FROM github.issues WHERE number = 60"), "closed");
    assert_ledger(&mut s.client, "github");
}

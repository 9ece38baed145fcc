//! How rows get into a table: as Postgres itself would write them, whatever else stands on the table, and whoever else
//! writes to it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use pg_test::fake_api::{Asked, Reply};
use pg_test::sources::{assert_ledger, listing, literal, Sources};
use pg_test::ClientExt;
use serde_json::json;

/// The listing of people is these pages, each of some records as text.
fn pages(s: &Sources, pages: Vec<String>, before: impl Fn(usize) + Send + 'static) {
    s.api.route("/cursor/people", move |asked: &Asked| {
        let after = asked.param("page").and_then(|page| page.parse().ok()).unwrap_or(0);
        before(after);
        let next = after + 1;
        let next = if next < pages.len() { next.to_string() } else { "null".into() };
        Reply::text(200, "application/json", &format!("{{\"data\": [{}], \"next\": {next}}}", pages[after]))
    });
}

/// A stream of those, in batches of so many rows.
fn stream(batch_rows: u64, columns: &serde_json::Value) -> serde_json::Value {
    let paginator = json!({"type": "cursor", "param": "page", "from": "body:/next"});
    let limits = json!({"batch_rows": batch_rows});
    listing("people", &json!({"paginator": paginator, "limits": limits, "columns": columns, "version": null}))
}

/// Made-up values.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        // Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len() as u64) as usize]
    }

    fn number(&mut self) -> String {
        let digits = |dice: &mut Dice, most: u64| -> String {
            (0..1 + dice.below(most)).map(|_| char::from(b'0' + dice.below(10) as u8)).collect()
        };
        let sign = self.one_of(&["", "-"]);
        let whole = match self.below(3) {
            0 => "0".to_owned(),
            1 => self.one_of(&["1", "10", "9999", "10000", "100000000", "12340000", "9223372036854775807"]).to_owned(),
            _ => format!("{}{}", 1 + self.below(9), digits(self, 70)),
        };
        let fraction = match self.below(3) {
            0 => String::new(),
            1 => format!(".{}", self.one_of(&["0", "5", "50", "0001", "00001", "00010000", "9999", "12345"])),
            _ => format!(".{}", digits(self, 70)),
        };
        let exponent = self.one_of(&["", "", "", "e3", "E-3", "e+0"]);
        format!("{sign}{whole}{fraction}{exponent}")
    }

    fn string(&mut self) -> String {
        let pieces = [
            "a",
            "b",
            "é",
            "漢",
            "😀",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u00e9",
            "\\ud83d\\ude00",
            " ",
            "x y",
            "{",
            "]",
        ];
        let text: String = (0..self.below(9)).map(|_| self.one_of(&pieces)).collect();
        format!("\"{text}\"")
    }

    fn value(&mut self, depth: u32) -> String {
        match self.below(if depth == 0 { 6 } else { 10 }) {
            0 => self.number(),
            1 | 2 => self.string(),
            3 => "true".into(),
            4 => "false".into(),
            5 => "null".into(),
            6 | 7 => {
                let most = if self.below(10) == 0 { 70 } else { 5 };
                let blank = self.one_of(&["", " ", "\n "]);
                let items: Vec<String> = (0..self.below(most)).map(|_| self.value(depth - 1)).collect();
                format!("[{blank}{}{blank}]", items.join(&format!(",{blank}")))
            }
            _ => {
                let most = if self.below(10) == 0 { 70 } else { 5 };
                let blank = self.one_of(&["", " "]);
                let members: Vec<String> = (0..self.below(most))
                    .map(|n| {
                        // Some names come twice, some have escapes.
                        let name = match self.below(8) {
                            0 => self.string(),
                            1 => "\"twice\"".to_owned(),
                            _ => format!("\"{}{n}\"", self.one_of(&["a", "bb", "ccc", ""])),
                        };
                        format!("{name}{blank}:{blank}{}", self.value(depth - 1))
                    })
                    .collect();
                format!("{{{blank}{}{blank}}}", members.join(","))
            }
        }
    }
}

#[test]
fn rows_are_byte_by_byte_what_postgres_makes_of_them() {
    let mut s = Sources::new("bytes");
    let mut dice = Dice(7);
    let texts = ["null", "\"plain\"", "\"é \\u00e9 \\\" \\\\ 😀\"", "\"\"", "\"a\\nb\\tc\""];
    let times =
        ["null", "\"2026-01-31T12:00:00Z\"", "\"1969-12-31T23:59:59.123456Z\"", "\"2024-02-29T00:00:00.5+02:00\""];
    let records: Vec<String> = (0..1500)
        .map(|n| {
            let value = match n % 50 {
                // As many as have offsets among their lengths.
                0 => format!("[{}]", vec![dice.one_of(&["true", "null", "\"\""]); 30 + n / 50].join(",")),
                1 => {
                    format!("{{{}}}", (0..15 + n / 100).map(|m| format!("\"{m}\":true")).collect::<Vec<_>>().join(","))
                }
                // Small enough that nothing is stored apart, under a number of its own.
                _ => loop {
                    let value = dice.value(4);
                    if value.len() + 12 * value.matches(',').count() < 700 {
                        break value;
                    }
                },
            };
            format!(
                "{{\"id\": \"p{n}\", \"t\": {}, \"n\": {}, \"d\": {}, \"b\": {}, \"at\": {}, \"j\": {}}}",
                dice.one_of(&texts),
                dice.one_of(&["0", "-1", "9223372036854775807", "-9223372036854775808", "null"]),
                dice.one_of(&["0.5", "1234567890123456789.123456789", "null", "-7"]),
                dice.one_of(&["true", "false", "null"]),
                dice.one_of(&times),
                value
            )
        })
        .collect();
    pages(&s, records.chunks(100).map(|some| some.join(",")).collect(), |_| {});
    let columns = json!({"d": {"path": "/d", "type": "numeric"}, "j": {"path": "/j", "type": "jsonb"}});
    s.create(&[stream(700, &columns)]);
    assert_eq!(s.fetch(), "people|succeeded|1500|1500|0|0|0|0|0");
    // The same by the types' own input functions.
    s.client.exec("CREATE EXTENSION pageinspect; CREATE TABLE same (LIKE api.people)");
    for some in records.chunks(100) {
        let texts: Vec<String> = some.iter().map(|record| literal(record)).collect();
        s.client.exec(&format!(
            "INSERT INTO same (id, t, n, d, b, at, j, _raw, _hash, _fetched_at)
             SELECT r->>'id', r->>'t', (r->>'n')::bigint, (r->>'d')::numeric, (r->>'b')::boolean, (r->>'at')::timestamptz,
                    nullif(r->'j', 'null'), r, t._hash, t._fetched_at
             FROM (SELECT unnest(ARRAY[{}])::jsonb) AS given (r) JOIN api.people t ON t.id = r->>'id'",
            texts.join(", ")
        ));
    }
    s.client.exec(
        "CREATE FUNCTION bytes(relation regclass) RETURNS TABLE (attributes bytea[]) LANGUAGE sql AS $$
           SELECT i.t_attrs FROM generate_series(0, pg_relation_size(relation) / current_setting('block_size')::int - 1) AS block,
                  heap_page_item_attrs(get_raw_page(relation::text, block::int), relation) AS i $$;
         CREATE FUNCTION places(relation regclass) RETURNS text[] LANGUAGE sql AS $$
           SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute WHERE attrelid = relation AND attnum > 0 $$",
    );
    assert_eq!(s.client.value("SELECT places('api.people') = places('same')"), "t");
    assert_eq!(s.client.value("SELECT count(*) FROM bytes('api.people')"), "1500");
    let different = "SELECT count(*) FROM (SELECT attributes FROM bytes('api.people') EXCEPT ALL SELECT attributes FROM bytes('same')) AS d";
    assert_eq!(s.client.value(different), "0", "rows differ from what Postgres writes");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn what_stands_on_a_table_takes_effect_on_new_rows() {
    let mut s = Sources::new("stands");
    let people = |range: std::ops::Range<u32>| {
        range.map(|n| format!("{{\"id\": \"p{n}\", \"n\": {n}}}")).collect::<Vec<_>>().join(",")
    };
    pages(&s, vec![people(0..5)], |_| {});
    s.create(&[stream(100, &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|5|5|0|0|0|0|0");
    // Constraints and indexes: rows that they refuse are kept aside, each by itself.
    s.client.exec(
        "ALTER TABLE api.people ADD CHECK (n <> 7);
         CREATE UNIQUE INDEX odd ON api.people ((CASE WHEN n = 9 THEN 1 ELSE n END));
         CREATE DOMAIN small AS bigint CHECK (VALUE < 12); ALTER TABLE api.people ALTER n TYPE small",
    );
    pages(&s, vec![people(0..14)], |_| {});
    assert_eq!(s.fetch(), "people|succeeded|14|5|0|5|0|0|4");
    assert_eq!(
        s.client.table("SELECT record FROM wh.fetch_errors ORDER BY record"),
        "{\"id\":\"p12\",\"n\":12}\n{\"id\":\"p13\",\"n\":13}\n{\"id\":\"p7\",\"n\":7}\n{\"id\":\"p9\",\"n\":9}"
    );
    s.client.exec("SET enable_seqscan = off");
    assert_eq!(s.client.value("SELECT string_agg(id, ' ' ORDER BY id) FROM api.people WHERE id > 'p4'"), "p5 p6 p8");
    s.client.exec("RESET enable_seqscan");
    // Columns that only COPY fills.
    s.client.exec(
        "ALTER TABLE api.people ADD loud text GENERATED ALWAYS AS (upper(id)) STORED, ADD note text DEFAULT 'new';
         CREATE TABLE seen (id text); CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
         $$BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NULL; END$$",
    );
    pages(&s, vec!["{\"id\": \"q\", \"n\": 2}".into()], |_| {});
    s.client.exec("DROP INDEX api.odd");
    s.fetch();
    assert_eq!(s.client.table("SELECT loud, note, n FROM api.people WHERE id = 'q'"), "Q|new|2");
    s.client.exec(
        "ALTER TABLE api.people DROP loud, ALTER note DROP DEFAULT;
         CREATE TRIGGER seeing AFTER INSERT ON api.people FOR EACH ROW EXECUTE FUNCTION see()",
    );
    pages(&s, vec!["{\"id\": \"r\", \"n\": 3}".into()], |_| {});
    s.fetch();
    assert_eq!(s.client.table("SELECT id FROM seen"), "r");
    // A partition's bounds.
    s.client.exec(
        "DROP TRIGGER seeing ON api.people; CREATE TABLE everybody (LIKE api.people) PARTITION BY RANGE (id);
         ALTER TABLE everybody ATTACH PARTITION api.people FOR VALUES FROM (MINVALUE) TO ('s')",
    );
    pages(&s, vec!["{\"id\": \"s\", \"n\": 11}, {\"id\": \"ra\", \"n\": 10}".into()], |_| {});
    s.fetch();
    assert_eq!(s.client.value("SELECT string_agg(id, ' ') FROM api.people WHERE id IN ('s', 'ra')"), "ra");
    s.client.exec("ALTER TABLE everybody DETACH PARTITION api.people");
    assert_ledger(&mut s.client, "api");
}

#[test]
fn a_first_load_finds_rows_that_came_twice_and_rows_of_others() {
    let mut s = Sources::new("twice");
    let people = |range: std::ops::Range<u32>, n: u32| {
        range.map(|id| format!("{{\"id\": \"p{id}\", \"n\": {n}}}")).collect::<Vec<_>>().join(",")
    };
    // Each page is a batch. The third one has a row of the first as it was, and one that has changed.
    let list = vec![
        people(0..10, 1),
        people(10..20, 1),
        format!("{},{}", people(5..6, 1), people(6..7, 2)),
        people(30..40, 1),
    ];
    let other = Mutex::new(s.session());
    pages(&s, list, move |page| {
        if page < 3 {
            return;
        }
        // Somebody else writes a row that is still to come; the first batch has made the table.
        let mut other = other.lock().unwrap_or_else(|e| panic!("{e}"));
        let until = Instant::now() + Duration::from_secs(60);
        while other.value("SELECT to_regclass('api.people') IS NULL") == "t" {
            assert!(Instant::now() < until, "waited in vain for the first batch");
            std::thread::sleep(Duration::from_millis(10));
        }
        other.exec("INSERT INTO api.people (id, n, _hash) VALUES ('p33', 7, gen_random_uuid()) ON CONFLICT DO NOTHING");
    });
    s.create(&[stream(2, &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|32|29|2|1|0|0|0");
    assert_eq!(
        s.client.table("SELECT id, n FROM api.people WHERE id IN ('p5', 'p6', 'p33') ORDER BY id"),
        "p33|1\np5|1\np6|2"
    );
    assert_eq!(s.client.value("SELECT count(*) FROM api.people"), "30");
    assert_eq!(s.client.value("SELECT count(*) FROM wh.fetch_errors"), "0");
}

#[test]
fn a_type_that_later_pages_of_a_batch_widen_holds_for_the_earlier_ones() {
    let mut s = Sources::new("later");
    let list = [
        r#"{"id": "a", "n": -0, "m": "plain", "o": 1, "e": null}"#,
        r#"{"id": "b", "n": 1.50, "m": "plain", "o": 2, "e": null}"#,
        r#"{"id": "c", "n": "x", "m": {"k": [1.0]}, "o": 3, "e": "2026-01-31"}"#,
        r#"{"id": "d", "n": true, "m": null, "o": 4.5, "e": null, "new": 5}"#,
    ];
    pages(&s, list.iter().map(|r| (*r).to_owned()).collect(), |_| {});
    s.create(&[stream(1000, &json!({}))]);
    assert_eq!(s.fetch(), "people|succeeded|4|4|0|0|0|0|0");
    assert_eq!(
        s.client.table("SELECT id, n, m, o, e, new FROM api.people ORDER BY id"),
        "a|-0|\"plain\"|1||\nb|1.50|\"plain\"|2||\nc|x|{\"k\": [1.0]}|3|2026-01-31|\nd|true||4.5||5"
    );
    assert_eq!(
        s.client.value(
            "SELECT concat_ws(' ', pg_typeof(n), pg_typeof(m), pg_typeof(o), pg_typeof(e)) FROM api.people LIMIT 1"
        ),
        "text jsonb numeric date"
    );
    assert_ledger(&mut s.client, "api");
}

//! wh.my_usage, wh.my_team_usage and wh.usage_report: sizes and query time together, for whoever asks.

use pg_test::sizes::{notices, Place};
use pg_test::{wait_until, ClientExt, Cluster};

#[test]
fn ones_own_row_says_what_one_has_and_used_and_is_the_only_one() {
    let place = Place::new("mine");
    let mut client = place.client();
    let (mut ana, mut ben) = (place.as_role("ana"), place.as_role("ben"));
    ana.exec("CREATE TABLE ana.small (a int); CREATE TABLE ana.big AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 5000) n");
    ben.exec("CREATE TABLE ben.t AS SELECT generate_series(1, 100)");
    client.exec("CREATE SCHEMA \"Ana 2\" AUTHORIZATION ana; CREATE TABLE \"Ana 2\".more AS SELECT 1 AS a");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    ana.error("SELECT 1 / 0");
    let row = "SELECT role, schemas, bytes, largest_relation, bytes_percent > 0, growth_7_days FROM wh.my_usage";
    let bytes = |client: &mut pg_test::Client, schemas: &str| {
        client.value(&format!("SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind IN ('r', 'm', 'S') AND relnamespace::regnamespace::text IN ({schemas})"))
    };
    let hers = bytes(&mut client, "'ana', '\"Ana 2\"'");
    let his = bytes(&mut client, "'ben'");
    assert_eq!(ana.table(row), format!("ana|2|{hers}|ana.big|t|"));
    assert_eq!(ben.table(row), format!("ben|1|{his}|ben.t|t|"));
    // Superusers own more; then she, then he.
    assert_eq!(ana.value("SELECT bytes_rank FROM wh.my_usage"), "2");
    assert_eq!(ben.value("SELECT bytes_rank FROM wh.my_usage"), "3");
    // Query time as wh.user_query_time has it.
    let same = "SELECT m.queries_today, m.errors_today, m.cancels_today, m.total_time_7_days > '0', m.queries_7_days >= m.queries_today, m.rows_30_days >= m.rows_today
        FROM wh.my_usage m";
    let before: Vec<u64> =
        ana.rows(same)[0][..3].iter().map(|n| n.as_deref().unwrap_or("").parse().expect("a number")).collect();
    assert_eq!(before[1], 1);
    for _ in 0..3 {
        ana.exec("SELECT * FROM ana.small");
    }
    let after = ana.rows(same).remove(0);
    // And the query before.
    assert_eq!(after[0].as_deref(), Some((before[0] + 4).to_string().as_str()));
    assert_eq!(after[3..].iter().map(|c| c.as_deref()).collect::<Vec<_>>(), [Some("t"); 3]);
    // Who has nothing has a row as well.
    assert_eq!(place.as_role("deploy").table(row), "deploy|0|0||f|");
    // Budgets are in it.
    client.exec("SELECT wh.set_budget('ben', bytes => 1)");
    assert_eq!(ben.table("SELECT budget_bytes, budget_passed, budget_enforced FROM wh.my_usage"), "1|t|f");
    // So are stored results, which nobody else is charged for.
    assert_eq!(ben.table("SELECT results, result_bytes FROM wh.my_usage"), "0|0");
    ben.exec("SELECT wh.save_query('his', 'SELECT repeat($$x$$, 5000) AS x, a FROM generate_series(1, 10) a'); SELECT wh.run_query('his')");
    let kept: Vec<u64> = ben
        .rows("SELECT m.result_bytes, m.bytes, b.used_bytes FROM wh.my_usage m JOIN wh.budgets b USING (role)")[0]
        .iter()
        .map(|n| n.as_deref().unwrap_or("").parse().expect("a number"))
        .collect();
    assert!(kept[0] > 0 && kept[1] + kept[0] == kept[2], "{kept:?}");
    assert_eq!(client.value("SELECT sum(bytes) FROM wh.result"), kept[0].to_string());
    assert_eq!(ana.table("SELECT results, result_bytes FROM wh.my_usage"), "0|0");
    // Nobody else's row shows, to a cheap function neither.
    ben.exec(
        "CREATE TABLE ben.seen (t text); CREATE FUNCTION ben.peek(text) RETURNS bool LANGUAGE plpgsql COST 0.0001 AS
              $$ BEGIN INSERT INTO ben.seen VALUES ($1); RETURN true; END $$",
    );
    ben.exec("SELECT * FROM wh.my_usage WHERE ben.peek(role::text)");
    assert_eq!(ben.table("SELECT DISTINCT t FROM ben.seen"), "ben");
    assert_eq!(ben.error("SELECT * FROM wh.role_usage").code().code(), "42501");
    client.exec("SELECT wh.set_budget('ben')");
}

#[test]
fn temporary_tables_count_for_their_owner() {
    let place = Place::new("mine_temporary");
    let mut ana = place.as_role("ana");
    ana.exec("CREATE TEMP TABLE t AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 5000) n");
    place.client().exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(ana.table("SELECT schemas, bytes - pg_total_relation_size('t') FROM wh.my_usage"), "1|0");
}

#[test]
fn a_team_is_seen_by_its_members() {
    let place = Place::new("teams");
    let mut client = place.client();
    client.exec(
        "CREATE ROLE teams_finance; CREATE ROLE teams_board; GRANT teams_board TO teams_finance; GRANT teams_finance TO ana;
         CREATE SCHEMA finance AUTHORIZATION teams_finance; CREATE TABLE finance.t AS SELECT generate_series(1, 1000); CREATE SCHEMA board AUTHORIZATION teams_board;
         SELECT * FROM wh.snapshot_usage()",
    );
    let team = "SELECT role, schemas, bytes > 0 FROM wh.my_team_usage ORDER BY role";
    assert_eq!(place.as_role("ana").table(team), "teams_board|1|f\nteams_finance|1|t\nwh_analyst|0|f");
    assert_eq!(place.as_role("ben").table(team), "wh_analyst|0|f");
    assert_eq!(client.table(team), "", "a superuser is a member of what it was granted");
    client.exec("DROP SCHEMA finance CASCADE; DROP SCHEMA board; DROP ROLE teams_finance, teams_board");
}

#[test]
fn a_report_has_whom_it_should_and_a_bar_for_each() {
    let place = Place::new("reports");
    let mut client = place.client();
    let mut ana = place.as_role("ana");
    ana.exec("CREATE TABLE ana.big AS SELECT n, repeat('x', 100) AS t FROM generate_series(1, 20000) n; CREATE TABLE ana.forgotten AS SELECT generate_series(1, 100)");
    ana.exec("SELECT pg_sleep(0.2)");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    client.exec(
        "UPDATE wh.size_snapshot SET began = as_of - interval '90 days', schemas_since = as_of - interval '90 days';
         INSERT INTO wh.schema_size_point SELECT 'schema', 'ana', at - interval '3 days', owner, 8192, 0, 0, 1 FROM wh.schema_size_point WHERE name = 'ana';
         UPDATE wh.relation_size SET first_seen = first_seen - interval '100 days', last_read = NULL WHERE relation = 'ana.forgotten'::regclass",
    );
    let report = ana.value("SELECT wh.usage_report(2)");
    let section = |title: &str| {
        let from = report.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("{title}: {report}"));
        let text = &report[from + title.len() + 2..];
        text[..text.find("\n\n").unwrap_or(text.len())].to_owned()
    };
    assert!(report.starts_with("Usage of reports, sizes as of 20"), "{report}");
    let schemas = section("Largest schemas");
    assert!(
        schemas.lines().next().is_some_and(|l| l.contains("████████████████████") && l.contains(" kB  ")),
        "{report}"
    );
    assert!(schemas.lines().any(|l| l.trim().starts_with("ana ") && l.ends_with(" %, ana")), "{report}");
    let users = section("Query time in 2 days");
    assert!(
        users.lines().any(|l| l.trim().starts_with("ana ")
            && l.contains("00:00:0")
            && l.contains(" queries, 0 failed, 0 cancelled")),
        "{report}"
    );
    assert!(users.lines().any(|l| l.trim().starts_with("postgres ")), "{report}");
    let grown = section("Grown in 2 days");
    assert!(grown.lines().any(|l| l.trim().starts_with("ana ") && l.contains("+ ") && l.contains("  to ")), "{report}");
    let unused = section("Read by nobody");
    assert_eq!(unused.lines().count(), 1, "{report}");
    assert!(
        unused.trim().starts_with("ana.forgotten  ████████████████████  ")
            && unused.trim_end().ends_with("100 days, ana"),
        "{report}"
    );
    assert_eq!(
        place.as_role("ben").value("SELECT wh.usage_report(2) LIKE '%ana.forgotten%'"),
        "t",
        "everybody sees it"
    );
    for wrong in ["0", "36501", "NULL"] {
        assert_eq!(ana.error(&format!("SELECT wh.usage_report({wrong})")).code().code(), "22023");
    }
    // Only one's own query time, where that is how it is set.
    client.exec("ALTER SYSTEM SET startup_wh.usage_visibility = 'own'");
    client.exec("SELECT pg_reload_conf()");
    wait_until("the setting holds", || client.value("SHOW startup_wh.usage_visibility") == "own");
    let own = place.as_role("ana").value("SELECT wh.usage_report()");
    assert!(own.contains("Query time in 7 days\n  ana ") && !own.contains("  postgres  "), "{own}");
}

#[test]
fn without_the_library_preloaded_they_answer_and_say_how_to_get_more() {
    let unloaded = Cluster::start("mine_unloaded").expect("a cluster");
    let mut client = unloaded.connect("postgres").expect("a connection");
    client.exec("CREATE EXTENSION startup_wh");
    for query in ["SELECT * FROM wh.my_usage", "SELECT wh.usage_report()"] {
        let said = notices(&unloaded, "postgres", query);
        assert!(
            said.iter()
                .any(|n| n.contains("sizes have not been measured yet") && n.contains("shared_preload_libraries")),
            "{query}: {said:?}"
        );
    }
    assert_eq!(client.value("SELECT count(*) FROM wh.my_usage"), "1");
    client.exec("SELECT * FROM wh.snapshot_usage()");
    assert_eq!(client.value("SELECT bytes > 1000000 FROM wh.my_usage"), "t");
    let mut report = String::new();
    wait_until("it has sizes", || {
        report = client.value("SELECT wh.usage_report()");
        report.contains("pg_catalog")
    });
    assert!(report.contains("nothing was counted"), "{report}");
}

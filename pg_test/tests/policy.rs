//! The policy of sensitive data: what is marked never reaches an analyst, from wherever it comes.

use pg_test::client::columns;
use pg_test::{ClientExt, Pair};

fn fixture(name: &str) -> Pair {
    let pair = Pair::new(name);
    pair.product().exec(
        "CREATE TABLE users (id int PRIMARY KEY, email text, password_hash text);
         INSERT INTO users VALUES (1, 'ida@example.com', 'sesame');
         CREATE TABLE password_resets (id int, user_id int)",
    );
    pair
}

#[test]
fn marking_hides_what_is_there_at_once_and_what_comes_later_from_the_start() {
    let pair = fixture("marks");
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    ana.exec(
        "CREATE VIEW ana.hashes AS SELECT id, password_hash FROM app.users; CREATE VIEW ana.mails AS SELECT id, email FROM app.users",
    );
    let done = pair.as_deploy("mark_sensitive('%.%.%password%', 'nobody needs them')");
    let lines: Vec<String> = done.iter().map(|c| format!("{} {} {}", c.kind, c.object, c.action)).collect();
    assert_eq!(lines, ["column app.users.password_hash dropped", "view ana.hashes broken"]);
    assert_eq!(columns(&mut ana, "app.users"), "id email");
    assert_eq!(columns(&mut ana, "app.password_resets"), "id user_id", "its name is not a column's");
    assert_eq!(ana.table("SELECT * FROM ana.mails"), "1|ida@example.com");
    assert_eq!(ana.error("SELECT * FROM ana.hashes").code().code(), "55000");
    // Also to whoever may not use her schema.
    assert_eq!(pair.warehouse_as("ben").value("SELECT view FROM wh.broken_views"), "ana.hashes");

    // A migration of tomorrow, in any spelling; a rename into the pattern; another application.
    pair.as_deploy("mark_sensitive('app.%.api\\_token', 'logs in')");
    pair.product().exec(
        "ALTER TABLE users ADD api_token text, ADD \"oldPassword\" text, ADD phone text;
         ALTER TABLE password_resets ADD note text; CREATE TABLE devices (id int, \"Api_Token\" text)",
    );
    pair.recreate_fdw();
    assert_eq!(columns(&mut ana, "app.users"), "id email phone");
    assert_eq!(columns(&mut ana, "app.devices"), "id");
    pair.product()
        .exec("ALTER TABLE password_resets RENAME note TO new_password; ALTER TABLE users RENAME phone TO phone2");
    pair.recreate_fdw();
    assert_eq!(columns(&mut ana, "app.password_resets"), "id user_id");
    assert_eq!(pair.recreate_fdw(), []);
    let more = pair.as_deploy(&format!("create_fdw('other', '{}')", pair.uri()));
    assert_eq!(more.len(), 3, "{more:?}");
    assert_eq!(
        columns(&mut pair.warehouse(), "other.users"),
        "id email api_token phone2",
        "only app's tokens are marked"
    );

    // Taken back.
    pair.warehouse_as("deploy").exec("SELECT wh.unmark_sensitive('%.%.%password%')");
    let healed = pair.recreate_fdw();
    assert!(healed.iter().any(|c| c.object == "ana.hashes" && c.action == "healed"), "{healed:?}");
    assert_eq!(ana.table("SELECT * FROM ana.hashes"), "1|sesame");
    assert_eq!(
        pair.warehouse().table("SELECT action, status FROM wh.fdw_runs WHERE fdw = 'app' ORDER BY run"),
        "create_fdw|succeeded\nmark_sensitive|succeeded\nmark_sensitive|succeeded\nrecreate_fdw|succeeded\nrecreate_fdw|succeeded\n\
         recreate_fdw|succeeded\nrecreate_fdw|succeeded"
    );
}

#[test]
fn a_name_that_somebody_gave_here_is_matched_as_well_as_the_products() {
    let pair = fixture("aliases");
    pair.create_fdw();
    pair.warehouse().exec(
        "ALTER FOREIGN TABLE app.users RENAME TO people; ALTER FOREIGN TABLE app.people RENAME email TO contact;
         ALTER FOREIGN TABLE app.people ALTER contact OPTIONS (ADD column_name 'email')",
    );
    let mut ana = pair.warehouse_as("ana");
    pair.as_deploy("mark_sensitive('app.people.contact', 'by both names of ours')");
    assert_eq!(columns(&mut ana, "app.people"), "id password_hash");
    pair.as_deploy("mark_sensitive('app.users.password_hash', 'by both of theirs')");
    assert_eq!(columns(&mut ana, "app.people"), "id");
    // Nor do they come back because the name that they were marked by is gone with them.
    assert_eq!(pair.recreate_fdw(), []);
    assert_eq!(pair.recreate_fdw(), []);
    pair.warehouse_as("deploy").exec("SELECT wh.unmark_sensitive('app.people.contact')");
    pair.recreate_fdw();
    assert_eq!(columns(&mut ana, "app.people"), "id email");
}

#[test]
fn the_proposal_is_applied_when_somebody_says_so_and_not_before() {
    let pair = fixture("proposal");
    pair.product().exec("ALTER TABLE users ADD api_token text, ADD ssn text, ADD iban text, ADD tokens_used int");
    pair.create_fdw();
    let mut ana = pair.warehouse_as("ana");
    assert_eq!(columns(&mut ana, "app.users"), "id email password_hash api_token ssn iban tokens_used");
    assert_eq!(ana.value("SELECT count(*) FROM wh.sensitive_columns"), "0");
    assert_eq!(ana.value("SELECT bool_or(applied) FROM wh.proposed_sensitive"), "f");
    pair.as_deploy("apply_proposed_policy()");
    assert_eq!(columns(&mut ana, "app.users"), "id email");
    assert_eq!(ana.value("SELECT bool_and(applied) FROM wh.proposed_sensitive"), "t");
    assert_eq!(pair.as_deploy("apply_proposed_policy()"), []);
}

#[test]
fn the_policy_says_where_each_column_stands() {
    let pair = fixture("stands");
    pair.create_fdw();
    pair.warehouse().exec(
        "CREATE TABLE public.copied AS SELECT id, password_hash FROM app.users; GRANT SELECT ON copied TO ana;
         CREATE TABLE public.kept (password text); CREATE TABLE public.part (id int, password text); GRANT SELECT (id) ON part TO ben",
    );
    pair.warehouse_as("ana").exec("CREATE VIEW ana.hashes AS SELECT id, password_hash FROM app.users");
    pair.as_deploy("mark_sensitive('%.%.%password%', 'secret')");
    pair.as_deploy("mark_sensitive('%.%.pin', 'nothing yet')");
    let shown = "SELECT pattern, \"column\", kind, state, readable_by FROM wh.sensitive_columns ORDER BY 1, 2";
    let expected = "%.%.%password%|app.users.password_hash|foreign table|hidden|{}\n\
         %.%.%password%|public.copied.password_hash|table|readable|{ana}\n\
         %.%.%password%|public.kept.password|table|out of reach|{}\n\
         %.%.%password%|public.part.password|table|out of reach|{}\n\
         %.%.pin||||{}";
    assert_eq!(pair.warehouse_as("deploy").table(shown), expected);
    // A run that reads the whole product says the same; a column that is gone there is gone here.
    pair.recreate_fdw();
    assert_eq!(pair.warehouse_as("ana").table(shown), expected);
    pair.product().exec("ALTER TABLE users DROP password_hash");
    pair.recreate_fdw();
    assert!(!pair.warehouse_as("ana").table(shown).contains("app.users"));
}

/// Marking waits for a run that began under the old policy, and the run that comes after it knows the new one. So it is with
/// an application that is being registered, which nobody else can see yet.
#[test]
fn a_run_that_began_before_the_marking_does_not_end_after_it() {
    let pair = fixture("races");
    pair.create_fdw();
    pair.product().exec("ALTER TABLE users ADD api_token text");
    let mut runs = pair.warehouse_as("deploy");
    for (call, schema, pattern) in [
        ("recreate_fdw('app')".to_owned(), "app", "%.%.%token"),
        (format!("create_fdw('other', '{}')", pair.uri()), "other", "%.%.%hash"),
    ] {
        runs.exec(&format!("BEGIN; SELECT count(*) FROM wh.{call}"));
        let mut marks = pair.warehouse_as("deploy");
        let pid = marks.pid();
        let call = format!("SELECT * FROM wh.mark_sensitive('{pattern}', 'x')");
        let marking = std::thread::spawn(move || marks.changes(&call));
        let mut looks = pair.warehouse();
        pg_test::wait_until("the marking waits", || {
            looks.value(&format!("SELECT count(*) FROM pg_locks WHERE pid = {pid} AND NOT granted")) == "1"
        });
        runs.exec("COMMIT");
        let done = marking.join().expect("a marking");
        assert!(done.iter().any(|c| c.object.starts_with(schema) && c.action == "dropped"), "{done:?}");
    }
    let mut warehouse = pair.warehouse();
    assert_eq!(columns(&mut warehouse, "app.users"), "id email");
    assert_eq!(columns(&mut warehouse, "other.users"), "id email");
}

#[test]
fn bad_marks_are_refused_and_leave_nothing() {
    let pair = fixture("refused");
    pair.create_fdw();
    let mut deploy = pair.warehouse_as("deploy");
    for (call, code) in [
        ("mark_sensitive(NULL, 'x')", "22023"),
        ("mark_sensitive('%.%.x', NULL)", "22023"),
        ("mark_sensitive('%.%.x', ' ')", "22023"),
        ("mark_sensitive('password', 'x')", "22023"),
        ("mark_sensitive('', 'x')", "22023"),
        ("mark_sensitive('%\\', 'x')", "22023"),
        ("unmark_sensitive('%.%.x')", "42704"),
        ("unmark_sensitive(NULL)", "22023"),
    ] {
        let error = deploy.error(&format!("SELECT * FROM wh.{call}"));
        assert_eq!(error.code().code(), code, "{call}: {error:?}");
    }
    let mut ana = pair.warehouse_as("ana");
    for call in [
        "mark_sensitive('%.%.x', 'x')",
        "unmark_sensitive('%.%.x')",
        "apply_proposed_policy()",
        "strip_record('{}', 'a', '{b}', '{c}')",
    ] {
        assert_eq!(ana.error(&format!("SELECT * FROM wh.{call}")).code().code(), "42501", "{call}");
    }
    // What cannot be carried keeps the policy as it was, too.
    pair.warehouse().exec(
        "CREATE TABLE public.holder (id int); ALTER TABLE holder ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON holder USING (EXISTS (SELECT FROM app.users WHERE password_hash = 'x'))",
    );
    assert_eq!(deploy.error("SELECT * FROM wh.mark_sensitive('%.%.%password%', 'x')").code().code(), "2BP01");
    assert_eq!(deploy.value("SELECT count(*) FROM wh.sensitive_columns"), "0");
    assert_eq!(columns(&mut pair.warehouse(), "app.users"), "id email password_hash");
}

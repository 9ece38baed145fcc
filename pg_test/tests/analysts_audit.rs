//! Who can read what, and what is open that should not be. The truth is what a session of the role can do.

use people::{add, alone, connect, group, password};
use pg_test::{ClientExt, Pair};
use postgres::Client;

mod people;

const ACCESS: &str = "SELECT object, path, roles FROM wh.audit_access() WHERE kind = 'access' ORDER BY object, path";

fn dangers(client: &mut Client, role: &str) -> Vec<String> {
    let sql = format!("SELECT object || ': ' || path FROM wh.audit_access({role}) WHERE kind = 'danger' ORDER BY 1");
    client.table(&sql).lines().map(str::to_owned).collect()
}

/// Login roles that are no superusers.
fn roles(client: &mut Client) -> Vec<String> {
    client
        .table("SELECT rolname FROM pg_roles WHERE rolcanlogin AND NOT rolsuper ORDER BY 1")
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_way_to_read_a_table_is_told_and_no_other() {
    let pair = alone("ways");
    let mut owner = pair.warehouse();
    let group = group_of(&pair);
    let (mut abe, _) = (add(&pair, "abe"), add(&pair, "cam"));
    for role in ["direct", "columns", "viewer", "inside", "outside", "everything", "nested"] {
        owner.exec(&format!("CREATE ROLE {role} LOGIN PASSWORD '{role} secret'; GRANT wh_analyst TO {role}"));
    }
    owner.exec(
        "GRANT USAGE ON SCHEMA app TO direct, columns; GRANT SELECT ON app.users TO direct, outside; GRANT SELECT (id, email) ON app.users TO columns;
         GRANT pg_read_all_data TO everything; GRANT direct TO nested",
    );
    abe.exec("CREATE VIEW abe.v AS SELECT id FROM app.users; CREATE VIEW abe.w AS SELECT id FROM abe.v; GRANT USAGE ON SCHEMA abe TO viewer; GRANT SELECT ON abe.w TO viewer, outside");
    let told = owner.table(ACCESS);
    let expected = format!(
        "*|member of \"pg_read_all_data\"|{{everything}}
*|superuser|{{postgres}}
app.orders|SELECT to \"{group}\"|{{abe,cam}}
app.users|SELECT (id, email) to \"columns\"|{{columns}}
app.users|SELECT to \"direct\"|{{direct,nested}}
app.users|SELECT to \"{group}\"|{{abe,cam}}
app.users|through view abe.w of \"abe\"|{{viewer}}"
    );
    assert_eq!(told, expected);
    // The truth: who gets a row of it, by the table or by a view.
    for role in roles(&mut owner) {
        let mut client = match role.as_str() {
            "abe" | "cam" => {
                connect(&pair, &role, &password(&pair, &format!("alter_analyst('{role}', password => '')")))
            }
            _ => pair.warehouse_as(&role),
        };
        let reads = ["SELECT id FROM app.users", "SELECT id FROM abe.v", "SELECT id FROM abe.w"]
            .iter()
            .any(|sql| client.simple_query(sql).is_ok());
        let listed = owner.value(&format!(
            "SELECT count(*) > 0 FROM wh.audit_access('{role}') WHERE kind = 'access' AND object IN ('*', 'app.users') AND roles = ARRAY['{role}']"
        ));
        assert_eq!(listed == "t", reads, "{role}");
    }
    assert_eq!(owner.value("SELECT count(*) FROM wh.audit_access('inside') WHERE kind = 'access'"), "0");
    // Of a role that cannot log in, too.
    assert_eq!(owner.value(&format!("SELECT count(*) FROM wh.audit_access('{group}') WHERE kind = 'access'")), "2");
}

/// The group's name before anybody is in it.
fn group_of(pair: &Pair) -> String {
    pair.as_deploy("add_team('crew')");
    group(pair)
}

#[test]
fn what_is_open_that_should_not_be_is_told_with_the_line_that_closes_it() {
    let pair = alone("dangers");
    let mut owner = pair.warehouse();
    let made = password(&pair, "add_analyst('dot')");
    add(&pair, "eli");
    assert_eq!(dangers(&mut owner, ""), Vec::<String>::new());
    owner.exec(
        "CREATE ROLE tool LOGIN PASSWORD 'tool secret'; ALTER ROLE tool BYPASSRLS CREATEROLE; GRANT pg_read_all_data, pg_monitor TO tool;
         GRANT USAGE ON FOREIGN SERVER app TO dot; GRANT INSERT, UPDATE ON app.users TO dot; GRANT SELECT ON app.orders TO PUBLIC;
         GRANT wh_admin TO eli; CREATE SCHEMA loose; GRANT USAGE, CREATE ON SCHEMA loose TO PUBLIC;
         CREATE FUNCTION public.rooted() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
         CREATE FUNCTION public.safe() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; REVOKE EXECUTE ON FUNCTION public.safe() FROM PUBLIC",
    );
    // As on a server that was upgraded from Postgres 14.
    owner.exec("GRANT CREATE ON SCHEMA public TO PUBLIC");
    let expected = [
        "app.orders: SELECT to PUBLIC",
        "app.users: INSERT, UPDATE to dot",
        "app: USAGE to dot",
        "eli: member of wh_admin",
        "loose: CREATE to PUBLIC",
        "public.rooted(): EXECUTE to PUBLIC",
        "public: CREATE to PUBLIC",
        "tool: BYPASSRLS",
        "tool: CREATEROLE",
        "tool: member of pg_monitor",
        "tool: member of pg_read_all_data",
    ];
    let mut told = dangers(&mut owner, "");
    told.sort();
    let mut sorted = expected.map(str::to_owned).to_vec();
    sorted.sort();
    assert_eq!(told, sorted);
    // Of one: what they can make use of, and what concerns everybody.
    let of_dot = dangers(&mut owner, "'dot'");
    assert!(
        of_dot.contains(&"app: USAGE to dot".into()) && of_dot.contains(&"public: CREATE to PUBLIC".into()),
        "{of_dot:?}"
    );
    assert!(of_dot.iter().all(|d| !d.starts_with("tool") && !d.starts_with("eli")), "{of_dot:?}");
    // They are dangers: each could be used.
    let mut dot = connect(&pair, "dot", &made);
    dot.exec("CREATE FOREIGN TABLE dot.leak (id int, api_token text) SERVER app OPTIONS (schema_name 'public', table_name 'users')");
    assert_eq!(dot.value("SELECT api_token FROM dot.leak"), "t0ken");
    dot.exec("CREATE TABLE public.planted (); CREATE TABLE loose.planted ()");
    // The lines close them.
    let lines = owner.table("SELECT mend FROM wh.audit_access() WHERE kind = 'danger'");
    assert!(lines.lines().any(|l| l == "SELECT * FROM wh.close_public()"), "{lines}");
    for line in lines.lines() {
        owner.exec(line);
    }
    assert_eq!(dangers(&mut owner, ""), Vec::<String>::new());
    for closed in ["CREATE TABLE public.again ()", "CREATE TABLE loose.again ()", "INSERT INTO app.users VALUES (2)"] {
        assert_eq!(dot.error(closed).code().code(), "42501", "{closed}");
    }
}

#[test]
fn an_administrator_closes_schema_public() {
    let pair = alone("public");
    let mut owner = pair.warehouse();
    owner.exec("GRANT CREATE ON SCHEMA public TO PUBLIC");
    let mut ana = pair.warehouse_as("ana");
    ana.exec("CREATE TABLE public.hers (id int)");
    let mut fay = add(&pair, "fay");
    fay.exec("CREATE FUNCTION public.lower(varchar) RETURNS text LANGUAGE sql AS 'SELECT current_user::text'");
    let done = pair.as_deploy("close_public()");
    let told: Vec<String> = done.iter().map(|c| format!("{} {} {}", c.object, c.action, c.detail)).collect();
    assert_eq!(
        told,
        [
            "public closed PUBLIC cannot create in it any more",
            "ana made something there 1 objects; GRANT CREATE ON SCHEMA public TO ana lets it go on",
            "fay made something there 1 objects; GRANT CREATE ON SCHEMA public TO fay lets it go on"
        ]
    );
    assert_eq!(fay.error("CREATE TABLE public.more ()").code().code(), "42501");
    assert_eq!(pair.as_deploy("close_public()"), []);
    // Everybody may still use it.
    fay.exec("SELECT public.lower('x'::varchar)");
    assert_eq!(ana.error("SELECT * FROM wh.close_public()").code().code(), "42501");
}

#[test]
fn a_sensitive_column_that_is_readable_all_the_same_is_told() {
    let pair = alone("sensitive");
    let mut owner = pair.warehouse();
    let (mut abe, mut cam) = (add(&pair, "abe"), add(&pair, "cam"));
    owner.exec(
        "CREATE TABLE public.people (id int, api_token text); INSERT INTO public.people VALUES (1, 't0ken');
         GRANT SELECT ON public.people TO abe; SELECT * FROM wh.mark_sensitive('%.%.api\\_token', 'tokens')",
    );
    // What the policy took from the foreign table is no danger.
    assert_eq!(owner.error("SELECT api_token FROM app.users").code().code(), "42703");
    abe.exec(
        "CREATE VIEW abe.renamed AS SELECT id, api_token AS t FROM public.people; CREATE VIEW abe.above AS SELECT upper(t) AS x FROM abe.renamed;
         CREATE VIEW abe.harmless AS SELECT id FROM public.people; CREATE MATERIALIZED VIEW abe.kept AS SELECT api_token AS k FROM public.people",
    );
    assert_eq!(cam.value("SELECT x FROM abe.above"), "T0KEN");
    let told = "SELECT object, path, roles FROM wh.audit_access() WHERE kind = 'danger' AND path LIKE '%sensitive%' ORDER BY 1, 2";
    assert_eq!(
        owner.table(told),
        "abe.above|reads the sensitive column public.people.api_token|{cam}
abe.kept|reads the sensitive column public.people.api_token|{cam}
abe.renamed|reads the sensitive column public.people.api_token|{cam}
public.people.api_token|a sensitive column|{abe}"
    );
    assert_eq!(owner.table(&told.replace("wh.audit_access()", "wh.audit_access('cam')")).lines().count(), 3);
    owner.exec("REVOKE SELECT ON public.people FROM abe");
    assert_eq!(cam.error("SELECT x FROM abe.above").code().code(), "42501");
}

#[test]
fn a_masked_column_is_masked_for_all_analysts_and_a_way_around_it_is_told() {
    let pair = alone("masked");
    let mut owner = pair.warehouse();
    let mut abe = add(&pair, "abe");
    abe.exec("CREATE VIEW abe.mails AS SELECT id, email FROM app.users");
    pair.as_deploy("mask('app.users.email', 'null')");
    let mut cam = add(&pair, "cam");
    for who in [&mut abe, &mut cam] {
        assert_eq!(who.table("SELECT id, email FROM app.users"), "1|");
        assert_eq!(who.table("SELECT id, email FROM abe.mails"), "1|");
    }
    let raw = owner.value("SELECT relation FROM wh.masked_table");
    assert_eq!(cam.error(&format!("SELECT * FROM {raw}")).code().code(), "42501");
    assert_eq!(dangers(&mut owner, ""), Vec::<String>::new());
    assert_eq!(owner.table("SELECT DISTINCT drift FROM wh.analysts"), "{}");
    pair.product().exec("ALTER TABLE users ADD phone text; CREATE TABLE more (id int)");
    pair.as_deploy("recreate_fdw('app')");
    assert_eq!(cam.table("SELECT id, email, phone FROM app.users"), "1||");
    assert_eq!(cam.value("SELECT count(*) FROM app.more"), "0");
    // Somebody who may makes a hole.
    owner.exec(&format!("CREATE VIEW public.hole AS SELECT email AS e FROM {raw}; GRANT SELECT ON public.hole TO cam"));
    assert_eq!(cam.value("SELECT e FROM public.hole"), "ida@example.org");
    assert_eq!(dangers(&mut owner, ""), ["public.hole: reads the sensitive column app.users.email"]);
    pair.as_deploy("unmask('app.users.email')");
    assert_eq!(cam.table("SELECT email FROM app.users"), "ida@example.org");
    assert_eq!(add(&pair, "dan").table("SELECT email FROM app.users"), "ida@example.org");
}

#[test]
fn a_whole_row_beside_a_column_is_told() {
    let pair = alone("whole_row");
    let mut owner = pair.warehouse();
    let (mut abe, mut cam) = (add(&pair, "abe"), add(&pair, "cam"));
    owner.exec(
        "CREATE TABLE public.people (id int, api_token text); INSERT INTO public.people VALUES (1, 't0ken'); CREATE TABLE public.plain (id int, x int);
         GRANT SELECT ON public.people, public.plain TO abe; SELECT * FROM wh.mark_sensitive('%.people.api\\_token', 'tokens')",
    );
    abe.exec(
        "CREATE VIEW abe.beside AS SELECT p.id, p AS everything FROM public.people p; CREATE VIEW abe.as_json AS SELECT to_jsonb(p) - 'id' AS j FROM public.people p WHERE p.id > 0;
         CREATE VIEW abe.joined AS SELECT q.id, row_to_json(p)::text AS j FROM public.plain q RIGHT JOIN public.people p ON p.id = 1;
         CREATE VIEW abe.above AS SELECT (everything).api_token AS t FROM abe.beside;
         CREATE VIEW abe.harmless AS SELECT id FROM public.people; CREATE VIEW abe.of_another AS SELECT q.id, q AS everything FROM public.plain q",
    );
    for leak in [
        "(everything).api_token FROM abe.beside",
        "j->>'api_token' FROM abe.as_json",
        "j::json->>'api_token' FROM abe.joined",
        "t FROM abe.above",
    ] {
        assert_eq!(cam.value(&format!("SELECT {leak}")), "t0ken", "{leak}");
    }
    let told = owner.table("SELECT object, roles FROM wh.audit_access() WHERE kind = 'danger' AND path LIKE 'reads the sensitive%' ORDER BY 1");
    assert_eq!(told, "abe.above|{cam}\nabe.as_json|{cam}\nabe.beside|{cam}\nabe.joined|{cam}");
}

#[test]
fn a_stored_result_with_a_sensitive_column_is_told_with_those_who_may_read_it() {
    let pair = alone("kept_result");
    let mut owner = pair.warehouse();
    let (mut abe, mut cam, mut dot) = (add(&pair, "abe"), add(&pair, "cam"), add(&pair, "dot"));
    owner.exec(
        "CREATE TABLE public.people (id int, api_token text); INSERT INTO public.people VALUES (1, 't0ken'); GRANT SELECT ON public.people TO abe, cam;
         SELECT * FROM wh.mark_sensitive('%.%.api\\_token', 'tokens')",
    );
    abe.exec("SELECT wh.save_query('tokens', 'SELECT api_token FROM public.people'); SELECT wh.share_query('tokens', 'wh_analyst')");
    let inline = abe.value("SELECT result FROM wh.run_query('tokens')");
    owner.exec("ALTER ROLE abe SET startup_wh.result_inline_size = 0");
    let mut abe = connect(&pair, "abe", &password(&pair, "alter_analyst('abe', password => '')"));
    let table = abe.value("SELECT result FROM wh.run_query('tokens')");
    assert_eq!(
        owner.value(&format!(
            "SELECT to_regclass('wh_results.r{table}') IS NOT NULL AND to_regclass('wh_results.r{inline}') IS NULL"
        )),
        "t"
    );
    // The view on its table is granted to all analysts, and reads for none but those.
    // The policy's own view has them, to whoever may know that they are there.
    let listed = "SELECT \"column\", kind, state, readable_by IS NULL, advice FROM wh.sensitive_columns WHERE \"column\" LIKE 'wh\\_results%' ORDER BY 1";
    let line = |id: &str| {
        format!("wh_results.r{id}.api_token|stored result|kept|t|SELECT * FROM wh.expire_results({id}) removes it; wh.audit_access() says who may read it")
    };
    let both = format!("{}\n{}", line(&inline), line(&table));
    assert_eq!((owner.table(listed), pair.warehouse_as("deploy").table(listed)), (both.clone(), both.clone()));
    assert_eq!((abe.table(listed), cam.table(listed), dot.table(listed)), (both.clone(), both, String::new()));
    let told = "SELECT object, path, roles, mend FROM wh.audit_access() WHERE object LIKE 'result %' ORDER BY 1";
    assert_eq!(owner.table(told).lines().count(), 2);
    for (id, line) in [&inline, &table].into_iter().zip(owner.table(told).lines()) {
        assert_eq!(line, format!("result {id} of query tokens|keeps the sensitive column api_token|{{abe,cam}}|SELECT * FROM wh.expire_results({id})"));
        let read = format!("SELECT wh.result({id})->>'api_token'");
        assert_eq!((abe.value(&read), cam.value(&read)), ("t0ken".into(), "t0ken".into()));
        assert_eq!(dot.error(&read).code().code(), "42501");
    }
    // What somebody else computed by it is theirs alone.
    let cams = cam.value("SELECT result FROM wh.run_query('tokens')");
    let theirs = format!("SELECT roles FROM wh.audit_access() WHERE object = 'result {cams} of query tokens'");
    assert_eq!(owner.value(&theirs), "{cam}");
    assert_eq!(
        (abe.value("SELECT count(*) FROM wh.results"), cam.value("SELECT count(*) FROM wh.results")),
        ("2".into(), "3".into())
    );
    owner.exec(&format!("SELECT * FROM wh.expire_results({cams})"));
    owner.exec("REVOKE SELECT ON public.people FROM cam");
    assert_eq!(owner.table("SELECT DISTINCT roles FROM wh.audit_access() WHERE object LIKE 'result %'"), "{abe}");
    assert_eq!(owner.value("SELECT count(*) FROM wh.audit_access('cam') WHERE object LIKE 'result %'"), "0");
    for line in owner.table("SELECT mend FROM wh.audit_access('abe') WHERE object LIKE 'result %'").lines() {
        owner.exec(line);
    }
    assert_eq!(owner.table(told), "");
}

#[test]
fn a_result_from_before_a_mask_is_told_with_those_who_may_read_it() {
    let pair = alone("before_the_mask");
    let mut owner = pair.warehouse();
    let (mut abe, mut cam) = (add(&pair, "abe"), add(&pair, "cam"));
    abe.exec("SELECT wh.save_query('mails', 'SELECT lower(email) AS m FROM app.users'), wh.share_query('mails', 'wh_analyst'), wh.save_query('ids', 'SELECT id FROM app.users')");
    let before = abe.value("SELECT result FROM wh.run_query('mails')");
    abe.exec("SELECT wh.run_query('ids')");
    let told = "SELECT object, path, roles, mend FROM wh.audit_access() WHERE object LIKE 'result %'";
    assert_eq!(owner.table(told), "");
    assert_eq!(cam.value(&format!("SELECT wh.result({before})->>'m'")), "ida@example.org");
    pair.as_deploy("mask('app.users.email', 'hashed')");
    abe.exec("SELECT wh.run_query('mails')");
    // His own stays his; whom it was shared with may not read the column any more.
    let line = format!("result {before} of query mails|was computed from the masked column app.users.email|{{abe}}|SELECT * FROM wh.expire_results({before})");
    assert_eq!(owner.table(told), line);
    assert_eq!(abe.value(&format!("SELECT wh.result({before})->>'m'")), "ida@example.org");
    assert_eq!(cam.error(&format!("SELECT wh.result({before})")).code().code(), "42501");
    owner.exec(&format!("SELECT * FROM wh.expire_results({before})"));
    assert_eq!(owner.table(told), "");
}
